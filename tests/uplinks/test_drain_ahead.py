"""Batches read ahead: every record once, in order, within the limits of a batch, and the cursor behind delivery."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from emgate.clock import SystemClock
from emgate.store.store import Record, Store
from emgate.uplinks.drain import GIVE_WAY_S, Drain, split
from hypothesis import given
from hypothesis import strategies as st

PATIENCE_S = 20.0


def record(row_id: int, size: int = 10, alarm: bool = False) -> Record:
    return Record(1, 1, row_id, alarm, 1_700_000_000_000, "mqtt", bytes(size), row_id)


@given(st.lists(st.integers(0, 300)), st.integers(1, 9), st.integers(1, 900))
def test_split_keeps_order_and_limits(sizes: list[int], most_records: int, most_bytes: int) -> None:
    records = [record(number + 1, size) for number, size in enumerate(sizes)]
    batches = split(records, most_records, most_bytes)
    assert batches is not None
    assert [each for batch in batches for each in batch] == records
    for batch in batches:
        assert 1 <= len(batch) <= most_records
        assert len(batch) == 1 or sum(len(each.payload) for each in batch) <= most_bytes


def test_records_from_behind_are_not_split() -> None:
    assert split([record(5), record(3), record(6)], 1, 100) is None
    assert split([record(0), record(3)], 1, 100) is None


class Target:
    """An uplink that fails the test when two batches are under way."""

    name = "target"

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.batches: list[list[int]] = []
        self.cursors: list[int] = []
        self.store: Store
        self._busy = False

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def deliver(self, batch: dict[str, Any]) -> None:
        assert not self._busy
        self._busy = True
        self.cursors.append(self.store.delivered_row(False))
        await asyncio.sleep(0)
        self.batches.append([each["sequence"] for each in batch["records"]])
        self._busy = False


async def filled(path: Path, count: int) -> Store:
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(number)) for number in range(count)))
    return store


@contextlib.asynccontextmanager
async def draining(drain: Drain) -> AsyncIterator[None]:
    running = asyncio.create_task(drain.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_backlog_goes_out_in_order_and_the_cursor_stays_behind(tmp_path: Path) -> None:
    store = await filled(tmp_path / "store.sqlite", 1000)
    try:
        target = Target()
        target.store = store
        delivered: list[int] = []
        all_told = asyncio.Event()

        def told(records: list[Record]) -> None:
            delivered.extend(each.sequence for each in records)
            if len(delivered) >= 1000:
                all_told.set()

        async with draining(Drain(store, "uplink", target, SystemClock(1), "gw", 30, told, lambda: [])):
            await all_told.wait()
        assert [number for batch in target.batches for number in batch] == list(range(1000)) == delivered
        assert max(map(len, target.batches)) == 30
        # Rows count from 1: never further than what was delivered before this batch.
        sent = 0
        for batch, cursor in zip(target.batches, target.cursors, strict=True):
            assert cursor <= sent
            sent += len(batch)
        assert store.delivered_row(False) == 1000
    finally:
        await store.close()


@pytest.mark.parametrize(("limit", "largest"), [(1000, 100), (300, 30)])
async def test_who_catches_up_rests_and_takes_few_until_it_is_no_outage_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, largest: int
) -> None:
    monkeypatch.setattr("emgate.uplinks.drain.CATCHING_UP", limit)
    monkeypatch.setattr("emgate.uplinks.drain.CATCHING_UP_RECORDS", 30)
    monkeypatch.setattr("emgate.uplinks.drain.QUICK_S", 60.0)
    store = await filled(tmp_path / "store.sqlite", 1000)
    target = Target()
    target.store = store
    done = asyncio.Event()

    def told(records: list[Record]) -> None:
        if records[-1].sequence == 999:
            done.set()

    drain = Drain(store, "uplink", target, SystemClock(1), "gw", 100, told, lambda: [])
    async with draining(drain):
        await done.wait()
    assert len(target.batches[0]) == largest and len(target.batches[-2]) == 100
    assert drain.counters["rests"] == sum(len(each) <= 30 for each in target.batches[:-1])
    await store.close()


async def test_a_routine_batch_gives_way_to_an_alarm_but_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm is under way, and its backend slow: routine waits as long as it may, and then goes on beside it."""

    class Slow(Target):
        async def deliver(self, batch: dict[str, Any]) -> None:
            if batch["records"][0]["alarm"]:
                alarm_under_way.set()
                await asyncio.Event().wait()
            arrived.set()

    alarm_under_way, arrived = asyncio.Event(), asyncio.Event()
    waited: list[float] = []
    timeout = asyncio.timeout

    def counted(seconds: float) -> asyncio.Timeout:
        waited.append(seconds)
        return timeout(seconds)

    store = await filled(tmp_path / "store.sqlite", 0)
    drain = Drain(store, "uplink", Slow(), SystemClock(1), "gw", 100, lambda records: None, lambda: [])
    async with draining(drain):
        monkeypatch.setattr("emgate.uplinks.drain.asyncio.timeout", counted)
        await store.append(record(0, alarm=True))
        await alarm_under_way.wait()
        await store.append(record(1))
        await arrived.wait()
    assert GIVE_WAY_S in waited
    await store.close()
