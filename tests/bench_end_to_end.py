"""Records a second from devices over mosquitto and a gateway to the far end, beside ThingsBoard IoT Gateway.

emtag: `emtag gateway run` takes sealed frames from the broker and publishes batches to it, `emtag backend run` commits
them (SQLite, FULL, both). The time ends when the last record is committed in the backend's database; then each must be
there exactly once. ThingsBoard IoT Gateway 3.8 with its SQLite storage takes the same frames in JSON; its time ends
when a subscriber in this program has received the last. emtag seals what it keeps, as it does by default, and runs once
more without. `make bench` runs it; exit status 1 when the median of the rounds' ratios is below the target. See
docs/benchmarks.md.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from emgate.brokers.broker import mosquitto_path, start_broker
from emwire import topics
from gateway_rivals import DEVICES, ROOT, Emtag, OpenEmtag, Record, RivalError, ThingsBoard, make_records
from mqtt_line import Line
from rich.console import Console
from rich.table import Table

CONNECTIONS = 5
WINDOW = 500  # unacknowledged at the broker, of each connection
POLL_S = 0.02
STALLED_S = 60.0
TARGET = 3.0
"""Times the rate of the other gateway."""


@dataclass
class Run:
    """One gateway's figures of one round."""

    rate: float
    cpu_us: float  # of all its processes, a record
    peak_mib: list[tuple[str, float]]
    twice: int


async def publish_all(port: int, messages: list[tuple[str, bytes]]) -> None:
    """By several connections at once."""
    lines = [await Line.open(port, f"fleet-{number}") for number in range(CONNECTIONS)]
    shares: list[list[tuple[str, bytes]]] = [[] for _ in lines]
    for number, message in enumerate(messages):
        shares[number % DEVICES % CONNECTIONS].append(message)
    await asyncio.gather(*(line.publish(share, WINDOW) for line, share in zip(lines, shares, strict=True)))
    for line in lines:
        line.close()


async def until_arrived(side: Emtag | ThingsBoard, count: int) -> None:
    before, since = -1, time.monotonic()
    while (now := side.arrived()) < count:
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED_S:
            raise RivalError(f"{side.name}: {now} of {count} records arrived, and no more for {STALLED_S:g} s")
        await asyncio.sleep(POLL_S)


async def measure(side: Emtag | ThingsBoard, port: int, records: list[Record]) -> Run:
    """One run of a freshly started gateway. RivalError when a record is missing, or there twice."""
    messages = [side.message(record) for record in records]
    # Devices hear the acknowledgements: so the broker has to deliver them.
    ears = await Line.open(port, "fleet-ears", [topics.DOWN_FILTER])
    try:
        await side.start()
        cpu = {process.name: process.cpu_s() for process in side.processes()}
        begun = time.monotonic()
        publishing = asyncio.create_task(publish_all(port, messages))
        await until_arrived(side, len(records))
        keys: list[str] = []
        while True:
            spent = time.monotonic() - begun
            used = sum(process.cpu_s() - cpu[process.name] for process in side.processes())
            keys = side.keys()
            if len(set(keys)) >= len(records) or time.monotonic() - begun > spent + STALLED_S:
                break
            await asyncio.sleep(POLL_S)
        await publishing
        missing = {record.key for record in records} - set(keys)
        twice = len(keys) - len(set(keys))
        if missing or (twice and side.exactly_once):
            raise RivalError(f"{side.name}: {len(missing)} records are missing, {twice} are there twice")
        peaks = [(process.name, process.peak_mib()) for process in side.processes()]
        return Run(len(records) / spent, used / len(records) * 1e6, peaks, twice)
    finally:
        ears.close()
        side.stop()


async def rounds(folder: Path, count: int, repeat: int) -> dict[str, list[Run]]:
    records = make_records(count)
    found: dict[str, list[Run]] = {}
    for number in range(repeat):
        for kind in (Emtag, ThingsBoard, OpenEmtag):
            with start_broker("mosquitto") as broker:
                side = kind(folder / f"{kind.__name__}-{number}", broker.port)
                run = await measure(side, broker.port, records)
            found.setdefault(side.name, []).append(run)
            print(f"  round {number + 1}: {side.name} {run.rate:,.0f} records/s", file=sys.stderr, flush=True)
    return found


def show(found: dict[str, list[Run]], count: int) -> float:
    """Print it; the median ratio of emtag as it comes."""
    repeat = len(next(iter(found.values())))
    table = Table(title=f"devices to far end over mosquitto; {count:,} records, median of {repeat} rounds")
    for column in ("gateway", "records/s", "lowest", "highest", "CPU a record", "peak resident", "twice"):
        table.add_column(column, justify="left" if column == "gateway" else "right")
    for name, runs in found.items():
        rates = [run.rate for run in runs]
        peaks: dict[str, float] = {}
        for run in runs:
            for process, mib in run.peak_mib:
                peaks[process] = max(peaks.get(process, 0), mib)
        table.add_row(
            name, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}",
            f"{statistics.median(run.cpu_us for run in runs):,.0f} µs",
            ", ".join(f"{process} {mib:.0f} MiB" for process, mib in peaks.items()),
            f"{sum(run.twice for run in runs)}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    theirs = found[ThingsBoard.name]
    medians = {}
    for ours in (Emtag, OpenEmtag):
        ratios = [one.rate / other.rate for one, other in zip(found[ours.name], theirs, strict=True)]
        medians[ours.name] = statistics.median(ratios)
        costs = [other.cpu_us / one.cpu_us for one, other in zip(found[ours.name], theirs, strict=True)]
        print(
            f"{ours.name}/ThingsBoard: {medians[ours.name]:.2f} times the records a second"
            f" ({', '.join(f'{ratio:.2f}' for ratio in ratios)}; target {TARGET:g}),"
            f" {statistics.median(costs):.2f} times those of a second of processor time"
        )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{len(os.sched_getaffinity(0))} cores, load average {load}")
    return medians[Emtag.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where stores are made and deleted")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if mosquitto_path() is None:
        sys.exit("mosquitto is not installed: apt install mosquitto")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-end-to-end-") as made:
        try:
            found = asyncio.run(rounds(Path(made), arguments.records, arguments.rounds))
        except RivalError as error:
            sys.exit(str(error))
    ratio = show(found, arguments.records)
    if ratio < TARGET:
        sys.exit(f"below the target: {ratio:.2f} times, not {TARGET:g}")


if __name__ == "__main__":
    main()
