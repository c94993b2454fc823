"""Writes the straight-line bodies of encoders and decoders, alike for both codecs but for names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emwire.fields import Integer, ItemList, RestBytes
from emwire.generators.layout import Layout, Part

WIDTH = 120  # of the project's lines, as in pyproject.toml


@dataclass(frozen=True)
class Dialect:
    """How one codec names fields and calls struct."""

    owner: str  # before a field's name in the encoder: "self." or nothing
    item_class: str  # what a list item is wrapped in; nothing for a tuple
    indent: int  # columns before a body, for the width of its lines
    precompiled: bool  # struct.Struct objects in constants, or formats in the call
    byte_types: str = "(bytes, bytearray)"  # what a byte string may be

    def pack(self, name: str, form: str, values: Sequence[str]) -> tuple[str, list[str]]:
        """Opening and arguments of a pack call."""
        if self.precompiled:
            return f"{name.upper()}.pack(", list(values)
        return "struct.pack(", [f'"{form}"', *values]

    def unpack(self, name: str, form: str, offset: str) -> str:
        """An unpack call."""
        if self.precompiled:
            return f"{name.upper()}.unpack_from(data, {offset})"
        return f'struct.unpack_from("{form}", data, {offset})'


def exploded(opening: str, entries: Sequence[str], closing: str) -> list[str]:
    """Lines of a bracketed list, one entry a line with a trailing comma: what formatters leave alone."""
    return [opening, *(f"    {entry}," for entry in entries), closing]


def indented(lines: Sequence[str], by: str = "    ") -> list[str]:
    """Lines moved right."""
    return [by + line if line else line for line in lines]


def encoder(layout: Layout, dialect: Dialect) -> list[str]:
    """Checks in field order, then the packing."""
    lines: list[str] = []
    for part in layout.head:
        lines += refuse(part, dialect.owner + part.name, str(part.offset), dialect)
    values = [layout.type_byte]
    for part in layout.head:
        values += part.packed(dialect.owner + part.name)
    tail = layout.tail
    tail_value = f"{dialect.owner}{layout.tail_name}"
    if layout.counted:
        values.append(f"len({tail_value})")
    opening, arguments = dialect.pack(f"_{layout.message.name}", layout.format, values)
    if tail is None:
        return [*lines, *exploded(f"return {opening}", arguments, ")")]
    if isinstance(tail, ItemList):
        lines += [
            f"if not isinstance({tail_value}, (tuple, list)):",
            f'    raise WireError("type", {layout.size})',
            f"if len({tail_value}) > {tail.most}:",
            f'    raise WireError("count", {layout.size})',
            "parts = [",
            *indented(exploded(opening, arguments, ")")),
            "]",
            f"offset = {layout.size + 1}",
            f"for item in {tail_value}:",
            *indented(_item_encoder(layout, tail, dialect)),
            'return b"".join(parts)',
        ]
        return lines
    shortest = tail.shortest if isinstance(tail, RestBytes) else 0
    size = f"len({tail_value})"
    wrong = f"not {shortest} <= {size} <= {tail.longest}" if shortest else f"{size} > {tail.longest}"
    return [
        *lines,
        f"if not isinstance({tail_value}, {dialect.byte_types}) or {wrong}:",
        f"    _refuse_bytes({tail_value}, {layout.size})",
        *exploded(f"head = {opening}", arguments, ")"),
        f"return head + {tail_value}",
    ]


def _item_encoder(layout: Layout, tail: ItemList, dialect: Dialect) -> list[str]:
    lines = [
        f"if not isinstance(item, (tuple, list)) or len(item) != {len(layout.item)}:",
        '    raise WireError("type", offset)',
        f"{', '.join(part.name for part in layout.item)} = item",
    ]
    for part in layout.item:
        offset = f"offset + {part.offset}" if part.offset else "offset"
        lines += refuse(part, part.name, offset, replace(dialect, indent=dialect.indent + 4))
    values = [expression for part in layout.item for expression in part.packed(part.name)]
    opening, arguments = dialect.pack(f"_{tail.item_name}", layout.item_format, values)
    return [
        *lines,
        "parts.append(",
        *indented(exploded(opening, arguments, ")")),
        ")",
        f"offset += {layout.item_size}",
    ]


def refuse(part: Part, expression: str, offset: str, dialect: Dialect) -> list[str]:
    """Refusal of a value to be encoded, broken where the formatter breaks it."""
    width = WIDTH - dialect.indent
    function = "_refuse" if isinstance(part.field, Integer) else "_refuse_bytes"
    wrong_type, outside = part.refused(expression)
    wrong_type = wrong_type.replace("(bytes, bytearray)", dialect.byte_types)
    # Broken where the formatter breaks it, so that formatting leaves generated files alone.
    if len(f"if {wrong_type} or {outside}:") <= width:
        condition = [f"if {wrong_type} or {outside}:"]
    elif outside.startswith("("):
        condition = [f"if {wrong_type} or (", f"    {outside[1:-1]}", "):"]
    else:
        condition = ["if (", f"    {wrong_type}", f"    or {outside}", "):"]
    return [*condition, f"    {function}({expression}, {offset})"]


def decoder(layout: Layout, dialect: Dialect) -> list[str]:
    """Structure, unpacking, then values in field order; the caller adds the `return`."""
    lines = structure(layout)
    if layout.head:
        names = ["_", *(name for part in layout.head for name in part.unpacked)] + ["_"] * layout.counted
        unpack = dialect.unpack(f"_{layout.message.name}", layout.format, "0")
        lines += exploded("(", names, f") = {unpack}")
    for part in layout.head:
        lines += _outside(part, str(part.offset))
    if isinstance(layout.tail, ItemList):
        names = [name for part in layout.item for name in part.unpacked]
        values = ", ".join(part.value for part in layout.item)
        unpack = dialect.unpack(f"_{layout.tail.item_name}", layout.item_format, "offset")
        loop = exploded("(", names, f") = {unpack}")
        for part in layout.item:
            loop += _outside(part, f"offset + {part.offset}" if part.offset else "offset")
        loop.append(f"items.append({dialect.item_class or ''}({values}))")
        loop_head = f"for offset in range({layout.size + 1}, end, {layout.item_size}):"
        lines += ["items = []", loop_head, *indented(loop)]
    return lines


def decoded_values(layout: Layout) -> list[str]:
    """Expressions of all fields after the decoder's body."""
    values = [part.value for part in layout.head]
    if isinstance(layout.tail, ItemList):
        values.append("tuple(items)")
    elif layout.tail is not None:
        values.append(f"bytes(data[{layout.size + layout.counted}:])")
    return values


def structure(layout: Layout) -> list[str]:
    """Refusals by length, before any value is judged."""
    tail, size = layout.tail, layout.size
    if tail is None:
        return _sizes(str(size))
    if isinstance(tail, RestBytes):
        return [
            f"if size < {size + tail.shortest}:",
            '    raise WireError("short", size)',
            f"if size > {size + tail.longest}:",
            f'    raise WireError("trailing", {size + tail.longest})',
        ]
    lines = [f"if size < {size + 1}:", '    raise WireError("short", size)', f"count = data[{size}]"]
    if isinstance(tail, ItemList):
        lines += [f"if count > {tail.most}:", f'    raise WireError("count", {size})']
        lines += [f"end = {size + 1} + {layout.item_size} * count"]
    else:
        lines += [f"if count > {tail.longest}:", f'    raise WireError("length", {size})']
        lines += [f"end = {size + 1} + count"]
    return lines + _sizes("end")


def _sizes(end: str) -> list[str]:
    return [
        f"if size < {end}:",
        '    raise WireError("short", size)',
        f"if size > {end}:",
        f'    raise WireError("trailing", {end})',
    ]


def _outside(part: Part, offset: str) -> list[str]:
    outside = part.outside(part.name)
    return [f"if {outside}:", f'    raise WireError("range", {offset})'] if outside else []
