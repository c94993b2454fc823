"""The gateway is killed at 50 random moments under traffic: nothing acknowledged is missing, nothing is there twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import books
import pytest
from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station

KILLS = 50


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_when_the_gateway_is_killed(
    busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    choice = random.Random(4)
    station = make_station(busy_day)
    taps = books.tap_all(station, busy_day)
    async with station:
        await station.rig.run(until_ms=300_000)  # every device has reported and is configured
        kills_with_news = 0
        for _ in range(KILLS):
            before = sum(len(tap.heard.acknowledged) for tap in taps)
            process = station.gateway_process
            asyncio.get_running_loop().call_later(choice.uniform(0.0, 0.25), process.kill)
            await station.rig.run(until=lambda process=process: process.returncode is not None)  # type: ignore[misc]
            stored = ledger.stored(station.gateway_folder) | set(ledger.delivered(station.database))
            for tap in taps:
                told = {(tap.heard.device_id, *identity) for identity in tap.heard.acknowledged}
                assert told <= stored, f"acknowledged as stored, and not stored: {sorted(told - stored)[:5]}"
            kills_with_news += sum(len(tap.heard.acknowledged) for tap in taps) > before
            await station.start_gateway()
        assert kills_with_news > KILLS // 4, "the kills hit no traffic"
        expected = books.made(station)
        await books.drain(station)
        books.assert_arrived_once(expected, station)
        for tap in taps:
            assert not tap.heard.reused_nonces, "one nonce sealed two different frames"
