"""On an emulated RP2040, with 31-bit integers: what the firmware computes there is what it computes here."""

import io
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import replay_gnss
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from drivers import ubx
from emrig.pico import flash_image
from emrig.pico.target import Pico

from conftest import Repl

pytestmark = pytest.mark.xdist_group("pico")
ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "protocol" / "vectors"
# Sentences of a receiver: some seconds of the board's time.
LOG_BYTES = 2000
SOLUTIONS = 6


def test_boots_and_is_what_the_firmware_needs(repl: Repl) -> None:
    facts = repl.run("import sys, gc, os\nprint(sys.platform, gc.mem_free() > 200000, (1 << 30) - 1, os.listdir('/'))")
    assert facts.startswith("rp2 True 1073741823")
    assert "rom" in facts


def test_unmodified_mpremote_copies_lists_and_runs(board: Pico, tmp_path: Path) -> None:
    board.reset()
    mpremote = [sys.executable, "-m", "mpremote", "connect", board.port]
    (tmp_path / "note.py").write_text("print('ran', 6 * 7)\n")
    copied = subprocess.run(
        [*mpremote, "fs", "cp", str(tmp_path / "note.py"), ":note.py"], capture_output=True, text=True
    )
    assert copied.returncode == 0, copied.stderr
    listed = subprocess.run([*mpremote, "exec", "import note", "fs", "ls"], capture_output=True, text=True)
    assert "ran 42" in listed.stdout
    assert "note.py" in listed.stdout


def test_self_test_of_what_needs_no_rig(repl: Repl) -> None:
    told = repl.run(
        """
import asyncio, json, os, time
from common import self_test
class Clock:
    ticks_ms = staticmethod(time.ticks_ms)
class Board:
    storage_path = "/data"
    clock = Clock
    random_bytes = staticmethod(os.urandom)
async def check():
    faults = []
    for name in ("flash", "clock", "random", "sealing"):
        faults.append(await self_test._TESTS[name](Board(), name))
    return faults
print(json.dumps(asyncio.run(check())))
"""
    )
    assert json.loads(told) == [None] * 4


def test_frames_are_sealed_and_opened_as_published(repl: Repl) -> None:
    frames = json.loads((VECTORS / "envelope.json").read_text())["frames"]
    repl.run("from binascii import hexlify, unhexlify\nfrom common.ccm import Ccm\nfrom emwire import envelope")
    for vector in frames:
        where = (vector["deviceId"], vector["control"], vector["epoch"], vector["counter"])
        told = repl.run(
            f"a = Ccm(unhexlify({vector['key']!r}))\np = unhexlify({vector['plaintext']!r})\n"
            f"f = envelope.seal(a, *{where}, p)\n"
            f"print(hexlify(f).decode(), envelope.open_frame(a, {where[0]}, f, {where[2]}) == {where[1:]} + (p,))"
        )
        assert told == f"{vector['frame']} True", vector["name"]


def test_aes_of_a_board_without_cryptolib_is_this_chip_s(repl: Repl) -> None:
    """And what it takes beside the chip's own: the figures of docs/flashing.md (-rP)."""
    repl.run("import time, cryptolib\n" + (ROOT / "firmware" / "common" / "aes.py").read_text())
    took = repl.run(
        """
key, block = bytes(range(16)), bytes(range(100, 116))
def took(work, data):
    begun = time.ticks_us()
    made = work(data)
    return time.ticks_diff(time.ticks_us(), begun), made
def beside(own, theirs, data):
    own, theirs = took(own, data), took(theirs, data)
    assert own[1] == theirs[1]
    print(len(data), own[0], theirs[0])
    return own[1]
sealed = beside(aes(key, 1).encrypt, cryptolib.aes(key, 1).encrypt, block)
beside(aes(key, 2, block).encrypt, cryptolib.aes(key, 2, block).encrypt, block * 5)
again = aes(key, 1)
again.decrypt(sealed)  # makes its table
assert beside(again.decrypt, cryptolib.aes(key, 1).decrypt, sealed) == block
"""
    )
    print("bytes, us in plain Python, us by the chip's own: one block, five chained, one opened")
    print(took)
    assert [line.split()[0] for line in took.splitlines()] == ["16", "80", "16"]


def test_refused_frames_are_refused_with_the_same_words(repl: Repl) -> None:
    cases = json.loads((VECTORS / "refused_frames.json").read_text())
    repl.run(
        "from binascii import unhexlify\nfrom common.ccm import Ccm\nfrom emwire import envelope\n"
        "from emwire.errors import WireError"
    )
    for case in [case for case in cases if len(case["frame"]) < 400][:6]:
        told = repl.run(
            f"try:\n envelope.open_frame(Ccm(unhexlify({case['key']!r})), {case['device_id']},"
            f" unhexlify({case['frame']!r}))\n print('opened')\n"
            "except WireError as error:\n print(error.args[0], error.args[1])"
        )
        assert told == f"{case['reason']} {case['offset']}", case["case"]


def test_position_blocks_are_as_published(repl: Repl) -> None:
    vectors = json.loads((VECTORS / "position_blocks.json").read_text())
    repl.run(
        """
from binascii import hexlify, unhexlify
from emwire.errors import WireError
from emwire.positions import encode_block, decode_block
def both(columns, block, fixes):
    print(hexlify(encode_block(fixes, columns)).decode(), decode_block(unhexlify(block)) == fixes)
def refused(*blocks):
    for block in blocks:
        try:
            print(decode_block(unhexlify(block)))
        except WireError as error:
            print(error.args[0], error.args[1])
"""
    )
    for vector in vectors["blocks"]:
        fixes = [tuple(fix) for fix in vector["fixes"]]
        told = repl.run(f"both({vector['columns']}, {vector['hex']!r}, {fixes!r})")
        assert told == f"{vector['hex']} True", vector["case"]
    told = repl.run(f"refused{tuple(vector['hex'] for vector in vectors['refused'])!r}")
    assert told.splitlines() == [f"{vector['reason']} {vector['offset']}" for vector in vectors["refused"]]


def solutions(log: bytes, most: int) -> list[bytes]:
    """NAV-PVT messages of a recording, whole."""
    found = []
    at = log.find(ubx.SYNC)
    while at >= 0 and len(found) < most:
        end = at + ubx.OVERHEAD + int.from_bytes(log[at + 4 : at + 6], "little")
        if int.from_bytes(log[at + 2 : at + 4], "big") == ubx.NAV_PVT:
            found.append(log[at:end])
        at = log.find(ubx.SYNC, end)
    return found


def elsewhere(solution: bytes, later_ms: int, longitude: int, latitude: int, accuracy_mm: int) -> bytes:
    """A recorded solution at another place and time of week, its checksum right."""
    payload = bytearray(solution[ubx.HEADER_SIZE : -2])
    struct.pack_into("<I", payload, 0, struct.unpack_from("<I", payload)[0] + later_ms)
    payload[10] += later_ms // 1000
    struct.pack_into("<ii", payload, 24, longitude, latitude)
    struct.pack_into("<I", payload, 40, accuracy_mm)
    return ubx.message(ubx.NAV_PVT, bytes(payload))


def test_a_recorded_receiver_gives_the_same_fixes(repl: Repl, shared_data: Path) -> None:
    sentences = (shared_data / "gnss" / "quectel-L70.log").read_bytes()
    messages = solutions((shared_data / "gnss" / "ublox-neo-m8n.log").read_bytes(), SOLUTIONS)
    assert len(messages) == SOLUTIONS
    # The recording's own longitude has more than 31 bits; here both ends of each field, which no one place has.
    messages.append(elsewhere(messages[-1], 1000, -1_800_000_000, 900_000_000, 0xFFFFFFFF))
    messages.append(elsewhere(messages[-1], 1000, 1_800_000_000, -900_000_000, 0x80000000))
    repl.run((ROOT / "firmware" / "replay_gnss.py").read_text().rpartition("if __name__")[0])
    repl.run("import io")
    # On either side: each fix with what its line leaves out.
    repl.run("line = lambda fix, line=line: line(fix) + str(fix.precision_m)")
    with pytest.MonkeyPatch.context() as patch:
        line = replay_gnss.line
        patch.setattr(replay_gnss, "line", lambda fix: line(fix) + str(fix.precision_m))
        for piece in (sentences[sentences.index(b"$") :][:LOG_BYTES], b"".join(messages)):
            here: list[str] = []
            receiver = replay_gnss.replay(io.BytesIO(piece), 512, here.append)
            for at in range(0, len(piece), 600):
                repl.run(f"piece = (piece if {at} else b'') + {piece[at : at + 600]!r}")
            told = repl.run("print(summary(replay(io.BytesIO(piece), 512, print)))").splitlines()
            assert told == [*here, replay_gnss.summary(receiver)]
            assert here
    assert len(here) == len(messages)
    assert '"longitude": 138.60' in here[0]
    assert '"latitude": 90.000000, "longitude": -180.000000' in here[-2]
    assert '"latitude": -90.000000, "longitude": 180.000000' in here[-1]


def test_signatures_are_verified(repl: Repl) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = b"".join(
        part.to_bytes(32, "big") for part in (key.public_key().public_numbers().x, key.public_key().public_numbers().y)
    )
    message = bytes(range(100))
    signature = b"".join(
        n.to_bytes(32, "big") for n in decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    )
    told = repl.run(
        f"from common import p256\nprint(p256.verify({public!r}, {signature!r}, {message!r}),"
        f" p256.verify({public!r}, {bytes(32) + signature[32:]!r}, {message!r}))"
    )
    assert told == "True False"


JOURNAL = """
import os, sys
from common.epoch import begin_epoch
from common.journal import Journal
try:
    os.mkdir("/j")
except OSError:
    pass
epoch = begin_epoch("/j", first_epoch=1)
journal = Journal("/j", epoch, stamp=lambda: (0, 65535, 0, 0))
"""
APPENDING = """
number = 0
while True:
    payload = b"%d %d " % (epoch, number) + bytes(40)
    print("A", epoch, journal.append(number % 5 == 0, payload))
    number += 1
"""
READING = """
def all_records(alarm):
    after = None
    while True:
        entry = journal.next_to_send(alarm, after)
        if entry is None:
            return
        print("R", entry[0], entry[1], journal.read(entry)[:12])
        after = entry
print("E", epoch, journal.damaged_bytes)
all_records(False)
all_records(True)
"""


def test_the_journal_recovers_from_power_cuts_in_the_middle_of_writes(
    tmp_path: Path, flash: Callable[[dict[str, bytes]], bytes]
) -> None:
    """Every record whose append() returned is there after power went in any flash operation, torn at any byte."""
    chance = random.Random(11)
    (tmp_path / "flash.bin").write_bytes(flash({"main.py": (JOURNAL + APPENDING).encode()}))
    console = tmp_path / "console.log"
    pico = Pico(tmp_path)
    try:
        for _ in range(6):
            pico.power_on(cut_after=chance.randrange(4, 40), share=chance.random(), seed=chance.randrange(256))
            assert pico.wait_for_cut(600)
        made = {
            tuple(line.split()[1:3])
            for line in console.read_text().splitlines()
            if line.startswith("A ") and len(line.split()) == 3
        }
        assert len(made) > 6, "the cuts hit no traffic"
        # What a computer finds that reads the chip: the file system is whole.
        assert any(path.startswith("j/journal/") for path in flash_image.read((tmp_path / "flash.bin").read_bytes()))
        pico.power_on()
        repl = Repl(pico)  # interrupts main.py
        told = repl.run(JOURNAL + READING)
        repl.close()
    finally:
        pico.close()
    found = {tuple(line.split()[1:3]) for line in told.splitlines() if line.startswith("R ")}
    epochs = [int(line.split()[1]) for line in told.splitlines() if line.startswith("E ")]
    assert made <= found
    assert epochs[0] > max(int(epoch) for epoch, _ in made), "an epoch came twice"
