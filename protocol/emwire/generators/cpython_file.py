"""Writes codec.py: slots dataclasses with struct code for CPython."""

from __future__ import annotations

from emwire import catalogue
from emwire.fields import ItemList
from emwire.generators import cpython_body
from emwire.generators.body import Dialect, decoded_values, decoder, encoder, exploded, indented
from emwire.generators.layout import HEADER, Layout, lay_out

PREAMBLE = f'''"""Message codec of the host: one class per message with `encode`, and `decode`.

{HEADER}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeAlias

from emwire.errors import WireError

_new = object.__new__


def _refuse(value: object, offset: int) -> NoReturn:
    raise WireError("range" if type(value) is int else "type", offset)


def _refuse_bytes(value: object, offset: int) -> NoReturn:
    raise WireError("length" if isinstance(value, (bytes, bytearray)) else "type", offset)


def _fault(*fields: tuple[Any, ...]) -> WireError:
    """The first fault of (value, offset, type, lowest, highest, other values that are legal…)."""
    for value, offset, kind, lowest, highest, *special in fields:
        if kind is int:
            if type(value) is not int:
                return WireError("type", offset)
            if not lowest <= value <= highest and value not in special:
                return WireError("range", offset)
        elif not isinstance(value, (bytes, bytearray)):
            return WireError("type", offset)
        elif not lowest <= len(value) <= highest:
            return WireError("length", offset)
    raise AssertionError("refused without a fault")


def _misfit(size: int, end: int) -> WireError:
    """What is wrong with a message of `size` bytes that must have `end`."""
    return WireError("short", size) if size < end else WireError("trailing", end)


def _misfit_counted(data: bytes, at: int, longest: int) -> WireError:
    """The same where byte `at` counts the bytes that follow it."""
    if len(data) <= at:
        return WireError("short", len(data))
    if data[at] > longest:
        return WireError("length", at)
    return _misfit(len(data), at + 1 + data[at])


@dataclass(slots=True)
class Unknown:
    """A message of a type this catalogue does not have, kept raw: `raw` is all that follows the type byte."""

    message_type: int
    raw: bytes

    NAME: ClassVar[str] = "unknown"

    def encode(self) -> bytes:
        """The bytes it was decoded from."""
        return bytes([self.message_type]) + self.raw
'''

DECODE = '''

def decode(data: bytes) -> Message:
    """The message in `data`; WireError if malformed, Unknown if of another type than those above."""
    if type(data) is not bytes:
        data = bytes(data)
    try:
        decoder = _DECODERS[data[0]]
    except LookupError:
        if not data:
            raise WireError("short", 0) from None
        return Unknown(data[0], data[1:])
    return decoder(data)
'''


def write() -> str:
    """Text of codec.py."""
    layouts = [lay_out(entry) for entry in catalogue.MESSAGES]
    lines = [PREAMBLE]
    for layout in layouts:
        lines += ["", *_class(layout), "", "", *_decoder(layout), ""]
    records = [entry.message.class_name for entry in layouts if entry.message.kind == "record"]
    others = [entry.message.class_name for entry in layouts if entry.message.kind != "record"]
    lines += [
        "",
        *_union("Record", records),
        *_union("LinkMessage", others),
        "Message: TypeAlias = Record | LinkMessage | Unknown",
        "",
    ]
    table = [f"{layout.type_byte}: _decode_{layout.message.name}" for layout in layouts]
    lines += exploded("_DECODERS: dict[int, Callable[[bytes], Message]] = {", table, "}")
    return "\n".join(lines) + "\n" + DECODE


def _union(name: str, classes: list[str]) -> list[str]:
    return [f"{name}: TypeAlias = (", f"    {classes[0]}", *(f"    | {other}" for other in classes[1:]), ")"]


def _class(layout: Layout) -> list[str]:
    message = layout.message
    lines = cpython_body.constants(layout)
    dialect = Dialect(owner="self.", item_class="", indent=8, precompiled=True)
    if isinstance(layout.tail, ItemList):
        lines += [f'_{layout.tail.item_name.upper()} = Struct("{layout.item_format}")', "", ""]
        lines += [f"class {_item_class(layout.tail)}(NamedTuple):"]
        lines += [f'    """{layout.tail.description}."""', ""]
        lines += [f"    {part.name}: {part.type}" for part in layout.item]
    lines += ["", "", "@dataclass(slots=True)", f"class {message.class_name}:"]
    lines += [f'    """{message.description}"""', ""]
    item_list = ""
    if isinstance(layout.tail, ItemList):
        items = ", ".join(part.type for part in layout.item)
        item_list = f"Sequence[{_item_class(layout.tail)} | tuple[{items}]]"
    lines += [f"    {name}: {kind}" for name, kind in layout.types(item_list)]
    lines += [""] if layout.names else []
    lines += [f"    MESSAGE_TYPE: ClassVar[int] = {layout.type_byte}"]
    lines += [f'    NAME: ClassVar[str] = "{message.name}"', ""]
    lines += ["    def encode(self) -> bytes:"]
    lines += ['        """The message as bytes; WireError if a field is out of range."""']
    body = cpython_body.encoder(layout) if cpython_body.is_plain(layout) else encoder(layout, dialect)
    return lines + indented(body, "        ")


def _decoder(layout: Layout) -> list[str]:
    tail = layout.tail
    name = layout.message.class_name
    head = f"def _decode_{layout.message.name}(data: bytes) -> {name}:"
    if cpython_body.is_plain(layout):
        return [head, *indented(cpython_body.decoder(layout))]
    item_class = _item_class(tail) if isinstance(tail, ItemList) else ""
    dialect = Dialect(owner="self.", item_class=item_class, indent=4, precompiled=True)
    values = [f"return {name}()"]
    if layout.names:
        values = exploded(f"return {name}(", decoded_values(layout), ")")
    return [head, *indented(["size = len(data)", *decoder(layout, dialect), *values])]


def _item_class(tail: ItemList) -> str:
    return "".join(word.capitalize() for word in tail.item_name.split("_"))
