"""The vocabulary of the catalogue: Construct fields that carry unit, range, description and source.

Every class is a real Construct, so a message declaration parses and builds by itself; the generators read the
metadata from the same objects. Faults of value are collected while parsing (context parameter `faults`): what
is judged first is structure (`short`, `count`, `length`, `trailing`), then values in field order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import construct as c


class Refused(c.ValidationError):  # type: ignore[misc]
    """A value or length outside its declaration: reason and byte offset as in WireError."""

    def __init__(self, reason: str, offset: int, path: str) -> None:
        super().__init__(f"{reason} at byte {offset}", path=path)
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True)
class Enumeration:
    """Named values of an integer field. Open: a value without a name is legal and stays a plain integer."""

    name: str
    prefix: str  # of the constants
    description: str
    source: str
    members: tuple[tuple[str, int, str], ...]  # name, value, description
    flags: bool = False  # members are bits of a mask

    def names(self, value: int) -> list[str]:
        """Names of a value: one of an enumeration, any number of a mask."""
        if self.flags:
            return [name for name, bit, _ in self.members if value & bit]
        return [name for name, member, _ in self.members if member == value]


class Integer(c.Subconstruct):  # type: ignore[misc]
    """An integer of 8 to 32 bits, little endian: inclusive range, and values of special meaning beside it."""

    def __init__(
        self,
        subcon: Any,
        code: str,
        description: str,
        *,
        unit: str = "",
        lowest: int,
        highest: int,
        special: dict[int, str] | None = None,
        enumeration: Enumeration | None = None,
        source: str = "emtag",
    ) -> None:
        super().__init__(subcon)
        self.code = code
        self.description = description
        self.unit = unit
        self.special = special or {}
        self.enumeration = enumeration
        self.source = source
        self.bits = 8 * subcon.sizeof()
        self.signed = code.islower()
        self.type_lowest = -(1 << self.bits - 1) if self.signed else 0
        self.type_highest = (1 << self.bits - (1 if self.signed else 0)) - 1
        self.lowest = lowest
        self.highest = highest

    def accepts(self, value: int) -> bool:
        """Whether the value is in the range or one of the special values."""
        return self.lowest <= value <= self.highest or value in self.special

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        offset = stream.tell()
        value = self.subcon._parsereport(stream, context, path)
        if not self.accepts(value):
            faults = context._params.get("faults")
            if faults is None:
                raise Refused("range", offset, path)
            faults.append(Refused("range", offset, path))
        return value

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if type(obj) is not int:
            raise Refused("type", stream.tell(), path)
        if not self.accepts(obj):
            raise Refused("range", stream.tell(), path)
        return self.subcon._build(obj, stream, context, path)


class FixedBytes(c.Subconstruct):  # type: ignore[misc]
    """A byte string of one length."""

    def __init__(self, length: int, description: str, *, unit: str = "", source: str = "emtag") -> None:
        super().__init__(c.Bytes(length))
        self.length = length
        self.description = description
        self.unit = unit
        self.source = source

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        _check_bytes(obj, self.length, self.length, stream.tell(), path)
        return self.subcon._build(bytes(obj), stream, context, path)


class PrefixedBytes(c.Construct):  # type: ignore[misc]
    """A byte string behind its length as one byte."""

    def __init__(self, longest: int, description: str, *, unit: str = "", source: str = "emtag") -> None:
        super().__init__()
        self.longest = longest
        self.description = description
        self.unit = unit
        self.source = source

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        offset = stream.tell()
        length = c.Int8ul._parsereport(stream, context, path)
        if length > self.longest:
            raise Refused("length", offset, path)
        return c.stream_read(stream, length, path)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        _check_bytes(obj, 0, self.longest, stream.tell(), path)
        c.stream_write(stream, bytes([len(obj)]) + bytes(obj), len(obj) + 1, path)
        return obj


class PrefixedText(PrefixedBytes):
    """UTF-8 text behind its length in bytes as one byte. A codec hands over the bytes: text cut short is still text."""

    def __init__(self, longest: int, description: str, *, source: str = "emtag") -> None:
        super().__init__(longest, description, unit="UTF-8", source=source)


class RestBytes(c.Construct):  # type: ignore[misc]
    """A byte string that reaches to the end of the message; what is beyond `longest` is trailing."""

    def __init__(self, shortest: int, longest: int, description: str, *, unit: str = "", source: str = "emtag") -> None:
        super().__init__()
        self.shortest = shortest
        self.longest = longest
        self.description = description
        self.unit = unit
        self.source = source

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        value = c.stream_read(stream, self.shortest, path)
        return value + stream.read(self.longest - self.shortest)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        _check_bytes(obj, self.shortest, self.longest, stream.tell(), path)
        c.stream_write(stream, bytes(obj), len(obj), path)
        return obj


class ItemList(c.Construct):  # type: ignore[misc]
    """Up to `most` items of the same fixed-size fields behind their count as one byte; an item is a tuple."""

    def __init__(
        self, item_name: str, most: int, description: str, *items: Any, unit: str = "", source: str = "emtag"
    ) -> None:
        super().__init__()
        self.item_name = item_name
        self.most = most
        self.description = description
        self.unit = unit
        self.source = source
        self.item = c.Struct(*items)
        self.names = tuple(field.name for field in items)

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        offset = stream.tell()
        count = c.Int8ul._parsereport(stream, context, path)
        if count > self.most:
            raise Refused("count", offset, path)
        items = []
        for _ in range(count):
            item = self.item._parsereport(stream, context, path)
            items.append(tuple(item[name] for name in self.names))
        return tuple(items)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if not isinstance(obj, tuple | list):
            raise Refused("type", stream.tell(), path)
        if len(obj) > self.most:
            raise Refused("count", stream.tell(), path)
        c.stream_write(stream, bytes([len(obj)]), 1, path)
        for item in obj:
            if not isinstance(item, tuple | list) or len(item) != len(self.names):
                raise Refused("type", stream.tell(), path)
            self.item._build(dict(zip(self.names, item, strict=True)), stream, context, path)
        return obj


def _check_bytes(obj: Any, shortest: int, longest: int, offset: int, path: str) -> None:
    if not isinstance(obj, bytes | bytearray):
        raise Refused("type", offset, path)
    if not shortest <= len(obj) <= longest:
        raise Refused("length", offset, path)


def _integer(subcon: Any, code: str, lowest: int, highest: int) -> Any:
    def field(description: str, **metadata: Any) -> Integer:
        metadata.setdefault("lowest", lowest)
        metadata.setdefault("highest", highest)
        return Integer(subcon, code, description, **metadata)

    return field


u8 = _integer(c.Int8ul, "B", 0, 0xFF)
u16 = _integer(c.Int16ul, "H", 0, 0xFFFF)
u24 = _integer(c.Int24ul, "HB", 0, 0xFFFFFF)
u32 = _integer(c.Int32ul, "I", 0, 0xFFFFFFFF)
i8 = _integer(c.Int8sl, "b", -0x80, 0x7F)
i16 = _integer(c.Int16sl, "h", -0x8000, 0x7FFF)
i32 = _integer(c.Int32sl, "i", -0x80000000, 0x7FFFFFFF)


@dataclass(frozen=True)
class Message:
    """One message of the protocol: its type byte, where it travels, and its Construct declaration."""

    name: str
    message_type: int
    direction: str  # "up" or "down"
    kind: str  # "record" or "link"
    description: str
    fields: tuple[tuple[str, Any], ...]
    declaration: Any  # Struct of message_type and fields, closed by Terminated

    @property
    def class_name(self) -> str:
        """Name of the CPython class."""
        return "".join(word.capitalize() for word in self.name.split("_"))


def message(
    name: str, message_type: int, direction: str, kind: str, description: str, fields: Sequence[Any]
) -> Message:
    """Declare a message; `fields` are `"name" / field` Constructs in wire order."""
    declaration = c.Struct("message_type" / c.Const(message_type, c.Int8ul), *fields, c.Terminated)
    return Message(
        name,
        message_type,
        direction,
        kind,
        description,
        tuple((field.name, field.subcon) for field in fields),
        declaration,
    )
