"""`emtag flash` on the emulated Pico, through its USB port with unmodified mpremote: every model, over another's."""

import json
from pathlib import Path

import pytest
from emrig import firmware_image
from emrig.flash.boards import definition
from emrig.flash.install import Wish, install
from emrig.pico import flash_image
from emrig.pico.bench import Bench
from emrig.pico.target import ImageMissing, Pico, find_image

BOARD = "pico_emulated"
# The emulated oscillator has no noise, so the chip's random numbers repeat; the self-test says so.
NO_NOISE = 4


def _almost(files: dict[str, bytes], running: bool) -> dict[str, bytes]:
    """The flash of another device, whose flashing was cut: writing all of it takes minutes of emulated USB."""
    present = {path: data for path, data in files.items() if path != "selector.mpy" and (running or path != "main.py")}
    identity = {"device_id": 9, "model": "ankle_gps", "key": "00" * 16, "board": BOARD}
    if running:
        present["main.py"] = b"while True:\n    pass\n"
    return {
        **present,
        "a/common/clock.mpy": b"spoilt",
        "theirs.py": b"1",
        "b/image.json": b"{}",
        "data/identity.json": json.dumps(identity).encode(),
    }


@pytest.mark.parametrize("model", definition(BOARD).models)
def test_installs_every_model(tmp_path: Path, model: str) -> None:
    try:
        image = find_image()
    except ImageMissing as error:
        pytest.skip(f"needs the emulated Pico's image: {error}")
    files = firmware_image.installation(model, BOARD)
    # What runs has to be stopped first; once is enough of that.
    (tmp_path / "flash.bin").write_bytes(flash_image.make(image, _almost(files, running=model == "home_unit")))
    with Pico(tmp_path) as pico:
        Bench(pico.wire).start()
        record = install(
            Wish(definition(BOARD), model, pico.port, device_id=10, new_identity=True, backups=tmp_path / "saved")
        )
        pico.save(tmp_path / "after.bin")
    found = flash_image.read((tmp_path / "after.bin").read_bytes())
    assert record.self_test["failed_mask"] in (0, NO_NOISE), record.self_test
    assert {path: data for path, data in found.items() if not path.startswith("data/")} == files
    identity = json.loads(found["data/identity.json"])
    assert (identity["device_id"], identity["model"], identity["board"]) == (10, model, BOARD)
    assert record.backup is not None
    assert json.loads((Path(record.backup) / "identity.json").read_text())["device_id"] == 9
