"""Replays a recording of transdermal alcohol through the alcohol tag, the wire, the gateway and the backend."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from emgate.backend.ingest import Backend
from emgate.backend.orders import read_order_file
from emgate.backend.queries import Reader
from emgate.clock import SystemClock
from rich.console import Console
from rich.progress import Progress

from emrig import interpreter as interpreters
from emrig.ledger import account
from emrig.models.alcohol_cell import read_recording
from emrig.scenario import SCENARIOS, DeviceScenario, Scenario
from emrig.station import Recordings, Station

DEFAULT_ORDERS = SCENARIOS / "alcohol-replay-orders.toml"
# After the last reading: the gateway lives in real time, and so does its patience with a tag that it has just lost.
TAIL_S = 90.0
TAIL_SPEED = 600.0
# After the last row is offered: the firmware reads it within a second.
READ_MS = 60_000
# The recording paces the readings; the tag's own timer is set as far away as it goes.
SAMPLE_INTERVAL_S = 65_535


def replay(recording: Path, orders: Path) -> int:
    """Print {"kind": "reading"} and {"kind": "alert"} objects, one a line; 1 when a record was lost.

    Raises ValueError, ConfigError or InterpreterMissing with a message for the user.
    """
    start_unix_ms, readings = read_recording(recording)
    order_file = read_order_file(orders)
    if not order_file.activations:
        raise ValueError(f"{orders}: no [[activations]]: add one that says which device the wearer had, and since when")
    interpreter = interpreters.find()
    recordings = Recordings(alcohol=readings)
    lead_ms = recordings.alcohol_start_ms
    device = DeviceScenario(
        name="bracelet",
        model="alcohol",
        device_id=order_file.activations[0].deviceId,
        configuration={"sample_interval_s": SAMPLE_INTERVAL_S},
    )
    scenario = Scenario(
        name=recording.name,
        start=datetime.fromtimestamp((start_unix_ms - lead_ms) / 1000, UTC),
        duration_h=(readings[-1].offset_ms + lead_ms) / 3_600_000,
        orders=orders,
        devices=(device,),
    )
    with tempfile.TemporaryDirectory(prefix="emtag-") as folder:
        station = Station(Path(folder), scenario, interpreter, recordings)
        with closing(Backend(station.database, SystemClock())) as backend:
            backend.set_orders(order_file)
        lost = asyncio.run(_run(station, lead_ms + readings[-1].offset_ms + READ_MS))
        with Reader(station.database) as reader:
            for reading in reader.readings():
                print(json.dumps({"kind": "reading", **reading}))
            for alert in reader.alerts():
                print(json.dumps({"kind": "alert", **alert}))
    if lost:
        print(f"emtag replay: {lost} records did not reach the backend", file=sys.stderr)
    return 1 if lost else 0


async def _run(station: Station, end_ms: int) -> int:
    async with station:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("replaying", total=end_ms)
            while station.clock.now_ms() < end_ms:
                await station.rig.run(until_ms=min(end_ms, station.clock.now_ms() + 1_800_000))
                progress.update(task, completed=station.clock.now_ms())
        folders = {device.device_id: station.rig.devices[device.name].folder for device in station.scenario.devices}
        deadline = time.monotonic() + TAIL_S
        while True:
            result = account(folders, station.gateway_folder, station.database)
            if result.made == result.delivered or time.monotonic() >= deadline:
                return result.made - result.delivered
            await station.rig.run(until_ms=station.clock.now_ms() + 60_000, speed=TAIL_SPEED)
