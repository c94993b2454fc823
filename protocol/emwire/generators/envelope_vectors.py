"""The envelope's test vectors: key derivation, both directions, every key slot and edge; docs/envelope.md explains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from emwire import catalogue, envelope

MASTER = bytes(range(32))
DEVICE_ID = 0x10000001


def key(device_id: int, generation: int) -> bytes:
    """HKDF-SHA256 without salt, as docs/envelope.md writes it."""
    info = b"emtag device key 1" + device_id.to_bytes(4, "little") + generation.to_bytes(4, "little")
    return HKDF(algorithm=SHA256(), length=16, salt=None, info=info).derive(MASTER)


def _frames() -> Iterator[dict[str, Any]]:
    poll = catalogue.build("poll", {})
    time = catalogue.build("time", {"time_s": 533_000_000, "millisecond": 250, "uncertainty_ms": 20})
    update = catalogue.build("key_update", {"slot": 1, "key": key(DEVICE_ID, 1)})
    record = b"\x3f" + bytes(range(40))
    for name, direction, kind, alarm, slot, epoch, counter, plaintext in (
        ("routine record", 0, 0, False, 0, 3, 7, record),
        ("alarm record", 0, 0, True, 0, 3, 0x010203, record),
        ("last sequence of the last epoch", 0, 0, False, 0, 0xFFFF, envelope.MAXIMUM_COUNTER, b"\x3f"),
        ("poll", 0, 1, False, 0, 3, 1, poll),
        ("time, counter from the clock", 1, 1, False, 0, 3, 533_000_000 << 8, time),
        ("key update", 1, 1, False, 0, 3, (533_000_000 << 8) + 1, update),
        ("the same record under the new key", 0, 0, False, 1, 3, 7, record),
        ("last counter", 1, 1, False, 3, 0xFFFF, envelope.MAXIMUM_DOWN_COUNTER, time),
    ):
        generation = slot
        control = envelope.control_byte(direction, kind, alarm, slot)
        head = envelope.header(control, epoch, counter)
        nonce, associated = envelope.nonce_and_associated(DEVICE_ID, head, epoch)
        sealed = AESCCM(key(DEVICE_ID, generation), tag_length=envelope.TAG_SIZE).encrypt(nonce, plaintext, associated)
        yield {
            "name": name,
            "key": key(DEVICE_ID, generation).hex(),
            "deviceId": DEVICE_ID,
            "control": control,
            "epoch": epoch,
            "counter": counter,
            "plaintext": plaintext.hex(),
            "nonce": nonce.hex(),
            "associated": associated.hex(),
            "frame": (head + sealed).hex(),
        }


def write() -> str:
    """The file's text."""
    keys = [
        {
            "master": MASTER.hex(),
            "deviceId": device_id,
            "generation": generation,
            "key": key(device_id, generation).hex(),
        }
        for device_id, generation in ((DEVICE_ID, 0), (DEVICE_ID, 1), (DEVICE_ID + 1, 0), (0xFFFFFFFF, 0xFFFFFFFF))
    ]
    return json.dumps({"keys": keys, "frames": list(_frames())}, indent=1) + "\n"
