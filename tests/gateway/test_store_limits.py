"""What the store gives up and what it refuses when it is too large or nobody takes its records."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from emgate.store import limits as store_limits
from emgate.store.holes import HOLD_S, INHERITED_S
from emgate.store.store import Outcome, Record, Store
from emwire import constants
from emwire.ranges import RangeSet
from hypothesis import given
from hypothesis import strategies as st

MAXIMUM_BYTES = 400_000
ALARMS = 100


def record(sequence: int, *, alarm: bool = False, epoch: int = 1) -> Record:
    payload = (b"\x02" if alarm else b"\x06") + sequence.to_bytes(2, "big") * 200
    return Record(7, epoch, sequence, alarm, 1000, "serial", payload)


@pytest.fixture(autouse=True)
def nothing_waits_for_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    for alarm in (False, True):
        monkeypatch.setitem(HOLD_S, alarm, 0.0)
        monkeypatch.setitem(INHERITED_S, alarm, 0.0)


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr("emgate.store.log.WEIGH_EACH", 1)
    monkeypatch.setattr("emgate.store.limits.DROP_ROWS", 50)
    store = await Store.open(tmp_path / "store.sqlite", maximum_bytes=MAXIMUM_BYTES)
    yield store
    await store.close()


async def fill(store: Store, first: int, count: int, *, alarm: bool = False) -> list[int]:
    """In small groups, as far as the size goes; which were stored."""
    stored: list[int] = []
    for at in range(first, first + count, 10):
        some = range(at, at + 10)
        outcomes = await asyncio.gather(*(store.append(record(sequence, alarm=alarm)) for sequence in some))
        stored += [n for n, outcome in zip(some, outcomes, strict=True) if outcome is Outcome.STORED]
    return stored


async def waiting(store: Store, alarm: bool) -> list[int]:
    return [each.sequence for each in await store.undelivered("uplink", alarm, 10_000, 1 << 30)]


async def test_a_full_store_refuses_routine_records_and_loses_none(store: Store) -> None:
    stored = await fill(store, 0, 1200)
    assert 600 < len(stored) < 1000 and stored == list(range(len(stored)))
    assert store.crowded.is_set() and store.counters["store_full"] == 1200 - len(stored)
    await store.prune(1000, 100)
    assert await waiting(store, False) == stored, "what was accepted is given up for alarms and age alone"
    assert await store.losses(0, 10) == []
    await store.advance("uplink", False, stored[-1] + 1, [(7, 1, len(stored), len(stored))])
    await store.prune(1000, 100)
    assert await store.append(record(len(stored))) is Outcome.STORED, "there is room once they are delivered"


async def test_alarms_push_out_the_oldest_routine_records_which_are_taken_back_and_told(store: Store) -> None:
    stored = await fill(store, 0, 1200)
    await store.mark([(7, 1, len(stored), 0)])
    alarms = await fill(store, 5000, ALARMS, alarm=True)
    assert len(alarms) == ALARMS
    await store.prune(1000, 100)
    losses = await store.losses(0, 10)
    assert {(each.device_id, each.epoch, each.cause) for each in losses} == {(7, 1, constants.GAP_STORAGE_FULL)}
    gone = [n for each in losses for n in range(each.first, each.last + 1)]
    assert gone == list(range(len(gone))) and 50 <= len(gone) <= 150, "the oldest, and no more than need be"
    assert await waiting(store, False) == list(range(len(gone), len(stored)))
    assert await waiting(store, True) == alarms
    (state,) = await store.epochs(7)
    assert state.stored_through == 0, "no acknowledgement may call them stored"
    assert state.stored_above == ((len(gone), len(stored) - 1), (5000, 5000 + ALARMS - 1))
    # A mark that was worked out before it was known changes nothing; one from after it counts.
    await store.mark([(7, 1, len(stored), 0)])
    assert (await store.epochs(7))[0].stored_through == 0
    totals = await store.totals()
    assert totals["routine_waiting"] == len(stored) - len(gone) and totals["alarms_waiting"] == ALARMS
    for loss in losses:
        store.taken_back(loss)
        await store.told(loss)
    assert await store.losses(0, 10) == []


async def test_alarms_are_refused_rather_than_others_given_up(store: Store) -> None:
    alarms: list[int] = []
    for at in range(0, 2000, 50):
        alarms += await fill(store, at, 50, alarm=True)
        await store.prune(1000, 100)
    assert 600 < len(alarms) < 1500 and alarms == list(range(len(alarms)))
    assert await waiting(store, True) == alarms and await store.losses(0, 10) == []


async def test_what_was_given_up_can_be_stored_again_and_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n)) for n in range(50)))
    await store.mark([(7, 1, 50, 0)])
    await store.write(lambda connection: store._log.checkpoint(connection, now=True), refused=None)
    assert await store.write(lambda connection: store._log.give_up(connection, 20, 1), refused=0) == 20
    # As a kill leaves it: nothing is written down at the end.
    for suffix in ("", "-wal"):
        copy = tmp_path / f"copy.sqlite{suffix}"
        copy.write_bytes(path.with_name(path.name + suffix).read_bytes())
    killed = await Store.open(tmp_path / "copy.sqlite")
    for each in (store, killed):
        (state,) = await each.epochs(7)
        assert (state.stored_through, state.stored_above) == (0, ((20, 49),))
        assert await each.counts() == {7: (30, 0)}
        assert [(loss.first, loss.last) for loss in await each.losses(0, 9)] == [(0, 19)]
        assert await each.append(record(3)) is Outcome.STORED
        assert (await each.epochs(7))[0].stored_above == ((3, 3), (20, 49))
        assert await each.append(record(3)) is Outcome.DUPLICATE
        await each.close()


async def test_a_batch_under_way_delivers_nothing_that_was_given_up_meanwhile(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite", consumers={"a": True, "b": True})
    await asyncio.gather(*(store.append(record(n)) for n in range(50)))
    batch = await store.undelivered("a", False, 50, 1 << 20)
    assert await store.write(lambda connection: store._log.give_up(connection, 20, 1), refused=0) == 20
    assert (await store.undelivered("b", False, 50, 1 << 20))[0].sequence == 20, "b never gets the first twenty"
    assert await store.advance("b", False, 50) is not None
    moved = await store.advance("a", False, batch[-1].row_id)
    assert moved is not None
    told = [each.sequence for each in batch if moved[0] < each.row_id <= moved[1]]
    assert told == list(range(20, 50))
    assert (await store.epochs(7))[0].delivered_above == ((20, 49),)
    await store.close()


async def test_age_counts_the_time_that_the_gateway_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [0.0]
    began = float(int(time.monotonic()))  # whole: an hour more is then exactly an hour
    monkeypatch.setattr("emgate.store.store.time.monotonic", lambda: began + passed[0])
    store = await Store.open(tmp_path / "store.sqlite")
    await asyncio.gather(*(store.append(record(n)) for n in range(10)))
    await store.append(record(10, alarm=True))
    year_ms = 365 * 86_400_000
    for hour in range(1, 50):
        passed[0] = hour * 3600.0
        await store.prune(hour * year_ms, 14, undelivered_days=1)
        if hour == 20:
            await store.append(record(11))
        expected = list(range(10)) if hour < 25 else []
        assert [n for n in await waiting(store, False) if n < 10] == expected, hour
        assert (11 in await waiting(store, False)) == (20 <= hour < 45)
    assert await waiting(store, True) == [10], "alarms have no age"
    assert [(each.first, each.last, each.cause) for each in await store.losses(0, 9)] == [
        (0, 9, constants.GAP_TOO_OLD),
        (11, 11, constants.GAP_TOO_OLD),
    ]
    assert await store.read(lambda connection: connection.execute("SELECT count(*) FROM ages").fetchone()[0]) < 30
    await store.close()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=30),
    st.integers(0, 20),
)
def test_numbers_can_be_taken_out_of_a_range_set(steps: list[tuple[bool, int, int]], through: int) -> None:
    ours, model = RangeSet(through), set(range(through))
    for add, first, length in steps:
        numbers = range(first, first + length + 1)
        if add:
            ours.add(first, first + length)
            model.update(numbers)
        else:
            ours.discard(first, first + length)
            model.difference_update(numbers)
        assert [n for n in range(80) if n in ours] == sorted(model)
        assert all(low > ours.through and low <= high for low, high in ours.ranges())


def test_ranges() -> None:
    assert store_limits.ranges_of([(7, 1, 3), (7, 1, 1), (7, 1, 2), (7, 2, 3), (8, 2, 4)]) == [
        (7, 1, 1, 3),
        (7, 2, 3, 3),
        (8, 2, 4, 4),
    ]
