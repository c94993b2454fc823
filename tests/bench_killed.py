"""What a SIGKILL of the gateway costs, beside ThingsBoard IoT Gateway: accepted messages that never arrive.

Devices publish at a steady rate with QoS 1; the gateway is killed at random instants and started again, while devices
go on. A message counts as accepted when the broker has acknowledged it to its device, which then forgets it: nothing is
sent twice. Broker and far end stay alive, and both gateways have a session at the broker that outlives them. emtag's
must lose none. `make bench` runs it. See docs/benchmarks.md.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from emgate.brokers.broker import mosquitto_path, start_broker
from gateway_rivals import ROOT, Emtag, RivalError, ThingsBoard, make_records
from mqtt_line import Line
from rich.console import Console
from rich.table import Table

RATE = 500
TICK_S = 0.02
FIRST_S, LAST_S = 0.5, 2.5  # a kill comes so long after the gateway is up
LONGEST_S = 60.0  # of one start
QUIET_S = 10.0  # nothing more arrives


@dataclass
class Verdict:
    accepted: int
    lost: int
    twice: int


async def publish_steadily(line: Line, messages: list[tuple[str, bytes]], stop: asyncio.Event) -> int:
    """How many were sent."""
    begun = time.monotonic()
    sent = 0
    while not stop.is_set() and sent < len(messages):
        due = min(len(messages), int((time.monotonic() - begun) * RATE))
        while sent < due:
            line.send(*messages[sent])
            sent += 1
        await asyncio.sleep(TICK_S)
    return sent


async def judge(side: Emtag | ThingsBoard, port: int, kills: int, chance: random.Random) -> Verdict:
    records = make_records(int(RATE * kills * (LAST_S + LONGEST_S / 2)))
    messages = [side.message(record) for record in records]
    line = await Line.open(port, "fleet")
    try:
        await side.start()
        stop = asyncio.Event()
        publishing = asyncio.create_task(publish_steadily(line, messages, stop))
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(FIRST_S, LAST_S))
            assert side.gateway is not None
            side.gateway.kill()
            await asyncio.to_thread(side.start_gateway)
        await asyncio.sleep(FIRST_S)
        stop.set()
        sent = await publishing
        await line.all_acknowledged(sent)
        before, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_S:
            now = side.arrived()
            if now != before:
                before, since = now, time.monotonic()
            if len(set(side.keys())) >= sent:
                break
            await asyncio.sleep(0.5)
        keys = side.keys()
        accepted = {record.key for record in records[:sent]}
        return Verdict(sent, len(accepted - set(keys)), len(keys) - len(set(keys)))
    finally:
        line.close()
        side.stop()


async def verdicts(folder: Path, kills: int, seed: int) -> dict[str, Verdict]:
    found = {}
    for kind in (Emtag, ThingsBoard):
        with start_broker("mosquitto") as broker:
            side = kind(folder / kind.__name__, broker.port)
            found[side.name] = await judge(side, broker.port, kills, random.Random(seed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where the stores are made and deleted")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    if mosquitto_path() is None:
        sys.exit("mosquitto is not installed: apt install mosquitto")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-killed-") as made:
        try:
            found = asyncio.run(verdicts(Path(made), arguments.kills, arguments.seed))
        except RivalError as error:
            sys.exit(str(error))
    table = Table(title=f"{arguments.kills} times SIGKILL at {RATE} messages/s; seed {arguments.seed}")
    for column in ("gateway", "accepted", "never arrived", "arrived twice"):
        table.add_column(column, justify="left" if column == "gateway" else "right")
    for name, verdict in found.items():
        table.add_row(name, f"{verdict.accepted:,}", f"{verdict.lost:,}", f"{verdict.twice:,}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(
        f"{len(os.sched_getaffinity(0))} cores, load average {', '.join(f'{value:.1f}' for value in os.getloadavg())}"
    )
    ours = found[Emtag.name]
    if ours.lost or ours.twice:
        sys.exit(f"emtag lost {ours.lost} records and has {ours.twice} twice")


if __name__ == "__main__":
    main()
