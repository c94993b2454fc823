"""Compares what devices made with what arrived; shared by the tests that break things."""

from __future__ import annotations

from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emrig.taps import Tap

DRAIN_MS = 3 * 3_600_000
"""Virtual time in which everything must have arrived: several of the longest back-offs."""


def tap_all(station: Station, day: Scenario) -> list[Tap]:
    """A tap on every device; they listen once the station has started."""
    taps: list[Tap] = []
    station.on_wired = lambda: taps.extend(Tap(station, device.name) for device in day.devices)
    return taps


def made(station: Station) -> dict[ledger.Identity, bytes]:
    """Every record that any device completed, with its payload."""
    records: dict[ledger.Identity, bytes] = {}
    for device in station.scenario.devices:
        records |= ledger.made(station.rig.devices[device.name].folder, device.device_id)
    return records


async def drain(station: Station, expected: dict[ledger.Identity, bytes] | None = None) -> None:
    """Run until the backend has every expected record: by default, every one that exists now."""
    wanted = (made(station) if expected is None else expected).keys()
    end = station.clock.now_ms() + DRAIN_MS
    while not wanted <= set(ledger.delivered(station.database)) and station.clock.now_ms() < end:
        await station.rig.run(until_ms=station.clock.now_ms() + 30_000)


def assert_arrived_once(expected: dict[ledger.Identity, bytes], station: Station) -> None:
    """Every expected record is in the backend once, with the bytes that the device made."""
    identities = ledger.delivered(station.database)
    assert len(identities) == len(set(identities)), "a record is in the backend twice"
    arrived = ledger.payloads(station.database)
    missing = sorted(expected.keys() - arrived.keys())
    assert not missing, f"{len(missing)} of {len(expected)} records are lost, first {missing[:5]}"
    changed = [identity for identity, payload in expected.items() if arrived[identity] != payload]
    assert not changed, f"arrived with other content: {changed[:5]}"
