"""Starts the rig's devices on emulated Picos instead of on simulated boards; each keeps its flash in its folder.

`rig.spawners["ankle"] = PicoSpawner()` before the device is added; everything else of the rig stays as it is. To kill
one is to take its power away at that instant; a firmware that resets its chip ends the process, and the rig starts it
again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tty
from collections.abc import Mapping
from pathlib import Path

from emrig.images import firmware_image
from emrig.interpreter import Spawner
from emrig.pico import faster, flash_image
from emrig.pico.target import find_image

BOARD = "pico_emulated"
ROM_FOLDER = "rom/"


def provisioned_flash(identity: dict[str, object], extra: Mapping[str, bytes] | None = None) -> bytes:
    """A flash with this identity and its model's firmware in slot a.

    `extra` files join or replace those beside it; those under rom/ join the selector, where code runs from in place.
    """
    extra = extra or {}
    files = {
        "main.py": firmware_image.start_file(),
        "data/identity.json": json.dumps({**identity, "board": BOARD}).encode(),
        **{path: contents for path, contents in extra.items() if not path.startswith(ROM_FOLDER)},
    }
    image = firmware_image.build(str(identity["model"]), BOARD)
    more = {path[len(ROM_FOLDER) :]: contents for path, contents in extra.items() if path.startswith(ROM_FOLDER)}
    rom = flash_image.ROM.content({**firmware_image.rom_root_files(BOARD), **more}, image)
    return flash_image.make(find_image(), files, rom)


class PicoSpawner(Spawner):
    """One emulator process per device that has power."""

    step_limit_s = 1800.0  # a start takes a second of the board's time, and each of those most of a minute here

    def __init__(self, extra: Mapping[str, bytes] | None = None) -> None:
        self._extra = extra
        self._running: dict[int, tuple[subprocess.Popen[bytes], int, int]] = {}

    def start(self, script: Path, arguments: list[str], module_path: list[Path], wire: socket.socket, log: int) -> int:
        """Power on, over the flash in the folder that the arguments name; the first time it is made."""
        folder = Path(arguments[0])
        flash = folder / "flash.bin"
        if not flash.exists():
            identity = json.loads((folder / "identity.json").read_bytes())
            flash.write_bytes(provisioned_flash(identity, self._extra))
        master, slave = os.openpty()
        tty.setraw(slave)
        usb = folder / "usb"
        usb.unlink(missing_ok=True)
        usb.symlink_to(os.ttyname(slave))
        process = subprocess.Popen(
            [sys.executable, "-m", "emrig.pico.machine", str(flash), str(master), str(wire.fileno())],
            pass_fds=[master, wire.fileno()],
            stdout=log,
            env=faster.environment(),
        )
        self._running[process.pid] = (process, master, slave)
        return process.pid

    def kill(self, pid: int) -> None:
        """Power off at this instant."""
        process, master, slave = self._running.pop(pid)
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)

    def close(self) -> None:
        """Power everything off."""
        for pid in list(self._running):
            self.kill(pid)
