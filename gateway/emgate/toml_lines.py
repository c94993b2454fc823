"""In which line of a TOML file a value stands: the standard library's parser does not say."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

Location = tuple[int | str, ...]
"""Keys and list positions from the top of the file, as pydantic names a place: ("serial", 0, "port")."""


class Lines:
    """Line numbers (from 1) of the statements of a valid TOML text."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        self._tables: Counter[Location] = Counter()  # how often each array of tables was opened
        table: Location = ()
        for number, statement in _statements(text):
            stripped = statement.lstrip()
            if stripped.startswith("["):
                table = self._header(stripped.startswith("[["), _path(tomllib.loads(statement)), number)
            else:
                for path in _leaves(tomllib.loads(statement)):
                    self._note((*table, *path), number)

    def of(self, location: Location) -> int | None:
        """The line of a place, or of the nearest thing around it that the file has; None: nowhere in the file."""
        for length in range(len(location), 0, -1):
            line = self._lines.get(location[:length])
            if line is not None:
                return line
        return None

    def place(self, path: Path, location: Location) -> str:
        """As "gateway.toml: line 7"; the file alone where it has nothing of it."""
        line = self.of(location)
        return str(path) if line is None else f"{path}: line {line}"

    def as_written(self, location: Location) -> Location:
        """Without the 0 of a lone [table] where an array of tables may stand too."""
        written: Location = ()
        for part in location:
            lone = part == 0 and written in self._lines and written not in self._tables
            if not (lone and (*written, 0) not in self._lines):
                written = (*written, part)
        return written

    def _header(self, array: bool, path: Location, number: int) -> Location:
        """The location that a [table] or [[table]] header opens; inside an array of tables, its last element."""
        location: Location = ()
        for part in path[:-1]:
            location = (*location, part)
            if location in self._tables:
                location = (*location, self._tables[location] - 1)
        location = (*location, path[-1])
        if array:
            self._tables[location] += 1
            location = (*location, self._tables[location] - 1)
        self._note(location, number)
        return location

    def _note(self, location: Location, number: int) -> None:
        for length in range(1, len(location) + 1):
            self._lines.setdefault(location[:length], number)


def with_line(error: ValueError, path: Path) -> str:
    """A parser's error, with the number of the last line where it says "at end of document"."""
    text = path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    return str(error).replace("(at end of document)", f"(at line {text.count(chr(10)) + 1}, the end)")


def _statements(text: str) -> list[tuple[int, str]]:
    """Each header or `key = value` with the line it begins in. A value over several lines is complete when it parses:
    no beginning of one does, because a bracket or a string is open in it."""
    statements = []
    begun, pending = 0, ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            begun = number
        pending += line + "\n"
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        statements.append((begun, pending))
        pending = ""
    return statements


def _path(nested: Any) -> Location:
    """The one path of a parsed header: {"a": {"b": {}}} or {"a": [{}]}."""
    path: Location = ()
    while isinstance(nested, dict) and nested:
        ((key, nested),) = nested.items()
        path = (*path, key)
    return path


def _leaves(value: Any, path: Location = ()) -> list[Location]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, inner in enumerate(value) for leaf in _leaves(inner, (*path, index))]
    return [path]
