"""The ankle tag loses power again and again between its reports: at most the position under way is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable
from itertools import pairwise

import books
import pytest
from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import codec
from emwire.positions import decode_block

KILLS = 15
FIX_INTERVAL_S = 15
# Restarted after 5 s; receiver on, ready, and three positions until they are settled.
RESTART_S = 5 + 8


@pytest.mark.slow
async def test_positions_survive_kills_between_reports(
    busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    choice = random.Random(11)
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    intervals = {"report_interval_s": 900, "fix_interval_s": FIX_INTERVAL_S}
    ankle = ankle.model_copy(update={"configuration": intervals, "receiver": "ubx"})
    station = make_station(busy_day.model_copy(update={"devices": (ankle,)}))
    crashed = asyncio.Event()
    station.rig.on_crash = lambda device: crashed.set()
    async with station:
        device = station.rig.devices[ankle.name]
        await station.rig.run(until_ms=120_000)
        for _ in range(KILLS):
            await station.rig.run(until_ms=station.clock.now_ms() + choice.randrange(60_000, 240_000))
            # From another thread, so that it strikes while the device computes and writes, not only while it waits.
            timer = threading.Timer(choice.uniform(0.0, 0.05), os.kill, (device.pid, signal.SIGKILL))
            timer.start()
            crashed.clear()
            await station.rig.run(until=crashed.is_set)
            timer.join()
            await station.rig.run(until=lambda: device.running)
        await station.rig.run(until_ms=station.clock.now_ms() + 1_000_000)
        await books.drain(station)
        arrived = [codec.decode(payload) for payload in ledger.payloads(station.database).values()]
    blocks = [message for message in arrived if isinstance(message, codec.PositionBlock)]
    times = sorted(fix[0] for block in blocks for fix in decode_block(block.block))
    assert len(times) == len(set(times)), "a position is told twice"
    gaps = [after - before for before, after in pairwise(times)]
    # The one under way, and the time that the tag was off.
    assert max(gaps) <= 2 * FIX_INTERVAL_S + RESTART_S, sorted(gaps)[-5:]
    assert len(times) > KILLS * 6
