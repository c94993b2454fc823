"""What would stand readable on the disk of a gateway that has a secret to seal by: a local backend, and plain keys."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emgate.config import Config
from emgate.devices.registry import SEALED
from emgate.errors import ConfigError
from emgate.toml_lines import Lines, Location

LOCAL_REMEDY = (
    'let kind be "https" or "mqtt"; or, where nobody can take this machine\'s disk away or it is encrypted, write'
    " guarded_disk = true in this uplink"
)
KEYS_REMEDY = "seal them by `emtag gateway device seal`; one in the configuration itself moves into the registry first"


def local_backends(config: Config, path: Path | None) -> Iterator[tuple[str, str]]:
    """(place, problem) of every target that would write wearers' history as it is beside what is sealed."""
    for number, target in enumerate(config.uplink):
        if target.kind == "local" and not target.guarded_disk:
            place = _place(path, ("uplink", number))
            yield place, f"the database of uplink {target.name!r} (local) is not sealed, and holds wearers' history"


def plain_keys(config: Config, path: Path | None) -> Iterator[tuple[str, str]]:
    """(place, problem) of the first key in each file that stands there in plain digits."""
    for file in (path, config.registry):
        location = None if file is None else next(_plain(file), None)
        if location is not None:
            yield _place(file, location), "a key stands there in plain digits"


def refuse(config: Config, path: Path | None) -> None:
    """ConfigError for what a gateway with a secret does not start with, so that nobody takes it for sealed."""
    found = [f"{place}: {problem}; {LOCAL_REMEDY}" for place, problem in local_backends(config, path)]
    if config.protection.at_rest == "required":
        found += [f"{place}: {problem}; {KEYS_REMEDY}" for place, problem in plain_keys(config, path)]
    if found:
        raise ConfigError("\n".join(found))


def _plain(path: Path) -> Iterator[Location]:
    try:
        devices = tomllib.loads(path.read_text(encoding="utf-8")).get("devices", [])
    except (OSError, ValueError):  # said by whoever reads it for what is in it
        return
    for number, device in enumerate(devices):
        for name in keys_of(device):
            yield "devices", number, name
        for beacon, table in enumerate(device.get("configuration", {}).get("beacons", [])):
            for name in keys_of(table):
                yield "devices", number, "configuration", "beacons", beacon, name


def keys_of(table: dict[str, Any]) -> list[str]:
    """The fields of a device or beacon that hold a key in plain digits."""
    return [name for name in ("key", "next_key") if name in table and not str(table[name]).startswith(SEALED)]


def _place(path: Path | None, location: Location) -> str:
    if path is None:
        return "the configuration"
    try:
        return Lines(path.read_text(encoding="utf-8")).place(path, location)
    except (OSError, ValueError):
        return str(path)
