"""What other commands do with a running gateway: find it, ask it to reload, read what it says of itself."""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.errors import ConfigError

EXIT_OK, EXIT_REFUSED, EXIT_NOT_RUNNING = 0, 2, 3
RELOAD_S = 30.0
"""A reload reads files, loads changed devices from the store and lets links go, each within seconds."""
LOOK_S = 0.1


def running_pid(state_directory: Path) -> int | None:
    """The process that holds the state directory, or None."""
    try:
        with (state_directory / "gateway.lock").open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return None


def read_status(state_directory: Path) -> dict[str, Any]:
    """The last status.json; ConfigError when there is none."""
    path = state_directory / "status.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no status to be read ({error}): has this gateway ever run?") from None
    return facts


def reload(config_path: Path) -> int:
    """Ask the running gateway to read its configuration anew, and say what became of it."""
    try:
        config = configuration.load(config_path)
    except ConfigError as error:
        print(f"emtag gateway: refused, and the old configuration stays in force:\n{error}", file=sys.stderr)
        return EXIT_REFUSED
    state = config.gateway.state_directory
    pid = running_pid(state)
    if pid is None:
        print(f"emtag gateway: no gateway runs on {state}", file=sys.stderr)
        return EXIT_NOT_RUNNING
    before = read_status(state)["reload"]["count"]
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_S + config.gateway.status_interval_s
    while time.monotonic() < deadline:
        facts = read_status(state)["reload"]
        if facts["count"] > before:
            if facts["applied"]:
                print("reloaded: " + (", ".join(facts["changed"]) or "nothing has changed"))
                return EXIT_OK
            print(
                f"emtag gateway: refused, and the old configuration stays in force:\n{facts['reason']}", file=sys.stderr
            )
            return EXIT_REFUSED
        time.sleep(LOOK_S)
    print("emtag gateway: no answer in time; look into its log", file=sys.stderr)
    return EXIT_REFUSED
