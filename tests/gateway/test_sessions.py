"""Sessions against a real device link, a real journal and a real store, over a network that does anything."""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest
from common.journal import Journal
from emgate.devices.counter_share import CounterShare
from emgate.devices.registry import Beacon, Device, Registry, Settings
from emgate.devices.sessions import Sessions
from emgate.keys.sealing import Ccm
from emgate.store.holes import HOLD_S, INHERITED_S
from emgate.store.store import Store, last_row, newly_delivered
from emgate.store.writer import Operation, Writer
from emwire import codec, constants, envelope
from emwire.errors import WireError
from emwire.link import DeviceLink
from gateway_kit import DEVICE, KEY, event_record, hello_record, status_record
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test


class FixedClock:
    def __init__(self) -> None:
        self.ms = 1_780_000_000_123

    def now_ms(self) -> int:
        return self.ms

    def elapsed_ms(self) -> int:
        return self.ms

    def uncertainty_ms(self) -> int:
        return 42


class Wire:
    """A Link whose far end is the test."""

    name, kind = "wire", "serial"

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.counters: Counter[str] = Counter()
        self.sent: list[bytes] = []
        self.judge: Callable[[bytes], None] = lambda frame: None
        self.verdicts: list[str] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def proven(self, device_id: int) -> None:
        pass

    async def send(self, device_id: int, frame: bytes) -> bool:
        try:
            self.judge(frame)  # at the moment it leaves
        except AssertionError as error:
            self.verdicts.append(str(error))
        self.sent.append(frame)
        return True


def opened(frame: bytes, device_id: int = DEVICE):
    """Header, with the boot epoch that it is bound to, and message of a down frame."""
    for boot in range(1, 200):
        try:
            control, epoch, counter, plaintext = envelope.open_frame(Ccm(KEY), device_id, frame, boot)
        except WireError as error:
            if error.reason != "authentication":
                raise
            continue
        assert envelope.is_down(control)
        return (control, epoch, counter), codec.decode(plaintext)
    raise WireError("authentication", envelope.HEADER_SIZE)


def up_frame(
    kind: int, epoch: int, counter: int, plaintext: bytes, *, alarm: bool = False, device_id: int = DEVICE
) -> bytes:
    control = envelope.control_byte(envelope.UP, kind, alarm)
    return envelope.seal(Ccm(KEY), device_id, control, epoch, counter, plaintext)


class Bench:
    """A store with its sessions, restartable."""

    def __init__(self, folder: Path, device: Device | None = None, targets: Sequence[str] = ("uplink",)) -> None:
        self.path = folder / "store.sqlite"
        self.registry = Registry([device or Device(device_id=DEVICE, model="ankle_gps", key=KEY.hex())])
        self.clock = FixedClock()
        self.counter_share = CounterShare()
        self.wire = Wire()
        # (epoch, sequence) that the backend of each target has committed; all are required
        self.backends: dict[str, set[tuple[int, int]]] = {target: set() for target in targets}
        self.told: Counter[tuple[int, int]] = Counter()

    async def start(self) -> None:
        self.store = await Store.open(self.path, consumers=dict.fromkeys(self.backends, True))
        self.sessions = Sessions(
            self.registry, self.store, self.clock, acknowledge_within_ms=0, counter_share=self.counter_share
        )
        await self.sessions.load()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        await self.sessions.close()
        await self.store.close()

    async def settle(self) -> None:
        """Until everything that came in has had its effect."""
        await self.store.drain()
        await asyncio.sleep(0)
        for session in self.sessions:
            while session.timer is not None or (session.flushing is not None and not session.flushing.done()):
                await asyncio.sleep(0)  # the turns of the event loop that a flush needs; it waits for nothing else
                if session.flushing is not None:
                    await asyncio.wait([session.flushing])

    async def take(self, frame: bytes) -> bool:
        done = await self.sessions.received(self.wire, DEVICE, frame)
        await self.settle()
        return done

    async def deliver(self, alarm: bool, limit: int = 100, target: str = "uplink") -> int:
        records = await self.store.undelivered(target, alarm, limit, 1 << 20)
        if records:
            self.backends[target] |= {(record.epoch, record.sequence) for record in records}
            moved = await self.store.advance(target, alarm, last_row(records), self.sessions.marks())
            assert moved is not None
            told = newly_delivered(records, moved)
            self.told.update((record.epoch, record.sequence) for record in told)
            self.sessions.delivered(told)
            await self.settle()
        return len(records)

    def messages(self) -> list[object]:
        frames, self.wire.sent = self.wire.sent, []
        return [opened(frame)[1] for frame in frames]

    def query(self, text: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.path)) as reader:
            return reader.execute(text).fetchall()


@pytest.fixture
async def bench(tmp_path: Path):
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_a_record_is_acknowledged_as_stored_then_as_delivered(bench: Bench) -> None:
    assert await bench.take(up_frame(envelope.RECORD, 1, 0, status_record(0)))
    (acknowledgement,) = bench.messages()
    assert (acknowledgement.stored_through, acknowledgement.delivered_through) == (1, 0)
    await bench.deliver(False)
    (acknowledgement,) = bench.messages()
    assert (acknowledgement.stored_through, acknowledgement.delivered_through) == (1, 1)


async def test_a_repeated_record_is_stored_once_and_acknowledged_again(bench: Bench) -> None:
    frame = up_frame(envelope.RECORD, 1, 0, status_record(0))
    both = [bench.sessions.received(bench.wire, DEVICE, frame) for _ in range(2)]  # the second while the first commits
    assert await asyncio.gather(*both) == [True, True]
    await bench.settle()
    assert len(bench.messages()) == 1
    await bench.take(frame)
    assert [message.stored_through for message in bench.messages()] == [1]
    assert bench.query("SELECT count(*) FROM records") == [(1,)]
    assert bench.sessions.counters["duplicates"] == 2


async def test_acknowledgements_of_a_burst_are_coalesced(bench: Bench) -> None:
    await asyncio.gather(
        *(
            bench.sessions.received(bench.wire, DEVICE, up_frame(envelope.RECORD, 1, n, status_record(n)))
            for n in range(50)
        )
    )
    await bench.settle()
    assert len(bench.wire.sent) <= 5
    assert bench.messages()[-1].stored_through == 50


async def test_a_replayed_link_message_is_refused_even_after_a_restart(bench: Bench) -> None:
    poll = up_frame(envelope.LINK, 1, 5, codec.Poll().encode())
    await bench.take(poll)
    assert [type(message) for message in bench.messages()] == [codec.Time, codec.Acknowledgement]
    await bench.take(poll)
    assert bench.messages() == []
    await bench.restart()
    await bench.take(poll)
    assert bench.messages() == []
    assert bench.sessions.refused == {"replay": 1}
    assert bench.query("SELECT reason, frame FROM quarantine") == [("replay", poll)] * 2


async def test_what_cannot_be_verified_goes_to_quarantine_with_its_reason(bench: Bench) -> None:
    good = up_frame(envelope.RECORD, 1, 0, status_record(0))
    await bench.sessions.received(bench.wire, 99, good)
    await bench.take(good[:-1] + bytes([good[-1] ^ 1]))
    await bench.take(bytes([good[0] ^ 0x60]) + good[1:])
    await bench.take(good[:9])
    await bench.take(b"")
    assert bench.wire.sent == []
    await bench.store.drain()
    assert bench.query("SELECT device_id, reason FROM quarantine ORDER BY row_id") == [
        (99, "unknown_device"),
        (DEVICE, "authentication"),
        (DEVICE, "version"),
        (DEVICE, "truncated"),
        (DEVICE, "truncated"),
    ]
    assert bench.query("SELECT count(*) FROM records") == [(0,)]


async def test_a_flood_of_strangers_is_counted_but_not_kept(bench: Bench) -> None:
    for number in range(5000):
        await bench.sessions.received(bench.wire, 1_000_000 + number, bytes(100))
    await bench.store.drain()
    assert bench.sessions.refused["unknown_device"] == 5000
    ((kept,),) = bench.query("SELECT count(*) FROM quarantine")
    assert 100 <= kept < 500
    assert bench.sessions.counters["quarantine_skipped"] == 5000 - kept


async def test_time_is_sent_with_the_clocks_uncertainty(bench: Bench) -> None:
    await bench.take(up_frame(envelope.RECORD, 1, 0, hello_record()))
    times = [message for message in bench.messages() if isinstance(message, codec.Time)]
    seconds, milliseconds = divmod(bench.clock.ms, 1000)
    assert times == [codec.Time(seconds - constants.TIME_EPOCH_UNIX_S, milliseconds, 42)]


async def test_no_time_is_sent_while_the_gateways_own_clock_is_not_set(bench: Bench) -> None:
    bench.clock.ms = 5_000
    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))
    assert [type(message) for message in bench.messages()] == [codec.Acknowledgement]
    assert bench.sessions.counters["own_clock_not_set"] == 1


async def test_configuration_goes_to_a_device_that_applies_an_older_one(tmp_path: Path) -> None:
    wanted = Settings(version=3, fix_interval_s=60, beacons=(Beacon(beacon_id=5, key=KEY.hex()),))
    bench = Bench(tmp_path, Device(device_id=DEVICE, model="home_unit", key=KEY.hex(), configuration=wanted))
    await bench.start()
    await bench.take(up_frame(envelope.RECORD, 1, 0, hello_record(configuration_version=2)))
    sent = [message for message in bench.messages() if isinstance(message, codec.Configuration)]
    assert [(each.version, each.fix_interval_s, list(each.beacon_ids)) for each in sent] == [(3, 60, [(5, KEY)])]
    await bench.take(up_frame(envelope.RECORD, 1, 1, status_record(1, configuration_version=2)))
    assert not [message for message in bench.messages() if isinstance(message, codec.Configuration)], "it is on its way"
    bench.clock.ms += 61_000
    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))
    assert [message for message in bench.messages() if isinstance(message, codec.Configuration)]
    await bench.take(up_frame(envelope.RECORD, 1, 2, status_record(2, configuration_version=3)))
    bench.clock.ms += 61_000
    await bench.take(up_frame(envelope.LINK, 1, 1, codec.Poll().encode()))
    assert not [message for message in bench.messages() if isinstance(message, codec.Configuration)]
    await bench.stop()


async def test_a_configuration_still_to_be_applied_is_remembered_over_a_restart(tmp_path: Path) -> None:
    wanted = Settings(version=3)
    bench = Bench(tmp_path, Device(device_id=DEVICE, model="alcohol", key=KEY.hex(), configuration=wanted))
    await bench.start()
    await bench.take(up_frame(envelope.RECORD, 1, 0, hello_record(configuration_version=2)))
    await bench.restart()
    bench.messages()
    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))
    assert [message for message in bench.messages() if isinstance(message, codec.Configuration)]
    await bench.stop()


async def test_an_unknown_record_is_kept_and_acknowledged(bench: Bench) -> None:
    await bench.take(up_frame(envelope.RECORD, 1, 0, b"\x3fwhatever"))
    assert bench.messages()[-1].stored_through == 1
    assert bench.query("SELECT payload FROM records") == [(b"\x3fwhatever",)]
    assert bench.sessions.counters["unknown_message_types"] == 1


async def test_a_link_that_is_down_gets_nothing_and_the_next_contact_everything(bench: Bench) -> None:
    bench.wire.up.clear()
    await bench.take(up_frame(envelope.RECORD, 1, 0, status_record(0)))
    assert bench.wire.sent == []
    bench.wire.up.set()
    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))
    assert bench.messages()[-1].stored_through == 1


async def test_no_acknowledgement_leaves_before_the_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = threading.Event()
    commit = Writer._transaction

    def stalled(self: Writer, batch: Sequence[Operation]) -> list[object]:
        assert disk.wait(20)
        return commit(self, batch)

    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))  # so that down counters are reserved
    bench.messages()
    monkeypatch.setattr(Writer, "_transaction", stalled)
    under_way = bench.sessions.received(bench.wire, DEVICE, up_frame(envelope.RECORD, 1, 0, status_record(0)))
    again = bench.sessions.received(bench.wire, DEVICE, up_frame(envelope.RECORD, 1, 0, status_record(0)))
    await asyncio.sleep(0.1)  # time enough for an acknowledgement that should not come
    assert (bench.messages(), under_way.done(), again.done()) == ([], False, False)
    disk.set()
    assert await under_way and await again
    await bench.settle()
    assert [message.stored_through for message in bench.messages()] == [1]


async def test_a_stop_commits_and_acknowledges_what_came_in(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start()
    bench.sessions._delay_s = 60.0  # so that the stop comes before the acknowledgement is due
    taken = [
        bench.sessions.received(bench.wire, DEVICE, up_frame(envelope.RECORD, 1, n, status_record(n)))
        for n in range(20)
    ]
    await bench.stop()
    assert all(future.result() for future in taken)
    assert bench.messages()[-1].stored_through == 20


async def test_nothing_is_taken_after_close(bench: Bench) -> None:
    await bench.sessions.close()
    assert not await bench.sessions.received(bench.wire, DEVICE, up_frame(envelope.RECORD, 1, 0, status_record(0)))


TARGETS = ("one", "two")


class Network(RuleBasedStateMachine):
    """Frames are lost, repeated and reordered; device and gateway restart at any time; two targets are required, and
    holes are not waited for.

    Held at every step: no acknowledgement speaks of a record that is not on disk (stored) or not in the backend of
    every target (delivered), no cursor passes one that is not there, and no down frame's nonce is used twice. Held at
    the end: once the network is good, every record was told as delivered once and the device holds nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.bench = self.runner.run(self._start())
        self.epoch = 0
        self.now_ms = 0
        self.number = 0
        self.made: set[tuple[int, int]] = set()
        self.nonces: dict[tuple[int, int, int], bytes] = {}
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.bench.wire.judge = self._judge
        self._boot()

    async def _start(self) -> Bench:
        bench = Bench(self.folder, targets=TARGETS)
        await bench.start()
        return bench

    def _boot(self) -> None:
        self.epoch += 1
        self.journal = Journal(str(self.folder), self.epoch, durable=False)
        self.link = DeviceLink(DEVICE, self.epoch, Ccm(KEY), self.journal, retransmit_ms=100, delivery_poll_ms=100)
        self.link.opened(self.now_ms)

    def _sent(self) -> None:
        """Put what the gateway has sent on the network."""
        assert not self.bench.wire.verdicts
        self.down += self.bench.wire.sent
        self.bench.wire.sent = []

    def _judge(self, frame: bytes) -> None:
        header, message = opened(frame)
        assert self.nonces.setdefault(header, frame) == frame, "a nonce was used twice"
        if not isinstance(message, codec.Acknowledgement):
            return
        epoch = message.acknowledged_epoch
        rows = self.bench.query(
            "SELECT r.sequence, c.consumer FROM records r"
            f" LEFT JOIN cursors c ON c.alarm = r.alarm AND r.row_id <= c.row_id WHERE r.epoch = {epoch}"
        )
        stored = {sequence for sequence, _ in rows}
        delivered = {sequence for of, sequence in set.intersection(*self.bench.backends.values()) if of == epoch}
        named = set(range(message.stored_through))
        for first, last in message.ranges:
            named |= set(range(first, last + 1))
        assert named <= stored, "acknowledged as stored and not on disk"
        assert set(range(message.delivered_through)) <= delivered, "delivered, and not in the backend"
        passed = {(target, sequence) for sequence, target in rows if target is not None}
        there = {
            (target, sequence)
            for target, backend in self.bench.backends.items()
            for of, sequence in backend
            if of == epoch
        }
        assert passed <= there, "behind the cursor, and not in the backend"

    @initialize(lanes=st.lists(st.booleans(), min_size=1, max_size=6))
    def the_device_has_something(self, lanes: list[bool]) -> None:
        self.the_device_goes_on(lanes, 10, 8)

    # One rule for all of it: where Hypothesis leaves a rule out, nothing of the rest would happen.
    @rule(
        lanes=st.lists(st.booleans(), max_size=4),
        elapsed_ms=st.sampled_from([0, 10, 150, 1000]),
        sends=st.integers(0, 8),
    )
    def the_device_goes_on(self, lanes: list[bool], elapsed_ms: int, sends: int) -> None:
        self.now_ms += elapsed_ms
        for alarm in lanes:
            self.number += 1
            payload = event_record(self.number) if alarm else status_record(self.number)
            self.made.add((self.epoch, self.journal.append(alarm, payload)))
        self.device_sends(sends)

    def device_sends(self, count: int) -> None:
        for _ in range(count):
            frame = self.link.poll(self.now_ms)
            if frame is not None:
                self.up.append(frame)

    @precondition(lambda self: self.up)
    @rule(data=st.data(), keep=st.booleans(), count=st.integers(1, 4))
    def frames_arrive_at_the_gateway(self, data: st.DataObject, keep: bool, count: int) -> None:
        for _ in range(min(count, len(self.up))):
            frame = self._pick(self.up, data, keep)
            self.runner.run(self.bench.take(frame))
        self._sent()

    @precondition(lambda self: self.down)
    @rule(data=st.data(), keep=st.booleans())
    def a_frame_arrives_at_the_device(self, data: st.DataObject, keep: bool) -> None:
        self.link.received(self.now_ms, self._pick(self.down, data, keep))

    @staticmethod
    def _pick(frames: list[bytes], data: st.DataObject, keep: bool) -> bytes:
        index = data.draw(st.integers(0, len(frames) - 1))
        return frames[index] if keep else frames.pop(index)

    @rule(alarm=st.booleans(), limit=st.integers(1, 5), to=st.sampled_from(TARGETS))
    def a_backend_takes_a_batch(self, alarm: bool, limit: int, to: str) -> None:
        self.runner.run(self.bench.deliver(alarm, limit, to))
        self._sent()

    @rule(what=st.sampled_from(["frames lost", "gateway restarted", "device restarted", "connection opened"]))
    def trouble_comes(self, what: str) -> None:
        match what:
            case "frames lost":
                self.up.clear()
                self.down.clear()
            case "gateway restarted":
                self.runner.run(self.bench.restart())
                self._sent()
            case "device restarted":
                self._boot()
            case "connection opened":
                self.link.opened(self.now_ms)

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            self.runner.run(self.bench.stop())
            self.runner.close()
            shutil.rmtree(self.folder)

    def _end(self) -> None:
        for _ in range(400):
            self.now_ms += 1000
            self.device_sends(8)
            frames, self.up = self.up, []
            for frame in frames:
                self.runner.run(self.bench.take(frame))
            for alarm, target in product((True, False), TARGETS):
                self.runner.run(self.bench.deliver(alarm, target=target))
            self._sent()
            frames, self.down = self.down, []
            for frame in frames:
                self.link.received(self.now_ms, frame)
            if self.link.idle and not self.journal.undelivered:
                break
        else:
            raise AssertionError("the device never got rid of its records")
        assert set(self.bench.query("SELECT epoch, sequence FROM records")) == self.made
        assert self.bench.told == Counter(self.made)
        assert self.bench.query("SELECT count(*) FROM quarantine WHERE reason = 'identity_conflict'") == [(0,)]
        with pytest.raises(WireError):
            opened(up_frame(envelope.RECORD, 1, 0, b"\x3f")[:-1])  # the judge itself can refuse


def test_sessions_keep_their_promises_over_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgate.store.writer.GROUP_MS", 0)  # here every commit is one record's
    for alarm in (False, True):
        monkeypatch.setitem(HOLD_S, alarm, 0.0)
        monkeypatch.setitem(INHERITED_S, alarm, 0.0)
    run_state_machine_as_test(
        Network,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
