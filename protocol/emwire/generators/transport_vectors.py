"""Writes the vectors of what transports refuse: frames that do not open, fragments that do not join, wrong topics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from emwire import catalogue, envelope, fragments, topics
from emwire.errors import WireError

KEY = bytes(range(16))
DEVICE_ID = 0x11223344


class Aead:
    """AES-128-CCM for emwire.envelope."""

    def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Ciphertext and tag."""
        return AESCCM(KEY, tag_length=envelope.TAG_SIZE).encrypt(nonce, plaintext, associated)

    def open(self, nonce: bytes, ciphertext_and_tag: bytes, associated: bytes) -> bytes:
        """The plaintext, or WireError."""
        try:
            return AESCCM(KEY, tag_length=envelope.TAG_SIZE).decrypt(nonce, ciphertext_and_tag, associated)
        except InvalidTag:
            raise WireError("authentication", envelope.HEADER_SIZE) from None


def refused_frames() -> str:
    """Frames of a device that do not open: one for each reason, and one for each part of a frame that was changed."""
    control = envelope.control_byte(envelope.UP, envelope.RECORD)
    gap = catalogue.BY_NAME["gap"]
    plaintext = catalogue.build("gap", {name: field.lowest for name, field in gap.fields})
    good = envelope.seal(Aead(), DEVICE_ID, control, 3, 7, plaintext)

    def changed(place: int, mask: int = 1) -> bytes:
        return good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :]

    cases = {
        "empty": b"",
        "header and tag cut short": good[: envelope.OVERHEAD - 1],
        "too long": good + bytes(envelope.MAXIMUM_FRAME - len(good) + 1),
        "version 0": changed(0, 0x20),
        "version 2": changed(0, 0x60),
        "version 7": changed(0, 0xC0),
        "another lane": changed(0, 0x04),
        "another kind": changed(0, 0x08),
        "another epoch": changed(1),
        "another sequence": changed(3),
        "ciphertext changed": changed(envelope.HEADER_SIZE),
        "tag changed": changed(len(good) - 1),
        "last byte lost": good[:-1],
        "one byte more": good + b"\0",
    }

    def entries() -> Iterator[dict[str, Any]]:
        for case, frame in cases.items():
            yield _refused({"case": case, **_place(frame)}, lambda f=frame: _open(f, DEVICE_ID))  # type: ignore[misc]
        yield _refused({"case": "another device", **_place(good, DEVICE_ID + 1)}, lambda: _open(good, DEVICE_ID + 1))

    return _lines(entries())


def refused_fragments() -> str:
    """Sequences of fragments that give no datagram, and the counter of emwire.fragments that says why."""
    whole = fragments.fragment(bytes(range(40)), fragments.LEAST_PAYLOAD)
    changed = whole[1][:-1] + bytes([whole[1][-1] ^ 1])
    cases = {
        "first lost": whole[1:],
        "middle lost": [whole[0], *whole[2:]],
        "last lost": whole[:-1],
        "order changed": [whole[0], whole[2], whole[1]],
        "one byte changed": [whole[0], changed, *whole[2:]],
        "empty": [whole[0][:1]],
        "without header": [b""],
    }

    def entries() -> Iterator[dict[str, Any]]:
        for case, parts in cases.items():
            reassembler = fragments.Reassembler()
            if any(reassembler.feed(part) is not None for part in parts):
                raise AssertionError(case)
            names = ("stray", "interrupted", "damaged", "oversize")
            counters = {name: getattr(reassembler, name) for name in names if getattr(reassembler, name)}
            yield {"case": case, "fragments": [part.hex() for part in parts], "counters": counters}

    return _lines(entries())


def topic_names() -> str:
    """Topics of devices, and names that are none."""

    def entries() -> Iterator[dict[str, Any]]:
        for device_id in (0, 0xA1B2, 0xFFFFFFFF):
            yield {"topic": topics.up(device_id), "direction": "up", "device_id": device_id}
            yield {"topic": topics.down(device_id), "direction": "down", "device_id": device_id}
        for name in ("", "emtag/v2/up/0000a1b2", "emtag/v1/up/a1b2", "emtag/v1/up/0000A1B2", "emtag/v1/up/0000a1b2/x"):
            yield _refused({"topic": name}, lambda n=name: topics.parse(n))  # type: ignore[misc]

    return _lines(entries())


def _open(frame: bytes, device_id: int) -> None:
    envelope.open_frame(Aead(), device_id, frame)


def _place(frame: bytes, device_id: int = DEVICE_ID) -> dict[str, Any]:
    return {"key": KEY.hex(), "device_id": device_id, "frame": frame.hex()}


def _refused(entry: dict[str, Any], call: Callable[[], object]) -> dict[str, Any]:
    try:
        call()
    except WireError as error:
        return {**entry, "reason": error.reason, "offset": error.offset}
    raise AssertionError(f"{entry}: not refused")


def _lines(entries: Iterable[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"
