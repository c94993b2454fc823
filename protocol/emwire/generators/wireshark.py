"""Writes protocol/wireshark/emtag.lua: wireshark.lua knows how to dissect, the catalogue's tables are put into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emwire import catalogue, envelope, framing
from emwire.fields import Enumeration, FixedBytes, ItemList, PrefixedBytes, PrefixedText, RestBytes
from emwire.generators.layout import HEADER, Layout, Part, lay_out

TEMPLATE = Path(__file__).with_name("wireshark.lua")


def write() -> str:
    """Text of emtag.lua."""
    layouts = [lay_out(message) for message in catalogue.MESSAGES]
    tables = _Tables()
    messages = [line for layout in layouts for line in tables.message(layout)]
    parts = {
        "HEADER": HEADER,
        "VERSION": str(envelope.VERSION),
        "HEADER_SIZE": str(envelope.HEADER_SIZE),
        "TAG_SIZE": str(envelope.TAG_SIZE),
        "MAXIMUM_FRAME": str(envelope.MAXIMUM_FRAME),
        "MAXIMUM_DATAGRAM": str(framing.MAXIMUM_DATAGRAM),
        "TIME_EPOCH_UNIX_S": str(catalogue.TIME_EPOCH_UNIX_S),
        "MESSAGE_NAMES": ",\n".join(
            f"    [0x{entry.message_type:02X}] = {_text(entry.name)}" for entry in catalogue.MESSAGES
        ),
        "ENUMERATIONS": "\n".join(line for entry in catalogue.ENUMERATIONS for line in _enumeration(entry)),
        "FIELDS": "\n".join(["local message_fields = {}", *tables.fields]),
        "MESSAGES": "\n".join(messages),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


class _Tables:
    """Fields as they are met: what several messages share, as the record header, is one field of Wireshark."""

    def __init__(self) -> None:
        self.fields: list[str] = [
            "local function new(field)",
            "  message_fields[#message_fields + 1] = field",
            "  return field",
            "end",
            # Lua knows at most 200 local variables.
            "local fields = {}",
        ]
        self._known: dict[str, str] = {}

    def message(self, layout: Layout) -> Iterator[str]:
        """Entry of the table of messages."""
        message = layout.message
        shared = len(catalogue.RECORD_HEADER) if message.kind == "record" else 0
        yield f"  [{layout.type_byte}] = {{"
        down, link = str(message.direction == "down").lower(), str(message.kind == "link").lower()
        yield f"    name = {_text(message.name)}, down = {down}, link = {link}, size = {layout.size + layout.counted},"
        yield "    fields = {"
        for index, part in enumerate(layout.head):
            prefix = "emtag.record" if index < shared else f"emtag.{message.name}"
            yield f"      {self._field(prefix, part)},"
        yield "    },"
        tail, name = layout.tail, layout.tail_name
        if isinstance(tail, ItemList):
            prefix = f"emtag.{message.name}.{name}"
            count = self._proto_field(f"{prefix}.count", f"ProtoField.uint8({_text(prefix + '.count')}, {_text(name)})")
            yield f"    list = {{{tail.most}, {layout.item_size}, {{"
            for part in layout.item:
                yield f"      {self._field(prefix, part)},"
            yield f"    }}, count = {count}, name = {_text(tail.item_name)}}},"
        elif tail is not None:
            abbreviation = f"emtag.{message.name}.{name}"
            kind = "string" if isinstance(tail, PrefixedText) else "bytes"
            # Of a string the third argument is its display; base.UNICODE is what shows more than ASCII.
            display = ", base.UNICODE" if kind == "string" else ""
            field = self._proto_field(
                abbreviation,
                f"ProtoField.{kind}({_text(abbreviation)}, {_text(name)}{display}, {_text(tail.description)})"
                if display
                else f"ProtoField.{kind}({_text(abbreviation)}, {_text(name)}, base.SPACE, {_text(tail.description)})",
            )
            if isinstance(tail, RestBytes):
                yield f"    rest = {{{tail.shortest}, {tail.longest}, field = {field}}},"
            elif isinstance(tail, PrefixedBytes):
                yield f"    prefixed = {{{tail.longest}, field = {field}}},"
        yield "  },"

    def _field(self, prefix: str, part: Part) -> str:
        field, abbreviation = part.field, f"{prefix}.{part.name}"
        name, description = _text(part.name), _text(field.description)
        if isinstance(field, FixedBytes):
            made = f"ProtoField.bytes({_text(abbreviation)}, {name}, base.SPACE, {description})"
            return f"{{field = {self._proto_field(abbreviation, made)}, size = {field.length}, bytes = true}}"
        kind = f"{'' if field.signed else 'u'}int{next(width for width in (8, 16, 24, 32, 64) if field.bits <= width)}"
        flags = bool(field.enumeration and field.enumeration.flags)
        names = f"names_{field.enumeration.name}" if field.enumeration and not flags else "nil"
        base = "base.HEX" if flags else "base.DEC"
        made = f"ProtoField.{kind}({_text(abbreviation)}, {name}, {base}, {names}, nil, {description})"
        entry = [f"field = {self._proto_field(abbreviation, made)}", f"size = {field.bits // 8}"]
        if field.signed:
            entry.append("signed = true")
        if field.lowest > field.type_lowest:
            entry.append(f"lowest = {field.lowest}")
        if field.highest < field.type_highest:
            entry.append(f"highest = {field.highest}")
        if field.unit == catalogue.TIME:
            entry.append("time = true")
        elif field.unit:
            entry.append(f"unit = {_text(field.unit)}")
        if field.special:
            meanings = ", ".join(f"[{value}] = {_text(meaning)}" for value, meaning in field.special.items())
            entry.append(f"special = {{{meanings}}}")
        if flags and field.enumeration:
            bits = [
                self._proto_field(
                    f"{abbreviation}.{bit.lower()}",
                    f"ProtoField.bool({_text(f'{abbreviation}.{bit.lower()}')}, {_text(bit)}, {field.bits}, nil, "
                    f"0x{value:X}, {_text(meaning)})",
                )
                for bit, value, meaning in field.enumeration.members
            ]
            entry.append(f"flags = {{{', '.join(bits)}}}")
        return "{" + ", ".join(entry) + "}"

    def _proto_field(self, abbreviation: str, made: str) -> str:
        if abbreviation not in self._known:
            self._known[abbreviation] = f"fields[{_text(abbreviation)}]"
            self.fields.append(f"{self._known[abbreviation]} = new({made})")
        return self._known[abbreviation]


def _enumeration(enumeration: Enumeration) -> Iterator[str]:
    if not enumeration.flags:
        members = ", ".join(f"[{value}] = {_text(name)}" for name, value, _ in enumeration.members)
        yield f"local names_{enumeration.name} = {{{members}}}"


def _text(text: Any) -> str:
    """A string of Lua; what JSON escapes beyond ASCII, Lua 5.2 does not know."""
    return json.dumps(str(text), ensure_ascii=False)
