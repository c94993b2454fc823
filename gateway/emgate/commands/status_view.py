"""`emtag gateway status`: what a gateway says of itself, as a dashboard, once or live, or as JSON."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emgate import config as configuration
from emgate.errors import ConfigError
from emgate.operation.running import (
    EXIT_NOT_RUNNING,
    EXIT_OK,
    EXIT_REFUSED,
    last_status,
    running_pid,
    status_now,
)

REFRESH_S = 1.0


def show(config_path: Path, *, as_json: bool = False, once: bool = False) -> int:
    """Print or keep showing the status; 0: the gateway runs, 2: cannot be read, 3: it does not run."""
    try:
        facts, running, stuck = _facts(config_path)
        if as_json:
            print(json.dumps({"running": running, "stuckPid": stuck, **facts}))
            return EXIT_OK if running else EXIT_NOT_RUNNING
        console = Console()
        if once or not console.is_terminal:
            console.print(dashboard(facts, running, stuck))
            return EXIT_OK if running else EXIT_NOT_RUNNING
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(dashboard(facts, running, stuck), refresh=True)
                time.sleep(REFRESH_S)
                facts, running, stuck = _facts(config_path)
    except ConfigError as error:
        print(f"emtag gateway: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_OK


def _facts(config_path: Path) -> tuple[dict[str, Any], bool, int | None]:
    """(what the gateway says now, True, None); or what it wrote last, when it does not run, or runs as a process that
    does not answer."""
    state = configuration.state_directory(config_path)
    facts = status_now(state)
    if facts is not None:
        return facts, True, None
    stuck = running_pid(state)
    if stuck is None:  # it may be what is wrong with the file
        configuration.load(config_path, open_keys=False)
    return last_status(state, lambda: configuration.load(config_path, open_keys=False).open_vault()), False, stuck


def dashboard(facts: Mapping[str, Any], running: bool, stuck: int | None = None) -> RenderableType:
    """The whole picture. `stuck`: the process that runs and does not answer."""
    return Group(_head(facts, running, stuck), _ways(facts), _store(facts), _devices(facts))


def _head(facts: Mapping[str, Any], running: bool, stuck: int | None) -> Text:
    text = Text()
    text.append(f"{facts['gatewayId']} ", "bold")
    if stuck is not None:
        text.append(f"RUNS AS PID {stuck} AND DOES NOT ANSWER; this is the last it said", "bold red")
    elif not running:
        text.append("DOES NOT RUN; this is the last it said", "bold red")
    else:
        text.append("ready" if facts["ready"] else "starting", "green" if facts["ready"] else "yellow")
    text.append(f"  up {_duration(facts['runningS'])}  pid {facts['pid']}")
    if facts["residentBytes"]:
        text.append(f"  memory {facts['residentBytes'] / 1e6:.0f} MB")
    if facts["clockUncertaintyMs"] >= 65535:
        text.append("  clock not synchronised", "yellow")
    if facts["clockSteps"].get("lastMs") is not None:
        text.append(f"  clock stepped by {facts['clockSteps']['lastMs'] / 1000:+.1f} s", "yellow")
    if facts["keysAtRest"] is None:
        text.append("  nothing sealed at rest", "yellow")
    if facts["reload"]["applied"] is False:
        text.append(f"\nlast reload refused: {facts['reload']['reason']}", "red")
    return text


def _ways(facts: Mapping[str, Any]) -> Table:
    table = Table("link or uplink", "state", "restarts", "counted", box=None, header_style="bold", expand=True)
    for way in (*facts["links"], *facts["uplink"]):
        state = Text("up", "green") if way["up"] else Text(f"down: {way['reason'] or 'not tried yet'}", "red")
        if way["up"] and way["reason"]:
            state = Text(f"up, but: {way['reason']}", "yellow")
        restarts = ", ".join(f"{reason} {count}" for reason, count in way["restarts"].items())
        counted = ", ".join(
            f"{name} {value}"
            for name, value in way.items()
            if isinstance(value, int) and not isinstance(value, bool) and value
        )
        table.add_row(way["name"], state, restarts or "none", counted)
    return table


def _store(facts: Mapping[str, Any]) -> Text:
    store = facts["store"]
    waiting = store["routine_waiting"] + store["alarms_waiting"]
    text = Text(f"\nstore  {store['records']} records, {store['bytes'] / 1e6:.1f} MB, ")
    text.append(f"{store['diskFreeBytes'] / 1e9:.1f} GB free, ")
    text.append(f"{waiting} waiting ({store['alarms_waiting']} alarms)", "yellow" if waiting else "")
    if store["oldestUndeliveredMs"] is not None:
        text.append(f", the oldest for {_duration((facts['timeMs'] - store['oldestUndeliveredMs']) / 1000)}", "yellow")
    text.append(f"\nframes {facts['frames']}, stored {facts['stored']}, delivered {facts['delivered']}")
    text.append(f", duplicates {facts['duplicates']}")
    if facts.get("writtenPerPayloadByte") is not None:  # an earlier version's last words lack it
        text.append(f"\nwritten {facts['writtenBytes'] / 1e6:.1f} MB")
        text.append(f", {facts['writtenPerPayloadByte']} bytes a byte of payload")
    if facts["refused"]:
        refused = ", ".join(f"{reason} {count}" for reason, count in facts["refused"].items())
        text.append(f"\nrefused: {refused}", "red")
    return text.append("\n")


def _devices(facts: Mapping[str, Any]) -> Table:
    columns = ("device", "model", "link", "heard", "battery", "stored", "delivered", "lost", "refused")
    table = Table(*columns, box=None, header_style="bold", expand=True)
    for device in facts["devices"]:
        heard = device["lastReceivedMs"]
        battery = device["batteryPercent"]
        table.add_row(
            f"{device['deviceId']:08x}",
            device["model"],
            device["link"] or "-",
            "never" if heard is None else f"{_duration((facts['timeMs'] - heard) / 1000)} ago",
            "-" if battery is None else Text(f"{battery} %", "red" if battery < 20 else ""),
            str(device["stored"]),
            str(device["delivered"]),
            str(device["lostRecords"]),
            str(sum(device["refused"].values())),
        )
    return table


def _duration(seconds: float) -> str:
    whole = int(max(0.0, seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= size:
            return f"{whole / size:.1f} {unit}"
    return f"{whole} s"
