"""What other commands do with a running gateway: find it, ask it over its control socket, read what it said last.

They go by the state directory alone: a running gateway can be asked whatever its configuration has become.
"""

import fcntl
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emgate import config as configuration
from emgate.errors import ConfigError
from emgate.operation.control_client import ControlClient

if TYPE_CHECKING:
    from emgate.keys.vault import Vault

EXIT_OK, EXIT_REFUSED, EXIT_NOT_RUNNING = 0, 2, 3
RELOAD_S = 30.0
"""A reload reads files, loads changed devices from the store and lets links go, each within seconds."""
ANSWER_S = 10.0
"""A gateway says how it is at once, or its loop or its store is stuck."""
STATUS = "status.json"
LOCK = "gateway.lock"
"""Locked while a gateway runs; its line is that process's number, and where it writes its status."""


def running_pid(state_directory: Path) -> int | None:
    """The process that holds the state directory, or None."""
    try:
        with (state_directory / LOCK).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return None


def ask(state_directory: Path, what: dict[str, Any], patience_s: float | None = None) -> dict[str, Any] | None:
    """One question to the running gateway and its answer; None: nobody listens, or answers in time (ANSWER_S).

    ConfigError: it may not be asked, or refuses (with its reason)."""
    try:
        with ControlClient(state_directory, patience_s or ANSWER_S) as gateway:
            return gateway.ask(**what)
    except (OSError, ValueError):
        return None


def status_now(state_directory: Path) -> dict[str, Any] | None:
    """What the running gateway says of itself this moment; None when none answers."""
    answer = ask(state_directory, {"do": "status"})
    return None if answer is None else dict(answer["status"])


def last_status(state_directory: Path, open_vault: Callable[[], "Vault | None"]) -> dict[str, Any]:
    """What it wrote last; ConfigError when there is nothing, or it is sealed and there is no secret here."""
    path = _last_place(state_directory)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        killed = (state_directory / LOCK).exists()
        remedy = "it was killed, or could not write it: look into its log" if killed else "has this gateway ever run?"
        raise ConfigError(f"{path}: no status to be read ({error}): {remedy}") from None
    if "sealed" not in facts:
        return facts
    vault = open_vault()
    if vault is None:
        raise ConfigError(f"{path}: sealed, and the keys at rest (keys.json) are not there: restore them")
    try:
        facts = json.loads(vault.payloads.open_bytes(STATUS.encode(), bytes.fromhex(facts["sealed"])))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}: it is written anew when the gateway runs") from None
    return facts


def _last_place(state_directory: Path) -> Path:
    """In the state directory once it has ended in order; before that where the last run writes it, which may be a
    runtime directory."""
    path = state_directory / STATUS
    if path.exists():
        return path
    try:
        _, named = (state_directory / LOCK).read_text(encoding="utf-8").rstrip("\n").split(" ", 1)
    except (OSError, ValueError):
        return path
    return Path(named)


def reload(config_path: Path) -> int:
    """Ask the running gateway to read its configuration anew, and say what became of it."""
    try:
        state = configuration.state_directory(config_path)
        answer = ask(state, {"do": "reload"}, RELOAD_S)
    except ConfigError as error:
        return _refused(str(error))
    if answer is None:
        pid = running_pid(state)
        if pid is None:
            print(f"emtag gateway: no gateway runs on {state}", file=sys.stderr)
            return EXIT_NOT_RUNNING
        print(f"emtag gateway: process {pid} gives no answer in time; look into its log", file=sys.stderr)
        return EXIT_REFUSED
    facts = answer["reload"]
    if not facts["applied"]:
        return _refused(facts["reason"])
    print("reloaded: " + (", ".join(facts["changed"]) or "nothing has changed"))
    return EXIT_OK


def _refused(reason: str) -> int:
    print(f"emtag gateway: refused, and the old configuration stays in force:\n{reason}", file=sys.stderr)
    return EXIT_REFUSED
