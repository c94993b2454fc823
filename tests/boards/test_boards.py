"""Boards that are not here: their tables run on real MicroPython over a model of its `machine` module."""

import json
import re
import runpy
from pathlib import Path

import pytest
from device_checks import ROOT, VIRTUAL, run_check
from emrig.flash import install
from emrig.flash.boards import definition, definitions
from emrig.flash.errors import FlashError
from emrig.flash.repl import FACTS
from emrig.images import firmware_image

DEVICE = Path(__file__).parent / "device"
ZEPHYR = ROOT / "firmware" / "boards" / "nrf52840" / "zephyr"
FLASH_BYTES = 1 << 20
# As many as a pid's firmware for it has, of about its size: 90 KB in all.
PID_FILES = 49
BOARDS = ("esp32s3", "nrf52840", "pico_w")
CHECKS = [
    (check, board)
    for check in ("models", "pins", "uart", "battery", "temperature", "missing_part", "self_test")
    for board in BOARDS
]
ONLY = [
    ("power", "esp32s3"),
    ("converter_ends", "esp32s3"),
    ("converter_ends", "nrf52840"),
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
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for module in firmware_image.LACKING.get(board, ()):
        (lacking / f"{module}.py").write_text("raise ImportError\n")
    run_check(micropython, [lacking, *path], DEVICE / "check_boards.py", f"check_{check}", board, tmp_path)


def test_the_host_knows_every_board() -> None:
    known = definitions()
    assert set(BOARDS) <= set(known)
    for name, board in known.items():
        assert board.name == name
        assert board.models


def test_an_unknown_board_is_named_with_those_that_exist() -> None:
    with pytest.raises(FlashError, match=r"no board 'esp8266'.*pico_w"):
        definition("esp8266")


class _WithoutCryptolib:
    """A board's MicroPython, to flashing."""

    port = "p"

    def missing_modules(self, names: list[str]) -> list[str]:
        return [name for name in names if name == "cryptolib"]

    def files(self) -> list[str]:
        return []


def test_flashing_does_not_ask_for_a_module_that_the_firmware_brings() -> None:
    def check(board: str) -> None:
        wish = install.Wish(definition(board), "home_unit", "p")
        install._check(_WithoutCryptolib(), wish, {"heap_bytes": 1 << 20, "free_bytes": 0}, {}, True)  # type: ignore[arg-type]

    check("nrf52840")
    with pytest.raises(FlashError, match="has no cryptolib"):
        check("pico_w")


def _overlay() -> str:
    return re.sub(r"/\*.*?\*/", "", (ZEPHYR / "emtag.overlay").read_text(), flags=re.DOTALL)


def _partitions() -> dict[str, tuple[int, int]]:
    found = re.findall(r'label = "(\w+)";\s+reg = <(\w+) (\w+)>', _overlay())
    return {label: (int(begin, 0), int(size, 0)) for label, begin, size in found}


def test_the_nrf52840s_files_are_at_the_root_and_its_flash_has_room_for_a_pid(micropython: str, tmp_path: Path) -> None:
    partitions = _partitions()
    assert partitions["code"] == (0, partitions["storage"][0]) and sum(partitions["storage"]) == FLASH_BYTES
    facts = tmp_path / "facts.py"
    facts.write_text(FACTS)
    path = [DEVICE, ROOT / "firmware", ROOT / "protocol"]
    script = DEVICE / "check_zephyr_boot.py"
    told = run_check(micropython, path, script, ZEPHYR / "_boot.py", partitions["storage"][1], PID_FILES, facts)
    here, elsewhere = (json.loads(line) for line in told.splitlines()[:2])
    assert here["serial"] == "0123456789abcdef" and here["blocks"] == partitions["storage"][1] // 4096
    assert here["free_bytes"] > 200_000
    assert (elsewhere["blocks"], elsewhere["free_bytes"]) == (0, 0)


def test_the_nrf52840s_device_tree_has_what_its_pins_name() -> None:
    pins = runpy.run_path(str(ZEPHYR.parent / "pins.py"))
    overlay = _overlay()
    channels = {pin[1] for pin, *_ in pins["ADC"].values()}
    nodes = re.findall(r"channel@(\d) {\s+reg = <(\d)>", overlay)
    assert {int(at) for at, register in nodes if at == register} == channels
    assert {int(number) for number in re.findall(r"<&adc (\d)>", overlay)} == channels
    worn = (ZEPHYR / "worn.overlay").read_text()
    for device, *_ in pins["UART"].values():
        assert re.search(rf'&{device} {{\s+status = "okay";', overlay)
        assert re.search(rf'&{device} {{\s+status = "disabled";', worn), "a line that listens takes 0.6 mA"
