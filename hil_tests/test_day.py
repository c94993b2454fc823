"""The demo's day from end to end: what happens to the wearers is alleged, nothing else is, and no record is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime

import books
import pytest
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.clock import SystemClock
from emrig import scenario
from emrig.scenario import Scenario
from emrig.station import Station

TOLERANCE_S = 6 * 60
"""A presence window and a fix interval: how late a presence can show what happened; fixes come once a minute."""


def load_orders(station: Station) -> None:
    """Tell the backend what was ordered."""
    with closing(Backend(station.database, SystemClock())) as backend:
        backend.load_orders(station.scenario.orders)


@pytest.mark.slow
async def test_the_day_is_judged_by_its_records(make_station: Callable[..., Station]) -> None:
    day = scenario.load(scenario.SCENARIOS / "day.toml")
    station = make_station(day)
    load_orders(station)
    async with station:
        await station.rig.run(until_ms=round(day.duration_h * 3_600_000))
        expected = books.made(station)
        await books.drain(station)
        books.assert_arrived_once(expected, station)
    assert len(expected) > 500
    with Reader(station.database) as reader:
        alerts = {(alert["alertCode"] or alert["category"], alert["personId"]): alert for alert in reader.alerts()}
        assert len(alerts) == len(reader.alerts()), "one thing is alleged twice"
        devices = {device["deviceId"]: device for device in reader.devices()}
    assert set(alerts) == {
        ("Exclusion zone", "P-1001"),
        ("Strap cut", "P-1001"),
        ("AL04", "P-1002"),
        ("AL10", "P-1002"),
        ("Alcohol", "P-1003"),
    }
    ankle, home, pid = station.device("ankle"), station.device("home"), station.device("pid")
    bracelet = station.device("bracelet")
    starts_and_ends(day, alerts["Strap cut", "P-1001"], *ankle.strap_open[0])
    starts_and_ends(day, alerts["AL04", "P-1002"], *home.mains_lost[0])
    starts_and_ends(day, alerts["AL10", "P-1002"], *pid.away[1])
    inside = alerts["Exclusion zone", "P-1001"]
    assert inside["evidence"]["pointsInside"] >= 2
    starts_and_ends(day, inside, "12:24", "12:27", tolerance_s=2 * 60)
    assert alerts["Alcohol", "P-1003"]["peakMicrogramsPerLitre"] == pytest.approx(
        bracelet.drinking[0].peak_ug_per_l, rel=0.05
    )
    assert not sum(device["recordsMissing"] for device in devices.values())


def starts_and_ends(day: Scenario, alert: dict[str, str], begin: str, end: str, tolerance_s: int = TOLERANCE_S) -> None:
    """The alert's span is the scenario's, as far as records can show it."""
    for key, clock_time in (("startDate", begin), ("endDate", end)):
        happened = (day.start_unix_ms + day.offset_ms(clock_time)) / 1000
        said = datetime.fromisoformat(alert[key]).timestamp()
        assert abs(said - happened) <= tolerance_s, f"{alert['cause']}: {key} {alert[key]}, happened {clock_time}"
