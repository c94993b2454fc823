"""What the installed unit, with its drop-ins, lets the gateway see and write: what it forbids fails only there."""

import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

UNIT = "emtag-gateway.service"
PLACES = (Path("/etc/systemd/system"), Path("/run/systemd/system"))
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
OPEN = (Path("/dev"), Path("/proc"), Path("/sys"))
"""What ProtectSystem=strict leaves as it is."""
OWN = {
    "StateDirectory": "/var/lib",
    "RuntimeDirectory": "/run",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
}


class Confines:
    """Of the unit that runs this configuration."""

    def __init__(self, settings: dict[str, list[str]]) -> None:
        self._settings = settings

    def hidden(self, path: Path) -> str | None:
        """The setting that keeps a path out of its sight."""
        if self._last("ProtectHome") in ("yes", "true", "1", "on", "tmpfs") and _below(path, HOMES):
            return f"ProtectHome={self._last('ProtectHome')}"
        if self._last("PrivateTmp") in ("yes", "true", "1", "on", "disconnected") and _below(path, TEMPORARY):
            return f"PrivateTmp={self._last('PrivateTmp')}"
        return None

    def read_only(self, path: Path) -> str | None:
        """The setting that keeps it from writing there."""
        if self._last("ProtectSystem") != "strict":
            return None
        own = [Path(root) / name for key, root in OWN.items() for name in self._settings.get(key, ())]
        given = [Path(each.lstrip("-+")) for each in self._settings.get("ReadWritePaths", ())]
        allowed = [each.resolve() for each in (*own, *given, *OPEN)]
        if _below(path, allowed) or any(each.is_relative_to(path.resolve()) for each in allowed if not each.exists()):
            return None  # or above what a start makes
        return "ProtectSystem=strict"

    def _last(self, key: str) -> str:
        return (self._settings.get(key) or ["no"])[-1]


def of(config_path: Path) -> Confines | None:
    """Those of the installed unit; None where none is, or where it runs another configuration."""
    settings: dict[str, list[str]] = {}
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            key, equals, value = line.strip().partition("=")
            if not equals or key.startswith(("#", ";")):
                continue
            given = settings.setdefault(key.strip(), [])
            if not value.strip():
                given.clear()  # as systemd has it
            given += _words(value)
    command = settings.get("ExecStart", [])
    runs = [Path(after) for before, after in pairwise(command) if before == "--config"]
    return Confines(settings) if config_path.resolve() in [each.resolve() for each in runs] else None


def _files() -> Iterator[Path]:
    for place in PLACES:
        yield place / UNIT
    for place in PLACES:
        yield from sorted((place / f"{UNIT}.d").glob("*.conf"))


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def _below(path: Path, places: tuple[Path, ...] | list[Path]) -> bool:
    return any(path.resolve().is_relative_to(place) for place in places)
