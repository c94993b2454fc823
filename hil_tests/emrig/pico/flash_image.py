"""The emulated flash as a whole: MicroPython from its image and the littlefs behind it, written and read here.

The layout is that of MicroPython's RPI_PICO board: 1408 KiB of littlefs at the end of 2 MiB; before it the 256 KiB that
build.sh sets apart for modules that run from flash (ROMFS, at /rom and on the module path).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from littlefs import LittleFS
from littlefs.context import UserContext
from mpremote.romfs import VfsRomWriter

from emrig.pico.chip import FLASH_BYTES, blank_flash

BLOCK_BYTES = 4096
BLOCKS = 352
_START = FLASH_BYTES - BLOCKS * BLOCK_BYTES
_ROM_BYTES = 256 * 1024
_ROM_START = _START - _ROM_BYTES
_DISK_VERSION = 0x00020000
"""What MicroPython formats with."""


def make(image: Path, files: Mapping[str, bytes], rom: Mapping[str, bytes] | None = None) -> bytes:
    """A flash with MicroPython, these files ({path: contents}, folders are made), and those to be run from flash."""
    filesystem = _filesystem(None)
    for path, contents in files.items():
        if "/" in path:
            filesystem.makedirs("/" + path.rpartition("/")[0], exist_ok=True)
        with filesystem.open("/" + path, "wb") as file:
            file.write(contents)
    flash = blank_flash(image)[:_START] + bytes(filesystem.context.buffer)
    if not rom:
        return flash
    writer = VfsRomWriter()
    _add(writer, rom)
    data = bytes(writer.finalise())
    if len(data) > _ROM_BYTES:
        raise ValueError(f"the modules take {len(data)} bytes of flash; {_ROM_BYTES} are set apart for them")
    return flash[:_ROM_START] + data + flash[_ROM_START + len(data) :]


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
