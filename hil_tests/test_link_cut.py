"""Each link is cut for an hour: what was made meanwhile arrives in order, alarms first, nothing twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import books
import pytest
from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emwire.device_link import WINDOW

HOUR_MS = 3_600_000
BEFORE_MS = 600_000


@pytest.mark.parametrize("name", ["ankle", "home", "bracelet"])
async def test_back_fill_after_a_cut_hour(name: str, busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    devices = tuple(device for device in busy_day.devices if device.name in (name, "pid") or device.name == name)
    if name != "home":
        devices = tuple(device for device in devices if device.name == name)
    day = busy_day.model_copy(update={"devices": devices})
    station = make_station(day)
    device_id = station.device(name).device_id
    async with station:
        await station.rig.run(until_ms=BEFORE_MS)
        await books.drain(station)
        arrived_before = len(_arrivals(station, device_id))
        station.cut_link(name)
        made_before = len(books.made(station))
        # Half of the backlog, then an alarm, then the rest of it.
        await station.rig.run(until_ms=BEFORE_MS + HOUR_MS // 2)
        _raise_alarm(station, name)
        await station.rig.run(until_ms=BEFORE_MS + HOUR_MS)
        made_meanwhile = len(books.made(station)) - made_before
        assert made_meanwhile > 20
        assert len(_arrivals(station, device_id)) - arrived_before <= 2, "the link was not cut"
        expected = books.made(station)
        arrived_in_the_cut = len(_arrivals(station, device_id))
        station.restore_link(name)
        await books.drain(station)
        books.assert_arrived_once(expected, station)
        back_fill = _arrivals(station, device_id)[arrived_in_the_cut:]
        lanes = {alarm: [entry[1:] for entry in back_fill if entry[0] == alarm] for alarm in (False, True)}
        assert lanes[True], "no alarm in the back-fill"
        for alarm, lane in lanes.items():
            assert lane == sorted(lane), f"{'alarms' if alarm else 'routine records'} came out of order"
        old_alarms = [entry for entry in back_fill if entry[0] and (device_id, *entry[1:]) in expected]
        # What was on the wire when it was mended arrives though the alarm before it was lost: a window at most.
        for entry in old_alarms:
            before = [each for each in back_fill[: back_fill.index(entry)] if not each[0]]
            assert len(before) <= WINDOW, "a routine record overtook an alarm"


def _raise_alarm(station: Station, name: str) -> None:
    if name == "home":
        station.pins[name, "mains"].set(0)
    else:
        station.pins[name, "strap"].set(0)


def _arrivals(station: Station, device_id: int) -> list[tuple[bool, int, int]]:
    """(alarm, epoch, sequence) in the order in which the gateway committed them."""
    path = station.gateway_folder / "store.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as store:
        rows = store.execute(
            "SELECT alarm, epoch, sequence FROM records WHERE device_id = ? ORDER BY row_id", (device_id,)
        ).fetchall()
    return [(bool(alarm), epoch, sequence) for alarm, epoch, sequence in rows]


def test_ledger_counts_what_is_lost(tmp_path: object) -> None:
    """The account itself must be able to say that something is lost."""
    made = {(1, 0, 0), (1, 0, 1), (1, 0, 2)}
    assert ledger.compare(made, on_devices={(1, 0, 2)}, in_gateway={(1, 0, 0)}, in_backend=[(1, 0, 0)]).lost == 1
    assert ledger.compare(made, on_devices=set(), in_gateway=made, in_backend=[*made, (1, 0, 0)]).duplicates == 1
