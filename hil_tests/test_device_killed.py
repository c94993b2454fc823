"""Devices lose power at 50 random instants, their last write torn at any byte: journals recover, nonces stay unique."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import books
import pytest
from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emrig.target import Device

KILLS = 50


def tear_last_write(folder: Path, choice: random.Random) -> ledger.Identity | None:
    """Cut the journal's last record at a random byte; (0, epoch, sequence) of it, None when there is none to tear.

    The last write may have completed, or be cut short by the kill already; both happen to a real flash.
    """
    segments = [path for path in (folder / "journal").glob("*.seg") if path.stat().st_size]
    if not segments:
        return None
    newest = max(segments, key=lambda path: path.stat().st_mtime_ns)
    records = ledger.segment_records(newest)
    if not records:
        return None
    start, epoch, sequence = records[-1]
    with newest.open("r+b") as file:
        file.truncate(choice.randrange(start, newest.stat().st_size))
    return 0, epoch, sequence


@pytest.mark.slow
async def test_journals_recover_when_devices_are_killed(
    busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    choice = random.Random(7)
    station = make_station(busy_day)
    taps = books.tap_all(station, busy_day)
    torn: set[ledger.Identity] = set()
    crashed = asyncio.Event()

    def on_crash(device: Device) -> None:
        if choice.random() < 0.7:
            found = tear_last_write(device.folder, choice)
            if found is not None:
                torn.add((station.device(device.name).device_id, *found[1:]))
        crashed.set()

    station.rig.on_crash = on_crash
    async with station:
        await station.rig.run(until_ms=300_000)
        for _ in range(KILLS):
            victim = station.rig.devices[choice.choice(busy_day.devices).name]
            # From another thread, so that it strikes while the device computes and writes, not only while it waits.
            timer = threading.Timer(choice.uniform(0.0, 0.4), os.kill, (victim.pid, signal.SIGKILL))
            timer.start()
            crashed.clear()
            await station.rig.run(until=crashed.is_set)
            timer.join()
            await station.rig.run(until=lambda victim=victim: victim.running)  # type: ignore[misc]
        assert all(device.boots > KILLS // 10 for device in station.rig.devices.values())
        # A torn record never existed, unless it had left the device before it was torn.
        expected = {identity: payload for identity, payload in books.made(station).items() if identity not in torn}
        assert len(expected) > 2 * KILLS, "the kills hit no traffic"
        await books.drain(station, expected)
        books.assert_arrived_once(expected, station)
        for tap in taps:
            assert not tap.heard.reused_nonces, "one nonce sealed two different frames"
