# Reads a firmware image (docs/update.md) from flash, piece by piece: header, digest, and the files into a folder.
# What may take long is a generator that yields whenever others may run.
import os
import struct
from binascii import hexlify
from hashlib import sha256

from common.slots import sync

MAGIC = b"emI1"
# Last file in a folder, as firmware/selector.py expects it.
MARKER = "image.json"
# RAM for one piece; a flash page of most chips goes into it twice.
PIECE_BYTES = 512
LONGEST_PATH = 63
_FIXED = "<4sBBBBHHB"
_FIXED_SIZE = 13
_PATH_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_./"


class BadImage(Exception):
    """The bytes are no image, or its files are not what it says."""


class Header:
    """What an image says of itself; `size`: where its files begin."""

    def __init__(self, data: bytes):
        """data: the beginning of the image; BadImage if it is none."""
        if len(data) < _FIXED_SIZE:
            raise BadImage("too short")
        fields = struct.unpack(_FIXED, data[:_FIXED_SIZE])
        self.size = _FIXED_SIZE + fields[7]
        if fields[0] != MAGIC or len(data) < self.size:
            raise BadImage("no image")
        self.model = fields[1]
        self.version = fields[2:5]
        self.security_version = fields[5]
        self.files = fields[6]
        self.board = data[_FIXED_SIZE : self.size].decode()


def read_header(path: str) -> Header:
    with open(path, "rb") as file:
        return Header(file.read(_FIXED_SIZE + 255))


def digest_of(path: str):
    """Generator: b"" while it works, at last the SHA-256 of the file."""
    digest = sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(PIECE_BYTES)
            if not piece:
                break
            digest.update(piece)
            yield b""
    yield digest.digest()


def unpack(path: str, folder: str, whole_digest: bytes, room):
    """Generator: write the image's files into an empty folder and read each back; then the marker.

    room(bytes) is asked before each file and raises OSError if there is none. BadImage if a file is not as announced,
    or all of it has not this digest (any more).
    """
    make_folder(folder)
    header = read_header(path)
    with open(path, "rb") as image:
        image.seek(header.size)
        for _ in range(header.files):
            name, size, digest = entry(image)
            if name.endswith(".romfs"):
                raise BadImage("for a slot in flash")
            room(size)
            target = folder
            parts = name.split("/")
            for part in parts[:-1]:
                target += "/" + part
                make_folder(target)
            target = folder + "/" + name
            with open(target, "wb") as file:
                while size:
                    piece = image.read(min(size, PIECE_BYTES))
                    if not piece:
                        raise BadImage("cut short")
                    if file.write(piece) != len(piece):
                        raise OSError(28)  # ENOSPC
                    size -= len(piece)
                    yield
                sync(file)
            found = b""
            for found in digest_of(target):
                yield
            if found != digest:
                raise BadImage("digest of " + name)
        if image.read(1):
            raise BadImage("bytes left over")
    whole = b""
    for whole in digest_of(path):
        yield
    if whole != whole_digest:
        raise BadImage("digest")
    major, minor, patch = header.version
    text = '{"version": "%d.%d.%d", "security_version": %d, "sha256": "%s"}\n'
    with open(folder + "/" + MARKER, "wb") as file:
        file.write((text % (major, minor, patch, header.security_version, hexlify(whole).decode())).encode())
        sync(file)


def entry(image):
    """(path, size, digest) of the next file, whose contents follow."""
    length = image.read(1)
    name = image.read(length[0]).decode() if length else ""
    rest = image.read(36)
    if len(rest) != 36 or not 0 < len(name) <= LONGEST_PATH or name[0] == "/" or ".." in name:
        raise BadImage("entry")
    for character in name:
        if character not in _PATH_CHARACTERS:
            raise BadImage("path")
    return name, struct.unpack("<I", rest[:4])[0], rest[4:]


def make_folder(path: str):
    try:
        os.mkdir(path)
    except OSError as error:
        if error.args[0] != 17:  # EEXIST
            raise


def remove_tree(path: str):
    """Generator: remove a folder and all in it, its marker first, so that nobody takes the rest for whole."""
    remove(path + "/" + MARKER)
    yield
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return
    for name in names:
        inner = path + "/" + name
        if os.stat(inner)[0] & 0x4000:  # S_IFDIR
            for _ in remove_tree(inner):
                yield
        else:
            os.remove(inner)
        yield
    os.rmdir(path)


def remove(path: str) -> bool:
    """Remove a file; False if there was none."""
    try:
        os.remove(path)
    except OSError as error:
        if error.args[0] != 2:  # ENOENT
            raise
        return False
    return True


def file_size(path: str) -> int:
    """In bytes; 0 if there is no such file."""
    try:
        return os.stat(path)[6]
    except OSError:
        return 0
