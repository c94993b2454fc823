"""Boards that are not here: their tables run on real MicroPython over a model of its `machine` module."""

from pathlib import Path

import pytest
from device_checks import ROOT, VIRTUAL, run_check
from emrig.flash.boards import definition, definitions
from emrig.flash.errors import FlashError

DEVICE = Path(__file__).parent / "device"
BOARDS = ("esp32s3", "nrf52840", "pico_w")
CHECKS = [
    (check, board)
    for check in ("models", "pins", "uart", "battery", "temperature", "missing_part", "self_test")
    for board in BOARDS
]
ONLY = [
    ("power", "esp32s3"),
    ("silent_power_manager", "esp32s3"),
    ("fuel_gauge", "pico_w"),
    ("light_sleep", "esp32s3"),
    ("without_wake_on_gpio", "esp32s3"),
    ("burst", "esp32s3"),
    ("light_sleep", "pico_w"),
    ("sliced_wait", "nrf52840"),
]


@pytest.mark.parametrize(("check", "board"), [*CHECKS, *ONLY])
def test_on_micropython(micropython: str, tmp_path: Path, check: str, board: str) -> None:
    path = [DEVICE, VIRTUAL, ROOT / "firmware", ROOT / "protocol"]
    run_check(micropython, path, DEVICE / "check_boards.py", f"check_{check}", board, tmp_path)


def test_the_host_knows_every_board() -> None:
    known = definitions()
    assert set(BOARDS) <= set(known)
    for name, board in known.items():
        assert board.name == name
        assert board.models


def test_an_unknown_board_is_named_with_those_that_exist() -> None:
    with pytest.raises(FlashError, match=r"no board 'esp8266'.*pico_w"):
        definition("esp8266")
