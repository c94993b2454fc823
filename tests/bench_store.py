"""The store: frames a second that reach the disk, bytes written per byte of payload, time to open. For `make bench`.

Group commit against one commit a frame, in the same run. Bytes written are those that the kernel sent to the disk for
this process (/proc/self/io). Opening is timed with an empty store, and with 1,000 and --rows undelivered records; exit
status 1 when it takes longer by more than MOST_TIMES with so many. (Ten million take 1.5 GB and some minutes.)
Every frame is committed (WAL, synchronous=FULL) before it counts. Rounds are interleaved on one store each, the median
counts; it is wall time, since the disk is what is waited for. The store lies in the folder given, by default the
checkout's var/, so that a tmpfs does not flatter it.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from emgate.store.books import CHECKPOINT_ROWS
from emgate.store.log import Log
from emgate.store.schema import connect, prepare
from emgate.store.store import Outcome, Record, Store
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7
OPENINGS = 31  # each takes some 10 ms, and any of them may meet another process
FEW_ROWS, ROWS = 1000, 10_000_000
MOST_TIMES = 3.0
"""What opening may take with --rows, beside FEW_ROWS: by the wall, which other programs lengthen, and of the
processor's time. A start that read every record would take a thousand times as long."""
PAYLOAD_BYTES = 40
# Frames under way at once, and how many of them a round takes (fewer where each waits for the disk).
FLIGHTS = {1: 20, 8: 240, 64: 2560, 512: 5120}
BARE = "sqlite3, a commit a frame"
BARE_FRAMES = 60


def name_of(flight: int) -> str:
    """Row of a flight."""
    return "emtag, one at a time" if flight == 1 else f"emtag, {flight} under way"


class Bench:
    """One store, and one plain table beside it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        self.sequence = 0
        self.bare = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
        self.bare.execute("PRAGMA journal_mode=WAL")
        self.bare.execute("PRAGMA synchronous=FULL")
        self.bare.execute(
            "CREATE TABLE records (device_id, epoch, sequence, payload, PRIMARY KEY (device_id, epoch, sequence))"
        )

    async def grouped(self, flight: int) -> float:
        """Frames a second with so many under way."""
        count = FLIGHTS[flight]
        records = [
            Record(7, 1, self.sequence + number, False, 1000, "serial", os.urandom(PAYLOAD_BYTES))
            for number in range(count)
        ]
        self.sequence += count
        start = time.perf_counter()
        for at in range(0, count, flight):
            outcomes = await asyncio.gather(*map(self.store.append, records[at : at + flight]))
            assert outcomes == [Outcome.STORED] * len(outcomes)
        return count / (time.perf_counter() - start)

    def singly(self) -> float:
        """Frames a second of SQLite alone, each in a transaction of its own."""
        count = BARE_FRAMES
        rows = [(7, 1, self.sequence + number, os.urandom(PAYLOAD_BYTES)) for number in range(count)]
        self.sequence += count
        start = time.perf_counter()
        for row in rows:
            self.bare.execute("INSERT INTO records VALUES (?,?,?,?)", row)
        return count / (time.perf_counter() - start)


async def measure(folder: Path) -> dict[str, float]:
    """Median frames a second of each way."""
    store = await Store.open(folder / "store.sqlite")
    bench = Bench(folder, store)
    rates: dict[str, list[float]] = {BARE: [], **{name_of(flight): [] for flight in FLIGHTS}}
    ways = [0, *FLIGHTS]
    chance = random.Random(1)
    for _ in track(range(ROUNDS), "store", transient=True, console=Console(stderr=True)):
        chance.shuffle(ways)
        for flight in ways:
            if flight:
                rates[name_of(flight)].append(await bench.grouped(flight))
            else:
                rates[BARE].append(bench.singly())
    await store.close()
    bench.bare.close()
    return {name: statistics.median(values) for name, values in rates.items()}


def disk_bytes() -> int:
    """What this process has had written to disk."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError("no write_bytes in /proc/self/io")


async def written(folder: Path, flight: int, count: int, devices: int) -> float:
    """Bytes written to disk for a byte of payload, `flight` frames under way, until all is in the file itself."""
    payload = os.urandom(PAYLOAD_BYTES)
    before = disk_bytes()
    store = await Store.open(folder / f"written-{flight}-{devices}.sqlite")
    records = [Record(n % devices, 1, n // devices, False, 1000, "serial", payload) for n in range(count)]
    for at in range(0, count, flight):
        await asyncio.gather(*map(store.append, records[at : at + flight]))
    await store.close()
    os.sync()
    return (disk_bytes() - before) / (count * PAYLOAD_BYTES)


def fill(path: Path, rows: int) -> None:
    """A store of so many undelivered records, by the store's own code, in larger transactions than it makes."""
    connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    prepare(connection)
    tables = Log(connection, {"uplink": True}, None)
    for at in range(0, rows + 1, CHECKPOINT_ROWS):
        some = range(at, min(rows, at + CHECKPOINT_ROWS))
        connection.execute("BEGIN")
        tables.append(
            connection, [Record(n % 50, 1, n // 50, False, 1000, "serial", b"\x06" * PAYLOAD_BYTES) for n in some]
        )
        connection.execute("COMMIT")
        tables.committed(connection)
        connection.execute("BEGIN")
        tables.checkpoint(connection, now=True)
        connection.execute("COMMIT")
        tables.committed(connection)
    connection.close()


async def opening(folder: Path, rows: int) -> tuple[float, float]:
    """Milliseconds to open a store of so many undelivered records, and to read the state of its 50 devices: by the
    wall, and of the processor's time."""
    path = folder / f"opening-{rows}.sqlite"
    fill(path, rows)
    os.sync()  # else what an opening commits waits for the filling to reach the disk
    spent, worked = [], []
    for _ in range(OPENINGS):
        start, began = time.perf_counter(), time.process_time()
        store = await Store.open(path)
        for device in range(50):
            await store.epochs(device)
        await store.counts()
        spent.append(time.perf_counter() - start)
        worked.append(time.process_time() - began)
        await store.close()
    path.unlink()
    return statistics.median(spent) * 1000, statistics.median(worked) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where the stores are made and deleted")
    parser.add_argument("--rows", type=int, default=ROWS, help="records of the store whose opening is timed")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-store-") as made:
        rates = asyncio.run(measure(Path(made)))
        costs = {
            (flight, devices): asyncio.run(written(Path(made), flight, count, devices))
            for flight, count, devices in ((1, 1000, 3), (8, 4000, 3), (100, 40_000, 50), (1000, 40_000, 50))
        }
        opened = {rows: asyncio.run(opening(Path(made), rows)) for rows in (0, FEW_ROWS, arguments.rows)}
    table = Table(title=f"frames committed a second, {PAYLOAD_BYTES} B each; median of {ROUNDS} rounds")
    table.add_column("way")
    table.add_column("frames/s", justify="right")
    table.add_column("of a commit a frame", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / rates[BARE]:.1f}x")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for (flight, devices), cost in costs.items():
        console.print(f"bytes written for a byte of payload, {flight} under way, {devices} devices: {cost:.1f}")
    for rows, (waited, worked) in opened.items():
        console.print(f"opened with {rows:,} records waiting: {waited:.0f} ms, {worked:.1f} ms of the processor")
    times = [many / few for many, few in zip(opened[arguments.rows], opened[FEW_ROWS], strict=True)]
    if max(times) > MOST_TIMES:
        sys.exit(f"opening took {times[0]:.1f} times as long, {times[1]:.1f} times the work: above {MOST_TIMES:g}")


if __name__ == "__main__":
    main()
