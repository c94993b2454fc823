"""What the gateway's link does with peripherals that misbehave, with an air and a link in one process."""

import asyncio
import contextlib
import itertools
import struct

import pytest
from emgate.config import BleSection
from emgate.links import silence
from emgate.links.ble import MAXIMUM_OUTBOX, SERVICE_UUID, BleLink, Timing
from emrig.air import Air, HciServer
from emrig.clock import VirtualClock
from emrig.micropython import ble_wire as wire
from emwire import fragments

UUID = bytes.fromhex(SERVICE_UUID.replace("-", ""))[::-1]
ADVERTISEMENT = b"\2\1\6" + bytes((17, 7)) + UUID
NUS = [
    (wire.ITEM_SERVICE, 0, UUID),
    (wire.ITEM_CHARACTERISTIC, 0x0C, UUID[:12] + b"\2" + UUID[13:]),
    (wire.ITEM_CHARACTERISTIC, 0x10, UUID[:12] + b"\3" + UUID[13:]),
]


class Place:
    """An air, a gateway's link on it, peripherals by hand."""

    def __init__(self, folder, **timing):
        self.clock = VirtualClock(1_700_000_000_000)
        self.clock.uncertainty_ms = lambda: 0
        self.clock.elapsed_ms = self.clock.now_ms
        self.air = Air(self.clock)
        self.server = HciServer(self.air, folder / "hci")
        self.frames = []
        self.verdicts = []
        self.events = {}
        self.changed = asyncio.Event()
        settings = BleSection(backend="bumble", transport=f"unix:{self.server.path}")
        slots = timing.pop("slots", 4)
        self.link = BleLink(settings, self._received, self.clock, slots=slots, timing=Timing(**timing))

    def _received(self, link, device_id, frame):
        self.frames.append((device_id, frame))
        self.changed.set()
        link.proven(device_id)
        verdict = asyncio.get_running_loop().create_future()
        self.verdicts.append(verdict)
        return verdict

    def _deliver(self, device_id, operation, payload):
        self.events.setdefault(device_id, []).append((operation, payload))
        self.changed.set()

    def call(self, device_id, operation, payload=b""):
        answer = self.air.handle_call(device_id, operation, payload)
        assert answer[0] == 0
        return answer[1:]

    async def peripheral(self, device_id, items=NUS, mtu=247):
        await self.air.add_device(device_id, self._deliver)
        self.call(device_id, wire.CALL_ACTIVE, b"\1")
        self.call(device_id, wire.CALL_MTU, struct.pack("<H", mtu))
        handles = struct.unpack(
            f"<{max(0, len(items) - 1)}H", self.call(device_id, wire.CALL_REGISTER, wire.pack_items(items))
        )
        self.advertise(device_id)
        return handles

    def advertise(self, device_id):
        self.call(device_id, wire.CALL_ADVERTISE, wire.pack_advertise(1_000_000, True, ADVERTISEMENT, b""))

    async def until(self, condition, step_ms=100):
        """Let virtual time pass, a step per 2 ms, until the condition holds."""
        async with asyncio.timeout(20):
            while not condition():
                self.clock.advance(self.clock.now_ms() + step_ms)
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.002):
                        await self.changed.wait()

    def seen(self, device_id, operation):
        return [payload for event, payload in self.events.get(device_id, []) if event == operation]

    async def ready(self, device_id):
        """Connected, and the gateway said that it listens; returns the connection's handle."""
        await self.until(lambda: any(len(p) == 4 for p in self.seen(device_id, wire.IRQ_GATTS_WRITE)))
        return struct.unpack_from("<H", self.seen(device_id, wire.IRQ_CENTRAL_CONNECT)[-1])[0]

    def notify(self, device_id, connection, handle, data):
        self.call(device_id, wire.CALL_NOTIFY, struct.pack("<HH", connection, handle) + data)


@pytest.fixture
async def places(tmp_path):
    running = []

    async def make(**timing):
        place = Place(tmp_path, **timing)
        await place.server.start()
        task = asyncio.ensure_future(place.link.run())
        running.append((place, task))
        await place.link.up.wait()
        return place

    yield make
    for place, task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task
        assert not place.link.up.is_set()
        await place.server.close()
        assert not place.air.link.controllers - {radio.controller for radio in place.air.radios.values()}


async def test_a_peripheral_without_the_service_is_left_alone_ever_longer(places):
    place = await places(back_off_ms=10_000)
    await place.peripheral(7, items=[])
    times = []

    def connected_times():
        count = len(place.seen(7, wire.IRQ_CENTRAL_DISCONNECT))
        if count > len(times):
            times.append(place.clock.now_ms())
            place.advertise(7)  # as its firmware would
        return count

    await place.until(lambda: connected_times() == 4, step_ms=500)
    assert place.link.counters["connect_failed"] >= 3
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # Less a step, by which the disconnection may be seen late.
    assert all(gap >= wanted - 500 for gap, wanted in zip(gaps, (10_000, 20_000, 40_000), strict=True))


async def test_frames_and_garbage(places):
    place = await places()
    _, tx = await place.peripheral(7)
    connection = await place.ready(7)
    for data in (b"", b"\x00", b"\x05stray", b"\xc0bad crc", b"\x80begun", b"\x83begun anew"):
        place.notify(7, connection, tx, data)
    for part in fragments.fragment(b"abc", 20):  # shorter than a device id
        place.notify(7, connection, tx, part)
    for part in fragments.fragment(struct.pack("<I", 7) + b"frame", 20):
        place.notify(7, connection, tx, part)
    await place.until(lambda: bool(place.frames))
    assert place.frames == [(7, b"frame")]
    assert place.link.counters["short"] == 1
    place.verdicts[0].set_result(True)
    # Down: fragments with the CRC, as the device's own reassembler wants them.
    assert await place.link.send(7, b"down" * 100)
    reassembler = fragments.Reassembler()
    got = []

    def complete():
        writes = [p[4:] for p in place.seen(7, wire.IRQ_GATTS_WRITE) if len(p) > 4]
        got[:] = [d for d in (reassembler.feed(w) for w in writes) if d]
        return bool(got)

    await place.until(complete)
    assert got == [struct.pack("<I", 7) + b"down" * 100]
    place.call(7, wire.CALL_DISCONNECT, struct.pack("<H", connection))
    await place.until(lambda: place.link.counters["fragments_damaged"] > 0)
    assert place.link.counters["fragments_stray"] == 1 and place.link.counters["fragments_interrupted"] >= 1
    assert not await place.link.send(7, b"too late")


async def test_sending_is_bounded(places):
    place = await places()
    _, tx = await place.peripheral(7)
    assert not await place.link.send(7, b"nobody there yet")
    connection = await place.ready(7)
    for part in fragments.fragment(struct.pack("<I", 7) + b"frame", 244):
        place.notify(7, connection, tx, part)
    await place.until(lambda: bool(place.frames))
    # No await between: nothing is written meanwhile.
    sent = [coroutine.send for coroutine in (place.link.send(7, bytes(1000)) for _ in range(MAXIMUM_OUTBOX + 5))]
    results = []
    for send in sent:
        try:
            send(None)
        except StopIteration as stop:
            results.append(stop.value)
    assert results == [True] * MAXIMUM_OUTBOX + [False] * 5
    assert place.link.counters["send_queue_full"] == 5


async def test_an_overlong_frame_is_refused(places):
    place = await places()
    _, tx = await place.peripheral(7)
    connection = await place.ready(7)
    for part in fragments.fragment(struct.pack("<I", 7) + b"frame", 244):
        place.notify(7, connection, tx, part)
    await place.until(lambda: bool(place.frames))
    assert not await place.link.send(7, bytes(1021))
    assert await place.link.send(7, bytes(1020))
    assert place.link.counters["too_long"] == 1


async def test_frames_that_are_not_dealt_with_are_bounded(places):
    place = await places()
    _, tx = await place.peripheral(7)
    connection = await place.ready(7)
    for number in range(70):
        for part in fragments.fragment(struct.pack("<II", 7, number), 244):
            place.notify(7, connection, tx, part)
        await place.until(
            lambda number=number: len(place.frames) > number or place.link.counters["receive_overrun"] > 0
        )
        if place.link.counters["receive_overrun"]:
            break
    assert len(place.frames) == 64
    place.verdicts[0].set_result(False)
    for part in fragments.fragment(struct.pack("<II", 7, 99), 244):
        place.notify(7, connection, tx, part)
    await place.until(lambda: len(place.frames) == 65)


async def test_an_idle_tag_makes_room_for_one_that_waits(places):
    place = await places(slots=1, idle_ms=5_000)
    await place.peripheral(7)
    await place.ready(7)
    await place.until(lambda: place.clock.now_ms() > 60_000, step_ms=1000)
    assert not place.seen(7, wire.IRQ_CENTRAL_DISCONNECT)  # nobody waits
    await place.peripheral(8)
    await place.ready(8)
    assert len(place.seen(7, wire.IRQ_CENTRAL_DISCONNECT)) == 1
    assert place.link.statistics["connections"] == 2


async def test_a_connection_that_says_nothing_ends(places):
    place = await places(maximum_idle_ms=100_000)
    await place.peripheral(7)
    await place.ready(7)
    begun_ms = place.clock.now_ms()
    await place.until(lambda: bool(place.seen(7, wire.IRQ_CENTRAL_DISCONNECT)), step_ms=1000)
    assert place.clock.now_ms() - begun_ms >= 99_000  # counted from a moment before this peripheral was told


async def test_scanning_is_started_anew_when_nothing_is_heard(places):
    place = await places(refresh_s=0.05)
    await place.until(lambda: place.link.statistics["scans"] >= 4)
    assert place.link.up.is_set()
    await place.peripheral(7)
    await place.ready(7)


async def test_the_adapter_goes_during_traffic(places):
    place = await places()
    await place.peripheral(7)
    await place.ready(7)
    place.server.drop()
    await place.until(lambda: bool(place.seen(7, wire.IRQ_CENTRAL_DISCONNECT)))
    await place.until(lambda: not place.link.up.is_set())
    assert not await place.link.send(7, b"x")


async def test_strangers_are_heard_and_their_silence_is_deaf_time(places):
    place = await places(watch_s=0.002)
    link = place.link
    for number in range(50, 60):
        await place.air.add_device(number, place._deliver)
        place.call(number, wire.CALL_ACTIVE, b"\1")
        place.call(number, wire.CALL_ADVERTISE, wire.pack_advertise(1_000_000, False, b"\2\1\6", b""))
    for _ in range(60 * silence.LEAST_HOURS):
        for number in range(10):
            link.ears.heard(str(number))
        for _ in range(6):
            link.ears.listened(10_000)
    await place.until(lambda: len(link._seen) == 10)
    assert not link.ears.silent
    for number in range(50, 60):
        place.call(number, wire.CALL_ACTIVE, b"\0")
    await place.until(lambda: not link.up.is_set(), step_ms=500)  # opened anew, in case the controller is to blame
    assert link.statistics["silences"] == link.counters["adapter_resets"] == 1
    assert link.ears.silent and link.statistics["deaf_nothing_heard_ms"] > 0
