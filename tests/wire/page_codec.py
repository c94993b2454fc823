"""A codec that knows nothing but docs/protocol.md: it reads the page's tables and does what the page says.

Its purpose is to show that the page is enough; so it imports nothing of emwire.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "protocol.md"
INTEGER = re.compile(r"([ui])(8|16|24|32)$")


class Refused(Exception):
    """(reason, offset) as the page's table of errors says."""


class Field:
    """One row of a table."""

    def __init__(self, offset: str, name: str, kind: str, unit: str, bounds: str) -> None:
        self.offset, self.name, self.kind, self.unit = offset, name, kind, unit
        ordinary, *special = bounds.split(";")
        self.lowest, self.highest = (
            (int(number) for number in re.findall(r"-?\d+", ordinary)) if ordinary.strip() else (0, 0)
        )
        self.special = {int(entry.split()[0]) for entry in special}
        found = INTEGER.match(kind)
        self.size = int(found[2]) // 8 if found else 0
        self.signed = bool(found) and found[1] == "i"
        fixed = re.match(r"(\d+) bytes$", kind)
        self.length = int(fixed[1]) if fixed else 0
        self.items: list[Field] = []

    def allows(self, value: int) -> bool:
        return self.lowest <= value <= self.highest or value in self.special

    @property
    def span(self) -> int:
        return self.size or self.length


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| offset"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def fields(text: str) -> list[Field]:
    found: list[Field] = []
    for cells in rows(text):
        field = Field(*cells[:5])
        if field.offset.startswith("item"):
            found[-1].items.append(field)
        else:
            found.append(field)
    return found


class PageCodec:
    """Messages by name as the page has them."""

    def __init__(self) -> None:
        text = PAGE.read_text(encoding="utf-8").split("\n## Messages\n")[1].split("\n## Enumerations")[0]
        chapters = re.split(r"\n### (\w+)\n", text)
        head, table = chapters[0].split("Every record begins with")
        header = fields(table.replace("the same four fields:", ""))
        self.types: dict[str, int] = {}
        self.fields: dict[str, list[Field]] = {}
        kinds = {}
        for cells in rows(head):
            if not cells[0].startswith("`"):
                continue
            name = re.match(r"\[(\w+)\]", cells[1])
            assert name
            self.types[name[1]] = int(cells[0].strip("`"), 16)
            kinds[name[1]] = cells[3]
        for name_, chapter in zip(chapters[1::2], chapters[2::2], strict=True):
            own = fields(chapter)
            self.fields[name_] = [*header, *own] if kinds[name_] == "record" else own
        self.names = {number: name for name, number in self.types.items()}

    def encode(self, name: str, values: dict[str, Any]) -> bytes:
        out = bytearray([self.types[name]])
        for field in self.fields[name]:
            self._put(out, field, values[field.name])
        return bytes(out)

    def _put(self, out: bytearray, field: Field, value: Any) -> None:
        start = len(out)
        if field.size:
            if type(value) is not int:
                raise Refused("type", start)
            if not field.allows(value):
                raise Refused("range", start)
            out += value.to_bytes(field.size, "little", signed=field.signed)
        elif field.kind.startswith("u8 count"):
            if not isinstance(value, list):
                raise Refused("type", start)
            if len(value) > field.highest:
                raise Refused("count", start)
            out.append(len(value))
            for item in value:
                if not isinstance(item, list) or len(item) != len(field.items):
                    raise Refused("type", len(out))
                for part, entry in zip(field.items, item, strict=True):
                    self._put(out, part, entry)
        else:
            if not isinstance(value, bytes):
                raise Refused("type", start)
            lowest, highest = (field.length, field.length) if field.length else (field.lowest, field.highest)
            if not lowest <= len(value) <= highest:
                raise Refused("length", start)
            if field.kind.startswith("u8 length"):
                out.append(len(value))
            out += value

    def decode(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """Structure first, then values, as the page's chapter on errors says."""
        if not data:
            raise Refused("short", 0)
        name = self.names[data[0]]
        values: dict[str, Any] = {}
        faults: list[int] = []
        place = 1
        for field in self.fields[name]:
            if field.kind.startswith("u8"):
                if field.kind != "u8":
                    if place >= len(data):
                        raise Refused("short", len(data))
                    count = data[place]
                    if count > field.highest:
                        raise Refused("count" if field.items else "length", place)
                    place += 1
                    if field.items:
                        items = []
                        for _ in range(count):
                            item = []
                            for part in field.items:
                                item.append(self._take(data, place, part, faults))
                                place += part.span
                            items.append(item)
                        values[field.name] = items
                    else:
                        if place + count > len(data):
                            raise Refused("short", len(data))
                        values[field.name] = data[place : place + count]
                        place += count
                    continue
            elif field.kind == "bytes to the end":
                rest = data[place:]
                if len(rest) < field.lowest:
                    raise Refused("short", len(data))
                if len(rest) > field.highest:
                    raise Refused("trailing", place + field.highest)
                values[field.name] = rest
                place = len(data)
                continue
            values[field.name] = self._take(data, place, field, faults)
            place += field.span
        if place < len(data):
            raise Refused("trailing", place)
        if faults:
            raise Refused("range", faults[0])
        return name, values

    def _take(self, data: bytes, place: int, field: Field, faults: list[int]) -> Any:
        if place + field.span > len(data):
            raise Refused("short", len(data))
        raw = data[place : place + field.span]
        if field.length:
            return raw
        value = int.from_bytes(raw, "little", signed=field.signed)
        if not field.allows(value):
            faults.append(place)
        return value
