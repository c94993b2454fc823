"""`emtag flash` on the emulated Pico, over USB with unmodified mpremote: every model, over another's; one then runs."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from queue import Queue

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from emrig.flash.boards import definition
from emrig.images import firmware_image
from emrig.images.rom_image import ERASED
from emrig.pico import flash_image
from emrig.pico.bench import Bench
from emrig.pico.target import ImageMissing, Pico, find_image
from emwire import beacon

BOARD = "pico_emulated"
EMTAG = Path(sys.executable).with_name("emtag")
# A start takes a second of the board's time: most of a minute on a busy machine.
STARTED_S = 300


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


def _first_beacon(advertised: Queue[bytes]) -> bytes:
    """The token that the firmware sends once it runs; the self-test advertises too, something else."""
    while True:
        token = beacon.find(advertised.get(timeout=STARTED_S))
        if token is not None:
            return token


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
    advertised: Queue[bytes] = Queue()
    with Pico(tmp_path) as pico:
        Bench(pico.wire, advertised.put).start()
        options = ["--device-id", "10", "--new-identity", "--broker", "localhost", "--json"]
        done = subprocess.run(
            [EMTAG, "flash", "--board", BOARD, "--model", model, "--port", pico.port, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(done.stdout)
        # What was flashed starts by itself; of one model, whose start is the shortest.
        token = _first_beacon(advertised) if model == "pid" else None
        pico.save(tmp_path / "after.bin")
    after = (tmp_path / "after.bin").read_bytes()
    found = flash_image.read(after)
    assert (record["self_test"]["passed"], record["self_test"]["failed_mask"]) == (True, 0), record["self_test"]
    # Where it has started, the selector's book too.
    assert {path: data for path, data in found.items() if not path.startswith(("data/", "boot."))} == {
        "main.py": firmware_image.start_file()
    }
    assert flash_image.rom(after)[: len(wanted)] == wanted
    assert flash_image.rom(after)[part.begin(1) :][: part.page_bytes] == ERASED * part.page_bytes
    assert record["runs_from"] == "flash, in place, slot a"
    assert record["files"]["/a"] == hashlib.sha256(wanted[part.begin(0) :]).hexdigest()
    identity = json.loads(found["data/identity.json"])
    assert (identity["device_id"], identity["model"], identity["board"]) == (10, model, BOARD)
    saved = tmp_path / record["backup"] / "identity.json"
    assert json.loads(saved.read_text())["device_id"] == 9
    registered = tomllib.loads((tmp_path / "var" / "flash" / "devices.toml").read_text())["devices"]
    assert [device["key"] for device in registered] == [identity["key"]]
    if token is not None:
        decryptor = Cipher(algorithms.AES(bytes.fromhex(identity["key"])), modes.ECB()).decryptor()
        assert beacon.open_token(decryptor.update, 10, token)[0] == 0
