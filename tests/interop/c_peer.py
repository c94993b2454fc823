"""A program around protocol/c/emwire.h that stays and is asked line by line, written from the catalogue as well."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emwire import catalogue, codec
from emwire.errors import WireError
from emwire.fields import FixedBytes, Integer, ItemList, Message
from emwire.generators.c_header import KEYWORDS
from emwire.generators.layout import Layout, Part, lay_out

ROOT = Path(__file__).resolve().parent.parent.parent
INCLUDE = ROOT / "protocol" / "c"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
STRICTER = ["-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wtype-limits", "-Wstrict-prototypes"]

# ("ok", result) or ("refused", reason, offset)
Outcome = tuple[Any, ...]

# What is read of a line and what is written; every buffer given to the header is of exactly the size it is told.
FRAME = """
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "emwire.h"

static char line[1 << 18];

static char *token(void) { return strtok(NULL, " \\n"); }
static int64_t number(void) { return strtoll(token(), NULL, 10); }

static uint8_t *unhex(const char *text, size_t *size)
{
    uint8_t *data;
    *size = strlen(text) / 2;
    data = malloc(*size ? *size : 1);
    for (size_t index = 0; index < *size; index++) {
        unsigned value;
        sscanf(text + 2 * index, "%2x", &value);
        data[index] = (uint8_t)value;
    }
    return data;
}

static void show(const uint8_t *data, size_t size)
{
    putchar(' ');
    putchar('x');
    for (size_t index = 0; index < size; index++)
        printf("%02x", data[index]);
}

static int refused(emwire_status status)
{
    if (status.reason == EMWIRE_OK)
        return 0;
    printf("refused %s %zu", emwire_reason_name(status.reason), status.offset);
    return 1;
}

static void decode(void)
{
    size_t size;
    uint8_t *data = unhex(token() + 1, &size);
    emwire_message *message = malloc(sizeof *message);
    if (!refused(emwire_decode(data, size, message))) {
        printf("ok %d", message->message_type);
        switch (message->message_type) {
@shown@
        default: show(message->as.unknown.data, message->as.unknown.size);
        }
    }
    free(message);
    free(data);
}

static void encode(void)
{
    static uint8_t wide[1 << 17];
    uint8_t *bytes = NULL, *exact;
    size_t size = 0, again = 0;
    emwire_message *message = calloc(1, sizeof *message);
    message->message_type = (uint8_t)number();
    switch (message->message_type) {
@filled@
    default: bytes = unhex(token() + 1, &message->as.unknown.size); message->as.unknown.data = bytes;
    }
    if (!refused(emwire_encode(message, wide, sizeof wide, &size))) {
        exact = malloc(size);
        if (emwire_encode(message, exact, size, &again).reason != EMWIRE_OK || again != size ||
            memcmp(exact, wide, size))
            printf("differs with the exact capacity");
        else if (emwire_encode(message, exact, size - 1, &again).reason != EMWIRE_CAPACITY)
            printf("overruns its capacity");
        else {
            printf("ok");
            show(wide, size);
        }
        free(exact);
    }
    free(bytes);
    free(message);
}

int main(void)
{
    while (fgets(line, sizeof line, stdin)) {
        if (*strtok(line, " \\n") == 'd')
            decode();
        else
            encode();
        putchar('\\n');
        fflush(stdout);
    }
    return 0;
}
"""


def member(name: str) -> str:
    return name + "_" if name in KEYWORDS else name


def _show(part: Part, value: str) -> str:
    if isinstance(part.field, FixedBytes):
        return f"show({value}, {part.field.length});"
    return f'printf(" %" PRId64, (int64_t){value});'


def _fill(part: Part, value: str) -> str:
    if isinstance(part.field, FixedBytes):
        return (
            f"{{ size_t n; uint8_t *given = unhex(token() + 1, &n); memcpy({value}, given, {part.field.length}); "
            "free(given); }"
        )
    word = f"uint{next(width for width in (8, 16, 32, 64) if part.field.bits <= width)}_t"
    return f"{value} = ({word[1:] if part.field.signed else word})number();"


def _shown(layout: Layout) -> Iterator[str]:
    message = f"message->as.{member(layout.message.name)}"
    yield f"        case {layout.type_byte}:"
    for part in layout.head:
        yield _show(part, f"{message}.{member(part.name)}")
    if isinstance(layout.tail, ItemList) and layout.tail_name:
        tail = f"{message}.{member(layout.tail_name)}"
        yield f'printf(" %d", {tail}_count);'
        yield f"for (size_t index = 0; index < {tail}_count; index++) {{"
        yield from (_show(part, f"{tail}[index].{member(part.name)}") for part in layout.item)
        yield "}"
    elif layout.tail_name:
        tail = f"{message}.{member(layout.tail_name)}"
        yield f"show({tail}.data, {tail}.size);"
    yield "break;"


def _filled(layout: Layout) -> Iterator[str]:
    message = f"message->as.{member(layout.message.name)}"
    yield f"    case {layout.type_byte}:"
    for part in layout.head:
        yield _fill(part, f"{message}.{member(part.name)}")
    if isinstance(layout.tail, ItemList) and layout.tail_name:
        tail = f"{message}.{member(layout.tail_name)}"
        yield f"{tail}_count = (uint8_t)number();"
        yield f"for (size_t index = 0; index < {tail}_count && index < {layout.tail.most}; index++) {{"
        yield from (_fill(part, f"{tail}[index].{member(part.name)}") for part in layout.item)
        yield "}"
    elif layout.tail_name:
        tail = f"{message}.{member(layout.tail_name)}"
        yield f"bytes = unhex(token() + 1, &{tail}.size); {tail}.data = bytes;"
    yield "break;"


def source() -> str:
    layouts = [lay_out(message) for message in catalogue.MESSAGES]
    shown = "\n".join(line for layout in layouts for line in _shown(layout))
    filled = "\n".join(line for layout in layouts for line in _filled(layout))
    return FRAME.replace("@shown@", shown).replace("@filled@", filled)


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not found:
        pytest.skip("needs a C compiler")
    return found


def compiled(folder: Path) -> Path:
    """The program, with sanitizers where the compiler has them."""
    file, program = folder / "peer.c", folder / "peer"
    file.write_text(source())
    command = [compiler(), *STRICT, "-O1", "-g", f"-I{INCLUDE}", str(file), "-o", str(program)]
    sanitized = subprocess.run(
        [*command, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], capture_output=True, text=True
    )
    if sanitized.returncode:
        subprocess.run(command, check=True)
    return program


class CPeer:
    """The program, running."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"ASAN_OPTIONS": "detect_leaks=1"}
        )

    def encode(self, message: Message, values: dict[str, Any]) -> Outcome:
        """Encode values that C's types can hold (see `representable`)."""
        tokens = [str(message.message_type)]
        for name, field in message.fields:
            tokens += _tokens(field, values[name])
        verdict, *rest = self._ask("e " + " ".join(tokens))
        return ("ok", bytes.fromhex(rest[0][1:])) if verdict == "ok" else (verdict, rest[0], int(rest[1]))

    def decode(self, data: bytes) -> Outcome:
        """(message type, fields…), lists as tuples of tuples."""
        verdict, *rest = self._ask("d x" + data.hex())
        if verdict != "ok":
            return (verdict, rest[0], int(rest[1]))
        message_type, *words = (int(word) if word[0] != "x" else bytes.fromhex(word[1:]) for word in rest)
        entry = catalogue.BY_TYPE.get(int(message_type))  # type: ignore[arg-type]
        last = entry.fields[-1][1] if entry and entry.fields else None
        if isinstance(last, ItemList):
            head, width = len(entry.fields) - 1 if entry else 0, len(last.names)
            items = words[head + 1 :]
            assert len(items) == width * int(words[head])  # type: ignore[arg-type]
            rows = tuple(tuple(items[start : start + width]) for start in range(0, len(items), width))
            words = [*words[:head], rows]  # type: ignore[list-item]
        return ("ok", (message_type, *words))

    def _ask(self, line: str) -> list[str]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().decode().split()
        assert answer and answer[0] in ("ok", "refused"), (line, answer)
        return answer

    def close(self) -> None:
        """End it; a sanitizer's complaint at exit fails."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()


def _tokens(field: Any, value: Any) -> list[str]:
    if isinstance(field, Integer):
        return [str(value)]
    if isinstance(field, ItemList):
        parts = [part.subcon for part in field.item.subcons]
        rows = value[: field.most]
        return [
            str(len(value)),
            *(token for row in rows for part, entry in zip(parts, row, strict=True) for token in _tokens(part, entry)),
        ]
    return ["x" + bytes(value).hex()]


def representable(field: Any, value: Any) -> bool:
    """Whether C's type of the field can hold the value: the rest of the refusals is the compiler's."""
    if isinstance(field, Integer):
        width = next(width for width in (8, 16, 32, 64) if field.bits <= width)
        low, high = (-(1 << width - 1), (1 << width - 1) - 1) if field.signed else (0, (1 << width) - 1)
        return type(value) is int and low <= value <= high
    if isinstance(field, ItemList):
        parts = [part.subcon for part in field.item.subcons]
        return (
            isinstance(value, tuple | list)
            and len(value) < 256
            and all(
                isinstance(row, tuple | list)
                and len(row) == len(parts)
                and all(representable(part, entry) for part, entry in zip(parts, row, strict=True))
                for row in value
            )
        )
    if isinstance(field, FixedBytes):
        return isinstance(value, bytes) and len(value) == field.length
    return isinstance(value, bytes)


def by_codec(message: Message, values: dict[str, Any]) -> Outcome:
    """What the Python codec makes of the same values."""
    try:
        return ("ok", getattr(codec, message.class_name)(**values).encode())
    except WireError as error:
        return ("refused", error.reason, error.offset)


def decoded_by_codec(data: bytes) -> Outcome:
    """What the Python codec makes of the same bytes."""
    try:
        message = codec.decode(data)
    except WireError as error:
        return ("refused", error.reason, error.offset)
    if isinstance(message, codec.Unknown):
        return ("ok", (message.message_type, message.raw))
    fields = catalogue.BY_NAME[message.NAME].fields
    return ("ok", (message.MESSAGE_TYPE, *(tuples(getattr(message, name)) for name, _ in fields)))


def tuples(value: Any) -> Any:
    return tuple(tuples(entry) for entry in value) if isinstance(value, tuple | list) else value
