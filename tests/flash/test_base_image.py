"""MicroPython itself onto a board: what esptool is told, where a UF2 file goes, and what a person is told."""

import os
import time
from pathlib import Path

import pytest
from emrig.flash import base_image
from emrig.flash.boards import definition
from emrig.flash.errors import FlashError
from emrig.flash.repl import Repl

ESP32, PICO, NRF = definition("esp32s3"), definition("pico_w"), definition("nrf52840")
PORT = os.devnull  # there at once, as a board that has restarted


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.uf2"
    path.write_bytes(b"UF2\n" + bytes(508))
    return path


def _esptool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "esptool"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def _drive(mounts: Path, name: str) -> Path:
    drive = mounts / "user" / name
    drive.mkdir(parents=True)
    (drive / base_image.UF2_MARK).write_text("UF2 Bootloader v3.0\n")
    return drive


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(base_image, "MOUNTS", (str(tmp_path / "media"), str(tmp_path / "absent")))
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def test_esptool_is_given_port_address_and_image(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _esptool(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/said', monkeypatch)
    base_image.put(ESP32, "/dev/ttyACM7", image)
    # The ESP32-S3 boots from the flash's begin (Espressif's ESP32-S3 technical reference: boot loader at 0x0).
    assert (tmp_path / "said").read_text().split() == ["--port", "/dev/ttyACM7", "write_flash", "0x0", str(image)]


def test_what_esptool_says_is_told_with_a_remedy(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _esptool(tmp_path, "echo 'Failed to connect: no sync' >&2; exit 2", monkeypatch)
    with pytest.raises(FlashError, match=r"/dev/ttyACM7: esptool failed: Failed to connect: no sync; hold BOOT"):
        base_image.put(ESP32, "/dev/ttyACM7", image)


def test_without_esptool_its_installation_is_named(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlashError, match="esptool is not installed"):
        base_image.put(ESP32, PORT, image)


def test_a_uf2_file_is_copied_to_the_board_in_its_boot_loader(image: Path, mounts: Path) -> None:
    drive = _drive(mounts, "RPI-RP2")
    base_image.put(PICO, PORT, image)
    assert (drive / image.name).read_bytes() == image.read_bytes()


def test_a_board_that_ran_is_awaited_in_its_boot_loader(
    image: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, drives = time.sleep, []

    def mounted(duration_s: float) -> None:
        drives.append(_drive(mounts, "RPI-RP2"))
        sleep(0)

    monkeypatch.setattr(time, "sleep", mounted)
    base_image.put(PICO, PORT, image, started=True)
    assert (drives[0] / image.name).read_bytes() == image.read_bytes()
    with pytest.raises(FlashError, match="another board waits in its boot loader"):
        base_image.start_boot_loader(PICO, Repl(PORT))
    drives[0].rename(mounts.parent / "unplugged")
    monkeypatch.setattr(base_image, "MOUNT_S", 0.0)
    with pytest.raises(FlashError, match=r"nobody mounted its drive: .*copy image\.uf2 to it"):
        base_image.put(PICO, PORT, image, started=True)


def test_two_boards_in_their_boot_loaders_are_not_mixed_up(image: Path, mounts: Path) -> None:
    drives = [_drive(mounts, "RPI-RP2"), _drive(mounts, "RPI-RP21")]
    with pytest.raises(FlashError, match="several boards wait"):
        base_image.put(PICO, PORT, image)
    assert not [drive for drive in drives if (drive / image.name).exists()]


def test_no_board_in_its_boot_loader(image: Path, mounts: Path) -> None:
    with pytest.raises(FlashError, match="hold BOOTSEL"):
        base_image.put(PICO, PORT, image)


def test_what_is_no_uf2_file_is_not_copied(image: Path, mounts: Path) -> None:
    drive = _drive(mounts, "RPI-RP2")
    image.write_bytes(b"\xe9" + bytes(511))
    with pytest.raises(FlashError, match="not a UF2 file"):
        base_image.put(PICO, PORT, image)
    assert not (drive / image.name).exists()


def test_a_board_that_does_not_come_back(image: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _drive(mounts, "RPI-RP2")
    monkeypatch.setattr(base_image, "RESTART_S", 0.0)
    with pytest.raises(FlashError, match="/dev/absent: it did not come back"):
        base_image.put(PICO, "/dev/absent", image)


def test_a_board_with_a_debugger_and_an_image_that_is_not_there(image: Path, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="through its debugger"):
        base_image.put(NRF, PORT, image)
    with pytest.raises(FlashError, match="there is no such image: download MicroPython for the"):
        base_image.put(NRF, PORT, tmp_path / "absent")
