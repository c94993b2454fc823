"""Writes bodies of the device codec that leave no garbage behind each field or list item.

What a heap of a board sees of a call, beside the result: nothing for messages whose fields struct knows; one tuple
for a message with 24-bit fields, bytes or a list, because unpacking must be taken apart again; one buffer or list
for a message with a list. tests/wire/test_wire_allocation.py measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emwire.fields import Integer, ItemList
from emwire.generators.body import Dialect, encoder, exploded, indented, refuse, structure
from emwire.generators.layout import Layout, Part

# Constants of the module: a tuple written in place is made anew each time.
DIALECT = Dialect(owner="", item_class="", indent=4, precompiled=False, byte_types="_BYTES")


def encode(layout: Layout) -> list[str]:
    """Checks in field order, then the packing; lists are packed in place."""
    tail = layout.tail
    if not isinstance(tail, ItemList):
        return encoder(layout, DIALECT)
    lines: list[str] = []
    for part in layout.head:
        lines += refuse(part, part.name, str(part.offset), DIALECT)
    values = [value for part in layout.head for value in part.packed(part.name)]
    name = layout.tail_name
    return [
        *lines,
        f"if not isinstance({name}, _LISTS):",
        f'    raise WireError("type", {layout.size})',
        f"if len({name}) > {tail.most}:",
        f'    raise WireError("count", {layout.size})',
        f"out = bytearray({layout.size + 1} + {layout.item_size} * len({name}))",
        *exploded(
            "struct.pack_into(", [f'"{layout.format}"', "out", "0", layout.type_byte, *values, f"len({name})"], ")"
        ),
        f"offset = {layout.size + 1}",
        f"for item in {name}:",
        *indented(_encode_item(layout)),
        f"    offset += {layout.item_size}",
        "return bytes(out)",
    ]


def decode(layout: Layout) -> list[str]:
    """Structure, unpacking, values in field order, and the result."""
    lines = structure(layout)
    if not layout.names:
        return [*lines, f"return ({layout.type_byte},)"]
    unpack = f'struct.unpack_from("{layout.format}", data, 0)'
    places = _places(layout.head, 1)
    checks = [line for part in layout.head for line in _outside(part, places[part.name], str(part.offset))]
    tail = layout.tail
    if tail is None and not checks and not any(part.split for part in layout.head):
        return [*lines, f"return {unpack}"]
    lines += [f"fields = {unpack}", *checks]
    values = [places[part.name] for part in layout.head]
    if isinstance(tail, ItemList):
        lines += [
            "items: list[Any] = [None] * count",
            f"offset = {layout.size + 1}",
            "for index in range(count):",
            *indented(_decode_item(layout)),
            f"    offset += {layout.item_size}",
        ]
        values.append("tuple(items)")
    elif tail is not None:
        values.append(f"bytes(data[{layout.size + layout.counted}:])")
    elif not any(part.split for part in layout.head):
        return [*lines, "return fields"]
    return [*lines, *exploded("return (", [layout.type_byte, *values], ")")]


def _places(parts: Sequence[Part], first: int) -> dict[str, str]:
    """The expression of each part's value in the tuple `fields`, whose index `first` is the first part's."""
    places = {}
    index = first
    for part in parts:
        places[part.name] = f"fields[{index}]"
        if part.split:
            places[part.name] += f" | fields[{index + 1}] << 16"
        index += len(part.unpacked)
    return places


def _encode_item(layout: Layout) -> list[str]:
    lines = [
        f"if not isinstance(item, _LISTS) or len(item) != {len(layout.item)}:",
        '    raise WireError("type", offset)',
        f"{', '.join(part.name for part in layout.item)} = item",
    ]
    inside = replace(DIALECT, indent=DIALECT.indent + 4)
    for part in layout.item:
        lines += refuse(part, part.name, _plus(part.offset), inside)
    values = [value for part in layout.item for value in part.packed(part.name)]
    return [*lines, *exploded("struct.pack_into(", [f'"{layout.item_format}"', "out", "offset", *values], ")")]


def _decode_item(layout: Layout) -> list[str]:
    unpack = f'struct.unpack_from("{layout.item_format}", data, offset)'
    if any(part.split for part in layout.item):
        # Read byte by byte: small integers need no heap, an unpacked tuple would. All such items are of small parts.
        values = []
        for part in layout.item:
            if not isinstance(part.field, Integer) or part.field.signed or part.field.bits > 24:
                raise TypeError(f"{part.name}: beside a 24-bit part an item has only unsigned ones of up to 24 bits")
            values.append(_bytewise(part))
        lines = exploded("items[index] = (", values, ")")
        for part in layout.item:
            if part.outside(""):
                raise TypeError(f"{part.name}: a part beside a 24-bit one has no narrower range")
        return lines
    checks = []
    for part in layout.item:
        place = _places(layout.item, 0)[part.name].replace("fields", "parts")
        checks += _outside(part, place, _plus(part.offset))
    if not checks:
        return [f"items[index] = {unpack}"]
    return [f"parts = {unpack}", *checks, "items[index] = parts"]


def _bytewise(part: Part) -> str:
    assert isinstance(part.field, Integer)
    places = [f"data[{_plus(part.offset + byte)}]" for byte in range(part.field.bits // 8)]
    return " | ".join(place if not byte else f"{place} << {8 * byte}" for byte, place in enumerate(places))


def _outside(part: Part, place: str, offset: str) -> list[str]:
    outside = part.outside(f"({place})" if part.split else place)
    return [f"if {outside}:", f'    raise WireError("range", {offset})'] if outside else []


def _plus(offset: int) -> str:
    return f"offset + {offset}" if offset else "offset"
