"""Stores of earlier programs, and flipped bits in the numbers that decide what a device may free."""

import asyncio
import contextlib
import random
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from emgate.store import salvage, schema, summed
from emgate.store.books import pack
from emgate.store.schema import INSERT, check_sum
from emgate.store.store import Outcome, Record, Store
from emwire.ranges import RangeSet

COUNT, DELIVERED = 40, 5
# As earlier programs made them, as far as records and what is delivered go.
BOOKS_4 = """
CREATE TABLE identities (device_id INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    row_id INTEGER NOT NULL, PRIMARY KEY (device_id, epoch, sequence)) WITHOUT ROWID;
CREATE TABLE epochs (device_id INTEGER NOT NULL, epoch INTEGER NOT NULL, stored BLOB NOT NULL, delivered BLOB NOT NULL,
    stored_records INTEGER NOT NULL, delivered_records INTEGER NOT NULL, PRIMARY KEY (device_id, epoch)) WITHOUT ROWID;
CREATE TABLE checkpoint (only INTEGER PRIMARY KEY CHECK (only = 0), row_id INTEGER NOT NULL,
    routine_row INTEGER NOT NULL, alarm_row INTEGER NOT NULL, routine_stored INTEGER NOT NULL,
    alarm_stored INTEGER NOT NULL, routine_delivered INTEGER NOT NULL, alarm_delivered INTEGER NOT NULL,
    pruned INTEGER NOT NULL);
CREATE TABLE watermarks (device_id INTEGER NOT NULL, epoch INTEGER NOT NULL, stored_through INTEGER NOT NULL,
    delivered_through INTEGER NOT NULL, PRIMARY KEY (device_id, epoch)) WITHOUT ROWID;
CREATE TABLE losses (row_id INTEGER PRIMARY KEY AUTOINCREMENT, device_id INTEGER NOT NULL, epoch INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL);
"""
WATERMARKS_3 = """
CREATE TABLE watermarks (device_id INTEGER NOT NULL, epoch INTEGER NOT NULL, stored_through INTEGER NOT NULL,
    delivered_through INTEGER NOT NULL, pruned_through INTEGER NOT NULL DEFAULT 0,
    pruned_records INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (device_id, epoch)) WITHOUT ROWID;
"""
RECORDS = """
CREATE TABLE records (row_id INTEGER PRIMARY KEY {}, device_id INTEGER NOT NULL, epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL, alarm INTEGER NOT NULL, received_time_ms INTEGER NOT NULL, link TEXT NOT NULL,
    payload BLOB NOT NULL, sealed INTEGER NOT NULL DEFAULT 0, {});
CREATE TABLE cursors (consumer TEXT NOT NULL, alarm INTEGER NOT NULL, row_id INTEGER NOT NULL,
    PRIMARY KEY (consumer, alarm)) WITHOUT ROWID;
CREATE TABLE down_counters (device_id INTEGER NOT NULL, epoch INTEGER NOT NULL, reserved_until INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch)) WITHOUT ROWID;
"""


def record(sequence: int) -> Record:
    return Record(7, 1, sequence, False, 1000, "serial", b"\x06" + sequence.to_bytes(4, "little"))


def numbers(*through: int) -> list[bytes]:
    return [pack(RangeSet(each)) for each in through]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def make_old(path: Path, version: int) -> None:
    """COUNT records, of which DELIVERED are; closed as a program is that was stopped."""
    with opened(path) as connection:
        if version == 4:
            connection.executescript(RECORDS.format("", "check_sum INTEGER NOT NULL") + BOOKS_4)
        else:
            unique = "UNIQUE (device_id, epoch, sequence)"
            connection.executescript(RECORDS.format("AUTOINCREMENT", unique) + WATERMARKS_3)
        for number in range(COUNT):
            row = (*record(number)[:7], number + 1, 0)
            columns = INSERT if version == 4 else INSERT.replace(", check_sum", "").replace(",?)", ")")
            connection.execute(columns, (*row, check_sum(row)) if version == 4 else row)
        connection.execute("INSERT INTO cursors VALUES ('uplink', 0, ?)", (DELIVERED,))
        connection.execute("INSERT INTO down_counters VALUES (7, 1, 300)")
        if version == 4:
            connection.executemany("INSERT INTO identities VALUES (7, 1, ?, ?)", [(n, n + 1) for n in range(COUNT)])
            books = numbers(COUNT, DELIVERED)
            connection.execute("INSERT INTO epochs VALUES (7, 1, ?, ?, ?, ?)", (*books, COUNT, DELIVERED))
            facts = (COUNT, DELIVERED, 0, COUNT, 0, DELIVERED, 0, 0)
            connection.execute("INSERT INTO checkpoint VALUES (0,?,?,?,?,?,?,?,?)", facts)
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize(("version", "delivered"), [(4, DELIVERED), (3, 0)])
async def test_a_store_of_an_earlier_program_is_taken_over(tmp_path: Path, version: int, delivered: int) -> None:
    """One of version 3 does not say what is delivered but by its cursors, which nothing bears out."""
    path = tmp_path / "store.sqlite"
    make_old(path, version)
    store = await Store.open(path)
    assert store.salvaged is not None and store.salvaged.reason == f"schema version {version}"
    assert (store.salvaged.records, store.salvaged.missing) == (COUNT, [])
    (state,) = await store.epochs(7)
    assert (state.stored_through, state.delivered_through) == (COUNT, delivered)
    waiting = await store.undelivered("uplink", False, 100, 1 << 20)
    assert [each.sequence for each in waiting] == list(range(delivered, COUNT))
    assert await store.append(record(3)) is Outcome.DUPLICATE
    assert await store.reserve_down_counters(7, 1, 1) >= 300
    assert await store.totals() == {"records": COUNT, "routine_waiting": COUNT - delivered, "alarms_waiting": 0}
    await store.close()
    store = await Store.open(path)
    assert store.salvaged is None
    await store.close()


async def filled(path: Path, count: int = COUNT) -> None:
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n)) for n in range(count)))
    await store.advance("uplink", False, DELIVERED, [(7, 1, count, DELIVERED)])
    await store.close()


def without_sums(path: Path, cursor: int = DELIVERED) -> None:
    """As the program before this one left it."""
    with opened(path) as connection:
        for table in summed.SUMMED:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN check_sum")
        connection.execute("UPDATE cursors SET row_id = ?", (cursor,))
        connection.execute(f"PRAGMA user_version = {schema.WITHOUT_SUMS}")


async def test_a_store_without_sums_gets_them_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    without_sums(path)
    for _ in range(2):
        store = await Store.open(path)
        assert store.salvaged is None
        (state,) = await store.epochs(7)
        assert (state.stored_through, state.delivered_through) == (COUNT, DELIVERED)
        assert store.delivered_row(False) == DELIVERED
        while not store.counters["audited_wholly"]:
            await store.audit()
        assert store.damage is None
        await store.close()


async def test_a_cursor_above_every_row_is_damage_and_believed_as_far_as_the_books_bear_it_out(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    without_sums(path, cursor=DELIVERED | 64)
    store = await Store.open(path)
    assert store.salvaged is not None and store.delivered_row(False) == DELIVERED
    await store.close()


async def look(path: Path) -> Store:
    """Open, and read what a gateway reads at its start, until nothing of it is damaged."""
    while True:
        store = await Store.open(path)
        try:
            await store.epochs(7)
        except sqlite3.DatabaseError:
            assert store.damage is not None
            await store.close()
        else:
            return store


def flips(path: Path, table: str) -> Iterator[tuple[int, int]]:
    """Some places of its rows in the file (one page), and a bit at each."""
    with opened(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    data = path.read_bytes()[4096 * (page - 1) : 4096 * page]
    begin = int.from_bytes(data[5:7], "big")
    chance = random.Random(table)
    for at in chance.sample(places := range(begin, 4096), min(25, len(places))):
        yield 4096 * (page - 1) + at, 1 << chance.randrange(8)


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("table", summed.SUMMED)
async def test_no_flipped_bit_makes_anything_delivered_that_is_not(tmp_path: Path, table: str) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    whole = path.read_bytes()
    found = 0
    for at, bit in flips(path, table):
        remove_all(tmp_path)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        store = await look(path)
        found += store.salvaged is not None
        for state in await store.epochs(7):
            assert state.delivered_through <= DELIVERED and not state.delivered_above, (at, bit)
        assert store.delivered_row(False) <= DELIVERED
        assert (await store.totals())["routine_waiting"] >= COUNT - DELIVERED
        waiting = {each.sequence for each in await store.undelivered("uplink", False, 100, 1 << 20)}
        assert waiting >= set(range(DELIVERED, COUNT)), "the target still gets what it lacks"
        assert await store.prune(1 << 40, 0) <= DELIVERED
        await store.close()
    assert found > 10


@pytest.mark.parametrize(
    "hurt",
    [
        "UPDATE cursors SET row_id = row_id + 64",
        "UPDATE checkpoint SET routine_row = routine_row + 64",
        "UPDATE watermarks SET delivered_through = delivered_through + 64",
    ],
)
async def test_a_number_that_is_damaged_while_the_gateway_runs_is_not_written_as_if_it_were_whole(
    tmp_path: Path, hurt: str
) -> None:
    path = tmp_path / "store.sqlite"
    await filled(path)
    store = await Store.open(path)
    with opened(path) as connection:
        connection.execute(hurt)
    if "checkpoint" in hurt:
        assert await store.prune(1 << 40, 0) == 0
    else:
        assert await store.advance("uplink", False, DELIVERED + 1, [(7, 1, COUNT, DELIVERED + 1)]) is None
    await store.damaged.wait()
    await store.close()
    store = await Store.open(path)
    (state,) = await store.epochs(7)
    assert state.delivered_through == DELIVERED and store.salvaged is not None
    await store.close()


@pytest.mark.parametrize("hurt", ["alarm = 1", "sequence = sequence + 64"])
async def test_a_damaged_record_is_neither_called_delivered_nor_deleted(tmp_path: Path, hurt: str) -> None:
    """Its lane and its number may be those of another."""
    path = tmp_path / "store.sqlite"
    await filled(path)
    store = await Store.open(path)
    with opened(path) as connection:
        connection.execute(
            f"UPDATE records SET {hurt} WHERE row_id = {DELIVERED if 'alarm' in hurt else DELIVERED + 2}"
        )
    if "alarm" in hurt:
        assert await store.prune(1 << 40, 0) == 0
    else:
        assert await store.advance("uplink", False, COUNT) is None
    await store.damaged.wait()
    await store.close()


async def test_a_salvage_needs_little_memory_and_moves_on(tmp_path: Path) -> None:
    path, count = tmp_path / "store.sqlite", 8_000
    await filled(path, 0)
    with opened(path) as connection:
        rows = [(*record(number)[:7], number + 1, 0) for number in range(count)]
        connection.executemany(INSERT, [(*row, check_sum(row)) for row in rows])
        del rows
    moves = 0

    def moved() -> None:
        nonlocal moves
        moves += 1

    tracemalloc.start()
    try:
        report = salvage.run(path, "for the test", ["uplink"], moved)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.records == count and moves > count / salvage.CHUNK
    assert peak < 600_000, "1.3 MB when all identities are held"
    store = await Store.open(path)
    assert await store.append(record(count // 2)) is Outcome.DUPLICATE
    await store.close()
