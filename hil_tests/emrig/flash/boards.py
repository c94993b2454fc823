"""The boards that can be flashed, read from the firmware's own tables of pins."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emrig.flash.errors import FlashError
from emrig.paths import firmware_folder

PINS = "pins.py"


@dataclass(frozen=True, slots=True)
class BoardDefinition:
    """What the host needs to know of a board; each is an upper-case name in firmware/boards/<name>/pins.py."""

    name: str
    title: str
    models: tuple[str, ...]
    machine: str
    """Part of what sys.implementation._machine says on it."""
    base_image: str
    """How MicroPython itself gets on it: "esptool", "uf2" or "debugger"."""
    base_image_address: int
    """Where esptool writes it."""


def definitions() -> dict[str, BoardDefinition]:
    """Every board with a table of pins."""
    folder = firmware_folder() / "boards"
    return {path.parent.name: _read(path) for path in sorted(folder.glob(f"*/{PINS}"))}


def definition(name: str) -> BoardDefinition:
    """FlashError names the boards that exist."""
    known = definitions()
    if name not in known:
        raise FlashError(f"there is no board {name!r}: give one of {', '.join(known)}")
    return known[name]


def pins_of(name: str) -> dict[str, Any]:
    """A board's table of pins, as it stands in its pins.py."""
    return runpy.run_path(str(firmware_folder() / "boards" / name / PINS))


def _read(path: Path) -> BoardDefinition:
    pins = pins_of(path.parent.name)
    return BoardDefinition(
        pins["NAME"],
        pins["TITLE"],
        tuple(pins["MODELS"]),
        pins["MACHINE"],
        pins["BASE_IMAGE"],
        pins.get("BASE_IMAGE_ADDRESS", 0),
    )
