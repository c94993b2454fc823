"""Writes the fast bodies of CPython's encoders and decoders, for messages without a list of items.

The encoder proves the types in one chained comparison and leaves the ranges to struct; only when that refuses does
it look for the field to blame. The decoder unpacks into the slots of an object made without `__init__`.
"""

from __future__ import annotations

from collections.abc import Sequence

from emwire.fields import FixedBytes, Integer, PrefixedBytes, RestBytes
from emwire.generators.body import WIDTH, exploded, indented
from emwire.generators.layout import Layout, Part

INDENT = 8  # of an encoder's body
BYTES = "(bytes, bytearray)"


def is_plain(layout: Layout) -> bool:
    """Whether these writers know the message: integers, at least one, and byte strings."""
    known = layout.tail is None or isinstance(layout.tail, RestBytes | PrefixedBytes)
    return known and any(part.type == "int" for part in layout.head)


def encoder(layout: Layout) -> list[str]:
    """Body of `encode`."""
    lines = [f"{name} = self.{name}" for name in layout.names]
    values = [layout.type_byte]
    for part in layout.head:
        values += part.packed(part.name)
    pack = f"_{layout.message.name.upper()}.pack("
    if layout.tail is None:
        give = exploded(f"return {pack}", values, ")")
    elif isinstance(layout.tail, PrefixedBytes):
        # struct judges type and length of the bytes too.
        size = f"len({layout.tail_name})"
        give = exploded(f"return {_by_count(layout)}[{size}].pack(", [*values, size, str(layout.tail_name)], ")")
    else:
        give = ["return (", *indented([*exploded(pack, values, ")"), f"+ {layout.tail_name}"]), ")"]
    return [
        *lines,
        "try:",
        *indented([*_with_special(layout), *_condition(_accepted(layout)), *indented(give)]),
        "except (StructError, TypeError, IndexError):",
        "    pass",
        *exploded("raise _fault(", [_blame(part) for part in layout.head] + _blame_tail(layout), ")"),
    ]


def constants(layout: Layout) -> list[str]:
    """The Structs: for counted bytes one for each of their lengths, so that one call packs or unpacks it all."""
    if not (is_plain(layout) and isinstance(layout.tail, PrefixedBytes)):
        return [f'_{layout.message.name.upper()} = Struct("{layout.format}")']
    struct = f'Struct(f"{layout.format}{{count}}s")'
    return [f"{_by_count(layout)} = [{struct} for count in range({layout.tail.longest + 1})]"]


def _by_count(layout: Layout) -> str:
    return f"_{layout.message.name.upper()}_BY_COUNT"


def decoder(layout: Layout) -> list[str]:
    """Body of a decoder of `data`."""
    targets = []
    joins, checks = [], []
    for part in layout.head:
        if part.split:
            targets += part.unpacked
            joins.append(f"message.{part.name} = {part.value}")
        else:
            targets.append(f"message.{part.name}")
        outside = part.outside(f"message.{part.name}")
        if outside:
            checks += [f"if {outside}:", f'    raise WireError("range", {part.offset})']
    tail, size = layout.tail, layout.size
    struct, before, errors = f"_{layout.message.name.upper()}", [], "StructError"
    if isinstance(tail, RestBytes):
        before = [
            f"if len(data) < {size + tail.shortest}:",
            f"    raise _misfit(len(data), {size + tail.shortest})",
            f"if len(data) > {size + tail.longest}:",
            f"    raise _misfit(len(data), {size + tail.longest})",
        ]
        joins.append(f"message.{layout.tail_name} = data[{size}:]")
        call, misfit = f"{struct}.unpack_from(data)", f"_misfit(len(data), {size})"
    elif isinstance(tail, PrefixedBytes):
        errors = "(StructError, IndexError)"
        targets += ["_", f"message.{layout.tail_name}"]
        call = f"{_by_count(layout)}[data[{size}]].unpack(data)"
        misfit = f"_misfit_counted(data, {size}, {tail.longest})"
    else:
        call, misfit = f"{struct}.unpack(data)", f"_misfit(len(data), {size})"
    return [
        f"message = _new({layout.message.class_name})",
        *before,
        "try:",
        *indented(exploded("(", ["_", *targets], f") = {call}")),
        f"except {errors}:",
        f"    raise {misfit} from None",
        *joins,
        *checks,
        "return message",
    ]


def _accepted(layout: Layout) -> list[str]:
    """What must hold before struct judges: types of all, ranges narrower than the type, lengths."""
    integers = [part for part in layout.head if part.type == "int"]
    chain = [f"type({part.name})" for part in integers] + ["int"] * bool(integers)
    conditions = [" is ".join(chain)] if chain else []
    for part in layout.head:
        if isinstance(part.field, FixedBytes):
            conditions += [f"isinstance({part.name}, {BYTES})", f"len({part.name}) == {part.field.length}"]
        elif part.outside(part.name):
            conditions.append(_within(part))
    tail = layout.tail
    if isinstance(tail, RestBytes):
        length = f"{tail.shortest} <= len({layout.tail_name}) <= {tail.longest}"
        conditions += [f"isinstance({layout.tail_name}, {BYTES})", length]
    return conditions


def _special(part: Part) -> list[int]:
    """Legal values outside the range."""
    field = part.field
    if not isinstance(field, Integer):
        return []
    return [value for value in field.special if not field.lowest <= value <= field.highest]


def _within(part: Part) -> str:
    if _special(part):
        return f"{part.name}_fits"
    return f"{part.field.lowest} <= {part.name} <= {part.field.highest}"


def _with_special(layout: Layout) -> list[str]:
    """Statements of their own: an `or` inside the condition would change how formatters break it."""
    lines = []
    for part in layout.head:
        special = [f"{part.name} == {value}" for value in _special(part)]
        if special:
            terms = [f"{part.field.lowest} <= {part.name} <= {part.field.highest}", *special]
            line = f"{part.name}_fits = {' or '.join(terms)}"
            if len(line) <= WIDTH - INDENT - 4:
                lines.append(line)
            else:
                lines += [f"{part.name}_fits = (", f"    {terms[0]}", *(f"    or {term}" for term in special), ")"]
    return lines


def _condition(conditions: Sequence[str]) -> list[str]:
    """`if` of all, broken where the formatter breaks it."""
    line = f"if {' and '.join(conditions)}:"
    if len(line) <= WIDTH - INDENT - 4:
        return [line]
    terms: list[str] = []
    for condition in conditions:
        whole = f"and {condition}" if terms else condition
        first, *rest = condition.split(" is ")
        fits = len(whole) <= WIDTH - INDENT - 8
        terms += [f"and {condition}"] if fits else [f"and {first}", *(f"is {other}" for other in rest)]
    terms[0] = terms[0].removeprefix("and ")
    return ["if (", *indented(terms), "):"]


def _blame(part: Part) -> str:
    field = part.field
    if isinstance(field, FixedBytes):
        return f"({part.name}, {part.offset}, bytes, {field.length}, {field.length})"
    limits = ", ".join(str(value) for value in (field.lowest, field.highest, *_special(part)))
    return f"({part.name}, {part.offset}, int, {limits})"


def _blame_tail(layout: Layout) -> list[str]:
    if layout.tail is None:
        return []
    shortest = layout.tail.shortest if isinstance(layout.tail, RestBytes) else 0
    return [f"({layout.tail_name}, {layout.size}, bytes, {shortest}, {layout.tail.longest})"]
