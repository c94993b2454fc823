"""Sealed frames in to verified, committed (WAL, synchronous=FULL) and acknowledged, a second of one core.

The gateway's own sessions and store take frames of 50 devices from a link that is this program; a frame counts once
the acknowledgement that names it has been sealed and handed to that link. Sealing the frames is not timed. Two rates:
of wall time, which waits for the disk and for whoever else uses the core, and of processor time of all threads, which
is what a frame costs. Rivals of the same run, on the same disk and core: the rows alone by sqlite3's executemany, a
hundred a commit (the floor under any store), and the same store given one frame at a time. Once more, sealed at rest,
as it is by default. Exit status 1 when the median of either is below the target, by processor time.
"""

import argparse
import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from emgate.clock import SystemClock
from emgate.devices.registry import Device, Registry
from emgate.devices.sessions import Sessions
from emgate.keys.sealing import Ccm
from emgate.keys.vault import PayloadCipher
from emgate.store.store import Store
from emgate.threads import collect_seldom, share_quickly
from emwire import codec, envelope
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DEVICES = 50
KEY = bytes(range(16))
ROUNDS = 3
WINDOW = 2000  # frames handed in before the loop is let run: what a burst on several links leaves in their buffers
SINGLE_FRAMES = 400
TARGET = 20_000  # of processor time, in both ways
OPEN, SEALED = "emtag: verified, committed, acknowledged", "emtag, and sealed at rest"


Rates = tuple[float, float]
"""Frames a second of wall time, and of processor time of all threads."""


def since(start: float, start_processor: float, count: int) -> Rates:
    """Of so many frames from then to now."""
    return count / (time.perf_counter() - start), count / (time.process_time() - start_processor)


class Wire:
    """A link whose far end is this program."""

    name, kind = "bench", "mqtt"

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.counters: Counter[str] = Counter()
        self.acknowledgements: list[tuple[int, bytes]] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def proven(self, device_id: int) -> None:
        pass

    async def send(self, device_id: int, frame: bytes) -> bool:
        self.acknowledgements.append((device_id, frame))
        return True


def sealed(device_id: int, sequence: int) -> bytes:
    """A status record's frame, as most of a device's are."""
    payload = codec.Status(
        1, 100, 200_000_000 + sequence, sequence, 80, 3900, 0, 2150, 100_000, 50_000, 1, 100, sequence, 1, 0, 0, 0
    ).encode()
    control = envelope.control_byte(envelope.UP, envelope.RECORD)
    return envelope.seal(Ccm(KEY), device_id, control, 1, sequence, payload)


class Bench:
    """One gateway's inside."""

    def __init__(self, store: Store) -> None:
        registry = Registry(
            [Device(device_id=1 + number, model="ankle_gps", key=KEY.hex()) for number in range(DEVICES)]
        )
        self.store = store
        self.wire = Wire()
        self.sessions = Sessions(registry, store, SystemClock(1))
        self.sequence = 0

    def frames(self, count: int) -> list[tuple[int, bytes]]:
        """The next frames of all devices, sealed."""
        made = []
        for _ in range(count // DEVICES):
            made += [(1 + number, sealed(1 + number, self.sequence)) for number in range(DEVICES)]
            self.sequence += 1
        return made

    async def acknowledged(self, through: int) -> None:
        """Until every device has heard that all its records are stored."""
        sessions = {session.device.device_id: session for session in self.sessions}
        # Nobody tells when acknowledgements have left.
        while any(  # noqa: ASYNC110
            session.due or (session.flushing and not session.flushing.done()) for session in sessions.values()
        ):
            await asyncio.sleep(0.001)
        heard: dict[int, int] = {}
        for device_id, frame in self.wire.acknowledgements:
            message = codec.decode(envelope.open_frame(Ccm(KEY), device_id, frame, 1)[3])
            if isinstance(message, codec.Acknowledgement):
                heard[device_id] = max(heard.get(device_id, 0), message.stored_through)
        assert len(heard) == DEVICES and set(heard.values()) == {through}, heard

    async def together(self, frames: list[tuple[int, bytes]]) -> Rates:
        """All at once."""
        self.wire.acknowledgements.clear()
        start, start_processor = time.perf_counter(), time.process_time()
        waiting: list[asyncio.Future[bool]] = []
        for at in range(0, len(frames), WINDOW):
            waiting = [self.sessions.received(self.wire, *each) for each in frames[at : at + WINDOW]]
            await waiting[-1]
        await asyncio.gather(*waiting)
        while any(session.due or session.timer for session in self.sessions):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        rates = since(start, start_processor, len(frames))
        await self.acknowledged(self.sequence)
        return rates

    async def singly(self, frames: list[tuple[int, bytes]]) -> Rates:
        """Each waits for its commit before the next comes."""
        start, start_processor = time.perf_counter(), time.process_time()
        for each in frames:
            await self.sessions.received(self.wire, *each)
        return since(start, start_processor, len(frames))


def floor(path: Path, count: int) -> Rates:
    """Rows by sqlite3 alone: same table, index and pragmas, a hundred rows a commit, nothing verified."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS records (row_id INTEGER PRIMARY KEY, device_id, epoch, sequence, alarm, time, link,"
        " payload BLOB, UNIQUE (device_id, epoch, sequence))"
    )
    (first,) = connection.execute("SELECT count(*) FROM records").fetchone()
    rows = [
        (1 + n % DEVICES, 1, (first + n) // DEVICES, 0, 1_700_000_000_000, "mqtt", os.urandom(50)) for n in range(count)
    ]
    start, start_processor = time.perf_counter(), time.process_time()
    for at in range(0, count, 100):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO records (device_id, epoch, sequence, alarm, time, link, payload) VALUES (?,?,?,?,?,?,?)",
            rows[at : at + 100],
        )
        connection.execute("COMMIT")
    rates = since(start, start_processor, count)
    connection.close()
    return rates


async def measure(folder: Path, count: int) -> dict[str, Rates]:
    """Median rates."""
    store = await Store.open(folder / "store.sqlite")
    bench = Bench(store)
    await bench.sessions.load()
    sealing_store = await Store.open(folder / "sealed.sqlite", payload_cipher=PayloadCipher(bytes(32)))
    sealing = Bench(sealing_store)
    await sealing.sessions.load()
    rates: dict[str, list[Rates]] = {}
    for _ in range(ROUNDS):
        rates.setdefault("sqlite3 alone: rows, 100 a commit", []).append(floor(folder / "floor.sqlite", count))
        rates.setdefault(OPEN, []).append(await bench.together(bench.frames(count)))
        rates.setdefault(SEALED, []).append(await sealing.together(sealing.frames(count)))
        rates.setdefault("emtag, one frame at a time", []).append(await bench.singly(bench.frames(SINGLE_FRAMES)))
    for each in (bench, sealing):
        await each.sessions.close()
        await each.store.close()
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(processor for _, processor in values))
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where the stores are made and deleted")
    parser.add_argument("--frames", type=int, default=30_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    share_quickly()  # as the gateway runs
    collect_seldom()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-pipeline-") as made:
        rates = asyncio.run(measure(Path(made), arguments.frames))
    table = Table(title=f"frames a second on one core; {DEVICES} devices, median of {ROUNDS} rounds")
    table.add_column("way")
    for column in ("a second", "a second of processor time", "of sqlite3 alone"):
        table.add_column(column, justify="right")
    base = next(iter(rates.values()))[1]
    for name, (wall, processor) in rates.items():
        table.add_row(name, f"{wall:,.0f}", f"{processor:,.0f}", f"{processor / base:.2f}x")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"target {TARGET:,} a second of one core; load average {load} on {os.cpu_count()} cores")
    missed = [name for name in (OPEN, SEALED) if rates[name][1] < TARGET]
    if missed:
        sys.exit(f"below the target: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
