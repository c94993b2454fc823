"""The home unit through everything: told its order, cut off, it judges the curfew alone; commanded, it obeys once."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from emgate.operation.control_client import short
from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import codec, constants

MINUTE_MS = 60_000
GATEWAY_SPEED = 60.0
"""While the gateway has something to send: it looks for requests by real time, once a second."""
CURFEW = (constants.EVENT_CURFEW_LEFT_HOME, constants.EVENT_CURFEW_RETURNED)


@pytest.fixture
def day(busy_day: Scenario) -> Scenario:
    """Home unit and pid; the wearer is out from 06:50 to 07:20, and the cable is cut from 06:40 to 07:40."""
    home, pid = (next(device for device in busy_day.devices if device.model == model) for model in ("home_unit", "pid"))
    home = home.model_copy(update={"link_cut": (("06:40", "07:40"),)})
    return busy_day.model_copy(update={"devices": (home, pid.model_copy(update={"away": (("06:50", "07:20"),)}))})


async def _ask(station: Station, **request: Any) -> None:
    reader, writer = await asyncio.open_unix_connection(short(station.gateway_folder / "control.sock"))
    device_id = next(device.device_id for device in station.scenario.devices if device.model == "home_unit")
    request["deviceId"] = device_id
    writer.write(json.dumps({"do": "submit", "request": request, "waitS": 0}).encode() + b"\n")
    writer.write_eof()
    answer: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    assert answer["ok"], answer


def _arrived(station: Station, kind: type[Any]) -> list[Any]:
    messages = (codec.decode(payload) for _, payload in sorted(ledger.payloads(station.database).items()))
    return [message for message in messages if isinstance(message, kind)]


def _events(station: Station, *kinds: int) -> list[codec.Event]:
    return [event for event in _arrived(station, codec.Event) if event.event_type in kinds]


async def _until(station: Station, condition: Callable[[], bool], until_ms: int) -> None:
    while not condition():
        assert station.clock.now_ms() < until_ms, "it did not come"
        await station.rig.run(until_ms=station.clock.now_ms() + 2_000, speed=GATEWAY_SPEED)


def _results(station: Station, kind: int) -> list[codec.CommandResult]:
    return [
        result
        for result in _arrived(station, codec.CommandResult)
        if result.command_kind == kind and result.outcome != constants.OUTCOME_ACCEPTED
    ]


async def test_curfew_without_a_link_and_commands_with_one(day: Scenario, make_station: Callable[..., Station]) -> None:
    station = make_station(day)
    async with station:
        await station.rig.run(until_ms=3 * MINUTE_MS)
        every_day = [codec.CurfewEntry(number, 0, 1439, constants.ADDRESS_PRIMARY) for number in range(1, 8)]
        order = codec.OrderConditions(7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, every_day)
        await _ask(station, requestId="o-1", kind="order", messages=[order.encode().hex()])
        await _until(station, lambda: bool(_events(station, constants.EVENT_ORDER_APPLIED)), 15 * MINUTE_MS)
        await _ask(station, requestId="r-1", kind="command", command="RANGE_TEST", argument=60)
        await _until(station, lambda: bool(_results(station, constants.COMMAND_RANGE_TEST)), 30 * MINUTE_MS)
        tested = _results(station, constants.COMMAND_RANGE_TEST)[-1]
        assert (tested.outcome, tested.value) == (constants.OUTCOME_DONE, 1)
        beacon_id, heard, weakest, median, strongest = struct.unpack("<IBbbb", tested.detail)
        assert beacon_id == day.devices[1].device_id and heard >= 5 and weakest <= median <= strongest < 0
        # Cut off before the wearer leaves, mended after the return.
        await station.rig.run(until_ms=99 * MINUTE_MS)
        assert not _events(station, *CURFEW), "the cable is cut"
        await _until(station, lambda: len(_events(station, *CURFEW)) == 2, 115 * MINUTE_MS)
        left, returned = _events(station, *CURFEW)
        start_s = day.start_unix_ms // 1000 - constants.TIME_EPOCH_UNIX_S
        assert abs(left.event_time_s - (start_s + 50 * 60)) <= 15 and abs(returned.value - 1800) <= 60
        assert {left.subject_id, returned.subject_id} == {day.devices[1].device_id}
        wan = (constants.EVENT_WAN_LOST, constants.EVENT_WAN_RESTORED)
        await _until(station, lambda: len(_events(station, *wan)) == 2, 115 * MINUTE_MS)
        lost = _events(station, *wan)
        assert [event.event_type for event in lost] == [constants.EVENT_WAN_LOST, constants.EVENT_WAN_RESTORED]
        assert 50 * 60 <= lost[1].value <= 70 * 60
        await _ask(station, requestId="b-1", kind="command", command="REBOOT")
        await _until(station, lambda: len(_arrived(station, codec.Hello)) == 2, 140 * MINUTE_MS)
        assert _arrived(station, codec.Hello)[1].reset_cause == constants.RESET_SOFT
        assert [result.outcome for result in _results(station, constants.COMMAND_REBOOT)] == [constants.OUTCOME_DONE]
        await _ask(station, requestId="s-1", kind="command", command="SELF_TEST")
        await _until(station, lambda: bool(_results(station, constants.COMMAND_SELF_TEST)), 160 * MINUTE_MS)
        assert _results(station, constants.COMMAND_SELF_TEST)[-1].outcome == constants.OUTCOME_DONE, _results(
            station, constants.COMMAND_SELF_TEST
        )[-1]
        await station.rig.run(until_ms=station.clock.now_ms() + 5 * MINUTE_MS)
        assert station.rig.counters["device_restarts"] == 1 and not station.rig.counters["device_crashes"]
        told = [event.event_type for event in _events(station, *CURFEW, constants.EVENT_CURFEW_UNKNOWN)]
        assert told == list(CURFEW), "a restart tells nothing twice"
