"""How often the ankle tag's processor wakes: at most three times a position under open sky."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from emrig.scenario import Scenario
from emrig.station import Station

DEFAULT_INTERVALS = {"fix_interval_s": 60, "report_interval_s": 300, "status_interval_s": 3600}
SETTLED_MS = 600_000
MEASURED_MS = 3_600_000


@pytest.mark.parametrize("receiver", ["ubx", "nmea"])
async def test_at_most_three_wakes_a_position(
    busy_day: Scenario, make_station: Callable[..., Station], receiver: str
) -> None:
    """All wakes of the tag as it comes: positions, reports, battery, watchdog; docs/gnss.md says which."""
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    ankle = ankle.model_copy(
        update={"configuration": DEFAULT_INTERVALS, "receiver": receiver, "track": ankle.track[:1]}
    )
    station = make_station(busy_day.model_copy(update={"devices": (ankle,)}))
    station.rig.hold_s = 3.0  # a busy machine's delays are no wakes
    async with station:
        device = station.rig.devices[ankle.name]
        await station.rig.run(until_ms=SETTLED_MS)
        steps = device.steps
        await station.rig.run(until_ms=SETTLED_MS + MEASURED_MS)
        positions = MEASURED_MS // 60_000
        wakes = device.steps - steps
        awake_s = station.receivers[ankle.name].awake_ms / 1000
        print(f"{wakes} wakes, {wakes / positions:.2f} a position, receiver awake {awake_s:.0f} s")
        assert wakes <= 3 * positions
