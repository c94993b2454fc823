"""A new configuration for a running gateway: read and checked beside the old one, which stays until all is well."""

import os
import time
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.config import Config, Section
from emgate.devices.registry import Registry, never_sent
from emgate.errors import ConfigError, named, read_toml
from emgate.keys import unsealed
from emgate.operation import logs
from emgate.operation.places import nearest
from emgate.toml_lines import Lines, Location

FIXED = ("gateway.id", "gateway.state_directory", "clock", "protection")
"""What the whole process hangs on: a change is refused until a restart, so that file and process never disagree."""
SHARED_PLACE = "mqtt.shared_place"
"""Which down counters are ours: sessions have some in hand."""


def read(path: Path, present: Config, devices: Registry, *, sealed: bool) -> tuple[Config, Registry]:
    """The new configuration and its registry; ConfigError when it is wrong, or asks for what needs a restart.

    `devices`: the present ones. `sealed`: this gateway has a secret to seal by."""
    wanted = configuration.load(path)
    fixed = [place for name in FIXED for place in _differing(name, wanted, present)]
    if wanted.counter_share != present.counter_share:
        fixed.append(SHARED_PLACE)
    if fixed:
        lines = Lines(path.read_text(encoding="utf-8"))
        raise ConfigError("\n".join(_refusal(path, name, lines) for name in fixed))
    if sealed:
        unsealed.refuse(wanted, path)
    if wanted.gateway.log_file != present.gateway.log_file and wanted.gateway.log_file is not None:
        logs.open_file(wanted.gateway.log_file).close()
    served_at = None if wanted.http is None else wanted.http.socket
    ready_file = wanted.gateway.ready_file
    if ready_file is not None and (ready_file.is_dir() or not _takes(ready_file)):
        raise ConfigError(_unusable(path, ("gateway", "ready_file"), ready_file))
    if served_at is not None:
        from emgate.operation.http_server import not_a_socket  # only where it is wanted

        if not_a_socket(served_at) or not _takes(served_at):
            raise ConfigError(_unusable(path, ("http", "socket"), served_at))
    for broker in (wanted.mqtt, *(each.mqtt() for each in wanted.uplink if each.kind == "mqtt")):
        if broker is not None:
            from emgate.brokers.client import tls_context

            broker.read_password()
            tls_context(broker)
    for target in wanted.uplink:
        if target.https is not None and target.kind == "https":
            from emgate.uplinks.https import make_context

            make_context(target.https)
            target.https.read_token()
    registry = wanted.make_registry()
    unsent = [
        f"{_place_of_device(device.device_id, path, wanted.registry)}: {problem}"
        for device in registry
        if device.configuration is not None
        and (before := devices.get(device.device_id)) is not None
        and before.configuration is not None
        and (problem := never_sent(device.device_id, dict(device.configuration), dict(before.configuration)))
    ]
    if unsent:
        raise ConfigError("\n".join(unsent))
    return wanted, registry


def _place_of_device(device_id: int, *paths: Path | None) -> str:
    """The file and line of its configuration."""
    for path in paths:
        if path is not None:
            text, data = read_toml(path)
            for index, device in enumerate(data.get("devices", [])):
                if device["device_id"] == device_id:
                    return Lines(text).place(path, ("devices", index, "configuration"))
    raise AssertionError("a device that was read stands somewhere")


def _takes(path: Path) -> bool:
    """Its folder, or what there is above it: folders that are missing are made."""
    folder = nearest(path.absolute().parent)
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _unusable(path: Path, location: Location, named_there: Path) -> str:
    place = Lines(path.read_text(encoding="utf-8")).place(path, location)
    return f"{place}: {named(location)}: cannot write {named_there}; name another place"


def _differing(name: str, wanted: Config, present: Config) -> list[str]:
    """The fields at or below a place of the file that are not the same in both."""
    now: Any = wanted
    before: Any = present
    for part in name.split("."):
        now, before = getattr(now, part), getattr(before, part)
    if now == before:
        return []
    if not isinstance(now, Section):
        return [name]
    return [f"{name}.{field}" for field in type(now).model_fields if getattr(now, field) != getattr(before, field)]


def _refusal(path: Path, name: str, lines: Lines) -> str:
    place = lines.place(path, tuple(name.split(".")))
    return f"{place}: {name} cannot change while the gateway runs: restart it, or change back"


class Reloads:
    """What became of reloads, for status.json: `emtag gateway reload` waits for the count to grow."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {"count": 0, "refused": 0, "applied": None, "reason": None, "changed": []}

    def note(self, changed: list[str] | None, reason: str | None = None) -> None:
        """`changed`: what was; None: refused for `reason`."""
        facts = self._facts
        self._facts = {
            "count": facts["count"] + 1,
            "refused": facts["refused"] + (changed is None),
            "applied": changed is not None,
            "reason": reason,
            "changed": changed or [],
            "atMs": time.time_ns() // 1_000_000,
        }

    def facts(self) -> dict[str, Any]:
        """The last one."""
        return self._facts
