"""Errors a person can act on: how a file that is not TOML, or a validation error, is put into words."""

import difflib
import tomllib
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from emgate.toml_lines import Lines, Location, with_line

REMEDIES = {
    "string_type": 'write it in quotes: "…"',
    "path_type": 'write a path in quotes: "…"',
    "string_too_short": "write something between the quotes",
    "int_type": "write a whole number, without quotes",
    "int_from_float": "write a whole number",
    "float_type": "write a number, without quotes",
    "finite_number": "write a number that has an end",
    "bool_type": "write true or false, without quotes",
    "greater_than": "write a larger number",
    "greater_than_equal": "write a larger number",
    "less_than": "write a smaller number",
    "less_than_equal": "write a smaller number",
    "literal_error": "write one of these",
    "too_short": "give at least one",
    "too_long": "give fewer",
}
"""What to do, by pydantic's type of error."""


class ConfigError(Exception):
    """The configuration cannot be used as it is; the text names the file, the field and the remedy."""


class PlacedError(ValueError):
    """What is wrong with several things together, and which of them to point at."""

    def __init__(self, location: Location, text: str) -> None:
        super().__init__(text)
        self.location = location


class StoreError(Exception):
    """The store cannot be used as it is; the text says why and what to do."""


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and content of a file; ConfigError when it is not TOML. OSError is for the caller, who knows its remedy."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {with_line(error, path)}; mend that line") from None


def explain(path: Path, error: ValidationError, model: type[BaseModel], text: str) -> str:
    """One line per fault: file and line, field, what is wrong; and after a semicolon what to do about it."""
    lines = []
    written = Lines(text)
    for fault in error.errors(include_url=False, include_input=False):
        cause = fault.get("ctx", {}).get("error")
        inside = cause.location if isinstance(cause, PlacedError) else ()
        location = written.as_written((*fault["loc"], *inside))
        place = f"{written.place(path, location)}: {named(location)}"
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, fault["loc"][:-1])
            name = str(fault["loc"][-1])
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            top = model.model_fields.get(name) if len(fault["loc"]) > 1 else None
            if top is not None and _inner_model(top.annotation) is None:  # TOML: what stands below a table is in it
                hint = f"{name} stands above the first table: move this line there"
            lines.append(f"{place}: unknown key; {hint}")
        elif fault["type"] == "missing":
            lines.append(f"{place}: missing; add it")
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
            lines.append(f"{place}: {message}{_remedy(fault['type'], location)}")
    return "\n".join(lines)


def _remedy(kind: str, location: Location) -> str:
    """Of one of pydantic's own errors; ours have theirs."""
    name = next((part for part in reversed(location) if isinstance(part, str)), "")
    if kind == "tuple_type":
        return f"; write [[{name}]], in double brackets, for each" if len(location) == 1 else "; write a list: [ … ]"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"; write a table: [{name}]"
    return f"; {REMEDIES[kind]}" if kind in REMEDIES else ""


def named(location: tuple[int | str, ...]) -> str:
    """("serial", 0, "port") as "serial[0].port"."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top level)"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at `location` inside `model`."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        found = _inner_model(field.annotation) if field else None
        if found is None:
            return []
        current = found
    return sorted(current.model_fields)


def _inner_model(annotation: object) -> type[BaseModel] | None:
    """The first model inside an annotation such as `tuple[Device, ...] | None`."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
