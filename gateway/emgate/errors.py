"""Errors a person can act on, and how a validation error is put into words."""

import difflib
import typing
from pathlib import Path

from pydantic import BaseModel, ValidationError

from emgate.toml_lines import Lines


class ConfigError(Exception):
    """The configuration cannot be used as it is; the text names the file, the field and the remedy."""


class StoreError(Exception):
    """The store cannot be used as it is; the text says why and what to do."""


def explain(path: Path, error: ValidationError, model: type[BaseModel], text: str = "") -> str:
    """One line per fault: file and line, field, what is wrong, and for an unknown key the nearest known one."""
    lines = []
    written = Lines(text)
    for fault in error.errors(include_url=False, include_input=False):
        location = written.as_written(fault["loc"])
        number = written.of(location)
        place = _place(location)
        if number is not None:
            place = f"line {number}: {place}"
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, fault["loc"][:-1])
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            lines.append(f"{path}: {place}: unknown key; {hint}")
        elif fault["type"] == "missing":
            lines.append(f"{path}: {place}: missing; add it")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {place}: {message}")
    return "\n".join(lines)


def _place(location: tuple[int | str, ...]) -> str:
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
