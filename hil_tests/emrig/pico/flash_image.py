"""The emulated flash as a whole: MicroPython from its image and the littlefs behind it, written and read here.

The layout is build.sh's: 1280 KiB of littlefs at the end of 2 MiB; before it the 392 KiB that code runs from in place
(emrig/images/rom_image.py); before that MicroPython.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from littlefs import LittleFS
from littlefs.context import UserContext

from emrig.images.rom_image import RomPart
from emrig.pico.chip import FLASH_BYTES, blank_flash

BLOCK_BYTES = 4096
BLOCKS = 320
_START = FLASH_BYTES - BLOCKS * BLOCK_BYTES
ROM = RomPart(392 * 1024, BLOCK_BYTES)
_ROM_START = _START - ROM.total_bytes
_DISK_VERSION = 0x00020000
"""What MicroPython formats with."""


def make(image: Path, files: Mapping[str, bytes], rom: bytes = b"") -> bytes:
    """A flash with MicroPython, these files ({path: contents}, folders are made), and the beginning of the ROM part."""
    filesystem = _filesystem(None)
    for path, contents in files.items():
        if "/" in path:
            filesystem.makedirs("/" + path.rpartition("/")[0], exist_ok=True)
        with filesystem.open("/" + path, "wb") as file:
            file.write(contents)
    flash = blank_flash(image)[:_START] + bytes(filesystem.context.buffer)
    if len(rom) > ROM.total_bytes:
        raise ValueError(f"the modules take {len(rom)} bytes of flash; {ROM.total_bytes} are set apart for them")
    return flash[:_ROM_START] + rom + flash[_ROM_START + len(rom) :]


def rom(flash: bytes) -> bytes:
    """The ROM part of a flash."""
    return flash[_ROM_START:_START]


def read(flash: bytes) -> dict[str, bytes]:
    """{path: contents} of every file on it, as a computer would find them that reads the chip."""
    filesystem = _filesystem(flash[_START:])
    files = {}
    for folder, _, names in filesystem.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with filesystem.open(path, "rb") as file:
                files[path[1:]] = file.read()
    return files


def _filesystem(content: bytes | None) -> LittleFS:
    """A new one of the version that this MicroPython formats with, or that of `content`, never formatted anew."""
    context = UserContext(BLOCKS * BLOCK_BYTES)
    geometry: dict[str, Any] = {"block_size": BLOCK_BYTES, "block_count": BLOCKS, "prog_size": 256, "read_size": 32}
    if content is None:
        return LittleFS(context, cache_size=BLOCK_BYTES, disk_version=_DISK_VERSION, **geometry)
    context.buffer[:] = content
    # MicroPython raises the version as it writes: read whatever there is.
    filesystem = LittleFS(context, mount=False, cache_size=BLOCK_BYTES, **geometry)
    filesystem.mount()
    return filesystem
