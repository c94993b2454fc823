"""The pid's beacon on the air: nobody can follow it, and a copy of it is told to the backend with evidence."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable

import pytest
from emrig import ledger
from emrig.air import Air
from emrig.air.peripheral import DeviceRadio
from emrig.micropython import ble_wire as wire
from emrig.scenario import Scenario
from emrig.station import Station
from emwire import beacon, codec, constants

OBSERVER, THIEF = 0x7FFF0001, 0x7FFF0002
TOKEN_MS = 10_000
HOURS = 24


class Observer:
    """A radio that notes every advertisement it hears: (time, address, data)."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes, bytes]] = []

    async def listen(self, air: Air) -> None:
        def deliver(device_id: int, operation: int, payload: bytes) -> None:
            if operation == wire.IRQ_SCAN_RESULT:
                _, address, kind, _ = struct.unpack_from(wire.SCAN_RESULT, payload)
                assert kind == wire.ADV_NONCONN_IND, "a beacon that can be asked or connected tells more"
                self.heard.append((air.clock.now_ms(), address, payload[struct.calcsize(wire.SCAN_RESULT) :]))

        radio = await air.add_device(OBSERVER, deliver)
        call(radio, wire.CALL_ACTIVE, b"\1")
        call(radio, wire.CALL_SCAN, struct.pack(wire.SCAN, 0, 100_000, 100_000, True))


def call(radio: DeviceRadio, operation: int, payload: bytes) -> None:
    assert radio.handle_call(operation, payload)[0] == 0


def only(day: Scenario, *models: str) -> Scenario:
    return day.model_copy(update={"devices": tuple(d for d in day.devices if d.model in models)})


@pytest.mark.slow
async def test_a_day_of_beacons_has_nothing_in_common(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    station = make_station(only(busy_day, "pid"))
    observer = Observer()
    async with station:
        await observer.listen(station.air)
        await station.rig.run(until_ms=station.clock.now_ms() + HOURS * 3_600_000)
    tokens = {data: address for _, address, data in observer.heard}
    assert len(tokens) == pytest.approx(HOURS * 3_600_000 / TOKEN_MS, rel=0.01)
    assert len({address for _, address, _ in observer.heard}) == len(tokens), "an address outlives its token"
    assert all(address[0] >> 6 == 0 for address in tokens.values()), "not a non-resolvable private address"
    assert {(address, data) for _, address, data in observer.heard} == {(a, d) for d, a in tokens.items()}
    # Of the data, only what every pid of this version sends is constant: length, type, company, version.
    constant = beacon.SIZE - beacon.TOKEN_SIZE
    assert len({data[:constant] for data in tokens}) == 1 and {len(data) for data in tokens} == {beacon.SIZE}
    for size in (4, 6, 8, 16):
        pieces = Counter(data[at : at + size] for data in tokens for at in range(constant, beacon.SIZE - size + 1))
        # Four random bytes: 112,000 of 2^32 make one or two pairs by chance; no value is a habit.
        assert max(pieces.values()) <= (3 if size == 4 else 1), f"{size} bytes come back"
    for at in range(constant, beacon.SIZE):
        assert len({data[at] for data in tokens}) == 256, f"byte {at} does not take every value"


@pytest.mark.slow
async def test_a_copied_beacon_is_reported_with_evidence(
    busy_day: Scenario, make_station: Callable[..., Station]
) -> None:
    day = only(busy_day, "pid", "home_unit")
    pid = next(device for device in day.devices if device.model == "pid")
    station = make_station(day)
    observer = Observer()
    async with station:
        await observer.listen(station.air)
        await station.rig.run(until_ms=station.clock.now_ms() + 300_000)
        _, original, recorded = observer.heard[len(observer.heard) // 2]
        thief = await station.air.add_device(THIEF, lambda device_id, operation, payload: None)
        call(thief, wire.CALL_ACTIVE, b"\1")
        copy_address = bytes(reversed(bytes(thief.controller.random_address)))
        assert copy_address != original
        assert not copies(station)
        call(thief, wire.CALL_ADVERTISE, wire.pack_advertise(1_000_000, False, recorded, b""))
        end = station.clock.now_ms() + 600_000
        while not copies(station) and station.clock.now_ms() < end:
            await station.rig.run(until_ms=station.clock.now_ms() + 5_000)
        (event,) = copies(station)
    assert event.subject_id == pid.device_id
    address, counter, newest, rssi_dbm, authenticity = struct.unpack("<6sIIbB", event.evidence)
    assert address == copy_address, "the evidence names the copy's radio"
    assert counter < newest and -127 <= rssi_dbm <= 20
    assert authenticity in (constants.AUTHENTICITY_COPIED, constants.AUTHENTICITY_REPLAYED)


def copies(station: Station) -> list[codec.Event]:
    """BEACON_COPIED events in the backend."""
    messages = [codec.decode(payload) for payload in ledger.payloads(station.database).values()]
    return [m for m in messages if isinstance(m, codec.Event) and m.event_type == constants.EVENT_BEACON_COPIED]
