"""The demo: plays a scenario on a station, shows it live, and accounts for every record at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.clock import SystemClock
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emrig import interpreter as interpreters
from emrig.ledger import Account, account, made, stored
from emrig.scenario import DeviceScenario, Scenario
from emrig.station import Recordings, Station, StationError

# The table is for eyes: four times a second is smooth and costs nothing.
REFRESH_S = 0.25
# Virtual time that the last records get to arrive after the scenario's end: two report intervals and a retransmission.
DRAIN_MS = 15 * 60_000
# Without a terminal, one line of progress every so much virtual time.
PROGRESS_MS = 3_600_000
# How far back to look for the last time a beacon was heard.
HEARD_MS = 24 * 3_600_000
TRANSPORTS = {"ankle_gps": "MQTT", "home_unit": "serial", "alcohol": "BLE", "pid": "beacon"}


@dataclass(slots=True)
class Options:
    """What the command line may change."""

    scenario: Scenario
    folder: Path
    speed: float | None = None
    duration_ms: int | None = None
    plain: bool = False
    recordings: Recordings | None = None


async def play(options: Options, console: Console) -> int:
    """Run the demo; 0: nothing was lost, 1: something was."""
    scenario = options.scenario
    interpreter = interpreters.find()
    options.folder.mkdir(parents=True, exist_ok=True)
    station = Station(options.folder, scenario, interpreter, options.recordings)
    logs = (options.folder / "devices.log").open("a", buffering=1)
    station.rig.on_log = lambda name, text: print(station.clock.now_ms(), name, text, file=logs)
    _load_orders(station.database, scenario)
    stopped = asyncio.Event()
    duration_ms = options.duration_ms or round(scenario.duration_h * 3_600_000)
    speed = options.speed or scenario.speed
    with _signals(stopped):
        async with station:
            console.print(f"interpreter  {interpreter.version}")
            if station.broker is not None:
                console.print(f"broker       {station.broker.name} {station.broker.version}")
            console.print(f"scenario     {scenario.name}: {duration_ms / 3_600_000:g} h at {speed:g} times real time")
            with Reader(station.database) as reader:
                view = View(station, reader, duration_ms)
                show = asyncio.create_task(view.show(console, options.plain))
                started = time.monotonic()
                try:
                    await _run(station, duration_ms, speed, stopped)
                    result = await _drain(station, speed, stopped)
                finally:
                    show.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await show
            elapsed_s = time.monotonic() - started
    logs.close()
    _summary(console, station, result, elapsed_s)
    if not stopped.is_set() and result.delivered < result.made:
        console.print(
            f"{result.made - result.delivered} records had not arrived {DRAIN_MS // 60_000} min after the end"
        )
        return 1
    return 1 if result.lost or result.duplicates else 0


async def _run(station: Station, until_ms: int, speed: float, stopped: asyncio.Event) -> None:
    """Run on, unless somebody stops it; StationError when the gateway ends by itself."""
    gateway = station.gateway_process
    await station.rig.run(until_ms, speed, until=lambda: stopped.is_set() or gateway.returncode is not None)
    if gateway.returncode is not None:
        raise StationError(
            f"the gateway ended with status {gateway.returncode}; see {station.gateway_folder}/gateway.log"
        )


def _load_orders(database: Path, scenario: Scenario) -> None:
    backend = Backend(database, SystemClock())
    try:
        backend.load_orders(scenario.orders)
    finally:
        backend.close()


async def _drain(station: Station, speed: float, stopped: asyncio.Event) -> Account:
    """Account for what exists now, after giving it time to arrive; at once when somebody stops it."""
    folders = {device.device_id: station.rig.devices[device.name].folder for device in station.scenario.devices}
    of = {identity for device_id, folder in folders.items() for identity in made(folder, device_id)}
    end = station.clock.now_ms() + DRAIN_MS
    while True:
        result = account(folders, station.gateway_folder, station.database, of)
        if result.made == result.delivered or station.clock.now_ms() >= end or stopped.is_set():
            return result
        await _run(station, station.clock.now_ms() + 60_000, speed, stopped)


class View:
    """What is on the screen: a row a device, then the alarms as they come."""

    def __init__(self, station: Station, reader: Reader, duration_ms: int) -> None:
        self._station = station
        self._reader = reader
        self._duration_ms = duration_ms
        self._alarms: dict[str, Text] = {}
        self._revision = 0
        self._progress_ms = PROGRESS_MS

    async def show(self, console: Console, plain: bool) -> None:
        """Until cancelled; one last time then."""
        if plain or not console.is_terminal:
            await self._print_lines(console)
            return
        with Live(console=console, auto_refresh=False) as live:
            try:
                while True:
                    self._new_alarms()
                    live.update(self._screen(), refresh=True)
                    await asyncio.sleep(REFRESH_S)
            finally:
                self._new_alarms()
                live.update(self._screen(), refresh=True)

    async def _print_lines(self, console: Console) -> None:
        try:
            while True:
                self._print_new(console)
                if self._station.clock.now_ms() >= self._progress_ms:
                    self._progress_ms += PROGRESS_MS
                    console.print(self._clock_text())
                await asyncio.sleep(REFRESH_S)
        finally:
            self._print_new(console)
            console.print(self._table())

    def _print_new(self, console: Console) -> None:
        for text in self._new_alarms():
            console.print(text, soft_wrap=True)

    def _clock_text(self) -> Text:
        clock = self._station.clock
        moment = datetime.fromtimestamp(clock.unix_ms() / 1000, UTC)
        share = min(1.0, clock.now_ms() / self._duration_ms)
        return Text(f"{moment:%Y-%m-%d %H:%M:%S} UTC  {share:4.0%} of the scenario", style="dim")

    def _new_alarms(self) -> list[Text]:
        news = []
        for alert in self._reader.alerts(self._revision):
            self._revision = alert["revision"]
            text = Text.assemble(
                (f"{_minute(alert['startDate'])} ", "dim"),
                (f"{alert['alertCode'] or ''} {alert['alertName']} ".lstrip(), "bold red"),
                (f"{alert['personId']} ", "cyan"),
                f"{alert['cause']} ",
                (f"until {_minute(alert['endDate'])[11:]}" if alert["endDate"] else "open", "dim"),
            )
            # Further evidence revises an alert without changing what is said of it.
            if self._alarms.get(alert["alertId"]) != text:
                self._alarms[alert["alertId"]] = text
                news.append(text)
        return news

    def _screen(self) -> Group:
        return Group(self._clock_text(), self._table(), *list(self._alarms.values())[-12:])

    def _table(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("device", "model", "transport", "last record", "battery", "stored", "delivered", "gaps"):
            table.add_column(
                heading, justify="right" if heading in {"battery", "stored", "delivered", "gaps"} else "left"
            )
        in_store = Counter(identity[0] for identity in stored(self._station.gateway_folder))
        rows = {row["deviceId"]: row for row in self._reader.devices()}
        for device in self._station.scenario.devices:
            table.add_row(*self._cells(device, rows.get(device.device_id, {}), in_store[device.device_id]))
        return table

    def _cells(self, device: DeviceScenario, row: dict[str, Any], stored_records: int) -> list[str]:
        last, battery = row.get("lastRecordDate"), row.get("batteryPercent")
        if device.model == "pid":
            last, battery = self._last_heard(device.device_id)
        reports = device.model != "pid"
        return [
            device.name,
            device.model,
            TRANSPORTS[device.model],
            _minute(last)[11:] if last else "-",
            "-" if battery is None else f"{battery} %",
            str(stored_records) if reports else "-",
            str(row.get("recordsReceived", 0)) if reports else "-",
            str(row.get("recordsMissing", 0)) if reports else "-",
        ]

    def _last_heard(self, beacon_id: int) -> tuple[str | None, int | None]:
        """When a beacon was last heard, and the battery that it told."""
        now = self._station.clock.unix_ms()
        rows = self._reader.presences(beacon_id, now - HEARD_MS, now)
        heard = [row for row in rows if row["heardCount"]]
        return (heard[-1]["windowEndDate"], heard[-1]["beaconBatteryPercent"]) if heard else (None, None)


def _minute(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M}"


def _summary(console: Console, station: Station, result: Account, elapsed_s: float) -> None:
    console.print(
        f"\nmade {result.made}  stored {result.stored}  delivered {result.delivered}  lost {result.lost}"
        + (f"  still on the devices {result.on_devices}" if result.on_devices else "")
        + (f"  twice {result.duplicates}" if result.duplicates else "")
        + f"   ({elapsed_s:.0f} s)",
        style="bold green" if not result.lost else "bold red",
    )
    console.print(f"database     {station.database}")
    console.print(f"logs         {station.folder}")


@contextlib.contextmanager
def _signals(stopped: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
