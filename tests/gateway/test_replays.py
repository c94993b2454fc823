"""What somebody achieves who has recorded a device's frames and sends them again over a link of his own."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from emgate.devices.registry import Device, Settings
from emgate.store.schema import Outcome
from emwire import codec, envelope
from gateway_kit import DEVICE, KEY, status_record
from test_sessions import Bench, bench, opened, up_frame
from test_sessions import Wire as PlainWire

__all__ = ["bench"]


class Wire(PlainWire):
    """Counts what it is told of its device."""

    def __init__(self) -> None:
        super().__init__()
        self.proofs = 0

    def proven(self, device_id: int) -> None:
        self.proofs += 1


def record(sequence: int) -> bytes:
    return up_frame(envelope.RECORD, 1, sequence, status_record(sequence))


async def over(bench: Bench, wire: Wire, frame: bytes) -> list[codec.Message]:
    """What the gateway sends there in answer to the frame."""
    assert await bench.sessions.received(wire, DEVICE, frame)
    await bench.settle()
    frames, wire.sent = wire.sent, []
    return [opened(frame)[1] for frame in frames]


def confirmed(messages: list[codec.Message]) -> set[int]:
    """Sequences of epoch 1 that these say are stored."""
    found: set[int] = set()
    for message in messages:
        assert isinstance(message, codec.Acknowledgement) and message.acknowledged_epoch == 1
        found |= set(range(message.stored_through))
        for first, last in message.ranges:
            found |= set(range(first, last + 1))
    return found


async def test_a_recording_sent_again_takes_nothing_of_what_goes_to_the_device(tmp_path: Path) -> None:
    """However often, before its commit and after; and what the device is to get goes to the device."""
    device = Device(device_id=DEVICE, model="alcohol", key=KEY.hex(), configuration=Settings(version=3))
    bench = Bench(tmp_path, device)
    await bench.start()
    tag, neighbour = bench.wire, Wire()
    poll = up_frame(envelope.LINK, 1, 0, codec.Poll().encode())
    await bench.take(poll)
    bench.messages()
    for sequence in range(20):
        taken = [bench.sessions.received(tag, DEVICE, record(sequence))]
        taken += [bench.sessions.received(neighbour, DEVICE, record(sequence)) for _ in range(10)]
        taken += [bench.sessions.received(neighbour, DEVICE, poll)]
        assert all(await asyncio.gather(*taken))
        await bench.settle()
        assert sequence in confirmed([m for m in bench.messages() if isinstance(m, codec.Acknowledgement)])
        await over(bench, neighbour, record(sequence // 2))
        assert bench.messages() == [], "and the device is not kept awake by it"
    told = await over(bench, neighbour, record(0))
    assert {type(message) for message in told} == {codec.Acknowledgement}
    await over(bench, neighbour, up_frame(envelope.RECORD, 1, 0, status_record(99)))  # one identity used twice
    assert [session.via for session in bench.sessions] == [tag]
    bench.sessions.nudge(DEVICE)
    await bench.deliver(False)
    assert [message.delivered_through for message in bench.messages()] == [20]
    assert neighbour.sent == []
    await bench.stop()


async def test_a_device_that_moves_is_answered_where_it_is_now(bench: Bench) -> None:
    """By a link message, by a new record, and by nothing but records that the store has already."""
    first, second, third = bench.wire, Wire(), Wire()
    await over(bench, first, record(0))
    assert confirmed(await over(bench, second, record(0))) == {0}
    assert confirmed(await over(bench, second, record(1))) == {0, 1}
    assert confirmed(await over(bench, first, record(1))) == {0, 1}
    assert [session.via for session in bench.sessions] == [second]
    told = await over(bench, third, up_frame(envelope.LINK, 1, 0, codec.Sync(1, 0, 2).encode()))
    assert confirmed([message for message in told if isinstance(message, codec.Acknowledgement)]) == {0, 1}
    assert [type(message) for message in told] == [codec.Time, codec.Acknowledgement]
    assert [session.via for session in bench.sessions] == [third]


async def test_what_another_gateway_got_moves_nothing_either_once_the_device_is_here(bench: Bench) -> None:
    """This one's store lacks it: it is taken, and confirmed where it came from. The device's newest word is its own."""
    tag, neighbour = Wire(), Wire()
    await over(bench, tag, up_frame(envelope.LINK, 2, 0, codec.Sync(2, 0, 50).encode()))
    for sequence in (49, 10):
        told = await over(bench, neighbour, up_frame(envelope.RECORD, 2, sequence, status_record(sequence)))
        assert [[tuple(each) for each in message.ranges] for message in told] == [[(sequence, sequence)]]
    await over(bench, neighbour, record(3))  # of an earlier boot
    assert [session.via for session in bench.sessions] == [tag]
    assert bench.query("SELECT count(*) FROM records") == [(3,)]
    tag.up.clear()
    await over(bench, neighbour, up_frame(envelope.RECORD, 2, 11, status_record(11)))
    assert [session.via for session in bench.sessions] == [neighbour], "the device is nowhere else"
    assert neighbour.proofs == 0
    tag.up.set()
    await over(bench, tag, up_frame(envelope.RECORD, 2, 50, status_record(50)))
    assert [session.via for session in bench.sessions] == [tag]
    assert tag.proofs == 2


async def test_a_repeated_record_is_answered_after_a_restart_of_the_gateway(bench: Bench) -> None:
    """It was committed, and the gateway died before it said so: the device repeats it, and says nothing else."""
    await bench.take(record(0))
    await bench.restart()
    bench.messages()
    assert confirmed(await over(bench, bench.wire, record(0))) == {0}
    assert [session.via for session in bench.sessions] == [None]
    await over(bench, bench.wire, up_frame(envelope.LINK, 1, 9, codec.Poll().encode()))
    assert [session.via for session in bench.sessions] == [bench.wire]


async def test_a_flood_of_repeats_is_answered_in_bounds(tmp_path: Path) -> None:
    bench, neighbour = Bench(tmp_path), Wire()
    await bench.start()
    for sequence in range(60):
        await bench.take(record(sequence))
    bench.sessions.acknowledge_within(60_000)  # all of it is answered in one go, at the stop
    await asyncio.gather(*(bench.sessions.received(neighbour, DEVICE, record(sequence)) for sequence in range(60)))
    await bench.stop()
    assert bench.sessions.counters["repeats_not_answered"] == 28
    assert [len(opened(frame)[1].ranges) for frame in neighbour.sent] == [8, 8, 8, 8]


async def test_what_could_not_be_stored_is_confirmed_nowhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = Wire()
    await bench.take(up_frame(envelope.LINK, 1, 0, codec.Poll().encode()))
    bench.messages()
    refusals: list[Callable[[], None]] = []
    monkeypatch.setattr(bench.store, "put", lambda made, done: refusals.append(lambda: done(made, Outcome.REFUSED)))
    taken = [bench.sessions.received(wire, DEVICE, record(0)) for wire in (bench.wire, neighbour)]
    (refuse,) = refusals
    refuse()
    assert await asyncio.gather(*taken) == [False, False]
    await bench.settle()
    assert bench.messages() == neighbour.sent == []
