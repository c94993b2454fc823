"""The ankle tag's modem sleeps between reports, resets itself in the middle and loses its cell: nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import books
import pytest
from emrig.scenario import Scenario
from emrig.station import Station


@pytest.mark.parametrize("sleeps", [0, 1])
async def test_a_modem_that_sleeps_and_restarts(
    sleeps: int, busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    choice = random.Random(3)
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    station = make_station(busy_day.model_copy(update={"devices": (ankle,)}))
    station.more_identity[ankle.name] = {"settings": {"modem_sleep": sleeps}}
    async with station:
        modem = station.modems[ankle.name]
        await station.rig.run(until_ms=600_000)
        assert modem.has_time, "the network was not asked for the time before the modem attached"
        for number in range(9):
            await station.rig.run(until_ms=station.clock.now_ms() + choice.randrange(20_000, 120_000))
            if number % 3 == 2:
                modem.cut()
                await station.rig.run(until_ms=station.clock.now_ms() + choice.randrange(5_000, 60_000))
                modem.restore()
            else:
                modem.restart()
        expected = books.made(station)
        assert len(expected) > 10
        await books.drain(station, expected)
        books.assert_arrived_once(expected, station)
        assert bool(modem.counters["slept"]) == bool(sleeps)
        assert modem.counters["unknown_commands"] == 0
