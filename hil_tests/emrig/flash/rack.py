"""A rack of boards: a TOML file of [[boards]] with board, model, port and, if it matters, device_id."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emrig.flash.errors import FlashError

KEYS = {"board", "model", "port", "device_id"}


@dataclass(frozen=True, slots=True)
class Place:
    """One board of a rack."""

    board: str
    model: str
    port: str
    device_id: int | None = None


def read(path: Path) -> list[Place]:
    """FlashError names the entry and what is wrong with it."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["boards"]
    except OSError as error:
        raise FlashError(f"{path}: cannot read the rack: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FlashError(f"{path}: not valid TOML: {error}") from None
    except KeyError:
        raise FlashError(f"{path}: has no [[boards]]: add one for each board of the rack") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise FlashError(f"{path}: boards is no list of [[boards]] entries: add one for each board of the rack")
    places = []
    for number, entry in enumerate(entries, 1):
        wrong = set(entry) - KEYS
        missing = {"board", "model", "port"} - set(entry)
        if wrong or missing:
            said = f"unknown {', '.join(sorted(wrong))}" if wrong else f"no {', '.join(sorted(missing))}"
            raise FlashError(f"{path}: boards entry {number}: {said}; an entry has board, model, port, device_id")
        for name, value in entry.items():
            kind = int if name == "device_id" else str
            if type(value) is not kind:
                said = "a number" if kind is int else "text in quotes"
                raise FlashError(f"{path}: boards entry {number}: {name} is {value!r}; write {said}")
        places.append(Place(**entry))
    _check_once(path, "port", [place.port for place in places])
    _check_once(path, "device_id", [place.device_id for place in places if place.device_id is not None])
    return places


def _check_once(path: Path, name: str, values: Sequence[object]) -> None:
    twice = {str(value) for value in values if values.count(value) > 1}
    if twice:
        raise FlashError(f"{path}: {name} {', '.join(sorted(twice))} is listed twice: correct or remove one entry")
