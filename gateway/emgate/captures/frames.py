"""Opens and explains captured frames, with the keys at hand, as the JSON objects that `emtag decode` prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from emwire import catalogue, envelope
from emwire.errors import WireError
from emwire.inspect import inspect_hex

from emgate.keys.sealing import Ccm

# Form byte of an opened capture: what follows it after device id and frame header.
OPENED = 0
SEALED = 1

# Searches of all boot epochs, in one capture, for down frames that then do not open; each takes about 0.3 s.
VAIN_SEARCHES = 4
ALL_EPOCHS = range(0x10000)

Keys = Callable[[int], Iterable[bytes]]


class FrameReader:
    """Explains frames one after another, remembering what one tells about the next."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._aeads: dict[int, list[Ccm]] = {}
        # Boot epochs of a device's frames up, newest last: what its frames down are bound to.
        self._epochs: defaultdict[int, dict[int, None]] = defaultdict(dict)
        self._vain_searches = 0

    def read(self, device_id: int, frame: bytes) -> tuple[dict[str, Any], bytes]:
        """The frame as JSON-able data, and as a packet of an opened capture; never raises."""
        head = device_id.to_bytes(4, "little")
        result = inspect_hex(frame.hex(), None, device_id, None, "frame") if frame else _empty(device_id)
        if "error" in result:
            return result, bytes([SEALED]) + head + frame
        try:
            plaintext = self._open(device_id, frame, result)
        except WireError as error:
            result.update(error=error.reason, offset=error.offset, layer="frame")
            return result, bytes([SEALED]) + head + frame
        if plaintext is None:
            return result, bytes([SEALED]) + head + frame
        explain_message(plaintext, result)
        return result, bytes([OPENED]) + head + frame[: envelope.HEADER_SIZE] + plaintext

    def _open(self, device_id: int, frame: bytes, result: dict[str, Any]) -> bytes | None:
        """The plaintext, or None without a key."""
        if device_id not in self._aeads:
            self._aeads[device_id] = [Ccm(key) for key in self._keys(device_id)]
        aeads = self._aeads[device_id]
        epochs = self._epochs[device_id]
        if result["direction"] == "up":
            epochs.pop(result["epoch"], None)
            epochs[result["epoch"]] = None
            for aead in aeads:
                try:
                    return envelope.open_frame(aead, device_id, frame)[3]
                except WireError:
                    continue
        elif aeads:
            opened = _search(aeads, device_id, frame, reversed(list(epochs)))
            if opened is None and self._vain_searches < VAIN_SEARCHES:
                opened = _search(aeads, device_id, frame, ALL_EPOCHS)
                self._vain_searches += opened is None
            if opened is not None:
                result["epoch"], plaintext = opened
                return plaintext
        if aeads:
            raise WireError("authentication", envelope.HEADER_SIZE)
        return None


def explain_message(plaintext: bytes, result: dict[str, Any]) -> None:
    """Add what the message says, or what is wrong with it."""
    if not plaintext:
        result.update(error="short", offset=0, layer="message")
        return
    told = inspect_hex(plaintext.hex(), None, None, None, "message")
    del told["form"]
    result.update(told)
    entry = catalogue.BY_TYPE.get(plaintext[0])
    if "error" not in told and entry and (entry.direction, entry.kind) != (result["direction"], result["kind"]):
        result.update(error="kind", offset=0, layer="message")


def _empty(device_id: int) -> dict[str, Any]:
    return {"form": "frame", "deviceId": device_id, "error": "truncated", "offset": 0, "layer": "frame"}


def _search(aeads: Iterable[Ccm], device_id: int, frame: bytes, epochs: Iterable[int]) -> tuple[int, bytes] | None:
    for epoch in epochs:
        for aead in aeads:
            try:
                return epoch, envelope.open_frame(aead, device_id, frame, epoch)[3]
            except WireError:
                continue
    return None
