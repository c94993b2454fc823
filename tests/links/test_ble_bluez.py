"""The BLE link through bleak's own BlueZ backend, against a small org.bluez on a private D-Bus."""

import asyncio
import contextlib
import json
import math
import shutil
import struct
from pathlib import Path

import pytest

if shutil.which("dbus-daemon") is None:
    pytest.skip("needs dbus-daemon", allow_module_level=True)

from bluez_mock import bluez, private_bus, pump
from emgate.config import BleSection
from emgate.links import ble, listening, silence
from emgate.links.ble import BleLink, Timing
from emgate.links.listening import Ledger
from emgate.links.silence import Ears
from emwire import codec, constants
from gateway_kit import DEVICE, GatewayProcess, Tag, event_record, identities, status_record, toml
from hypothesis import given, settings
from hypothesis import strategies as st
from links_kit import PATIENCE_S, Heard, supervised, until, up
from pydantic import ValidationError
from test_serial_link import Taker

QUICK = Timing(idle_ms=200, pause_ms=100, back_off_ms=50, retry_s=0.02, watch_s=0.02)


class Judge(Taker):
    """A session that takes every frame for a device's own, but those that begin with `forged`."""

    def __call__(self, link, device_id, frame):
        if not frame.startswith(b"forged"):
            link.proven(device_id)
        return super().__call__(link, device_id, frame)


class SteppedClock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.ms = 1_780_000_000_000
        self.set_by_ms = 0

    def now_ms(self) -> int:
        return self.ms + self.set_by_ms

    def elapsed_ms(self) -> int:
        return self.ms

    def uncertainty_ms(self) -> int:
        return 5


class RealClock(SteppedClock):
    def now_ms(self) -> int:
        return self.ms + self.elapsed_ms()

    def elapsed_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)


@pytest.fixture
async def bus(monkeypatch):
    async with private_bus() as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        yield address


@pytest.fixture
async def world(bus):
    async with bluez(bus) as world:
        yield world


@contextlib.asynccontextmanager
async def linked(taker, *, heard=None, slots=4, timing=QUICK, clock=None, kept=None, **section):
    settings = BleSection(**section)
    link = BleLink(settings, taker, clock or RealClock(), slots=slots, timing=timing, events=heard, kept=kept)
    async with supervised(link, events=heard) as supervisor:
        yield link, supervisor


async def ready(device) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await device.ready.wait()


# -- records ----------------------------------------------------------------------------------------------------


async def test_records_of_tags_arrive_in_the_gateways_store_and_backend(tmp_path: Path, world) -> None:
    tags = [Tag(tmp_path / "a"), Tag(tmp_path / "b", device_id=DEVICE + 1)]
    devices = [world.add(1, mtu=247), world.add(2, mtu=23)]  # one has only what every connection carries
    gateway = GatewayProcess(tmp_path, toml(links='[ble]\nbackend = "bluez"\ntransport = "hci0"', devices=2))
    facts = await gateway.start()
    assert facts["links"] == {"ble:hci0": "up"}
    pumps = [asyncio.create_task(pump(tag, device)) for tag, device in zip(tags, devices, strict=True)]
    made = []
    for number in range(30):
        for tag in tags:
            alarm = number % 7 == 0
            payload = event_record(number) if alarm else status_record(number)
            made.append((tag.device_id, 1, tag.record(payload, alarm)))
    for tag in tags:
        await tag.until_delivered()
    devices[0].drop()  # out of range
    made.append((DEVICE, 1, tags[0].record(status_record(99))))
    for each in pumps:
        each.cancel()
    await asyncio.wait(pumps)
    pumps = [asyncio.create_task(pump(tags[0], devices[0]))]
    await tags[0].until_delivered()
    pumps[0].cancel()
    await asyncio.wait(pumps)
    assert await gateway.stop() == 0
    assert identities(gateway.store) == sorted(made)
    assert identities(gateway.backend) == sorted(made)
    kept = json.loads((gateway.folder / "state" / "ble-known").read_text())
    assert kept == {str(tag.device_id): device.address for tag, device in zip(tags, devices, strict=True)}
    assert max(devices[1].written_sizes) == 20, "no write is longer than the connection carries"
    assert max(devices[0].written_sizes) > 20


async def test_a_burst_of_notifications_arrives_whole_and_in_order(world) -> None:
    device, taker = world.add(1), Taker()
    async with linked(taker):
        await ready(device)
        for number in range(60):  # 300 notifications in one go
            device.send(7, struct.pack("<I", number) + bytes(1000))
        await taker.until(60)
        assert [struct.unpack_from("<I", frame)[0] for _, frame in taker.frames] == list(range(60))


async def test_an_answer_goes_where_its_question_came_from(world) -> None:
    """Another tag that names itself like this one gets nothing of its answers, and keeps none back."""
    real, liar, taker = world.add(1), world.add(2), Taker()
    links = []

    def received(link, device_id, frame):
        links.append(link)
        return taker(link, device_id, frame)

    got = {real: [], liar: []}
    for device, into in got.items():
        device.arrived = into.append
    async with linked(received):
        await ready(real)
        await ready(liar)
        real.send(7, b"authentic")
        await taker.until(1)
        liar.send(7, b"forged")
        await taker.until(2)
        assert await links[0].send(7, b"the answer")
        await until(lambda: bool(got[real]))
        assert got == {real: [struct.pack("<I", 7) + b"the answer"], liar: []}
        real.drop()
        await until(lambda: not links[0].up.is_set())
        assert not await links[0].send(7, b"gone")


async def test_a_peer_that_sends_rubbish_is_hung_up_and_left_alone(world) -> None:
    liar, good, taker = world.add(1), world.add(2), Taker()
    async with linked(taker, timing=Timing(back_off_ms=60_000, watch_s=0.02)) as (link, _):
        await ready(liar)
        await ready(good)
        for _ in range(150):
            liar.tx.notify(b"\x05no fragment of anything")
        await until(lambda: not liar.connected)
        assert link.counters["rubbish"] == 1
        good.send(7, b"works on")
        await taker.until(1)
        assert liar.connections == 1 and good.connected


async def test_more_frames_than_may_wait_for_their_commit_are_counted(world) -> None:
    device, taker = world.add(1), Taker(holding=True)
    async with linked(taker) as (link, _):
        await ready(device)
        for number in range(80):
            device.send(7, struct.pack("<I", number) + bytes(20))
        await until(lambda: link.counters["receive_overrun"] == 16)
        assert len(taker.frames) == 64


async def test_slots_are_bounded_and_everybody_has_a_turn(world) -> None:
    """Three slots, eight tags that never fall silent; and the time of day set back in the middle."""
    taker = Judge()
    devices = [world.add(number) for number in range(8)]
    timing = Timing(idle_ms=60_000, turn_ms=100, pause_ms=300, back_off_ms=50, watch_s=0.02)

    async def talk(device) -> None:
        while True:
            await device.ready.wait()
            with contextlib.suppress(OSError):
                device.send(device.number + 1, b"still here")
            await asyncio.sleep(0.02)

    clock = RealClock()
    async with linked(taker, slots=3, timing=timing, clock=clock) as (link, _):
        talking = [asyncio.create_task(talk(device)) for device in devices]
        await until(lambda: all(device.connections >= 1 for device in devices))
        clock.ms -= 86_400_000
        await until(lambda: all(device.connections >= 3 for device in devices))
        for task in talking:
            task.cancel()
        assert world.most_connected <= 3
        assert {device_id for device_id, _ in taker.frames} == set(range(1, 9))
        assert link.statistics["turns_ended"] >= 8


async def test_a_tag_that_cannot_be_connected_to_does_not_stop_the_others(world) -> None:
    broken, good, taker, heard = world.add(1), world.add(2), Taker(), Heard()
    broken.refuses_connections = True
    async with linked(taker, heard=heard) as (link, supervisor):
        await ready(good)
        await until(lambda: link.counters["connect_failed"] >= 3)
        assert not supervisor.restarts and not heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)


# -- a neighbour with a radio -----------------------------------------------------------------------------------


async def speaks(device, device_id: int, what: bytes, every_s: float = 0.01) -> None:
    while True:
        await device.ready.wait()
        with contextlib.suppress(OSError):
            device.send(device_id, what)
        await asyncio.sleep(every_s)


async def test_tags_are_served_among_addresses_that_never_answer_or_forge(world) -> None:
    """Some advertise and never answer, others connect and send whole datagrams under a tag's number. A tag that is
    connected stays, one that comes back is reached at once, and one that was never heard before has its turn."""
    taker, heard = Judge(), Heard()
    timing = Timing(
        idle_ms=2_000, pause_ms=50, back_off_ms=500, connect_timeout_s=1.0, stranger_timeout_s=0.15, prove_ms=150,
        turn_ms=5_000, heard_ms=2_000, watch_s=0.02,
    )  # fmt: skip
    stays, returns, new = (world.add(number) for number in (1, 2, 3))
    new.advertises = False
    async with linked(taker, heard=heard, timing=timing) as (link, supervisor):
        for tag in (stays, returns):
            await ready(tag)
            tag.send(tag.number, b"authentic")
        await taker.until(2)
        for number in range(100, 106):
            world.add(number).given_up = asyncio.Event()
        forgers = [world.add(number) for number in range(200, 204)]
        talking = [asyncio.create_task(speaks(forger, 1, b"forged")) for forger in forgers]
        talking.append(asyncio.create_task(speaks(stays, 1, b"still here")))
        made_up = [device for device in world.devices if device.number >= 100]
        await until(lambda: sum(device.attempts + device.connections for device in made_up) >= 6)
        for _ in range(2):
            tried = sum(device.attempts for device in made_up)
            returns.drop()
            await until(lambda: not returns.connected)
            await ready(returns)
            returns.send(2, b"authentic")
            assert sum(device.attempts for device in made_up) - tried <= 3, "one under way, and hardly more"
        new.advertises = True
        await until(lambda: new.connected)
        await ready(new)
        new.send(3, b"authentic")
        await until(lambda: (3, b"authentic") in taker.frames)
        for task in talking:
            task.cancel()
        assert stays.connections == 1
        assert not supervisor.restarts and not link.counters["adapter_resets"]
        assert link.statistics["strangers_ended"] > 0


async def test_who_is_known_is_known_after_a_restart(world, tmp_path: Path) -> None:
    kept, taker, tag = tmp_path / "ble-known", Judge(), world.add(1)
    async with linked(taker, kept=kept) as (link, _):
        assert link._choice.knows_nobody
        await ready(tag)
        tag.send(7, b"authentic")
        await taker.until(1)
    async with linked(taker, kept=kept) as (link, _):
        assert link._choice.knows(tag.address)


# -- pairing ----------------------------------------------------------------------------------------------------


async def test_pairing_when_configured_and_anew_when_the_tag_has_lost_its_bond(world) -> None:
    device, taker = world.add(1), Taker()
    async with linked(taker, pair=True) as (link, _):
        await ready(device)
        assert device.paired
        device.peer_lost_bond = True
        device.drop()
        await until(lambda: world.adapter.removed == [device.path])
        await ready(device)
        assert device.paired and link.counters["bond_dropped"] == 1


async def test_without_it_nobody_is_paired(world) -> None:
    device = world.add(1)
    async with linked(Taker()):
        await ready(device)
        assert not device.paired
    with pytest.raises(ValidationError, match="only BlueZ pairs"):
        BleSection(backend="bumble", pair=True)


# -- the ledger -------------------------------------------------------------------------------------------------


async def test_bluez_own_pauses_are_deaf_time(world) -> None:
    clock, heard = SteppedClock(), Heard()
    async with linked(Taker(), heard=heard, clock=clock) as (link, _):
        for _ in range(4):
            await until(lambda: link.ledger.state == constants.DEAF_NONE)
            clock.ms += 10_240
            world.adapter.listen(False)  # the kernel's own end of a discovery
            await until(lambda: link.ledger.state == constants.DEAF_ASLEEP)
            clock.ms += 5_000
            world.adapter.listen(True)
        await until(lambda: link.ledger.state == constants.DEAF_NONE)
        assert link.statistics["listened_ms"] == 4 * 10_240
        assert link.statistics["deaf_asleep_ms"] == 4 * 5_000
        clock.ms += (listening.PERIOD_S - 61) * 1000 + 40
        await until(lambda: bool(heard.records))
    (record,) = heard.records
    told = codec.decode(record.encode())
    assert isinstance(told, codec.Listening)
    assert told.period_duration_s == 900
    ((receiver, listened_s, deaf_s, cause),) = [
        (each.receiver, each.listened_s, each.deaf_s, each.deaf_cause) for each in told.receivers
    ]
    assert (receiver, listened_s, deaf_s, cause) == (constants.RECEIVER_BLE, 880, 20, constants.DEAF_ASLEEP)


async def test_time_without_an_adapter_is_deaf_time_too(bus) -> None:
    clock = SteppedClock()
    async with linked(Taker(), clock=clock) as (link, supervisor):
        assert "BlueZ cannot be used" in str(supervisor.last_reason)
        clock.ms += 7_000
        async with bluez(bus):
            await up(link)
            clock.ms += 2_000
    assert link.statistics["deaf_fault_ms"] == 7_000
    assert link.statistics["listened_ms"] == 2_000


@pytest.mark.parametrize(
    "steps",
    [
        [(constants.DEAF_NONE, 899_500), (constants.DEAF_BUSY, 700), (constants.DEAF_ASLEEP, 300)],
        [(constants.DEAF_BUSY, 450_001), (constants.DEAF_ASLEEP, 450_001)],
        [(constants.DEAF_FAULT, 80_000_000)],
        [(constants.DEAF_NONE, 900_000)],
    ],
)
def test_a_ledger_accounts_for_every_second_of_its_period(steps) -> None:
    clock, heard = SteppedClock(), Heard()
    ledger = Ledger(clock, listening.Counter(), heard, constants.RECEIVER_BLE)
    for state, ms in steps:
        ledger.now(state)
        clock.ms += ms
    ledger.told()
    assert len(heard.records) == sum(ms for _, ms in steps) // 900_000
    for record in heard.records:
        told = codec.decode(record.encode())
        assert isinstance(told, codec.Listening)
        assert sum(each.listened_s + each.deaf_s for each in told.receivers) == told.period_duration_s == 900
        assert all(each.listened_s == 0 for each in told.receivers[1:])
    ledger.told()
    assert len(heard.records) == sum(ms for _, ms in steps) // 900_000


@pytest.mark.parametrize("step_ms", [-86_400_000, 8 * 3_600_000, 2_000, 365 * 86_400_000])
def test_a_clock_that_is_set_takes_nothing_from_the_ledger_and_adds_nothing(step_ms: int) -> None:
    clock, heard, statistics = SteppedClock(), Heard(), listening.Counter()
    ledger = Ledger(clock, statistics, heard, constants.RECEIVER_BLE)
    ledger.now(constants.DEAF_NONE)
    clock.ms += 100_000
    ledger.told()
    clock.set_by_ms = step_ms
    ledger.told()
    clock.ms += 900_000
    ledger.told()
    assert statistics["listened_ms"] == 1_000_000
    assert [record.period_duration_s for record in heard.records] == [100, 900]
    assert heard.records[1].period_start_s - heard.records[0].period_start_s == 100 + step_ms // 1000


# -- silence where somebody always is heard -------------------------------------------------------------------------


def lived_in(ears: Ears, senders: int, minutes: int = silence.LEAST_HOURS * 60) -> None:
    for _ in range(minutes):
        for number in range(senders):
            ears.heard(str(number))
        for _ in range(6):
            ears.listened(10_000)


async def test_silence_in_a_lively_place_is_deaf_time_and_told_with_its_evidence(world) -> None:
    """Foil around the gateway: the adapter scans on, and nobody is heard, tag or stranger."""
    clock, heard = SteppedClock(), Heard()
    strangers = [world.add_stranger(number) for number in range(100, 108)]
    async with linked(Taker(), heard=heard, clock=clock) as (link, supervisor):
        lived_in(link.ears, len(strangers))
        started_ms = clock.ms
        await until(lambda: len(link._seen) == len(strangers))
        for stranger in strangers:
            stranger.advertises = False
        await asyncio.sleep(0.1)  # what the mock has sent already
        link.ledger.told()
        assert link.ears.silent_ms == 0, "strangers count"
        while not link.ears.silent:
            clock.ms += 5_000
            link.ledger.told()
        await until(lambda: world.adapter.power_changes == [True, False, True])  # is it the adapter's own fault?
        ((value, evidence),) = heard.of(constants.EVENT_GATEWAY_HEARS_NOTHING)
        assert (value, evidence) == (210, b"ble:bluez\nusually 8.0 senders/min"), "13.8 / (8 - 4) minutes"
        assert heard.alarms[-2:] == [True, False] and heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)
        await until(lambda: link.ledger.state == constants.DEAF_NONE)
        clock.ms += 5_000
        await until(lambda: link.statistics["deaf_nothing_heard_ms"] == 10_000)
        for stranger in strangers:
            stranger.advertises = True
        await until(lambda: not link.ears.silent)
        await until(lambda: bool(heard.of(constants.EVENT_GATEWAY_HEARS_AGAIN)))
        assert heard.of(constants.EVENT_GATEWAY_HEARS_AGAIN) == [(215, b"ble:bluez")]
        while not heard.records:
            link.ears.heard("anybody")
            clock.ms += 10_000
            link.ledger.told()
        assert not supervisor.restarts
    told = codec.decode(heard.records[0].encode())
    assert isinstance(told, codec.Listening)
    assert told.period_start_s == started_ms // 1000 - constants.TIME_EPOCH_UNIX_S
    assert [(each.listened_s, each.deaf_s, each.deaf_cause) for each in told.receivers] == [
        (900 - 215, 215, constants.DEAF_NOTHING_HEARD)
    ], "since the last thing heard, and not since the finding"


async def test_a_made_up_crowd_is_forgotten(world, monkeypatch) -> None:
    """Every address that bleak has seen is kept while it scans: so scanning is begun anew."""
    monkeypatch.setattr(ble, "MAXIMUM_SEEN", 5)
    for number in range(8):
        world.add_stranger(number)
    async with linked(Taker()) as (link, _):
        await until(lambda: link.statistics["scans"] >= 3)


@given(
    st.integers(0, 12),
    st.integers(23, 25),
    st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 15).map(lambda n: not n)), max_size=200),
)
@settings(max_examples=25, deadline=None)
def test_silence_is_found_in_lively_places_only_and_ends_with_the_first_thing_heard(senders, hours, steps) -> None:
    ears = Ears()
    lived_in(ears, senders, 60 * hours)
    assert not ears.silent
    assert (ears.bound_ms is not None) == (hours >= silence.LEAST_HOURS and senders > silence.CARRIED)
    for step_ms, anybody in steps:
        if anybody:
            ears.heard("x")
        silent, before_ms = ears.silent, ears.silent_ms
        ears.listened(step_ms)
        assert ears.silent_ms == (0 if anybody else before_ms + step_ms)
        if anybody:
            assert not ears.silent
        elif ears.silent and not silent:
            assert ears.bound_ms is not None and ears.silent_ms >= ears.bound_ms >= silence.LEAST_SILENCE_MS
            assert math.exp(-(ears.usual - silence.CARRIED) * ears.silent_ms / 60_000) <= silence.IMPROBABLE * 1.001


@pytest.mark.parametrize(
    ("senders", "hours", "bound_ms"),
    [(8, 23, None), (4, 24, None), (5, 24, 828_931), (8, 24, 207_233), (60, 24, 180_000)],
)
def test_how_long_a_silence_must_be(senders: int, hours: int, bound_ms: int | None) -> None:
    """Nothing before a day has been learnt, and nothing where one person may be everybody."""
    ears = Ears()
    lived_in(ears, senders, 60 * hours)
    assert ears.bound_ms == bound_ms


def test_the_quietest_hour_counts_and_what_was_silence_is_not_learnt() -> None:
    ears = Ears()
    lived_in(ears, 20, 23 * 60)
    lived_in(ears, 5, 60)
    assert (ears.usual, ears.silent) == (5, False)
    lived_in(ears, 0, 600)
    assert (ears.usual, ears.silent) == (5, True)
    ears.heard("x")
    ears.listened(3_600_000)
    assert not ears.silent
    ears.listened(3_600_000)
    assert ears.silent_ms == 0, "a process that stood still for an hour was not listening"


# -- a stuck adapter --------------------------------------------------------------------------------------------


async def test_an_adapter_that_does_not_scan_is_switched_off_and_on_and_told(world) -> None:
    world.adapter.refuse_discovery = 1000
    device, heard = world.add(1), Heard()
    async with linked(Taker(), heard=heard) as (link, supervisor):
        await ready(device)
        assert world.adapter.power_changes == [True, False, True]
        ((_, evidence),) = heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)
        assert evidence.startswith(b"ble:bluez\nscanning cannot be started")
        assert (link.counters["scan_failed"], link.counters["adapter_resets"]) == (3, 1)
        assert not supervisor.restarts


async def test_an_adapter_that_scans_without_listening_is_reset(world) -> None:
    heard = Heard()
    timing = Timing(deaf_s=0.1, watch_s=0.02)
    async with linked(Taker(), heard=heard, timing=timing) as (link, _):
        await up(link)
        world.adapter.listen(False)
        await until(lambda: world.adapter.discovering)
        assert b"it scans and has not listened" in heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)[0][1]
        assert world.adapter.power_changes[1:] == [False, True]


async def test_four_tags_in_a_row_that_nobody_reaches_are_the_adapters_fault(world) -> None:
    """But not while another tag is heard over its connection."""
    heard, taker = Heard(), Judge()
    tags = [world.add(number) for number in range(1, 6)]
    talking = [asyncio.create_task(speaks(tag, tag.number, b"here")) for tag in tags]
    timing = Timing(pause_ms=50, back_off_ms=50, connect_timeout_s=0.1, watch_s=0.02)
    async with linked(taker, heard=heard, slots=5, timing=timing) as (link, _):
        await until(lambda: {device_id for device_id, _ in taker.frames} == {1, 2, 3, 4, 5})
        for tag in tags[1:]:
            tag.given_up = asyncio.Event()
            tag.drop()
        await until(lambda: link.counters["connect_failed"] >= 8)
        assert not heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET) and tags[0].connections == 1
        for task in talking:
            task.cancel()
        await until(lambda: bool(heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)))
        assert b"none of 4 tags" in heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)[0][1]


async def test_strangers_that_nobody_reaches_say_it_once_and_never_where_a_tag_is_known(world) -> None:
    heard, tag = Heard(), world.add(1)
    for number in range(2, 8):
        world.add(number).refuses_connections = True
    tag.advertises = False
    async with linked(Judge(), heard=heard) as (link, _):
        await until(lambda: bool(heard.of(constants.EVENT_GATEWAY_ADAPTER_RESET)))
        await until(lambda: link.counters["connect_failed"] >= 12)
        assert link.counters["adapter_resets"] == 1
        tag.advertises = True
        await ready(tag)
        tag.send(1, b"authentic")
        tried = link.counters["connect_failed"]
        await until(lambda: link.counters["connect_failed"] >= tried + 8)
        assert link.counters["adapter_resets"] == 1 and tag.connections == 1


async def test_bluetoothd_goes_and_comes(bus) -> None:
    heard, taker = Heard(), Taker()
    async with contextlib.AsyncExitStack() as first:
        world = await first.enter_async_context(bluez(bus))
        device = world.add(1)
        async with linked(taker, heard=heard) as (link, supervisor):
            await ready(device)
            await first.aclose()
            await until(lambda: not link.up.is_set())
            await until(lambda: bool(supervisor.restarts))
            assert b"bluetoothd has ended" in heard.of(constants.EVENT_GATEWAY_LINK_LOST)[0][1]
            async with bluez(bus) as second:
                again = second.add(1)
                await ready(again)
                again.send(7, b"after")
                await taker.until(1)


async def test_a_bus_that_dies_is_a_lost_link_and_not_silence(monkeypatch) -> None:
    async with contextlib.AsyncExitStack() as first:
        address = await first.enter_async_context(private_bus())
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        world = await first.enter_async_context(bluez(address))
        device, heard = world.add(1), Heard()
        async with linked(Taker(), heard=heard) as (link, supervisor):
            await ready(device)
            await first.aclose()
            await until(lambda: bool(supervisor.restarts) and not link.up.is_set())
            assert heard.of(constants.EVENT_GATEWAY_LINK_LOST)
            async with private_bus() as another, bluez(another) as second:
                monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", another)
                await ready(second.add(1))


async def test_an_adapter_that_somebody_switches_off_is_switched_on_again(world) -> None:
    heard, device = Heard(), world.add(1)
    async with linked(Taker(), heard=heard):
        await ready(device)
        world.adapter.power(False)
        await until(lambda: bool(heard.of(constants.EVENT_GATEWAY_LINK_LOST)))
        assert b"switched the adapter off" in heard.of(constants.EVENT_GATEWAY_LINK_LOST)[0][1]
        await ready(device)
        assert world.adapter.powered


async def test_an_adapter_that_is_not_there_is_named_with_those_that_are(world) -> None:
    link = BleLink(BleSection(transport="hci7"), Taker(), RealClock())
    with pytest.raises(OSError, match="no adapter hci7; there is hci0"):
        await link.run()
