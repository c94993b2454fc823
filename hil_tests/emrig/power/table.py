"""The table of figures (figures.toml): each with the data sheet or the estimate that it comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("figures.toml")


class TableError(ValueError):
    """The table cannot be used; the message names the figure and what is wrong."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; the unit is the last part of its name."""

    name: str
    value: float
    source: str
    estimate: bool


class Table:
    """All figures by dotted name."""

    def __init__(self, figures: dict[str, Figure]) -> None:
        self.figures = figures

    def __getitem__(self, name: str) -> float:
        try:
            return self.figures[name].value
        except KeyError:
            raise TableError(f"the table of figures has no {name}; add it to {FIGURES.name}") from None

    def names(self, group: str) -> list[str]:
        """The next parts of the names that begin with `group`."""
        head = group + "."
        return list(dict.fromkeys(name[len(head) :].split(".")[0] for name in self.figures if name.startswith(head)))


def load(path: Path = FIGURES) -> Table:
    """Read the file; TableError names what is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TableError(f"{path}: cannot read the table of figures: {error}") from None
    return Table({figure.name: figure for figure in _leaves(data, "")})


def _leaves(node: dict[str, Any], at: str) -> Iterator[Figure]:
    for key, value in node.items():
        name = f"{at}.{key}" if at else key
        if not isinstance(value, dict):
            raise TableError(f"{name}: a figure is a table with value and source, not {value!r}")
        if "value" not in value:
            yield from _leaves(value, name)
            continue
        unknown = value.keys() - {"value", "source", "estimate"}
        number, source = value["value"], value.get("source", "")
        if unknown or isinstance(number, bool) or not isinstance(number, int | float):
            raise TableError(f"{name}: needs a number as value, source and perhaps estimate; not {value!r}")
        if number < 0 or not isinstance(source, str) or not source.strip():
            raise TableError(f"{name}: needs a value of at least 0 and a source")
        yield Figure(name, float(number), source, value.get("estimate") is True)


def markdown(table: Table) -> str:
    """The figures as the table in docs/power.md."""
    lines = ["| figure | value | source |", "|---|---|---|"]
    for figure in table.figures.values():
        mark = "estimate: " if figure.estimate else ""
        lines.append(f"| `{figure.name}` | {figure.value:g} | {mark}{figure.source} |")
    return "\n".join(lines) + "\n"
