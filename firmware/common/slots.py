# A small value that survives power cuts: two files written in turn, each with a generation and a CRC.
# A torn write spoils one slot only; the other holds the value before.
import os
import struct
from binascii import crc32

# "emS" and the layout's version.
_MAGIC = b"emS1"


def sync(file):
    """Bring what was written to the medium. MicroPython's flush() does: fsync on POSIX, lfs_file_sync on flash."""
    file.flush()
    if hasattr(os, "fsync"):
        os.fsync(file.fileno())
    elif hasattr(os, "sync"):
        os.sync()


class Slots:
    """`value` is the newest readable one, None if there is none; `copies` slots held it, `damaged` were unreadable."""

    def __init__(self, path):
        self._path = path
        self._generation = 0
        self.value = None
        self.damaged = 0
        self.copies = 0
        for name in ("0", "1"):
            self._read(path + name)

    def _read(self, path):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return
        if len(data) < 12 or data[:4] != _MAGIC or struct.unpack("<I", data[-4:])[0] != crc32(data[:-4]):
            self.damaged += 1
            return
        generation = struct.unpack("<I", data[4:8])[0]
        same = data[8:-4] == self.value
        if generation > self._generation:
            self._generation = generation
            self.value = data[8:-4]
            self.copies = self.copies + 1 if same else 1
        elif same:
            self.copies += 1

    def write(self, value):
        """Durable on return; OSError leaves the value before in place."""
        generation = self._generation + 1
        data = _MAGIC + struct.pack("<I", generation) + value
        with open(self._path + str(generation & 1), "wb") as file:
            file.write(data + struct.pack("<I", crc32(data)))
            sync(file)
        self._generation = generation
        self.value = bytes(value)
