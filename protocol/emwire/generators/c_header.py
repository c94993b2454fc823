"""Writes protocol/c/emwire.h: structs, constants, encoders and decoders of every message for C11, in one header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from emwire import catalogue
from emwire.fields import FixedBytes, Integer, ItemList, PrefixedBytes, RestBytes
from emwire.generators.layout import HEADER, Layout, Part, lay_out

# Words that cannot name a struct member in C11 or, as firmware is often C++, in C++17.
WORDS_OF_C = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const const_cast constexpr
continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto
if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast restrict return short signed sizeof static static_assert static_cast struct switch
template this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t
while xor xor_eq
"""
KEYWORDS = frozenset(WORDS_OF_C.split())

PREAMBLE = f"""/* Messages of the protocol for C11: structs, encoders, decoders, constants. No allocation, no state.
 *
 * {HEADER}
 *
 * emwire_encode_NAME(&message, out, capacity, &size) writes at most EMWIRE_NAME_SIZE bytes; `size` is then what was
 * written. emwire_decode_NAME(data, size, &message) reads one message that fills `size` bytes exactly;
 * emwire_decode(data, size, &any) reads whichever message it is. Both answer with a status: EMWIRE_OK, or a reason and
 * the byte at which the fault lies (docs/protocol.md, "Errors"). What is refused leaves `message` or `out` unspecified.
 *
 * emwire_bytes are views: in a decoded message they point into `data`, which must live as long. Numbers without a
 * range have that of their type; an enumeration's field takes any number, named or not.
 */
#ifndef EMWIRE_H
#define EMWIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum emwire_reason {{
    EMWIRE_OK = 0,
    EMWIRE_SHORT,    /* ends before its last field; offset: the length of the input */
    EMWIRE_TRAILING, /* bytes behind the last field; offset: the first of them */
    EMWIRE_COUNT,    /* too many list items */
    EMWIRE_LENGTH,   /* byte string too long or too short */
    EMWIRE_RANGE,    /* number outside its range */
    EMWIRE_TYPE,     /* decoding: another message's type byte; encoding: a null pointer for bytes */
    EMWIRE_CAPACITY  /* only here: `out` is too small; offset: its capacity */
}} emwire_reason;

typedef struct emwire_status {{
    emwire_reason reason;
    size_t offset;
}} emwire_status;

typedef struct emwire_bytes {{
    const uint8_t *data;
    size_t size;
}} emwire_bytes;

/* The reason's word in the documentation. */
static inline const char *emwire_reason_name(emwire_reason reason)
{{
    static const char *const names[] = {{"ok", "short", "trailing", "count", "length", "range", "type", "capacity"}};
    return (unsigned)reason <= (unsigned)EMWIRE_CAPACITY ? names[reason] : "unknown";
}}

static inline emwire_status emwire_status_of(emwire_reason reason, size_t offset)
{{
    emwire_status status;
    status.reason = reason;
    status.offset = offset;
    return status;
}}
"""


def write() -> str:
    """Text of emwire.h."""
    layouts = [lay_out(message) for message in catalogue.MESSAGES]
    return "\n".join(
        [
            PREAMBLE,
            *_accessors(layouts),
            *_constants(layouts),
            *(line for layout in layouts for line in _message(layout)),
            *_any(layouts),
            "#endif",
            "",
        ]
    )


def _accessors(layouts: Sequence[Layout]) -> Iterator[str]:
    fields = [part.field for layout in layouts for part in (*layout.head, *layout.item)]
    integers = [field for field in fields if isinstance(field, Integer)]
    for bits in sorted({field.bits for field in integers}):
        word = _word(bits)
        reads = " | ".join(
            f"({word})data[{index}] << {8 * index}" if index else f"({word})data[0]" for index in range(bits // 8)
        )
        yield f"static inline {word} emwire_get{bits}(const uint8_t *data)"
        # Parenthesised for what integer promotion makes of it.
        yield f"{{\n    return ({word})({reads});\n}}\n"
        yield f"static inline void emwire_put{bits}(uint8_t *out, {word} value)\n{{"
        yield from (
            f"    out[{index}] = (uint8_t)(value >> {8 * index});" if index else "    out[0] = (uint8_t)value;"
            for index in range(bits // 8)
        )
        yield "}\n"
    for bits in sorted({field.bits for field in integers if field.signed}):
        word, sign = _word(bits), 1 << bits - 1
        # Two's complement without the conversion that C leaves to the implementation.
        yield f"static inline {word[1:]} emwire_get_i{bits}(const uint8_t *data)\n{{"
        yield f"    {word} value = emwire_get{bits}(data);\n"
        yield f"    if (value < {_literal(sign)})\n        return ({word[1:]})value;"
        yield f"    return ({word[1:]})(({word[1:]})(value - {_literal(sign)}) + {_literal(-sign)});\n}}\n"


def _constants(layouts: Sequence[Layout]) -> Iterator[str]:
    yield "/* 2010-01-01T00:00:00Z in unix seconds: zero of every time on the wire. */"
    yield f"#define EMWIRE_TIME_EPOCH_UNIX_S {catalogue.TIME_EPOCH_UNIX_S}\n"
    yield "/* Message types. */"
    yield from (
        f"#define EMWIRE_MESSAGE_{entry.name.upper()} 0x{entry.message_type:02X}" for entry in catalogue.MESSAGES
    )
    yield "\n/* Most bytes of each message, and of any. */"
    yield from (f"#define EMWIRE_{layout.message.name.upper()}_SIZE {_longest(layout)}" for layout in layouts)
    yield f"#define EMWIRE_MESSAGE_SIZE {max(map(_longest, layouts))}"
    for enumeration in catalogue.ENUMERATIONS:
        yield f"\n/* {_comment(enumeration.name)}: {_comment(enumeration.description)} */"
        for name, value, description in enumeration.members:
            yield f"#define EMWIRE_{enumeration.prefix}_{name} {_literal(value)} /* {_comment(description)} */"
    yield ""


def _message(layout: Layout) -> Iterator[str]:
    name = f"emwire_{layout.message.name}_message"
    yield f"/* {_comment(layout.message.description)} */"
    yield f"typedef struct {name} {{"
    yield from indented(_members(layout))
    yield f"}} {name};\n"
    yield f"static inline emwire_status emwire_encode_{layout.message.name}("
    yield f"    const {name} *message, uint8_t *out, size_t capacity, size_t *size)\n{{"
    yield from indented(_encoder(layout))
    yield "}\n"
    yield f"static inline emwire_status emwire_decode_{layout.message.name}("
    yield f"    const uint8_t *data, size_t size, {name} *message)\n{{"
    yield from indented(_decoder(layout))
    yield "}\n"


def indented(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """Lines moved right."""
    for line in "\n".join(lines).split("\n"):
        yield "    " + line if line else line


def _members(layout: Layout) -> Iterator[str]:
    for part in layout.head:
        yield _member(part)
    tail, name = layout.tail, _identifier(layout.tail_name or "")
    if isinstance(tail, ItemList):
        yield "struct {"
        yield from indented([_member(part) for part in layout.item])
        yield f"}} {name}[{tail.most}]; /* {_comment(tail.description)} */"
        yield f"uint8_t {name}_count; /* 0..{tail.most} */"
    elif tail is not None:
        shortest = tail.shortest if isinstance(tail, RestBytes) else 0
        yield f"emwire_bytes {name}; /* {shortest}..{tail.longest} bytes: {_comment(tail.description)} */"
    elif not layout.head:
        yield "uint8_t no_fields_; /* a struct in C has at least one member */"


def _member(part: Part) -> str:
    field = part.field
    name = _identifier(part.name)
    if isinstance(field, FixedBytes):
        return f"uint8_t {name}[{field.length}]; /* {_comment(field.description)} */"
    notes = [field.unit] if field.unit else []
    if (field.lowest, field.highest) != (field.type_lowest, field.type_highest) or field.bits not in (8, 16, 32, 64):
        notes.append(f"{field.lowest}..{field.highest}")
    notes += [f"{value} {meaning}" for value, meaning in field.special.items()]
    if field.enumeration:
        notes.append(f"EMWIRE_{field.enumeration.prefix}_...")
    told = f" ({'; '.join(notes)})" if notes else ""
    return f"{_type(field)} {name}; /* {_comment(field.description + told)} */"


def _encoder(layout: Layout) -> Iterator[str]:
    tail, end = layout.tail, layout.size
    tail_value = f"message->{_identifier(layout.tail_name or '')}"
    if isinstance(tail, ItemList):
        yield "size_t index, offset, end;\n"
    elif tail is not None:
        yield "size_t end;\n"
    if not layout.names:
        yield "(void)message;"
    for part in layout.head:
        yield from _refused(part, f"message->{_identifier(part.name)}", str(part.offset))
    total = str(end)
    if isinstance(tail, ItemList):
        yield f"if ({tail_value}_count > {tail.most})"
        yield f"    return emwire_status_of(EMWIRE_COUNT, {end});"
        yield f"end = {end + 1} + (size_t){tail_value}_count * {layout.item_size};"
        # Values are judged before there is need of room for them, as everywhere.
        if any(_outside(part.field, "") for part in layout.item):
            yield f"for (index = 0, offset = {end + 1}; offset < end; index++, offset += {layout.item_size}) {{"
            for part in layout.item:
                value = f"{tail_value}[index].{_identifier(part.name)}"
                yield from indented(_refused(part, value, _plus("offset", part.offset)))
            yield "}"
        total = "end"
    elif tail is not None:
        shortest = tail.shortest if isinstance(tail, RestBytes) else 0
        low = f"{tail_value}.size < {shortest} || " if shortest else ""
        yield f"if ({low}{tail_value}.size > {tail.longest})"
        yield f"    return emwire_status_of(EMWIRE_LENGTH, {end});"
        yield f"if (!{tail_value}.data && {tail_value}.size)"
        yield f"    return emwire_status_of(EMWIRE_TYPE, {end});"
        yield f"end = {end + layout.counted} + {tail_value}.size;"
        total = "end"
    yield f"if (capacity < {total})"
    yield "    return emwire_status_of(EMWIRE_CAPACITY, capacity);"
    yield f"out[0] = {layout.type_byte};"
    for part in layout.head:
        yield _put(part, f"message->{_identifier(part.name)}", f"out + {part.offset}")
    if isinstance(tail, ItemList):
        yield f"out[{end}] = {tail_value}_count;"
        yield f"for (index = 0, offset = {end + 1}; offset < end; index++, offset += {layout.item_size}) {{"
        for part in layout.item:
            yield "    " + _put(
                part, f"{tail_value}[index].{_identifier(part.name)}", f"out + {_plus('offset', part.offset)}"
            )
        yield "}"
    elif tail is not None:
        if layout.counted:
            yield f"out[{end}] = (uint8_t){tail_value}.size;"
        # memcpy from a null pointer is undefined even for no bytes.
        yield f"if ({tail_value}.size)"
        yield f"    memcpy(out + {end + layout.counted}, {tail_value}.data, {tail_value}.size);"
    yield f"*size = {total};"
    yield "return emwire_status_of(EMWIRE_OK, 0);"


def _decoder(layout: Layout) -> Iterator[str]:
    tail, end = layout.tail, layout.size
    tail_value = f"message->{_identifier(layout.tail_name or '')}"
    if isinstance(tail, ItemList):
        yield "size_t index, offset, end;\n"
    elif layout.counted:
        yield "size_t end;\n"
    yield "if (size < 1)\n    return emwire_status_of(EMWIRE_SHORT, 0);"
    yield f"if (data[0] != {layout.type_byte})\n    return emwire_status_of(EMWIRE_TYPE, 0);"
    if isinstance(tail, RestBytes):
        yield from _sizes(str(end + tail.shortest), str(end + tail.longest))
    elif layout.counted:
        yield f"if (size < {end + 1})\n    return emwire_status_of(EMWIRE_SHORT, size);"
        most, reason = (tail.most, "COUNT") if isinstance(tail, ItemList) else (tail.longest, "LENGTH")
        if most < 255:
            yield f"if (data[{end}] > {most})\n    return emwire_status_of(EMWIRE_{reason}, {end});"
        each = f"(size_t)data[{end}] * {layout.item_size}" if isinstance(tail, ItemList) else f"data[{end}]"
        yield f"end = {end + 1} + {each};"
        yield from _sizes("end", "end")
    else:
        yield from _sizes(str(end), str(end))
    for part in layout.head:
        value = f"message->{_identifier(part.name)}"
        yield from _get(part, value, f"data + {part.offset}")
        yield from _refused(part, value, str(part.offset))
    if isinstance(tail, ItemList):
        yield f"{tail_value}_count = data[{end}];"
        yield f"for (index = 0, offset = {end + 1}; offset < end; index++, offset += {layout.item_size}) {{"
        for part in layout.item:
            value = f"{tail_value}[index].{_identifier(part.name)}"
            yield from indented(_get(part, value, f"data + {_plus('offset', part.offset)}"))
            yield from indented(_refused(part, value, _plus("offset", part.offset)))
        yield "}"
    elif tail is not None:
        yield f"{tail_value}.data = data + {end + layout.counted};"
        yield f"{tail_value}.size = size - {end + layout.counted};"
    elif not layout.head:
        yield "message->no_fields_ = 0;"
    yield "return emwire_status_of(EMWIRE_OK, 0);"


def _any(layouts: Sequence[Layout]) -> Iterator[str]:
    yield "/* A message of any type; one that this header does not know is kept raw, without its type byte. */"
    yield "typedef struct emwire_message {\n    uint8_t message_type;\n    union {"
    for layout in layouts:
        yield f"        emwire_{layout.message.name}_message {_identifier(layout.message.name)};"
    yield "        emwire_bytes unknown;\n    } as;\n} emwire_message;\n"
    yield "/* 1 if this header knows the message type. */"
    yield "static inline int emwire_known(uint8_t message_type)\n{\n    switch (message_type) {"
    yield from (f"    case {layout.type_byte}:" for layout in layouts)
    yield "        return 1;\n    default:\n        return 0;\n    }\n}\n"
    yield "static inline emwire_status emwire_decode(const uint8_t *data, size_t size, emwire_message *message)\n{"
    yield "    if (size < 1)\n        return emwire_status_of(EMWIRE_SHORT, 0);"
    yield "    message->message_type = data[0];\n    switch (data[0]) {"
    for layout in layouts:
        name = layout.message.name
        yield f"    case {layout.type_byte}:"
        yield f"        return emwire_decode_{name}(data, size, &message->as.{_identifier(name)});"
    yield "    default:\n        message->as.unknown.data = data + 1;\n        message->as.unknown.size = size - 1;"
    yield "        return emwire_status_of(EMWIRE_OK, 0);\n    }\n}\n"
    yield "static inline emwire_status emwire_encode("
    yield "    const emwire_message *message, uint8_t *out, size_t capacity, size_t *size)\n{"
    yield "    switch (message->message_type) {"
    for layout in layouts:
        name = layout.message.name
        yield f"    case {layout.type_byte}:"
        yield f"        return emwire_encode_{name}(&message->as.{_identifier(name)}, out, capacity, size);"
    yield "    default:\n        if (!message->as.unknown.data && message->as.unknown.size)"
    yield "            return emwire_status_of(EMWIRE_TYPE, 1);"
    yield "        if (capacity < 1 || capacity - 1 < message->as.unknown.size)"
    yield "            return emwire_status_of(EMWIRE_CAPACITY, capacity);"
    yield "        out[0] = message->message_type;\n        if (message->as.unknown.size)"
    yield "            memcpy(out + 1, message->as.unknown.data, message->as.unknown.size);"
    yield "        *size = 1 + message->as.unknown.size;"
    yield "        return emwire_status_of(EMWIRE_OK, 0);\n    }\n}\n"


def _sizes(least: str, most: str) -> Iterator[str]:
    yield f"if (size < {least})\n    return emwire_status_of(EMWIRE_SHORT, size);"
    yield f"if (size > {most})\n    return emwire_status_of(EMWIRE_TRAILING, {most});"


def _get(part: Part, value: str, source: str) -> Iterator[str]:
    field = part.field
    if isinstance(field, FixedBytes):
        yield f"memcpy({value}, {source}, {field.length});"
    else:
        yield f"{value} = emwire_get{'_i' if field.signed else ''}{field.bits}({source});"


def _put(part: Part, value: str, target: str) -> str:
    if isinstance(part.field, FixedBytes):
        return f"memcpy({target}, {value}, {part.field.length});"
    return f"emwire_put{part.field.bits}({target}, ({_word(part.field.bits)}){value});"


def _refused(part: Part, value: str, offset: str) -> Iterator[str]:
    outside = _outside(part.field, value)
    if outside:
        yield f"if ({outside})"
        yield f"    return emwire_status_of(EMWIRE_RANGE, {offset});"


def _outside(field: Any, value: str) -> str:
    """Condition under which a value that the C type holds is refused; empty if there is none."""
    if isinstance(field, FixedBytes):
        return ""
    width = int(_word(field.bits)[4:-2])
    lowest, highest = (-(1 << width - 1), (1 << width - 1) - 1) if field.signed else (0, (1 << width) - 1)
    sides = []
    if field.lowest > lowest:
        sides.append(f"{value} < {_literal(field.lowest)}")
    if field.highest < highest:
        sides.append(f"{value} > {_literal(field.highest)}")
    if not sides:
        return ""
    condition = " || ".join(sides)
    beside = [special for special in field.special if not field.lowest <= special <= field.highest]
    if beside and len(sides) > 1:
        condition = f"({condition})"
    return " && ".join([condition, *(f"{value} != {_literal(special)}" for special in beside)])


def _longest(layout: Layout) -> int:
    tail, size = layout.tail, layout.size + layout.counted
    if isinstance(tail, ItemList):
        return size + tail.most * layout.item_size
    return size + tail.longest if isinstance(tail, PrefixedBytes | RestBytes) else size


def _word(bits: int) -> str:
    """The unsigned type that holds so many bits."""
    return f"uint{next(width for width in (8, 16, 32, 64) if bits <= width)}_t"


def _type(field: Integer) -> str:
    return _word(field.bits)[1 if field.signed else 0 :]


def _literal(value: int) -> str:
    if -(1 << 31) < value < 1 << 31:
        return str(value)
    if value == -(1 << 31):
        return "(-2147483647 - 1)"  # -2147483648 is a minus before a number that does not fit
    return f"UINT64_C({value})" if value >= 1 << 32 else f"{value}U" if value > 0 else f"INT64_C({value})"


def _plus(base: str, offset: int) -> str:
    return f"{base} + {offset}" if offset else base


def _identifier(name: str) -> str:
    return name + "_" if name in KEYWORDS else name


def _comment(text: str) -> str:
    return text.replace("*/", "* /").replace("/*", "/ *")
