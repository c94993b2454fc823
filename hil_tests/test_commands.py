"""A command and an order from a backend process, over a real broker and gateway, to a simulated home unit and back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emgate.backend import database, order_dispatch, requests
from emgate.brokers.broker import RunningBroker, available, start_broker
from emrig.scenario import Scenario
from emrig.station import Station

SPEED = 60.0
"""Time goes on slowly enough for backend and gateway, which look for requests by real time, once a second."""
WITHIN_MS = 20 * 60_000
ORDERS = """
[[wearers]]
personId = "p"
[[activations]]
deviceActivationId = "31"
deviceId = {device}
personId = "p"
deviceActivationDate = 2020-01-01T00:00:00Z
curfewAddress = "PRIMARY"
[[orders]]
orderId = "o"
personId = "p"
orderType = "BAIL"
startDate = 2020-01-01
[orders.curfew]
timetable = [{{dayOfWeek = ["MONDAY", "FRIDAY"], startTime = "19:00", endTime = "07:00"}}]
"""


@pytest.fixture
def broker() -> Iterator[RunningBroker]:
    if not available():
        pytest.skip("needs mosquitto or amqtt")
    with start_broker() as started:
        yield started


@contextlib.contextmanager
def connection(path: Path) -> Iterator[Any]:
    """To the backend's database, beside the process that has it."""
    connected = database.connect(path)
    try:
        yield connected
    finally:
        connected.close()


async def emtag(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "emgate.cli", *arguments, stdout=asyncio.subprocess.PIPE
    )


async def test_a_backends_command_and_order_reach_the_device_and_their_answers_the_backend(
    busy_day: Scenario, make_station: Callable[..., Station], broker: RunningBroker, tmp_path: Path
) -> None:
    devices = tuple(device for device in busy_day.devices if device.name in ("home", "pid"))
    station = make_station(busy_day.model_copy(update={"devices": devices}))
    settings = [f'host = "{broker.host}"', f"port = {broker.port}"]
    station.uplink = ["[[uplink]]", 'name = "service"', 'kind = "mqtt"', *settings]
    path = tmp_path / "backend.sqlite"
    clock = ["[clock]", 'source = "shared"', f'path = "{station.gateway_folder / "clock"}"']
    (tmp_path / "backend.toml").write_text(
        "\n".join(["[backend]", f'database = "{path}"', "[mqtt]", *settings, *clock]) + "\n"
    )
    backend = await emtag("backend", "run", "--config", str(tmp_path / "backend.toml"))
    assert backend.stdout is not None
    try:
        assert await asyncio.wait_for(backend.stdout.readline(), 30)
        device_id = station.device("home").device_id
        (tmp_path / "orders.toml").write_text(ORDERS.format(device=device_id))
        assert (
            await (await emtag("backend", "orders", str(tmp_path / "orders.toml"), "--database", str(path))).wait() == 0
        )
        with connection(path) as connected:
            now_ms = station.scenario.start_unix_ms
            asked = {"requestId": "test", "deviceId": device_id, "kind": "command", "command": "SELF_TEST"}
            with database.transaction(connected):
                requests.submit(connected, now_ms, {**asked, "expiresMs": now_ms + WITHIN_MS})

            def told() -> bool:
                facts = requests.find(connected, "test")
                orders = order_dispatch.listed(connected)
                return (
                    facts is not None
                    and facts["state"] == "answered"
                    and [each["state"] for each in orders] == ["answered"]
                )

            async with station:
                end = station.clock.now_ms() + WITHIN_MS
                while not told() and station.clock.now_ms() < end:
                    await station.rig.run(until_ms=station.clock.now_ms() + 5_000, speed=SPEED)
            facts = requests.find(connected, "test")
            assert facts is not None and facts["state"] == "answered", facts
            assert facts["result"]["outcome"] in ("DONE", "FAILED"), "whatever the test found, it was made"
            assert facts["gatewayId"] == "demo"
            (order,) = order_dispatch.listed(connected)
            assert (order["state"], order["result"]["outcome"]) == ("answered", "APPLIED")
    finally:
        backend.terminate()
        await backend.wait()
