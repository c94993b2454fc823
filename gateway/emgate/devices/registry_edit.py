"""Changes to the registry file: read whole, checked, written anew beside it, and put in its place in one step.

The file is locked while it is changed, so that two commands lose nothing of each other's; it is always 0600, because
it holds keys. Comments in it are not kept. Keys that are sealed stay as they are, in the words of the file.
"""

import errno
import fcntl
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emgate.devices.registry import OpenKey, read_device_file
from emgate.errors import ConfigError, read_toml
from emgate.operation.owner import give_to_owner, write_whole

Table = dict[str, Any]


def edit(
    path: Path, change: Callable[[list[Table]], None], open_key: OpenKey | None, state_directory: Path | None = None
) -> None:
    """Let `change` work on the devices as the file has them; ConfigError leaves the file as it was.

    Done by root, the file is given to the owner of `state_directory`: the gateway's user."""
    with _locked(path, state_directory):
        devices = _read(path)
        before = {device.get("device_id") for device in devices}
        change(devices)
        if not before <= {device.get("device_id") for device in devices}:
            raise ConfigError(f"{path}: a device would be lost; nothing was changed")
        text = render(devices)
        if tomllib.loads(text) != {"devices": devices}:
            raise ConfigError(f"{path}: it holds something that cannot be written back; edit it by hand")

        def check(written: Path) -> None:
            """By what the daemon will read it by."""
            try:
                read_device_file(written, open_key)
            except ConfigError as error:
                raise ConfigError(str(error).replace(str(written), str(path))) from None

        write_whole(path, text.encode(), state_directory, check)


@contextmanager
def _locked(path: Path, state_directory: Path | None) -> Iterator[None]:
    try:
        lock_path = path.with_name(f".{path.name}.lock")
        with lock_path.open("w") as lock:
            give_to_owner(lock_path, state_directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        remedy = "" if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) else (
            ": the gateway changes this file itself and must be able to write there; keep it in the state directory"
        )  # fmt: skip
        raise ConfigError(f"{path}: cannot change the registry: {error.strerror or error}{remedy}") from None


def _read(path: Path) -> list[Table]:
    try:
        _, data = read_toml(path)
    except FileNotFoundError:
        return []
    devices = data.get("devices", [])
    if set(data) - {"devices"} or not isinstance(devices, list):
        raise ConfigError(f"{path}: a registry holds [[devices]] and nothing else")
    return devices


def render(devices: list[Table]) -> str:
    """The registry as TOML."""
    lines = ["# Written by `emtag gateway device`. Holds keys: keep it to the gateway's user (0600).", ""]
    if not devices:
        lines.append("devices = []\n")
    for device in devices:
        lines.append("[[devices]]")
        tables = {name: value for name, value in device.items() if isinstance(value, dict)}
        lines += [f"{name} = {_value(value)}" for name, value in device.items() if name not in tables]
        for name, table in tables.items():
            lines.append(f"[devices.{name}]")
            lines += [f"{key} = {_value(value)}" for key, value in table.items()]
        lines.append("")
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    raise ConfigError(f"a registry holds no {type(value).__name__}")
