# Firmware slots in the part of the flash that MicroPython runs code from in place (ROMFS): 8 KiB with the selector and
# this module, which MicroPython itself mounts at /rom, then slots a and b of equal size. Like the selector it is
# written to a board once and never updated, and imports nothing that is.
#
# A slot is a page of header and a ROMFS image (docs/update.md). The header goes in last and is erased first, and both
# have a CRC: what was torn at any byte is no firmware.
import struct
from binascii import crc32

BOOT_BYTES = 8192
# What a flash chip programs at once.
PAGE_BYTES = 256
# Magic, bytes of the image and their CRC-32, version, security version, SHA-256 of the image it came in; then a CRC-32.
MAGIC = b"emR1"
HEADER = "<4sIIBBBH32s"
HEADER_BYTES = struct.calcsize(HEADER)
# MicroPython's numbers: the part's device, and of that its blocks, their size, and the erasure of one.
_GET_SEGMENT = 2
_BLOCK_COUNT = 4
_BLOCK_SIZE = 5
_BLOCK_ERASE = 6
_EIO = 5


def header(image_bytes, image_crc, version, security_version, sha256):
    """The first page of a slot."""
    data = struct.pack(HEADER, MAGIC, image_bytes, image_crc, *version, security_version, sha256)
    data += struct.pack("<I", crc32(data))
    return data + b"\xff" * (PAGE_BYTES - len(data))


def find():
    """The board's RomSlots; None if its MicroPython has no such part, or none that is erased block by block."""
    try:
        import vfs

        return RomSlots(vfs.rom_ioctl(_GET_SEGMENT, 0))
    except (ImportError, AttributeError):
        return None


class RomSlots:
    """`slot_bytes`: how much one holds, its header included."""

    def __init__(self, device):
        self._device = device
        self.block_bytes = device.ioctl(_BLOCK_SIZE, 0)
        self._boot_blocks = BOOT_BYTES // self.block_bytes
        self._slot_blocks = (device.ioctl(_BLOCK_COUNT, 0) - self._boot_blocks) // 2
        self.slot_bytes = self._slot_blocks * self.block_bytes

    def view(self, index):
        """The bytes of a slot, where they are."""
        begin = (self._boot_blocks + index * self._slot_blocks) * self.block_bytes
        return memoryview(self._device)[begin : begin + self.slot_bytes]

    def whole(self, index):
        """(bytes, CRC, major, minor, patch, security version, SHA-256) of the firmware in a slot; None if none is."""
        view = self.view(index)
        data = bytes(view[: HEADER_BYTES + 4])
        if data[:4] != MAGIC or struct.unpack("<I", data[HEADER_BYTES:])[0] != crc32(data[:HEADER_BYTES]):
            return None
        found = struct.unpack(HEADER, data[:HEADER_BYTES])[1:]
        if found[0] > self.slot_bytes - PAGE_BYTES or crc32(view[PAGE_BYTES : PAGE_BYTES + found[0]]) != found[1]:
            return None
        return found

    def mount(self, index, path):
        """OSError if what is in the slot is no ROMFS image."""
        import vfs

        vfs.mount(vfs.VfsRom(self.view(index)[PAGE_BYTES:]), path)

    def erase(self, index, at):
        """The block of a slot that begins at this byte."""
        if self._device.ioctl(_BLOCK_ERASE, self._block(index, at)):
            raise OSError(_EIO)

    def write(self, index, at, page):
        """A page into an erased block."""
        self._device.writeblocks(self._block(index, at), page, at % self.block_bytes)

    def forget(self, index):
        """Nobody takes what is in a slot for whole any more."""
        if bytes(self.view(index)[:4]) == MAGIC:
            self.erase(index, 0)

    def _block(self, index, at):
        return self._boot_blocks + index * self._slot_blocks + at // self.block_bytes
