"""The part of the reference that teaches: guide.md beside this file, with one message taken apart byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emwire import catalogue, framing
from emwire.fields import Integer, Message
from emwire.generators import vectors
from emwire.generators.layout import lay_out


def write() -> str:
    """Chapters of the reference between its errors and its messages."""
    text = (Path(__file__).parent / "guide.md").read_text(encoding="utf-8")
    return text.replace("<!-- example -->", "\n".join(_example()))


def _example() -> list[str]:
    message = catalogue.BY_NAME["event"]
    data = catalogue.build("event", vectors.EXAMPLE)
    rows = [f"| {offset} | `{part.hex(' ')}` | {text} |" for offset, part, text in _parts(message, data)]
    datagram = bytes.fromhex("44332211") + data[:4]
    return [
        "## A message byte by byte",
        "",
        "An `event`: a strap has flickered at 500000000 s (2025-11-05T00:53:20Z). Case `example` of `messages.json`:",
        "",
        f"`{data.hex()}`",
        "",
        "| offset | bytes | |",
        "|---|---|---|",
        *rows,
        "",
        "In any language an encoder is a check of each value and these lines:",
        "",
        "```",
        "put u8 0x05",
        "put u8 clock_source; put u16 clock_uncertainty_ms; put u32 recorded_time_s; put u32 uptime_s",
        "put u16 event_type; put u32 event_time_s; put u32 subject_id; put i32 value",
        "put u8 length of evidence; put evidence",
        "```",
        "",
        "How bytes go on the serial line, on a datagram cut short to be seen whole (device 0x11223344 and four bytes):",
        "",
        f"datagram `{datagram.hex(' ')}`, CRC-16 `{framing.crc16(datagram).to_bytes(2, 'little').hex(' ')}`, "
        f"on the line `{framing.encode_stream(datagram).hex(' ')}`.",
    ]


def _parts(message: Message, data: bytes) -> Iterator[tuple[int, bytes, str]]:
    """Offset, bytes and meaning of every field of the example."""
    layout = lay_out(message)
    yield 0, data[:1], f"message type 0x{message.message_type:02x}: {message.name}"
    for part in layout.head:
        size = part.field.subcon.sizeof()
        yield part.offset, data[part.offset : part.offset + size], _meaning(part.name, part.field)
    yield layout.size, data[layout.size : layout.size + 1], f"length of {layout.tail_name}"
    yield layout.size + 1, data[layout.size + 1 :], f"{layout.tail_name}"


def _meaning(name: str, field: Any) -> str:
    value = vectors.EXAMPLE[name]
    text = f"{name} = {value}"
    if isinstance(field, Integer) and field.enumeration and isinstance(value, int):
        text += f", {' '.join(field.enumeration.names(value))}"
    unit = f" {field.unit}" if isinstance(field, Integer) and field.unit and field.unit != catalogue.TIME else ""
    return text + unit
