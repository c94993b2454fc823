"""Frames a second that reach the disk: group commit against one commit a frame, in the same run. Run by `make bench`.

The writer waits a few milliseconds for company before each commit, so that one frame alone is slower than SQLite alone.
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

from emgate.store import Outcome, Record, Store
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where the stores are made and deleted")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-store-") as made:
        rates = asyncio.run(measure(Path(made)))
    table = Table(title=f"frames committed a second, {PAYLOAD_BYTES} B each; median of {ROUNDS} rounds")
    table.add_column("way")
    table.add_column("frames/s", justify="right")
    table.add_column("of a commit a frame", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / rates[BARE]:.1f}x")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
