"""The published vectors of the envelope, against `cryptography` and against the firmware on MicroPython."""

import json
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from emgate.keys.sealing import Ccm, derive_device_key
from emwire import envelope

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "protocol/vectors/envelope.json").read_text())

ON_MICROPYTHON = """
import sys, json
from binascii import hexlify, unhexlify
from common.ccm import Ccm
from emwire import envelope
for vector in json.loads(sys.stdin.read()):
    aead = Ccm(unhexlify(vector["key"]))
    plain = unhexlify(vector["plaintext"])
    where = vector["deviceId"], vector["control"], vector["epoch"], vector["counter"]
    frame = envelope.seal(aead, *where, plain)
    assert envelope.open_frame(aead, where[0], frame, where[2]) == where[1:] + (plain,)
    print(hexlify(frame).decode())
"""


def test_keys_are_derived_as_written() -> None:
    for vector in VECTORS["keys"]:
        key = derive_device_key(bytes.fromhex(vector["master"]), vector["deviceId"], vector["generation"])
        assert key.hex() == vector["key"]


def test_frames_by_the_text_of_the_specification() -> None:
    for vector in VECTORS["frames"]:
        frame, device = bytes.fromhex(vector["frame"]), vector["deviceId"].to_bytes(4, "little")
        epoch = vector["epoch"].to_bytes(2, "little")
        if vector["control"] & 16:
            assert frame[:6] == bytes([vector["control"]]) + vector["counter"].to_bytes(5, "little")
            nonce, associated = device + frame[:6] + epoch + b"\0", frame[:6] + device + epoch
        else:
            assert frame[:6] == bytes([vector["control"]]) + epoch + vector["counter"].to_bytes(3, "little")
            nonce, associated = device + frame[:6] + bytes(3), frame[:6] + device
        assert (nonce.hex(), associated.hex()) == (vector["nonce"], vector["associated"])
        plaintext = AESCCM(bytes.fromhex(vector["key"]), tag_length=8).decrypt(nonce, frame[6:], associated)
        assert plaintext.hex() == vector["plaintext"]
        assert len(frame) == len(plaintext) + 14


def test_the_code_agrees_on_both(micropython: str) -> None:
    expected = [vector["frame"] for vector in VECTORS["frames"]]
    sealed = []
    for vector in VECTORS["frames"]:
        place = vector["control"], vector["epoch"], vector["counter"]
        plaintext = bytes.fromhex(vector["plaintext"])
        sealed.append(envelope.seal(Ccm(bytes.fromhex(vector["key"])), vector["deviceId"], *place, plaintext).hex())
    assert sealed == expected
    done = subprocess.run(
        [micropython, "-c", ON_MICROPYTHON],
        input=json.dumps(VECTORS["frames"]),
        capture_output=True,
        text=True,
        env={"MICROPYPATH": f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
