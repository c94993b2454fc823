"""`emtag flash` on the emulated Pico, through its USB port with unmodified mpremote: every model, over another's."""

import hashlib
import json
from pathlib import Path

import pytest
from emrig import firmware_image
from emrig.flash.boards import definition
from emrig.flash.install import Wish, install
from emrig.pico import flash_image
from emrig.pico.bench import Bench
from emrig.pico.target import ImageMissing, Pico, find_image
from emrig.rom_image import ERASED

BOARD = "pico_emulated"
# The emulated oscillator has no noise, so the chip's random numbers repeat; the self-test says so.
NO_NOISE = 4


def _almost(running: bool) -> dict[str, bytes]:
    """The files of another device, whose flashing was cut."""
    identity = {"device_id": 9, "model": "ankle_gps", "key": "00" * 16, "board": BOARD}
    present = {"main.py": b"while True:\n    pass\n"} if running else {}
    return {
        **present,
        "selector.mpy": b"of a board whose code was in folders",
        "theirs.py": b"1",
        "a/common/clock.mpy": b"spoilt",
        "b/image.json": b"{}",
        "data/identity.json": json.dumps(identity).encode(),
    }


def _spoilt(rom: bytes) -> bytes:
    """With a block that is not yet written, one spoilt, and an update in slot b; all takes minutes of emulated USB."""
    part = flash_image.ROM
    block = part.begin(0) + 3 * part.block_bytes
    missing = rom[:block] + ERASED * part.block_bytes + b"\0" + rom[block + part.block_bytes + 1 :]
    return missing.ljust(part.begin(1), ERASED) + rom[part.begin(0) :]


@pytest.mark.parametrize("model", definition(BOARD).models)
def test_installs_every_model(tmp_path: Path, model: str) -> None:
    try:
        image = find_image()
    except ImageMissing as error:
        pytest.skip(f"needs the emulated Pico's image: {error}")
    part = flash_image.ROM
    wanted = part.content(firmware_image.rom_root_files(BOARD), firmware_image.build(model, BOARD))
    # What runs has to be stopped first; once is enough of that.
    flash = flash_image.make(image, _almost(running=model == "home_unit"), _spoilt(wanted))
    (tmp_path / "flash.bin").write_bytes(flash)
    with Pico(tmp_path) as pico:
        Bench(pico.wire).start()
        record = install(
            Wish(
                definition(BOARD),
                model,
                pico.port,
                device_id=10,
                new_identity=True,
                mqtt=("localhost", 1883),
                backups=tmp_path / "saved",
            )
        )
        pico.save(tmp_path / "after.bin")
    after = (tmp_path / "after.bin").read_bytes()
    found = flash_image.read(after)
    assert record.self_test["failed_mask"] in (0, NO_NOISE), record.self_test
    assert {path: data for path, data in found.items() if not path.startswith("data/")} == {
        "main.py": firmware_image.start_file()
    }
    assert flash_image.rom(after)[: len(wanted)] == wanted
    assert flash_image.rom(after)[part.begin(1) :][: part.page_bytes] == ERASED * part.page_bytes
    assert record.runs_from == "flash, in place, slot a"
    assert record.files["/a"] == hashlib.sha256(wanted[part.begin(0) :]).hexdigest()
    identity = json.loads(found["data/identity.json"])
    assert (identity["device_id"], identity["model"], identity["board"]) == (10, model, BOARD)
    assert record.backup is not None
    assert json.loads((Path(record.backup) / "identity.json").read_text())["device_id"] == 9
