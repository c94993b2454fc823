"""A simulated week in virtual time: what a device holds in memory on its last day it held on its second.

The simulator's prompt asks the running device, once a day, after a collection. The week is as quiet as weeks are: no
incidents, and a report every two hours, so that it costs seconds; what leaks with each of them shows. Seven
hours at the default intervals, a position a minute and a pid heard, have as many reports as that week: there the prompt
asks every hour, and the same growth counts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from emrig import scenario
from emrig.micropython import rig_wire as w
from emrig.scenario import DeviceScenario
from emrig.simulate import CHANNEL
from emrig.station import Station
from emrig.target import Device

DAY_MS = 86_400_000
ASKED = 7  # times, in a week or seven hours
BUSY_MS = 60 * 60_000
QUIET = {
    "ankle_gps": {"report_interval_s": 7200, "fix_interval_s": 3600},
    "home_unit": {"presence_window_s": 7200},
    "alcohol": {"report_interval_s": 7200, "sample_interval_s": 3600},
    "pid": {},
}
# An object of one block (32 bytes on this 64-bit interpreter) leaked with each report would take 5 days of 12 times
# 32 bytes: 1,920, or 5 h of 12 an hour: 1,920. Somewhat less is left to what the journal knows of the records that
# are on flash.
GROWTH_BYTES = 1600


class Probe:
    """Asks a device what its heap holds."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.held: list[int] = []
        device.parts[CHANNEL] = self

    def ask(self) -> None:
        for line in (b"import gc", b"collected = gc.collect()", b"gc.mem_alloc()"):
            self._device.feed(CHANNEL, w.DATA, line)

    def output(self, kind: int, payload: bytes) -> None:
        if payload.strip().isdigit():
            self.held.append(int(payload))

    def call(self, operation: int, argument: bytes) -> bytes:
        return b""


def _uneventful(device: DeviceScenario, **changes: object) -> DeviceScenario:
    return device.model_copy(
        update={
            "track": device.track[:1],
            "strap_open": (),
            "mains_lost": (),
            "no_sky": (),
            "away": (),
            "drinking": (),
            "battery_percent_per_h": 0.0,
            **changes,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", list(QUIET))
async def test_nothing_grows_over_a_week(make_station: Callable[..., Station], model: str) -> None:
    # Nobody is at home with a home unit: two tokens in 10 s would be the week's whole work.
    quiet: dict[str, object] = {"configuration": QUIET[model], "beacons": ()}
    await _no_growth(make_station, [(model, quiet)], DAY_MS)


@pytest.mark.slow
async def test_nothing_grows_at_a_position_a_minute(make_station: Callable[..., Station]) -> None:
    await _no_growth(make_station, [("ankle_gps", {"configuration": {}, "beacons": ()})], BUSY_MS)


@pytest.mark.slow
async def test_nothing_grows_with_a_pid_in_range(make_station: Callable[..., Station]) -> None:
    await _no_growth(make_station, [("home_unit", {"configuration": {}}), ("pid", {"configuration": {}})], BUSY_MS)


async def _no_growth(
    make_station: Callable[..., Station], models: list[tuple[str, dict[str, object]]], every_ms: int
) -> None:
    """Of the first of these models with what is changed of each, asked so often."""
    day = scenario.load(scenario.SCENARIOS / "day.toml")
    by_model = {device.model: device for device in day.devices}
    chosen = [_uneventful(by_model[model], **changes) for model, changes in models]  # type: ignore[index]
    station = make_station(day.model_copy(update={"devices": tuple(chosen)}))
    station.more_identity[chosen[0].name] = {"repl": True}
    probes: list[Probe] = []
    station.on_wired = lambda: probes.append(Probe(station.rig.devices[chosen[0].name]))
    async with station:
        for count in range(1, ASKED + 1):
            station.clock.call_later(count * every_ms, probes[0].ask)
        await station.rig.run(until_ms=ASKED * every_ms + 60_000)
        assert not station.rig.counters["device_crashes"] + station.rig.counters["device_restarts"]
    held = probes[0].held
    assert len(held) == ASKED, held
    assert held[-1] - held[1] < GROWTH_BYTES, held
