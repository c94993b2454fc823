"""Batches read ahead: every record once, in order, within the limits of a batch, and the cursor behind delivery."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from emgate.clock import SystemClock
from emgate.store.store import Record, Store
from emgate.uplinks.drain import Drain, split
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


async def test_a_backlog_goes_out_in_order_and_the_cursor_stays_behind(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    try:
        stored: list[asyncio.Future[None]] = []
        for number in range(1000):
            done = asyncio.get_running_loop().create_future()
            store.put(record(number), lambda *_, done=done: done.set_result(None))
            stored.append(done)
        await asyncio.gather(*stored)
        target = Target()
        target.store = store
        delivered: list[int] = []
        all_told = asyncio.Event()

        def told(records: list[Record]) -> None:
            delivered.extend(each.sequence for each in records)
            if len(delivered) >= 1000:
                all_told.set()

        drain = Drain(store, "uplink", target, SystemClock(1), "gw", 30, told, lambda: [])
        running = asyncio.create_task(drain.run())
        async with asyncio.timeout(PATIENCE_S):
            await all_told.wait()
        running.cancel()
        await asyncio.wait([running])
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
