"""What lies in the part of a board's flash that code runs from in place: ROMFS images, and the slots that hold them.

The layout is that of firmware/rom_slots.py, whose own constants and header this uses.
"""

from __future__ import annotations

import runpy
from binascii import crc32
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mpremote.romfs import VfsRomWriter

from emrig.images.firmware_image import ROM_NAME, Image, ImageError
from emrig.paths import firmware_folder

SLOTS = 2
ERASED = b"\xff"


@cache
def _layout() -> dict[str, Any]:
    return runpy.run_path(str(firmware_folder() / "rom_slots.py"))


def romfs(files: Mapping[str, bytes]) -> bytes:
    """These files ({path: contents}) as a ROMFS image."""
    writer = VfsRomWriter()
    _add(writer, files)
    return bytes(writer.finalise())


def _add(writer: VfsRomWriter, files: Mapping[str, bytes]) -> None:
    folders: dict[str, dict[str, bytes]] = {}
    for path, contents in files.items():
        folder, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = contents
        else:
            writer.mkfile(path, contents)
    for folder, inside in folders.items():
        writer.opendir(folder)
        _add(writer, inside)
        writer.closedir()


@dataclass(frozen=True, slots=True)
class RomPart:
    """A board's part, by what its MicroPython says of it."""

    total_bytes: int
    block_bytes: int

    @property
    def boot_bytes(self) -> int:
        """Where slot a begins."""
        boot_bytes: int = _layout()["BOOT_BYTES"]
        return boot_bytes

    @property
    def slot_bytes(self) -> int:
        """Of each slot, its header included."""
        return (self.total_bytes - self.boot_bytes) // self.block_bytes // SLOTS * self.block_bytes

    @property
    def page_bytes(self) -> int:
        """The header of a slot."""
        page_bytes: int = _layout()["PAGE_BYTES"]
        return page_bytes

    def begin(self, index: int) -> int:
        """Where a slot begins."""
        return self.boot_bytes + index * self.slot_bytes

    def boot(self, files: Mapping[str, bytes]) -> bytes:
        """What is before the slots, written once."""
        data = romfs(files)
        if len(data) > self.boot_bytes:
            raise ImageError(f"the selector takes {len(data)} bytes of flash; {self.boot_bytes} are set apart for it")
        return data

    def slot(self, image: Image) -> bytes:
        """A slot with this image's firmware, as an update leaves it."""
        contents = image.tree[ROM_NAME]
        if self.page_bytes + len(contents) > self.slot_bytes:
            raise ImageError(
                f"{image.model} takes {self.page_bytes + len(contents)} bytes of flash; a slot of this board has "
                f"{max(0, self.slot_bytes)}: build its MicroPython with a larger MICROPY_HW_ROMFS_BYTES"
            )
        header: bytes = _layout()["header"](
            len(contents), crc32(contents), image.version, image.security_version, image.sha256
        )
        return header + contents

    def content(self, boot_files: Mapping[str, bytes], image: Image) -> bytes:
        """The part's beginning, with this firmware in slot a."""
        return self.boot(boot_files).ljust(self.boot_bytes, ERASED) + self.slot(image)
