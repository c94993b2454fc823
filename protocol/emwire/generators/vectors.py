"""Writes protocol/vectors/*.json: golden encodings and refusals, for whoever implements the protocol anew.

Made with Construct, the definition, never with the generated codecs, which are tested against them. Byte strings
among values are {"hex": …}; every file is a list with one object a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from emwire import beacon, catalogue, envelope, fragments, framing, topics
from emwire.errors import WireError
from emwire.fields import FixedBytes, Integer, ItemList, Message, PrefixedBytes, RestBytes

KEY = bytes(range(16))
DEVICE_ID = 0x11223344


def messages() -> str:
    """Encodings of every message with its lowest, highest and patterned values, and with each special value."""
    return _lines(
        {
            "message": message.name,
            "case": case,
            "values": to_json(values),
            "hex": catalogue.build(message.name, values).hex(),
        }
        for message in catalogue.MESSAGES
        for case, values in _cases(message)
    )


def refused_bytes() -> str:
    """Byte strings that are no message, with the reason and offset of their refusal."""

    def entries() -> Iterator[dict[str, Any]]:
        yield _refusal("empty", b"")
        for message in catalogue.MESSAGES:
            cases = dict(_cases(message))
            # A byte string to the end of the message ends anywhere within its bounds.
            open_ended = bool(message.fields) and isinstance(message.fields[-1][1], RestBytes)
            shortest = catalogue.build(message.name, cases["lowest"])
            for case in ("lowest", "highest"):
                data = catalogue.build(message.name, cases[case])
                for size in sorted({1, len(data) // 2, len(data) - 1} - {0, len(data)}):
                    if not open_ended or size < len(shortest):
                        yield _refusal(f"{message.name}, {case}, cut to {size}", data[:size])
                if not open_ended or case == "highest":
                    yield _refusal(f"{message.name}, {case}, one byte more", data + b"\0")
            data = shortest
            for offset, name, field in _integers(message):
                size = field.bits // 8
                for value in (field.lowest - 1, field.highest + 1):
                    if field.type_lowest <= value <= field.type_highest and not field.accepts(value):
                        raw = value.to_bytes(size, "little", signed=field.signed)
                        yield _refusal(f"{message.name}, {name} = {value}", data[:offset] + raw + data[offset + size :])
            yield from _wrong_items(message, cases["pattern"])
            tail = message.fields[-1][1] if message.fields else None
            if isinstance(tail, ItemList | PrefixedBytes):
                most = tail.most if isinstance(tail, ItemList) else tail.longest
                yield _refusal(f"{message.name}, {most + 1} at its end", data[:-1] + bytes([most + 1]))

    return _lines(entries())


def refused_values() -> str:
    """Values that no encoder takes: one field of the message's lowest case replaced."""

    def entries() -> Iterator[dict[str, Any]]:
        for message in catalogue.MESSAGES:
            lowest = dict(_cases(message))["lowest"]
            for name, field in message.fields:
                for value in _wrong_values(field):
                    try:
                        catalogue.build(message.name, {**lowest, name: value})
                    except WireError as error:
                        yield {
                            "message": message.name,
                            "field": name,
                            "value": to_json(value),
                            "reason": error.reason,
                            "offset": error.offset,
                        }
                    else:
                        raise AssertionError(f"{message.name}.{name} takes {value!r}")

    return _lines(entries())


def stream() -> str:
    """Datagrams as stream frames, and frames that are refused."""

    def entries() -> Iterator[dict[str, Any]]:
        datagrams = [b"\0", b"\1", b"\0\0", bytes(range(1, 19)), bytes(254), bytes(1024)]
        datagrams += [bytes(1 + index % 255 for index in range(size)) for size in (251, 252, 253, 254, 255, 508, 1024)]
        for datagram in datagrams:
            yield {"datagram": datagram.hex(), "frame": framing.encode_stream(datagram).hex()}
        good = framing.encode_stream(bytes(range(18)))
        full = framing.encode_stream(bytes(range(1, 253)))  # with its CRC 254 bytes without a zero: one full block
        bad = {
            "empty": b"",
            "only a zero": b"\0",
            "no zero": good[:-1],
            "first byte lost": good[1:],
            "last byte lost": good[:-2] + b"\0",
            "zero inside": good[:5] + b"\0" + good[6:],
            "bit flipped": good[:5] + bytes([good[5] ^ 1]) + good[6:],
            "block too long": bytes([good[0], good[1] + 40]) + good[2:],
            "empty block behind a full one": full[:-1] + b"\1\0",
            "checksum alone": b"\3\xff\xff\0",
            "too long": b"\1" * 1100 + b"\0",
        }
        for case, frame in bad.items():
            try:
                framing.decode_stream(frame)
            except WireError as error:
                yield {"case": case, "frame": frame.hex(), "reason": error.reason, "offset": error.offset}
            else:
                raise AssertionError(case)

    return _lines(entries())


def ble_fragments() -> str:
    """Datagrams as BLE fragments."""
    return _lines(
        {
            "datagram": datagram.hex(),
            "mtu_payload": payload,
            "fragments": [part.hex() for part in fragments.fragment(datagram, payload)],
        }
        for datagram, payload in (
            (b"\1", 20),
            (bytes(range(17)), 20),
            (bytes(range(18)), 20),
            (bytes(index % 251 for index in range(200)), 20),
            (bytes(index % 251 for index in range(1024)), 244),
        )
    )


def frames() -> str:
    """Sealed frames of a record in each lane and a link message in each direction, and their transports' forms."""

    class Aead:
        """AES-128-CCM for emwire.envelope."""

        def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
            return AESCCM(KEY, tag_length=envelope.TAG_SIZE).encrypt(nonce, plaintext, associated)

        def open(self, nonce: bytes, ciphertext_and_tag: bytes, associated: bytes) -> bytes:
            return AESCCM(KEY, tag_length=envelope.TAG_SIZE).decrypt(nonce, ciphertext_and_tag, associated)

    def entries() -> Iterator[dict[str, Any]]:
        for name, direction, kind, alarm, counter in (
            ("status", envelope.UP, envelope.RECORD, False, 7),
            ("event", envelope.UP, envelope.RECORD, True, 0x010203),
            ("poll", envelope.UP, envelope.LINK, False, 1),
            ("acknowledgement", envelope.DOWN, envelope.LINK, False, 2),
        ):
            plaintext = catalogue.build(name, dict(_cases(catalogue.BY_NAME[name]))["pattern"])
            control = envelope.control_byte(direction, kind, alarm)
            frame = envelope.seal(Aead(), DEVICE_ID, control, 3, counter, plaintext)
            datagram = DEVICE_ID.to_bytes(4, "little") + frame
            yield {
                "key": KEY.hex(),
                "device_id": DEVICE_ID,
                "control": control,
                "epoch": 3,
                "counter": counter,
                "message": name,
                "plaintext": plaintext.hex(),
                "frame": frame.hex(),
                "stream": framing.encode_stream(datagram).hex(),
                "topic": topics.down(DEVICE_ID) if direction else topics.up(DEVICE_ID),
            }

    return _lines(entries())


def beacons() -> str:
    """Advertisements of the pid."""
    cipher = Cipher(algorithms.AES(KEY), modes.ECB())

    def encrypt(block: bytes) -> bytes:
        encryptor = cipher.encryptor()
        return encryptor.update(block) + encryptor.finalize()

    return _lines(
        {
            "key": KEY.hex(),
            "device_id": DEVICE_ID,
            "counter": counter,
            "status": status,
            "battery_percent": battery,
            "advertisement": beacon.build(encrypt, DEVICE_ID, counter, status, battery).hex(),
        }
        for counter, status, battery in ((0, 0, 100), (1, 1, 55), (0xFFFFFFFF, 3, 255))
    )


def to_json(value: Any) -> Any:
    """Values with byte strings as {"hex": …} and tuples as lists."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: to_json(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(entry) for entry in value]
    return value


def from_json(value: Any) -> Any:
    """What `to_json` was given, but lists for tuples."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    return value


# A strap that flickers, told 7 s later under satellite time; the example of the reference.
EXAMPLE = {
    "clock_source": 1,
    "clock_uncertainty_ms": 20,
    "recorded_time_s": 500_000_007,
    "uptime_s": 86_400,
    "event_type": 11,
    "event_time_s": 500_000_000,
    "subject_id": 0,
    "value": 3,
    "evidence": b"\x05\x00\xff",
}


def _cases(message: Message) -> Iterator[tuple[str, dict[str, Any]]]:
    for case in ("lowest", "highest", "pattern"):
        yield case, {name: _value(field, case, index) for index, (name, field) in enumerate(message.fields)}
    if message.name == "event":
        yield "example", EXAMPLE
    lowest = {name: _value(field, "lowest", 0) for name, field in message.fields}
    for name, field in message.fields:
        if isinstance(field, Integer):
            for special, meaning in field.special.items():
                yield f"{name}: {meaning}", {**lowest, name: special}


def _value(field: Any, case: str, index: int) -> Any:
    if isinstance(field, Integer):
        if case == "pattern":
            # Every byte of the message differs from its neighbours, so that a swapped byte shows.
            pattern = int.from_bytes(bytes(0x11 * (1 + (index + step) % 7) for step in range(4)), "little")
            return field.lowest + pattern % (field.highest - field.lowest + 1)
        return field.lowest if case == "lowest" else field.highest
    if isinstance(field, ItemList):
        count = {"lowest": 0, "highest": field.most, "pattern": 2}[case]
        return tuple(
            tuple(_value(part.subcon, case, index + position + row) for position, part in enumerate(field.item.subcons))
            for row in range(count)
        )
    if isinstance(field, FixedBytes):
        return {"lowest": bytes(field.length), "highest": b"\xff" * field.length}.get(case, bytes(range(field.length)))
    shortest = 0 if isinstance(field, PrefixedBytes) else field.shortest
    return {"lowest": bytes(shortest), "highest": b"\xff" * field.longest}.get(case, b"\x00\x01\x02\xfe\xff")


def _wrong_values(field: Any) -> list[Any]:
    if isinstance(field, Integer):
        return [
            field.lowest - 1,
            next(v for v in range(field.highest + 1, 1 << 40) if not field.accepts(v)),
            None,
            1.0,
            "1",
            True,
        ]
    if isinstance(field, ItemList):
        item = tuple(_value(part.subcon, "lowest", 0) for part in field.item.subcons)
        wrong_items = [
            (*item[:position], wrong, *item[position + 1 :])
            for position, part in enumerate(field.item.subcons)
            for wrong in _wrong_values(part.subcon)
        ]
        return [None, 1, [item] * (field.most + 1), [None], [item[:-1]], *([item, wrong] for wrong in wrong_items)]
    if isinstance(field, FixedBytes):
        return [None, "x" * field.length, bytes(field.length - 1), bytes(field.length + 1)]
    wrong_sizes = [bytes(field.longest + 1)] if isinstance(field, PrefixedBytes) else [b"", bytes(field.longest + 1)]
    return [None, "x", 1, *wrong_sizes]


def _integers(message: Message) -> Iterator[tuple[int, str, Integer]]:
    """Offset, name and field of the integers before any list or byte string."""
    offset = 1
    for name, field in message.fields:
        if not isinstance(field, Integer):
            return
        yield offset, name, field
        offset += field.bits // 8


def _wrong_items(message: Message, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every integer of the second of two list items just outside its range."""
    tail = message.fields[-1][1] if message.fields else None
    if not isinstance(tail, ItemList):
        return
    data = catalogue.build(message.name, values)
    size = tail.item.sizeof()
    offset = len(data) - size
    for part in tail.item.subcons:
        field = part.subcon
        if isinstance(field, Integer):
            width = field.bits // 8
            for value in (field.lowest - 1, field.highest + 1):
                if field.type_lowest <= value <= field.type_highest and not field.accepts(value):
                    raw = value.to_bytes(width, "little", signed=field.signed)
                    changed = data[:offset] + raw + data[offset + width :]
                    yield _refusal(f"{message.name}, {part.name} = {value} in the second item", changed)
        offset += field.subcon.sizeof()


def _refusal(case: str, data: bytes) -> dict[str, Any]:
    try:
        catalogue.parse(data)
    except WireError as error:
        return {"case": case, "hex": data.hex(), "reason": error.reason, "offset": error.offset}
    raise AssertionError(f"{case}: not refused")


def _lines(entries: Any) -> str:
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"
