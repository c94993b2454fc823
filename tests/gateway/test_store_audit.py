"""The walk through the whole store that finds damage while nobody reads there."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from emgate.store.audit import STEP_ROWS
from emgate.store.store import Record, Store

ROWS = 3000


async def filled(path: Path) -> None:
    store = await Store.open(path)
    await asyncio.gather(
        *(store.append(Record(7 + n % 3, 1, n // 3, n % 20 == 0, 1000, "serial", b"\x06" * 90)) for n in range(ROWS))
    )
    await store.advance("uplink", True, 1, [(7 + n, 1, ROWS // 3, 0) for n in range(3)])
    await store.close()


async def steps(store: Store) -> int:
    """Until the second walk is over, or damage is found; how many it took."""
    taken = 0
    while store.counters["audited_wholly"] < 2 and not store.damaged.is_set():
        await store.audit()
        await asyncio.sleep(0)  # damage is told by the loop
        taken += 1
        assert taken < 10 * ROWS / STEP_ROWS
    return taken


async def test_a_whole_store_is_walked_through_in_small_steps(tmp_path: Path) -> None:
    await filled(tmp_path / "store.sqlite")
    store = await Store.open(tmp_path / "store.sqlite")
    assert await steps(store) >= 2 * ROWS / STEP_ROWS, "the second walk at least had all records and identities"
    assert store.damage is None
    await store.close()


@pytest.mark.parametrize(
    "hurt",
    [
        f"UPDATE records SET payload = x'0607' WHERE row_id = {ROWS // 2}",
        f"UPDATE records SET sequence = 77777 WHERE row_id = {ROWS // 3}",
        "UPDATE epochs SET delivered_records = 1 WHERE device_id = 8",
        "UPDATE cursors SET row_id = 9",
        "UPDATE watermarks SET delivered_through = 9 WHERE device_id = 8",
        "UPDATE checkpoint SET alarm_row = 9",
    ],
)
async def test_damage_in_the_middle_is_found_and_told(tmp_path: Path, hurt: str) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    store = await Store.open(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(hurt).rowcount == 1
    await steps(store)
    assert store.damaged.is_set()
    assert "written" in (store.damage or "")
    await store.close()
    again = await Store.open(path)
    assert again.salvaged is not None
    await again.close()
