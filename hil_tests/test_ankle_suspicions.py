"""On the rig: foil, jammers, and the dock; begun and ended, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from emrig import ledger
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import codec, constants

MINUTE_MS = 60_000


def _events(station: Station, name: str) -> list[codec.Event]:
    records = ledger.made(station.rig.devices[name].folder, station.device(name).device_id)
    decoded = [codec.decode(records[identity]) for identity in sorted(records)]
    ordinary = (constants.EVENT_ORDER_APPLIED, constants.EVENT_NO_FIX)
    return [m for m in decoded if isinstance(m, codec.Event) and m.event_type not in ordinary]


async def _minutes(station: Station, count: int) -> None:
    await station.rig.run(until_ms=station.clock.now_ms() + count * MINUTE_MS)


async def test_shielding_and_jamming_begin_and_end(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    ankle = ankle.model_copy(
        update={"configuration": {}, "receiver": "ubx", "track": ankle.track[:1], "no_sky": (("06:30", "06:45"),)}
    )
    station = make_station(busy_day.model_copy(update={"devices": (ankle,)}))
    async with station:
        receiver, modem = station.receivers[ankle.name], station.modems[ankle.name]
        await _minutes(station, 10)
        # A quarter of an hour without a cell, and one in a house: ordinary.
        modem.cut()
        await _minutes(station, 15)
        modem.restore()
        await _minutes(station, 25)
        assert _events(station, ankle.name) == []
        # A lorry with a jammer, heard once: one report, however many positions until the next.
        reported = receiver.counters["interference_reports"]
        receiver.jamming = (3, 230)
        while receiver.counters["interference_reports"] == reported:
            await station.rig.run(until_ms=station.clock.now_ms() + 10_000)
        receiver.jamming = (1, 12)
        await _minutes(station, 10)
        assert _events(station, ankle.name) == []
        receiver.jamming = (3, 230)
        await _minutes(station, 20)
        receiver.jamming = (1, 12)
        await _minutes(station, 20)
        modem.jammed = True
        modem.cut()
        await _minutes(station, 10)
        modem.jammed = False
        modem.restore()
        await _minutes(station, 10)
        events = _events(station, ankle.name)
    assert [event.event_type for event in events] == [
        constants.EVENT_GNSS_JAMMING_SUSPECTED,
        constants.EVENT_GNSS_JAMMING_ENDED,
        constants.EVENT_CELLULAR_JAMMING_SUSPECTED,
        constants.EVENT_CELLULAR_JAMMING_ENDED,
    ]
    assert events[0].value == 230 and 10 * 60 < events[1].value < 30 * 60


async def test_foil_round_the_tag(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    ankle = ankle.model_copy(
        update={"configuration": {}, "receiver": "ubx", "track": ankle.track[:1], "no_sky": (("06:20", "06:40"),)}
    )
    station = make_station(busy_day.model_copy(update={"devices": (ankle,)}))
    async with station:
        await _minutes(station, 20)
        station.cut_link(ankle.name)
        await _minutes(station, 20)
        station.restore_link(ankle.name)
        await _minutes(station, 15)
        events = _events(station, ankle.name)
    kinds = [event.event_type for event in events]
    assert kinds == [constants.EVENT_SHIELDING_SUSPECTED, constants.EVENT_SHIELDING_ENDED]
    assert 2 * 60 <= events[0].value <= 6 * 60 and 15 * 60 <= events[1].value <= 25 * 60


async def test_docked_at_home(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    """The dock's beacon is over the air, with the key that the gateway's configuration gave the tag."""
    ankle = next(device for device in busy_day.devices if device.model == "ankle_gps")
    dock = next(device for device in busy_day.devices if device.model == "pid")
    ankle = ankle.model_copy(
        update={"configuration": {}, "receiver": "ubx", "track": ankle.track[:1], "beacons": (dock.name,)}
    )
    dock = dock.model_copy(update={"away": (("07:00", "08:00"),)})
    station = make_station(busy_day.model_copy(update={"devices": (ankle, dock)}))
    async with station:
        receiver = station.receivers[ankle.name]
        await _minutes(station, 10)
        station.pins[ankle.name, "charger"].set(1)
        await _minutes(station, 10)
        awake_ms = receiver.awake_ms
        await _minutes(station, 35)
        assert receiver.awake_ms == awake_ms, "no positions while docked"
        await _minutes(station, 25)
        assert receiver.awake_ms > awake_ms, "the beacon has gone, the charger has not"
        events = _events(station, ankle.name)
    kinds = [event.event_type for event in events]
    assert kinds == [constants.EVENT_CHARGE_STARTED, constants.EVENT_DOCKED, constants.EVENT_UNDOCKED]
    assert events[1].subject_id == dock.device_id and events[2].evidence == b"\x02"
