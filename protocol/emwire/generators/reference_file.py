"""Writes docs/protocol.md: the reference of the wire, with every field of every message."""

from __future__ import annotations

from typing import Any

from emwire import catalogue
from emwire.fields import Enumeration, FixedBytes, Integer, ItemList, Message, PrefixedBytes
from emwire.generators import guide
from emwire.generators.layout import HEADER, Part, lay_out

INTRODUCTION = f"""<!-- {HEADER} -->

# Protocol reference

Everything on the wire, complete enough to write an encoder from. In this order: layers, errors, how a message is
written, one message byte by byte, how a frame travels, evolution, vectors, every message, every enumeration.

Little endian throughout. `time_s` is whole seconds since 2010-01-01T00:00:00Z (unix seconds less
{catalogue.TIME_EPOCH_UNIX_S}); 0 is unknown.

## Layers

| layer | bytes | code |
|---|---|---|
| message | `message_type u8`, fields | `emwire/catalogue.py` |
| sealed frame | up: `control u8, epoch u16, counter u24`, sealed message, 8-byte tag | `emwire/envelope.py` |
| | down: `control u8, counter u40`, sealed message, 8-byte tag | |
| datagram | `device_id u32`, sealed frame; at most 1024 bytes | |
| serial | COBS(datagram, `crc u16`), `00` | `emwire/framing.py` |
| BLE | `first 1 bit, last 1 bit, number 6 bits`, part of (datagram, `crc u16`) | `emwire/fragments.py` |
| MQTT | topic `emtag/v1/up/<device id, 8 hex digits>` or `…/down/…`, one sealed frame | `emwire/topics.py` |
| beacon | AD structure with one AES-128 block | `emwire/beacon.py` |

`control`: bits 7-5 version (1), bit 4 direction (1 down), bit 3 kind (1 link message), bit 2 alarm lane, bits 1-0 key
slot. Frames are sealed with AES-128-CCM; [envelope.md](envelope.md) has nonce, associated data and keys.
`crc` is CRC-16/CCITT-FALSE of the datagram. A stream frame has exactly one valid encoding.

## Errors

Everything malformed is a `WireError(reason, offset)`, the same on CPython and MicroPython. A message is judged in
this order: structure (`short`, `count` or `length`, `short`, `trailing`), then values in field order.

| reason | meaning | offset |
|---|---|---|
| `short` | ends before its last field; an empty datagram | length of the input; stream: its zero byte |
| `trailing` | bytes behind the last field | first of them |
| `count`, `length` | too many list items; a byte string too long or too short | of the count, length or field |
| `range` | number outside its range | of the field |
| `type` | not an `int`, byte string or list (only when encoding; `bool` is not an `int`) | of the field |
| `unterminated` | stream frame without zero byte | length of the input |
| `delimiter` | zero byte inside a stream frame | of that byte |
| `truncated` | COBS block, sealed frame or datagram ends too early | of the block's code byte; length of the input |
| `excess` | COBS block that encodes nothing | of that block |
| `oversize` | more than 1024 bytes of datagram | where the limit lies |
| `checksum` | CRC differs | of the zero byte |
| `version`, `key` | protocol version not known, or key slot not in use | 0 |
| `authentication` | not sealed with this key, or changed | 6 in a frame, 0 in a beacon token |
| `direction` | a frame from the own end | 0 |
| `counter`, `replay` | no counter left to seal with; authentic, but seen before or of an earlier boot | in the header |
| `topic` | not a topic of this protocol | first wrong character |

Position blocks name their faults in words; see [positions.md](positions.md).
"""


def write() -> str:
    """Text of docs/protocol.md."""
    lines = [INTRODUCTION, guide.write(), "## Messages", ""]
    lines += ["| type | name | direction | kind | |", "|---|---|---|---|---|"]
    for message in catalogue.MESSAGES:
        kind = "record" if message.kind == "record" else "link message"
        lines.append(
            f"| `0x{message.message_type:02X}` | [{message.name}](#{message.name}) | {message.direction} "
            f"| {kind} | {message.description} |"
        )
    lines += ["", "Every record begins with the same four fields:", "", *_header_table()]
    for message in catalogue.MESSAGES:
        lines += ["", f"### {message.name}", "", message.description, *_fields(message)]
    lines += ["", "## Enumerations"]
    for enumeration in catalogue.ENUMERATIONS:
        lines += ["", f"### {enumeration.name} (`{enumeration.prefix}_…`)", "", *_members(enumeration)]
    return "\n".join(lines) + "\n"


_COLUMNS = [
    "| offset | field | type | unit | range | description | source |",
    "|---|---|---|---|---|---|---|",
]


def _header_table() -> list[str]:
    record = next(message for message in catalogue.MESSAGES if message.kind == "record")
    head = lay_out(record).head[: len(catalogue.RECORD_HEADER)]
    return [*_COLUMNS, *(_row(str(part.offset), part) for part in head)]


def _fields(message: Message) -> list[str]:
    layout = lay_out(message)
    skipped = len(catalogue.RECORD_HEADER) if message.kind == "record" else 0
    rows = [_row(str(part.offset), part) for part in layout.head[skipped:]]
    tail = layout.tail
    if tail is not None and layout.tail_name:
        rows.append(
            f"| {layout.size} | {layout.tail_name} | {_tail_type(tail, layout.item_size)} | {tail.unit} | "
            f"{_tail_range(tail)} | {tail.description} | {tail.source} |"
        )
        rows += [_row(f"item + {part.offset}", part) for part in layout.item]
    return ["", *_COLUMNS, *rows] if rows else []


def _row(offset: str, part: Part) -> str:
    field = part.field
    if isinstance(field, FixedBytes):
        return (
            f"| {offset} | {part.name} | {field.length} bytes | {field.unit} | | {field.description} | {field.source} |"
        )
    kind = f"{'i' if field.signed else 'u'}{field.bits}"
    description = field.description
    if field.enumeration:
        description += f" ([{field.enumeration.name}](#enumerations))"
    return f"| {offset} | {part.name} | {kind} | {field.unit} | {_range(field)} | {description} | {field.source} |"


def _range(field: Integer) -> str:
    special = "".join(f"; {value} {meaning}" for value, meaning in field.special.items())
    return f"{field.lowest}…{field.highest}{special}"


def _tail_type(tail: Any, item_size: int) -> str:
    if isinstance(tail, ItemList):
        return f"u8 count, items of {item_size} bytes"
    return "u8 length, bytes" if isinstance(tail, PrefixedBytes) else "bytes to the end"


def _tail_range(tail: Any) -> str:
    if isinstance(tail, ItemList):
        return f"0…{tail.most} items"
    return f"0…{tail.longest} bytes" if isinstance(tail, PrefixedBytes) else f"{tail.shortest}…{tail.longest} bytes"


def _members(enumeration: Enumeration) -> list[str]:
    kind = "Bits of a mask. " if enumeration.flags else ""
    rows = [f"| {value} | {name} | {description} |" for name, value, description in enumeration.members]
    return [
        f"{enumeration.description} {kind}Source: {enumeration.source}.",
        "",
        "| value | name | |",
        "|---|---|---|",
        *rows,
    ]
