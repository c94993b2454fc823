# Unpacks a firmware image for boards that run code from flash in place into a slot of firmware/rom_slots.py. Such an
# image carries one file: the ROMFS image as the slot is to hold it, so that nothing is put together on the device.
from binascii import crc32
from hashlib import sha256

from common.image import BadImage, digest_of, entry, read_header

# The one file's name (emrig/images/firmware_image.py).
NAME = "firmware.romfs"
_ENOSPC = 28


def clear(rom, index):
    """Generator, as image.remove_tree: from the first step on nobody takes the slot for whole."""
    rom.forget(index)
    yield


def unpack(path: str, rom, index: int, whole_digest: bytes):
    """Generator: write the image's file into the slot and read it back; then the header.

    BadImage if it is not as announced, or all of it has not this digest (any more).
    """
    from rom_slots import PAGE_BYTES, header

    found = read_header(path)
    with open(path, "rb") as image:
        image.seek(found.size)
        name, size, digest = entry(image)
        if name != NAME or found.files != 1:
            raise BadImage("for a folder")
        if PAGE_BYTES + size > rom.slot_bytes:
            raise OSError(_ENOSPC)
        # The block with the header first.
        for at in range(0, PAGE_BYTES + size, rom.block_bytes):
            rom.erase(index, at)
            yield
        for at in range(PAGE_BYTES, PAGE_BYTES + size, PAGE_BYTES):
            page = image.read(min(PAGE_BYTES, PAGE_BYTES + size - at))
            if not page:
                raise BadImage("cut short")
            rom.write(index, at, page + b"\xff" * (PAGE_BYTES - len(page)))
            yield
        if image.read(1):
            raise BadImage("bytes left over")
    view = rom.view(index)
    hashed = sha256()
    crc = 0
    for at in range(PAGE_BYTES, PAGE_BYTES + size, PAGE_BYTES):
        page = view[at : min(at + PAGE_BYTES, PAGE_BYTES + size)]
        hashed.update(page)
        crc = crc32(page, crc)
        yield
    if hashed.digest() != digest:
        raise BadImage("digest of " + name)
    whole = b""
    for whole in digest_of(path):
        yield
    if whole != whole_digest:
        raise BadImage("digest")
    rom.write(index, 0, header(size, crc, found.version, found.security_version, whole))
    if rom.whole(index) is None:
        raise BadImage("header")
