"""Puts firmware into the part of a board's flash that code runs from in place, block by block over the REPL.

What is there already is not written. The header of slot a goes first and comes back last (firmware/rom_slots.py); slot
b holds an update of the firmware before and loses its header too.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from emrig.flash.errors import FlashError
from emrig.flash.repl import CHUNK_BYTES, Repl, literal
from emrig.images import firmware_image
from emrig.images.firmware_image import ImageError
from emrig.images.rom_image import ERASED, RomPart

ATTEMPTS = 3
"""To write one block so that it reads back right."""
# Nothing may be looked up in what is being written; a board whose flashing was cut may have all three mounted.
LEAVE = """
import sys
sys.path[:] = [path for path in sys.path if not path.startswith(('/rom', '/a', '/b'))]
try:
    import vfs
    for path in ('/rom', '/a', '/b'):
        try:
            vfs.umount(path)
        except OSError:
            pass
except ImportError:
    pass
print('rom_slots' in sys.modules)
"""
# The commands are those of vfs.rom_ioctl and of a block device (firmware/rom_slots.py).
OPEN = "import vfs, hashlib\nfrom binascii import a2b_base64 as u\nd = vfs.rom_ioctl(2, 0)\n"
QUERY = """
try:
    import vfs
    d = vfs.rom_ioctl(2, 0)
    print((d.ioctl(4, 0) * d.ioctl(5, 0), d.ioctl(5, 0)))
except (ImportError, AttributeError):
    print(None)
"""
HASHES = OPEN + "for a, b in %r:\n    print(hashlib.sha256(memoryview(d)[a:b]).digest().hex())\n"
WRITE = "d.writeblocks(%d, u(%r), %d)"
MOUNT = """
import sys, vfs
part = memoryview(vfs.rom_ioctl(2, 0))
vfs.mount(vfs.VfsRom(part[:%d]), '/rom')
vfs.mount(vfs.VfsRom(part[%d:%d]), '/a')
sys.path[:0] = ['/a', '/rom']
"""

Progress = Callable[[str, int, int], None]


def leave(repl: Repl) -> bool:
    """Unmount what is mounted of the part; whether modules of it are in use, so that a reset has to come first."""
    return bool(literal(repl.run(LEAVE)))


def find(repl: Repl) -> RomPart | None:
    """What the board's MicroPython says of its part; None if it has none, or none that is erased block by block."""
    found = literal(repl.run(QUERY))
    return None if found is None else RomPart(*found)


@dataclass
class RomInstallation:
    """What is to be in the part of one board: selector and slot a."""

    part: RomPart
    boot: bytes
    slot: bytes

    @classmethod
    def of(cls, part: RomPart, model: str, board: str) -> RomInstallation:
        """FlashError if the model does not fit the board's slots."""
        try:
            image = firmware_image.build(model, board, in_rom=True)
            return cls(part, part.boot(firmware_image.rom_root_files(board)), part.slot(image))
        except ImageError as error:
            raise FlashError(str(error)) from None

    @property
    def _end(self) -> int:
        return self.part.boot_bytes + len(self.slot)

    def _blocks(self) -> dict[int, bytes]:
        """Where each block begins: its contents, the last one's without what follows them; headers still missing."""
        size, page = self.part.block_bytes, self.part.page_bytes
        data = self.boot.ljust(self.part.boot_bytes, ERASED) + ERASED * page + self.slot[page:]
        return {at: data[at : at + size] for at in range(0, self._end, size)}

    def put(self, repl: Repl, progress: Progress) -> None:
        """All but the header, unless all is there already."""
        if self._is_whole(repl):
            return
        blocks = self._blocks()
        header, other = self.part.begin(0), self.part.begin(1)
        # Both headers: what is below them is of no firmware from now on.
        for at in (header, other):
            if self._hashes(repl, [(at, at + self.part.page_bytes)]) != [_sha256(ERASED * self.part.page_bytes)]:
                self._erase(repl, at)
        for _ in range(ATTEMPTS):
            places = [(at, at + len(data)) for at, data in blocks.items()]
            found = self._hashes(repl, places)
            wrong = [at for (at, _), digest in zip(places, found, strict=True) if digest != _sha256(blocks[at])]
            if not wrong:
                return
            for done, at in enumerate(wrong):
                progress("code", done, len(wrong))
                self._erase(repl, at)
                self._write(repl, at, blocks[at])
        raise FlashError(
            f"{repl.port}: {len(wrong)} blocks of its flash read back wrong {ATTEMPTS} times: the flash is worn, "
            "take another board"
        )

    def mount(self) -> str:
        """Code that mounts it on a board where it is not whole yet."""
        begin = self.part.begin(0) + self.part.page_bytes
        return MOUNT % (self.part.boot_bytes, begin, self.part.begin(0) + len(self.slot))

    def complete(self, repl: Repl) -> dict[str, str]:
        """Write the header; SHA-256 of what was installed, computed by the board over the flash that it runs from."""
        begin = self.part.begin(0)
        if not self._is_whole(repl):
            self._write(repl, begin, self.slot[: self.part.page_bytes])
        wanted = {"/rom": self.boot, "/a": self.slot}
        found = self._hashes(repl, [(0, len(self.boot)), (begin, begin + len(self.slot))])
        if found != [_sha256(data) for data in wanted.values()]:
            raise FlashError(f"{repl.port}: its flash reads back wrong: flash it again")
        return dict(zip(wanted, found, strict=True))

    def _is_whole(self, repl: Repl) -> bool:
        page = self.part.page_bytes
        begin, other = self.part.begin(0), self.part.begin(1)
        places = [(0, len(self.boot)), (begin, begin + len(self.slot)), (other, other + page)]
        return self._hashes(repl, places) == [_sha256(self.boot), _sha256(self.slot), _sha256(ERASED * page)]

    def _hashes(self, repl: Repl, places: list[tuple[int, int]]) -> list[str]:
        return repl.run(HASHES % (places,)).split()

    def _erase(self, repl: Repl, at: int) -> None:
        repl.run(f"{OPEN}if d.ioctl(6, {at // self.part.block_bytes}):\n    raise OSError(5)\n")

    def _write(self, repl: Repl, begin: int, data: bytes) -> None:
        # From the end: by its beginning MicroPython knows an image.
        data = data.ljust(-(-len(data) // self.part.page_bytes) * self.part.page_bytes, ERASED)
        for at in reversed(range(0, len(data), CHUNK_BYTES)):
            block, offset = divmod(begin + at, self.part.block_bytes)
            piece = data[at : at + CHUNK_BYTES]
            if piece != ERASED * len(piece):
                repl.run(WRITE % (block, base64.b64encode(piece), offset))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
