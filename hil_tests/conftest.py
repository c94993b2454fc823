"""What the rig's own tests share: a station of the day's four devices, busier than the day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from emrig import interpreter, scenario
from emrig.scenario import Scenario
from emrig.station import Recordings, Station

BUSY = {
    "ankle_gps": {"report_interval_s": 60, "fix_interval_s": 15, "status_interval_s": 120},
    "home_unit": {"report_interval_s": 30, "presence_window_s": 30, "status_interval_s": 120},
    "alcohol": {"report_interval_s": 60, "sample_interval_s": 90, "status_interval_s": 120},
    "pid": {},
}
"""Intervals that make a record every few seconds somewhere, so that whatever is broken is broken under traffic."""


@pytest.fixture(scope="session")
def device_interpreter() -> interpreter.Interpreter:
    """MicroPython as the rig uses it."""
    try:
        return interpreter.find()
    except interpreter.InterpreterMissing as error:
        pytest.skip(f"needs MicroPython: {error}")


@pytest.fixture
def busy_day() -> Scenario:
    """The demo's devices with short intervals and no incidents of their own."""
    day = scenario.load(scenario.SCENARIOS / "day.toml")
    devices = tuple(
        device.model_copy(
            update={
                "configuration": BUSY[device.model],
                "strap_open": (),
                "mains_lost": (),
                "no_sky": (),
                "away": (),
            }
        )
        for device in day.devices
    )
    return day.model_copy(update={"devices": devices})


@pytest.fixture
def make_station(tmp_path: Path, device_interpreter: interpreter.Interpreter) -> Callable[..., Station]:
    """A station in a folder of its own; use it as an async context manager."""

    def make(day: Scenario, recordings: Recordings | None = None) -> Station:
        return Station(tmp_path / "station", day, device_interpreter, recordings)

    return make
