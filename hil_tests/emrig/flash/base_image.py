"""Puts MicroPython itself on a board: esptool, a UF2 copy, or word of what to do where a debugger is needed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from emrig.flash.boards import BoardDefinition
from emrig.flash.errors import FlashError
from emrig.flash.repl import Repl

# Where desktops mount the drive that a board in its boot loader is.
MOUNTS = ("/media", "/run/media", "/mnt", "/Volumes")
# The UF2 specification's mark of such a drive.
UF2_MARK = "INFO_UF2.TXT"
# From the copy's end until the board has restarted as a serial port.
RESTART_S = 20.0
# From the boot loader's start until a desktop has mounted its drive.
MOUNT_S = 20.0


def check(board: BoardDefinition, image: Path) -> None:
    """FlashError if it cannot be put on such a board."""
    if not image.is_file():
        raise FlashError(f"{image}: there is no such image: download MicroPython for the {board.title}")
    if board.base_image == "esptool":
        _tool()
    elif board.base_image == "uf2":
        if not image.read_bytes()[:4] == b"UF2\n":
            raise FlashError(f"{image}: not a UF2 file: take the .uf2 of MicroPython for this board")
    else:
        raise FlashError(
            f"{board.name}: its image goes on through its debugger: copy {image.name} to the drive it shows, or use "
            "`west flash`; then flash again without --base-image"
        )


def start_boot_loader(board: BoardDefinition, repl: Repl) -> None:
    """Of a board that runs MicroPython; esptool does it by itself."""
    if board.base_image == "uf2":
        drives = _drives()
        if drives:
            raise FlashError(f"another board waits in its boot loader ({drives[0]}): unplug it, then flash again")
        repl.start_boot_loader()


def put(board: BoardDefinition, port: str, image: Path, started: bool = False) -> None:
    """Write the image; FlashError says what to do by hand. `started`: its boot loader was, just now."""
    check(board, image)
    if board.base_image == "esptool":
        _esptool(board, port, image)
    else:
        _uf2(image, started)
        _await(port)


def _tool() -> str:
    # GPL: called as a program where the user has it, never imported.
    tool = shutil.which("esptool") or shutil.which("esptool.py")
    if tool is None:
        raise FlashError("esptool is not installed: `pipx install esptool`, then flash again")
    return tool


def _esptool(board: BoardDefinition, port: str, image: Path) -> None:
    done = subprocess.run(
        [_tool(), "--port", port, "write_flash", hex(board.base_image_address), str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise FlashError(
            f"{port}: esptool failed: {lines[-1]}; hold BOOT, press RESET, let go of BOOT, then flash again"
        )


def _uf2(image: Path, started: bool) -> None:
    end = time.monotonic() + MOUNT_S
    drives = _drives()
    while started and not drives and time.monotonic() < end:
        time.sleep(0.2)
        drives = _drives()
    if not drives and started:
        raise FlashError(
            f"the board is in its boot loader, but nobody mounted its drive: mount it and copy {image.name} to it, "
            "then flash again without --base-image"
        )
    if not drives:
        raise FlashError("no board in its boot loader is mounted: hold BOOTSEL while plugging it in, then flash again")
    if len(drives) > 1:
        raise FlashError(
            f"several boards wait in their boot loaders ({', '.join(map(str, drives))}): leave one plugged in"
        )
    try:
        shutil.copyfile(image, drives[0] / image.name)
    except OSError as error:
        raise FlashError(f"{drives[0]}: {error}: plug the board in again with BOOTSEL held, then flash again") from None


def _drives() -> list[Path]:
    """Of the boards that are in their boot loaders."""
    return [mark.parent for mount in MOUNTS for mark in Path(mount).glob(f"**/{UF2_MARK}") if _shallow(mark, mount)]


def _shallow(mark: Path, mount: str) -> bool:
    return len(mark.relative_to(mount).parts) <= 3  # user/drive/mark


def _await(port: str) -> None:
    end = time.monotonic() + RESTART_S
    while not Path(port).exists():
        if time.monotonic() > end:
            raise FlashError(f"{port}: it did not come back: press reset; `mpremote connect list` names the ports")
        time.sleep(0.2)
