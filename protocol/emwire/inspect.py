"""Explains hexadecimal text: what a frame, datagram or message says, as JSON-able data. CPython; never raises.

What the bytes are taken for (`form`) is decided without guessing:
- "stream": their only zero byte is the last one. A frame of the serial link, COBS with CRC.
- "frame": otherwise, and a device id is given. A sealed frame, as MQTT carries it.
- "datagram": otherwise. Device id, then a sealed frame.
- "message": only when asked for. A message in clear, as the stores keep it.
A fault is {"error": reason, "offset": n, "layer": where}, the offset counting in that layer's own bytes (characters
for "hex"), together with what was understood before it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from emwire import catalogue, codec, envelope, framing, positions
from emwire.errors import WireError
from emwire.fields import FixedBytes, Integer, ItemList, PrefixedText

if TYPE_CHECKING:
    from emwire.envelope import Aead

FORMS = ("auto", "stream", "datagram", "frame", "message")
KEY_SIZE = 16
DEVICE_ID_SIZE = 4

_ZERO_TIME = datetime.fromtimestamp(catalogue.TIME_EPOCH_UNIX_S, UTC)
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
# ASCII only: str.isspace would let through what nobody sees.
_WHITE_SPACE = " \t\r\n\v\f"
_WITHOUT_WHITE_SPACE = str.maketrans("", "", _WHITE_SPACE)


def inspect_hex(
    text: str,
    key: bytes | None,
    device_id: int | None,
    aead_factory: Callable[[bytes], Aead] | None,
    form: str = "auto",
) -> dict[str, Any]:
    """Explain the text. With `key` (16 bytes) frames are opened by `aead_factory(key)`; see above for the rest."""
    result: dict[str, Any] = {}
    layer = ["arguments"]
    try:
        if form not in FORMS:
            raise WireError("form", 0)
        if device_id is not None and not 0 <= device_id <= 0xFFFFFFFF:
            raise WireError("range", 0)
        if key is not None and (len(key) != KEY_SIZE or aead_factory is None):
            raise WireError("key", 0)
        layer[0] = "hex"
        data = _bytes(text)
        if form == "auto":
            form = _form(data, device_id)
        result["form"] = form
        layer[0] = form
        if form == "message":
            _message(data, result)
            return result
        if form == "stream":
            data = framing.decode_stream(data)
        if form != "frame":
            layer[0] = "datagram"
            if len(data) < DEVICE_ID_SIZE:
                raise WireError("truncated", len(data))
            device_id = int.from_bytes(data[:DEVICE_ID_SIZE], "little")
            data = data[DEVICE_ID_SIZE:]
        elif device_id is None:
            raise WireError("device", 0)
        result["deviceId"] = device_id
        layer[0] = "frame"
        _frame(data, device_id, aead_factory(key) if key and aead_factory else None, result, layer)
    except WireError as error:
        result.update(error=error.reason, offset=error.offset, layer=layer[0])
    return result


def _bytes(text: str) -> bytes:
    """The bytes of hexadecimal text with any ASCII white space; WireError at the character that is wrong."""
    try:
        data = bytes.fromhex(text.translate(_WITHOUT_WHITE_SPACE))
    except ValueError:
        for index, character in enumerate(text):
            if character not in _HEX_DIGITS and character not in _WHITE_SPACE:
                raise WireError("hex", index) from None
        raise WireError("odd", len(text)) from None
    if not data:
        raise WireError("empty", 0)
    return data


def _form(data: bytes, device_id: int | None) -> str:
    if data.find(0) == len(data) - 1:
        return "stream"
    return "datagram" if device_id is None else "frame"


def _frame(frame: bytes, device_id: int, aead: Aead | None, result: dict[str, Any], layer: list[str]) -> None:
    if frame:
        result["version"] = frame[0] >> 5
    control, epoch, counter = envelope.parse_header(frame)
    down, link, alarm = envelope.is_down(control), envelope.is_link(control), envelope.is_alarm(control)
    result.update(
        direction="down" if down else "up",
        kind="link" if link else "record",
        alarm=alarm,
        keySlot=envelope.key_slot(control),
    )
    if not down:
        result["epoch"] = epoch
    result["counter" if link else "sequence"] = counter
    result["sealedBytes"] = len(frame) - envelope.OVERHEAD
    if aead is None:
        return
    result["epoch"], plaintext = _open(aead, device_id, frame, down)
    layer[0] = "message"
    _message(plaintext, result)
    entry = catalogue.BY_TYPE.get(plaintext[0])
    if entry and (entry.direction, entry.kind) != (result["direction"], result["kind"]):
        # Authentic, so somebody with the key made it: shown whole, and said to be wrong.
        raise WireError("kind", 0)


def _open(aead: Aead, device_id: int, frame: bytes, down: bool) -> tuple[int, bytes]:
    """Boot epoch and plaintext. A down frame is bound to an epoch that it does not carry: all 65,536 take 0.3 s."""
    for epoch in range(0x10000 if down else 0):
        try:
            return epoch, envelope.open_frame(aead, device_id, frame, epoch)[3]
        except WireError as error:
            if error.reason != "authentication":
                raise
    if down:
        raise WireError("authentication", envelope.HEADER_SIZE)
    _, epoch, _, plaintext = envelope.open_frame(aead, device_id, frame)
    return epoch, plaintext


def _message(data: bytes, result: dict[str, Any]) -> None:
    if data:
        result["messageType"] = data[0]
    message = codec.decode(data)
    result["message"] = message.NAME
    if isinstance(message, codec.Unknown):
        result["raw"] = message.raw.hex()
        return
    entry = catalogue.BY_NAME[message.NAME]
    result["fields"] = {name: explain(field, getattr(message, name)) for name, field in entry.fields}
    if isinstance(message, codec.PositionBlock):
        result["fields"]["block"].update(_positions(message.block))


def explain(field: Any, value: Any) -> dict[str, Any]:
    """A field's value with what the catalogue knows of it: unit, name or names, meaning, UTC time."""
    if isinstance(field, ItemList):
        parts = [(part.name, part.subcon) for part in field.item.subcons]
        return {
            "value": [{name: explain(part, item[index]) for index, (name, part) in enumerate(parts)} for item in value]
        }
    if not isinstance(field, Integer):
        if isinstance(field, PrefixedText):
            return {"value": value.hex(), "text": value.decode("utf-8", "replace")}
        # A key may be shown to whoever has the key that sealed it, but logs outlive the occasion.
        return {"value": value.hex()} if not isinstance(field, FixedBytes) else {"value": "hidden"}
    explained: dict[str, Any] = {"value": value}
    if field.unit == catalogue.TIME:
        if value not in field.special:
            explained["utc"] = utc(value)
    elif field.unit:
        explained["unit"] = field.unit
    if value in field.special:
        explained["meaning"] = field.special[value]
    if field.enumeration:
        names = field.enumeration.names(value)
        if field.enumeration.flags:
            explained["names"] = names
        else:
            explained["name"] = names[0] if names else None
    return explained


def utc(time_s: int) -> str:
    """Wire time as ISO 8601."""
    return (_ZERO_TIME + timedelta(seconds=time_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _positions(block: bytes) -> dict[str, Any]:
    try:
        fixes = positions.decode_block(block)
    except WireError as error:
        return {"error": error.reason, "offset": error.offset}
    return {
        "positions": [
            {"gpsDate": utc(fix[0]), "latitude": fix[1] / 1e6, "longitude": fix[2] / 1e6, "raw": list(fix)}
            for fix in fixes
        ]
    }
