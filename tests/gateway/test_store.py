"""The store: what it says is committed is committed, whatever happens to the process or the disk."""

import asyncio
import contextlib
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from emgate.errors import StoreError
from emgate.store import writer as store_writer
from emgate.store.holes import HOLD_S, INHERITED_S
from emgate.store.store import Outcome, Record, Store, last_row, newly_delivered, salvage


def record(
    sequence: int, *, epoch: int = 1, alarm: bool = False, payload: bytes | None = None, time_ms: int = 1000
) -> Record:
    return Record(7, epoch, sequence, alarm, time_ms, "serial", payload or b"\x06" + sequence.to_bytes(4, "little"))


@pytest.fixture
async def store(tmp_path: Path):
    opened = await Store.open(tmp_path / "store.sqlite")
    yield opened
    await opened.close()


# A child that appends without pause and writes the number of every record it was told is stored.
CHILD = """
import asyncio, os, pathlib, sys
from emgate.store.store import Outcome, Record, Store
async def main(path, first):
    store = await Store.open(pathlib.Path(path))
    def told(number):
        return lambda done: os.write(1, b"%d\\n" % number) if done.result() is Outcome.STORED else None
    os.write(1, b"begin\\n")
    number = first
    while True:
        last = None
        for _ in range(20):
            last = store.append(Record(7, 1, number, number % 9 == 0, 1, "serial", os.urandom(60)))
            last.add_done_callback(told(number))
            number += 1
        await asyncio.sleep(0)
        if number % 400 == 0:
            await last
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_nothing_that_was_reported_committed_is_missing_after_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    chance = random.Random(20261)
    told: set[int] = set()
    first = 0
    for _ in range(25):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(first)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        wanted = chance.randrange(0, 400)
        lines = [child.stdout.readline() for _ in range(wanted)]  # a moment given by progress, not by a clock
        child.kill()
        rest = child.stdout.read().split(b"\n")
        child.wait()
        told |= {int(line) for line in [*lines, *rest[:-1]] if line.strip()}
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            stored = {number for (number,) in connection.execute("SELECT sequence FROM records")}
        assert told <= stored
        first = max(stored, default=-1) + 1
    assert len(told) > 1000


def commits(store: Store) -> int:
    return int(store.commit_seconds.facts()["buckets"][-1][1])


async def while_the_disk_is_busy(store: Store, numbers: range) -> int:
    """Append these during a commit; how many commits that took in all."""
    before = commits(store)
    begun, go_on = threading.Event(), threading.Event()

    def apply(_: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(60)

    under_way = store.write(apply, refused=None)
    await asyncio.to_thread(begun.wait)
    appended = [store.append(record(n)) for n in numbers]
    go_on.set()
    await under_way
    assert set(await asyncio.gather(*appended)) == {Outcome.STORED}
    return commits(store) - before


async def test_appends_are_committed_in_groups(store: Store) -> None:
    assert await while_the_disk_is_busy(store, range(1000)) == 1 + 10
    with contextlib.closing(sqlite3.connect(store.path)) as reader:
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (1000,)


async def test_no_frame_waits_long_for_company(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as longer:
        longer.setattr(store_writer, "GROUP_MS", 1e9)
        with monkeypatch.context() as still_longer:
            still_longer.setattr(store_writer, "QUIET_MS", 1e9)
            for number in range(5):  # what comes alone does not wait at all
                assert await asyncio.wait_for(store.append(record(number)), 60) is Outcome.STORED
        assert commits(store) == 5
        await while_the_disk_is_busy(store, range(5, 7))
        # behind company: no longer than nothing comes
        assert await asyncio.wait_for(store.append(record(7)), 60) is Outcome.STORED
        assert commits(store) == 8
    await while_the_disk_is_busy(store, range(8, 10))
    monkeypatch.setattr(store_writer, "GROUP_FRAMES", 1e9)
    monkeypatch.setattr(store_writer, "QUIET_MS", 100)  # so that a busy machine makes no quiet
    first, trickle = store.append(record(10)), []
    while not first.done():  # nor for ever while more comes
        trickle.append(store.append(record(11 + len(trickle))))
        for _ in range(20):
            await asyncio.sleep(0)
    assert first.result() is Outcome.STORED
    assert set(await asyncio.gather(*trickle)) == {Outcome.STORED}


async def test_the_same_identity_is_stored_once_and_other_bytes_go_to_quarantine(store: Store) -> None:
    assert await store.append(record(1)) is Outcome.STORED
    assert await store.append(record(1)) is Outcome.DUPLICATE
    assert await store.append(record(1, payload=b"\x06other")) is Outcome.CONFLICT
    with contextlib.closing(sqlite3.connect(store.path)) as reader:
        assert reader.execute("SELECT reason, frame FROM quarantine").fetchall() == [
            ("identity_conflict", b"\x06other")
        ]
        assert reader.execute("SELECT payload FROM records").fetchall() == [(record(1).payload,)]


async def test_each_lane_has_its_cursor_and_alarms_do_not_wait_for_backlog(store: Store) -> None:
    await asyncio.gather(*(store.append(record(n, alarm=n in (3, 8))) for n in range(10)))
    alarms = await store.undelivered("uplink", True, 100, 1 << 20)
    assert [each.sequence for each in alarms] == [3, 8]
    assert await store.advance("uplink", True, alarms[0].row_id, []) == (0, alarms[0].row_id)
    assert [each.sequence for each in await store.undelivered("uplink", True, 100, 1 << 20)] == [8]
    routine = await store.undelivered("uplink", False, 3, 1 << 20)
    assert [each.sequence for each in routine] == [0, 1, 2]
    assert len(await store.undelivered("uplink", False, 100, 1)) == 1, "one record at least, however small the batch"


async def test_delivered_is_what_every_required_consumer_has(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path, consumers={"first": True, "second": True, "spare": False})
    await asyncio.gather(*(store.append(record(n)) for n in range(10)))
    rows = [each.row_id for each in await store.undelivered("first", False, 100, 1 << 20)]
    assert await store.advance("first", False, rows[5], []) == (0, 0), "the second has nothing yet"
    assert await store.advance("spare", False, rows[9], []) == (0, 0), "a spare one is not waited for"
    assert await store.advance("second", False, rows[2], []) == (0, rows[2])
    assert await store.advance("second", False, rows[9], []) == (rows[2], rows[5])
    assert [each.sequence for each in await store.undelivered("first", False, 100, 1 << 20)] == [6, 7, 8, 9]
    assert await store.undelivered("second", False, 100, 1 << 20) == []
    await store.close()
    store = await Store.open(path, consumers={"first": True, "second": True, "third": True})
    assert await store.advance("first", False, rows[9], []) == (0, 0), "a new one begins at the oldest record"
    assert len(await store.undelivered("third", False, 100, 1 << 20)) == 10
    await store.close()
    with pytest.raises(StoreError, match="require one"):
        await Store.open(path, consumers={"first": False})


@pytest.mark.parametrize("running", [False, True])
async def test_a_lagging_target_that_is_not_waited_for_any_more_is_let_go_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """At a start, or by a reload: neither takes memory for all that becomes delivered, and no start waits for it."""
    path, rows, some = tmp_path / "store.sqlite", 20_000, 500
    monkeypatch.setattr(store_writer, "GROUP_FRAMES", 5000)
    monkeypatch.setattr("emgate.store.store.QUEUE_FRAMES", rows)
    store = await Store.open(path, consumers={"kept": True, "gone": True})
    await asyncio.gather(*(store.append(record(n, alarm=n % 50 == 0)) for n in range(rows)))
    for alarm in (False, True):
        assert await store.advance("kept", alarm, rows - 100) is not None
    if not running:
        await store.close()
    monkeypatch.setattr("emgate.store.books.DELIVER_ROWS", some)
    monkeypatch.setattr("emgate.store.books.CHECKPOINT_ROWS", some)
    tracemalloc.start()
    try:
        if running:
            assert await store.go_by({"kept": True}) == {"gone": rows}
            assert await store.catch_up()
        else:
            for _ in range(2):
                store = await Store.open(path, consumers={"kept": True})
                assert (await store.totals())["routine_waiting"] > rows // 2, "it is open at once"
                await store.write(store._log.deliver_more, refused=None)
                done = store._log.books.delivered_row[False]
                await store.close()
            store = await Store.open(path, consumers={"kept": True})
            assert store._log.books.delivered_row[False] > done > 2 * some, "it goes on where it was"
            assert await store.catch_up()
        assert not await store.catch_up()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, peak
    assert await store.totals() == {"records": rows, "routine_waiting": 98, "alarms_waiting": 2}
    assert await store.counts() == {7: (rows, rows - 100)}
    await store.close()


async def test_state_goes_on_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n)) for n in (0, 1, 2, 5)), store.append(record(9, alarm=True)))
    rows = await store.undelivered("uplink", False, 2, 1 << 20)
    await store.advance("uplink", False, rows[-1].row_id, [(7, 1, 3, 2)])
    assert await store.reserve_down_counters(7, 1, 256) == 0
    assert await store.reserve_down_counters(7, 1, 256) == 256
    await store.note_up_counter(7, 1, 12)
    await store.close()

    store = await Store.open(path)
    (state,) = await store.epochs(7)
    assert (state.stored_through, state.delivered_through) == (3, 2)
    assert state.stored_above == ((5, 5), (9, 9))
    assert state.delivered_above == ()
    assert await store.reserve_down_counters(7, 1, 256) == 512
    assert await store.up_counters(7) == {1: 12}
    assert await store.counts() == {7: (5, 2)}
    await store.close()


async def test_only_old_delivered_records_below_both_watermarks_are_pruned(store: Store) -> None:
    day_ms = 86_400_000
    await asyncio.gather(*(store.append(record(n, time_ms=n * day_ms)) for n in range(10)))
    rows = await store.undelivered("uplink", False, 7, 1 << 20)
    await store.advance("uplink", False, rows[-1].row_id, [(7, 1, 10, 7)])
    assert await store.prune(8 * day_ms, keep_delivered_days=3) == 5  # 0…4: older than three days, and delivered
    assert await store.prune(100 * day_ms, keep_delivered_days=3) == 2  # 5 and 6: the rest is not delivered
    assert [each.sequence for each in await store.undelivered("uplink", False, 100, 1 << 20)] == [7, 8, 9]
    assert await store.append(record(2)) is Outcome.DUPLICATE, "known although it is gone"
    (state,) = await store.epochs(7)
    assert (state.stored_through, state.delivered_through, state.stored_above) == (10, 7, ())
    assert await store.counts() == {7: (10, 7)}


async def test_what_is_pruned_before_an_optional_target_had_it_is_counted_and_told(tmp_path: Path) -> None:
    path, consumers = tmp_path / "store.sqlite", {"service": True, "archive": False, "spare": False}
    store = await Store.open(path, consumers=consumers)
    await asyncio.gather(*(store.append(record(n, alarm=n >= 90)) for n in range(100)))
    for consumer, routine, alarm in (("service", 90, 100), ("archive", 30, 95), ("spare", 90, 100)):
        await store.advance(consumer, False, routine)
        await store.advance(consumer, True, alarm)
    assert await store.prune(2000, keep_delivered_days=0) == 100
    assert store.missed == {"archive": 65} and await store.missed_untold() == {"archive": (65, 65)}
    await store.append(record(100))
    await store.advance("service", False, 101)
    await store.told_missed("archive", 65)
    await store.prune(2000, keep_delivered_days=0)
    assert await store.missed_untold() == {"archive": (1, 66), "spare": (1, 1)}
    await store.close()
    store = await Store.open(path, consumers=consumers)
    assert store.missed == {"archive": 66, "spare": 1}
    assert await store.missed_untold() == {"archive": (1, 66), "spare": (1, 1)}
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE missed")
    store = await Store.open(path, consumers=consumers)
    assert store.missed == {} and store.salvaged is None, "one of an earlier program is taken as it is"
    await store.close()


async def test_a_store_that_grew_too_large_prunes_whatever_is_delivered(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite", maximum_bytes=200_000)
    await asyncio.gather(*(store.append(record(n, payload=b"\x06" + bytes([n % 256]) * 900)) for n in range(300)))
    rows = await store.undelivered("uplink", False, 100, 1 << 20)
    await store.advance("uplink", False, rows[-1].row_id, [(7, 1, 300, 100)])
    assert await store.prune(1001, keep_delivered_days=1000) == 100
    await store.close()


async def test_quarantine_is_bounded_and_keeps_conflicts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgate.store.store.QUARANTINE_ROWS", 20)
    await store.append(record(1))
    await store.append(record(1, payload=b"\x06other"))
    for number in range(100):
        store.quarantine(number, "mqtt", 9, "authentication", bytes(5000))
    await store.drain()
    with contextlib.closing(sqlite3.connect(store.path)) as reader:
        reasons = [row for (row,) in reader.execute("SELECT reason FROM quarantine ORDER BY row_id")]
        assert reasons == ["identity_conflict"] + ["authentication"] * 20
        assert reader.execute("SELECT max(length(frame)) FROM quarantine").fetchone() == (1100,)


async def test_a_damaged_store_is_salvaged_and_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n, payload=b"\x06" + bytes([n % 251]) * 90)) for n in range(3000)))
    rows = await store.undelivered("uplink", False, 50, 1 << 20)
    await store.advance("uplink", False, rows[-1].row_id, [(7, 1, 3000, 50)])
    await store.close()
    data = bytearray(path.read_bytes())
    # Behind the oldest and before the newest thousand, which are looked at when opening.
    middle = [at for at in range(0, len(data), 4096) if bytes([150]) * 90 in data[at : at + 4096]][6]
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(data)
    store = await Store.open(path)
    with pytest.raises(sqlite3.DatabaseError):
        while True:
            batch = await store.undelivered("uplink", False, 50, 1 << 20)
            await store.advance("uplink", False, batch[-1].row_id)
    await store.damaged.wait()
    assert store.damage
    await store.close()

    store = await Store.open(path)
    assert store.salvaged is not None
    (state,) = await store.epochs(7)
    held = set(range(state.stored_through))
    held |= {each for first, last in state.stored_above for each in range(first, last + 1)}
    missing = {n for _, _, first, last in store.salvaged.missing for n in range(first, last + 1)}
    assert missing == set(range(3000)) - held and min(missing) > 1000 and len(missing) < 60
    assert state.stored_through == min(missing), "below which everything is stored: the devices send it again"
    assert state.delivered_through >= 50
    assert store.salvaged.aside.exists()
    for number in sorted(missing):
        again = record(number, payload=b"\x06" + bytes([number % 251]) * 90)
        assert await store.append(again) is Outcome.STORED
    (state,) = await store.epochs(7)
    assert (state.stored_through, state.stored_above) == (3000, ())
    waiting = {each.sequence for each in await store.undelivered("uplink", False, 5000, 1 << 30)}
    assert waiting | set(range(state.delivered_through)) == set(range(3000))
    await store.close()


@pytest.mark.parametrize("what", ["not a database", "empty", "last page", "torn log", "no log", "header"])
async def test_whatever_happens_to_the_files_the_store_opens_and_lacks_nothing_silently(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n, payload=b"\x06" + bytes([n % 251]) * 90)) for n in range(300)))
    rows = await store.undelivered("uplink", False, 100, 1 << 20)
    await store.advance("uplink", False, rows[-1].row_id, [])
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("store.sqlite", "store.sqlite-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    await store.close()
    path, log = copy / "store.sqlite", copy / "store.sqlite-wal"
    match what:
        case "not a database":
            path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
            log.unlink()
        case "empty":
            path.write_bytes(b"")
        case "last page":
            data = bytearray((tmp_path / "store.sqlite").read_bytes())
            data[-4096:] = os.urandom(4096)
            path.write_bytes(data)
            log.unlink()
        case "torn log":
            data = bytearray(log.read_bytes())
            data[len(data) // 2 :] = os.urandom(len(data) // 2)
            log.write_bytes(data)
        case "no log":
            log.unlink()
        case "header":
            data = bytearray(path.read_bytes())
            data[:100] = os.urandom(100)
            path.write_bytes(data)
    store = await Store.open(path)
    states = await store.epochs(7)
    held = {each for state in states for each in range(state.stored_through)}
    held |= {each for state in states for first, last in state.stored_above for each in range(first, last + 1)}
    delivered = {each for state in states for each in range(state.delivered_through)}
    assert delivered <= set(range(100))
    for number in range(300):
        outcome = await store.append(record(number, payload=b"\x06" + bytes([number % 251]) * 90))
        assert (outcome is Outcome.DUPLICATE) == (number in held)
    waiting = [each.sequence for each in await store.undelivered("uplink", False, 500, 1 << 30)]
    assert set(waiting) | delivered == set(range(300)) and len(waiting) == len(set(waiting))
    await store.close()


async def test_an_operation_that_cannot_be_applied_takes_no_other_with_it(store: Store) -> None:
    wrong = Record(7, 1, 1 << 70, False, 1, "serial", b"\x06")  # no integer of SQLite
    outcomes = await asyncio.gather(*(store.append(each) for each in (record(1), wrong, record(2))))
    assert outcomes == [Outcome.STORED, Outcome.REFUSED, Outcome.STORED]
    assert store.counters["operation_failed"] == 1


async def test_closing_commits_what_was_handed_in(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    appended = [store.append(record(n)) for n in range(500)]
    await store.close()
    assert {future.result() for future in appended} == {Outcome.STORED}
    assert await store.append(record(500)) is Outcome.REFUSED


# -- a disk that is full ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_refuses_routine_keeps_room_for_alarms_and_recovers(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "RESERVE_RETRY_S", 0.0)
    store = await Store.open(small_disk / "store.sqlite", alarm_reserve_bytes=2_000_000)
    hog = small_disk / "hog"
    hog.write_bytes(bytes(3_500_000))
    stored = 0
    while True:
        batch = [store.append(record(stored + n, payload=b"\x06" * 1000)) for n in range(50)]
        outcomes = await asyncio.gather(*batch)
        stored += outcomes.count(Outcome.STORED)
        if Outcome.REFUSED in outcomes:
            break
    assert store.counters["no_room_for_routine"] == outcomes.count(Outcome.REFUSED)
    alarms = [store.append(record(10_000 + n, alarm=True, payload=b"\x05" * 200)) for n in range(100)]
    routine = store.append(record(stored, payload=b"\x06" * 1000))
    assert await asyncio.gather(*alarms) == [Outcome.STORED] * 100
    assert await routine is Outcome.REFUSED
    hog.unlink()
    assert await store.append(record(stored, payload=b"\x06" * 1000)) is Outcome.STORED
    await store.close()
    with contextlib.closing(sqlite3.connect(small_disk / "store.sqlite")) as reader:
        assert reader.execute("SELECT count(*), sum(alarm) FROM records").fetchone() == (stored + 1 + 100, 100)


async def test_without_a_reserve_a_full_disk_holds_the_batch_until_there_is_room(small_disk: Path) -> None:
    store = await Store.open(small_disk / "store.sqlite")
    hog = small_disk / "hog"
    stored = 0
    while await store.append(record(stored, payload=b"\x06" * 1000)) is Outcome.STORED:
        stored += 1
        if stored == 20:
            free = os.statvfs(small_disk)
            hog.write_bytes(bytes(free.f_bavail * free.f_frsize))
            break
    waiting = [store.append(record(1000 + n, payload=b"\x06" * 1000)) for n in range(50)]
    async with asyncio.timeout(20):
        while not store.counters["commit_failed"]:  # noqa: ASYNC110 - a counter of the writer's thread
            await asyncio.sleep(0.01)
    assert not any(future.done() for future in waiting)
    hog.unlink()
    assert await asyncio.gather(*waiting) == [Outcome.STORED] * 50
    await store.close()


async def test_stopping_with_a_full_disk_says_what_was_not_stored(small_disk: Path) -> None:
    store = await Store.open(small_disk / "store.sqlite")
    free = os.statvfs(small_disk)
    (small_disk / "hog").write_bytes(bytes(free.f_bavail * free.f_frsize))
    waiting = [store.append(record(n, payload=b"\x06" * 1000)) for n in range(500)]
    await store.close()
    outcomes = [future.result() for future in waiting]
    assert Outcome.REFUSED in outcomes
    with contextlib.closing(sqlite3.connect(small_disk / "store.sqlite")) as reader:
        stored = {number for (number,) in reader.execute("SELECT sequence FROM records")}
    assert stored == {n for n, outcome in enumerate(outcomes) if outcome is Outcome.STORED}
    assert store.counters["lost_at_stop"] == outcomes.count(Outcome.REFUSED)


async def test_the_queue_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgate.store.store.QUEUE_FRAMES", 5)
    outcomes = await asyncio.gather(*(store.append(record(n)) for n in range(500)))
    assert Outcome.REFUSED in outcomes
    assert store.counters["queue_full"] == outcomes.count(Outcome.REFUSED)


def test_a_file_size_limit_is_survived(tmp_path: Path) -> None:
    """Where no tmpfs can be mounted: the kernel's file size limit fails writes as a full disk does."""
    script = """
import asyncio, pathlib, resource, signal, sys
from emgate.store.store import Outcome, Record, Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    waiting = [store.append(Record(7, 1, n, False, 1, "serial", bytes(1000))) for n in range(1000)]
    while not store.counters["commit_failed"]:
        await asyncio.sleep(0.01)
    assert not all(future.done() for future in waiting)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert await asyncio.gather(*waiting) == [Outcome.STORED] * 1000
    await store.close()
asyncio.run(main())
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "store.sqlite")], check=True, timeout=60)


async def test_what_came_over_a_hole_is_delivered_behind_what_fills_it(store: Store) -> None:
    await asyncio.gather(*(store.append(record(n)) for n in (0, 1, 3, 4)))
    first = await store.undelivered("uplink", False, 100, 1 << 20)
    assert [each.sequence for each in first] == [0, 1], "3 waits for 2, which may be on its way"
    await store.append(record(2))
    batch = await store.undelivered("uplink", False, 4, 1 << 20)
    assert [each.sequence for each in batch] == [0, 1, 2, 3, 4], "2 is taken along from behind"
    assert last_row(batch) == 4
    assert await store.advance("uplink", False, 4) == (0, 4)
    assert [each.sequence for each in newly_delivered(batch, (0, 4))] == [0, 1, 3, 4]
    assert [each.sequence for each in await store.undelivered("uplink", False, 100, 1 << 20)] == [2], "in its place"


async def test_what_one_required_target_took_from_behind_is_told_when_the_other_has_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOLD_S, False, 0.0)
    store = await Store.open(tmp_path / "store.sqlite", consumers={"a": True, "b": True})
    taken: dict[str, set[int]] = {"a": set(), "b": set()}
    told: list[int] = []

    async def take(consumer: str, limit: int) -> list[int]:
        batch = await store.undelivered(consumer, False, limit, 1 << 20)
        taken[consumer] |= {each.sequence for each in batch}
        moved = await store.advance(consumer, False, last_row(batch))
        assert moved is not None
        told.extend(each.sequence for each in newly_delivered(batch, moved))
        assert set(told) <= taken["a"] & taken["b"]
        return [each.sequence for each in batch]

    for number in (*range(5), *range(6, 21)):
        await store.append(record(number))
    await take("b", 20)
    await store.append(record(5))
    assert 5 in await take("a", 10)
    await take("a", 10)
    assert await take("b", 10) == [5] and told == [n for n in range(21) if n != 5]
    assert await take("a", 10) == [5] and told[-1] == 5
    # Where a batch is not in the order of its rows, and the other target stands amid them.
    for number in (22, 21, 24, 23):
        await store.append(record(number))
    await take("b", 1)
    assert await take("a", 4) == [21, 22, 23, 24]
    await take("b", 4)
    assert sorted(told) == list(range(25)), "every one, once"
    await store.close()


@pytest.mark.parametrize("alarm", [False, True])
async def test_what_came_late_in_an_earlier_run_is_known_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alarm: bool
) -> None:
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    for number in (0, 3, 4, 1, 5, 2):  # 3 waits for 1 and 2
        await store.append(record(number, alarm=alarm))
    await store.close()  # writes the books down: nothing is read again
    monkeypatch.setitem(HOLD_S, alarm, 0.0)
    store = await Store.open(path)
    for wanted, row_id in (([0], 1), ([1, 2, 3], 2), ([1, 2, 4], 3)):
        batch = await store.undelivered("uplink", alarm, 1, 1 << 20)
        assert [each.sequence for each in batch] == wanted
        assert await store.advance("uplink", alarm, last_row(batch)) == (row_id - 1, row_id)
    await store.close()


async def test_a_hole_that_nobody_fills_is_not_waited_for_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOLD_S, False, 0.05)
    await store.append(record(5))
    appended = store.appended("uplink", False)
    async with asyncio.timeout(10):
        while not (batch := await store.undelivered("uplink", False, 100, 1 << 20)):
            appended.clear()
            await appended.wait()
    assert [each.sequence for each in batch] == [5]


@pytest.mark.parametrize("alarm", [False, True])
async def test_a_hole_that_an_earlier_run_left_is_waited_for_by_the_devices_own_clock(
    tmp_path: Path, alarm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats what was lost with that run when its own time has come."""
    path = tmp_path / "store.sqlite"
    store = await Store.open(path)
    await asyncio.gather(*(store.append(record(n, alarm=alarm)) for n in (0, 1, 3)))
    await store.close()
    monkeypatch.setitem(HOLD_S, alarm, 0.0)
    store = await Store.open(path)

    async def sequences() -> list[int]:
        return [each.sequence for each in await store.undelivered("uplink", alarm, 100, 1 << 20)]

    assert await sequences() == [0, 1], "however short a hole of this run is waited for"
    await store.append(record(2, alarm=alarm))
    assert await sequences() == [0, 1, 2, 3]
    await store.append(record(5, alarm=alarm))
    await store.close()
    monkeypatch.setitem(HOLD_S, alarm, 60.0)
    monkeypatch.setitem(INHERITED_S, alarm, 0.0)
    store = await Store.open(path)
    assert await sequences() == [0, 1, 2, 3, 5], "but not for ever"
    await store.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_damaged_store_on_a_full_disk_is_recovered(small_disk: Path, kept: bool) -> None:
    """With room once the old asides and the reserve are gone; and without: then the devices have to send again."""
    path = small_disk / "store.sqlite"
    store = await Store.open(path)
    count = 2500
    assert await store.reserve_down_counters(7, 1, 100) == 0
    await asyncio.gather(*(store.append(record(n, payload=b"\x06" * 900)) for n in range(count)))
    await store.append(record(count, alarm=True))
    await store.advance("uplink", False, 100)
    await store.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4096)
        file.write(random.Random(1).randbytes(4096))
    aside, reserve = small_disk / "store.sqlite.aside-4", small_disk / "store.sqlite.reserve"
    free = os.statvfs(small_disk)
    room = free.f_bavail * free.f_frsize
    if not kept:
        (small_disk / "hog").write_bytes(bytes(room - 1_500_000))
        room = 1_500_000
    aside.write_bytes(bytes(room - 1_000_000))
    reserve.write_bytes(bytes(900_000))
    salvage.mark(path, "for the test")
    store = await Store.open(path)
    assert not (small_disk / "store.sqlite.fresh").exists() and not aside.exists() and not reserve.exists()
    assert store.salvaged is not None and store.salvaged.aside.exists() == kept
    assert (store.salvaged.records > count - 20) == kept and (store.salvaged.records == 1) == (not kept)
    (state,) = await store.epochs(7)
    assert (state.delivered_through, state.stored_through) == (100, 100) if not kept else state.stored_through > 100
    lost = sum(loss.last - loss.first + 1 for loss in await store.losses(0, 10_000))
    assert lost + store.salvaged.records == count + (1 if kept else -99)
    assert (await store.newest(1))[0].sequence == count
    assert await store.reserve_down_counters(7, 1, 100) >= 100
    assert await store.append(record(count + 1)) is Outcome.STORED
    await store.close()


async def test_a_store_opens_on_a_full_disk_and_takes_alarms(small_disk: Path) -> None:
    """As a killed gateway leaves it: with its reserve."""
    path = small_disk / "store.sqlite"
    await (await Store.open(path)).close()
    (small_disk / "store.sqlite.reserve").write_bytes(bytes(1_000_000))
    free = os.statvfs(small_disk)
    (small_disk / "hog").write_bytes(bytes(free.f_bavail * free.f_frsize))
    store = await Store.open(path, alarm_reserve_bytes=1_000_000)
    assert await store.append(record(1, alarm=True)) is Outcome.STORED
    assert await store.append(record(2)) is Outcome.REFUSED
    await store.close()


async def test_what_is_committed_after_a_silence_waits_for_its_hole_from_the_first_moment(store: Store) -> None:
    store._holes._last_commit_s -= 60
    store.put(record(7), lambda *_: None)
    while store._log.books.row_id == 0:  # the event loop has not heard of the commit
        pass
    held = store._log.tails[False].after(0, 10, 10_000)
    assert held and store._in_order(None, False, held) == []
