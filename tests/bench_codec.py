"""Parse and build of one message by the generated codec and its rivals; then sealed frames a second (`make bench`).

All carry the same values. Parse ends when every field has been read once; build begins with an object that has its
values, make and build with the values. Construct is plain, without the catalogue's ranges. Rounds are interleaved (each
times every rival once, in another order), times are processor time of this thread, and the median over the rounds
counts. `--check` exits with 1 where a target is missed.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codec_rivals import Timed, rivals
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from emgate.keys.sealing import Ccm
from emwire import catalogue, codec, envelope
from emwire.link import GatewayLink
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 31
# Long against the clock's resolution, short against a change of the machine's load.
SLICE_NS = 4_000_000

HEADER = {"clock_source": 1, "clock_uncertainty_ms": 50, "recorded_time_s": 508_500_000, "uptime_s": 86_400}
MESSAGES: dict[str, dict[str, Any]] = {
    # 40 bytes: 8 integers and a byte string.
    "event": HEADER
    | {
        "event_type": 1, "event_time_s": 508_499_990, "subject_id": 0xA0B0C0D0, "value": -70,
        "evidence": bytes(range(13)),
    },
    # 38 bytes: 18 integers, one of them with a range of its own.
    "presence": HEADER
    | {
        "beacon_id": 0xA0B0C0D0, "authenticity": 1, "window_start_s": 508_499_400, "window_duration_s": 600,
        "listened_s": 590, "deaf_s": 10, "heard_count": 118, "first_heard_s": 3, "last_heard_s": 598,
        "rssi_minimum_dbm": -92, "rssi_median_dbm": -71, "rssi_maximum_dbm": -55, "beacon_battery_percent": 88,
        "beacon_strap": 0,
    },
}  # fmt: skip

# (rival, column): how many times as fast the generated codec must be.
TARGETS = {("Construct", "parse"): 30, ("Construct", "build"): 30, ("protobuf (upb)", "parse"): 1}
FRAMES_TARGET = 60_000

DEVICE = """
import sys, time
from common.ccm import Ccm
from emwire import envelope
aead = Ccm(bytes(range(16)))
control = envelope.control_byte(envelope.UP, envelope.RECORD)
plaintext = bytes(range(40))
frame = envelope.seal(aead, 1, control, 1, 1, plaintext)
seals, opens = [], []
for _ in range(25):
    start = time.ticks_us()
    for _ in range(100):
        envelope.seal(aead, 1, control, 1, 1, plaintext)
    middle = time.ticks_us()
    for _ in range(100):
        envelope.open_frame(aead, 1, frame)
    end = time.ticks_us()
    seals.append(time.ticks_diff(middle, start))
    opens.append(time.ticks_diff(end, middle))
print(sorted(seals)[12] / 100, sorted(opens)[12] / 100)
"""


def once(call: Callable[[], Any]) -> Timed:
    """A timed loop of a call, its own cost included (some 20 ns a call)."""

    def timed(count: int, clock: Callable[[], int]) -> int:
        start = clock()
        for _ in range(count):
            call()
        return clock() - start

    return timed


def medians(loops: dict[str, Timed], what: str) -> dict[str, float]:
    """Nanoseconds of one run of each, interleaved."""
    clock = time.thread_time_ns
    counts = {}
    for name, loop in loops.items():
        loop(100, clock)  # CPython specialises what runs often
        counts[name] = max(10, SLICE_NS * 100 // max(1, loop(100, clock)))
    times: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    chance = random.Random(1)
    for _ in track(range(ROUNDS), what, transient=True, console=Console(stderr=True)):
        chance.shuffle(order)
        for name in order:
            times[name].append(loops[name](counts[name], clock) / counts[name])
    return {name: statistics.median(values) for name, values in times.items()}


def compare(console: Console, name: str, values: dict[str, Any]) -> list[str]:
    """One table; what misses its target."""
    contenders = rivals(catalogue.BY_NAME[name])
    data = {rival: codec_.encoded(values) for rival, codec_ in contenders.items()}
    own = next(iter(contenders))
    columns = {
        "parse": medians({rival: c.parsing(values, data[rival]) for rival, c in contenders.items()}, f"{name}: parse"),
        "build": medians({rival: c.building(values) for rival, c in contenders.items()}, f"{name}: build"),
        "make and build": medians({rival: c.making(values) for rival, c in contenders.items()}, f"{name}: make"),
    }
    table = Table(title=f"{name}: {len(data[own])} bytes, {len(values)} fields; median of {ROUNDS} rounds")
    table.add_column("codec")
    table.add_column("bytes", justify="right")
    for column in columns:
        table.add_column(f"{column}, µs", justify="right")
        table.add_column("emtag is", justify="right")
    missed = []
    for rival in contenders:
        cells = [str(len(data[rival]))]
        for column, times in columns.items():
            ratio = times[rival] / times[own]
            cells += [f"{times[rival] / 1000:.2f}", f"{ratio:.1f}x"]
            least = TARGETS.get((rival, column), 0)
            if ratio < least:
                missed.append(f"{name}: {column} {ratio:.1f}x {rival}, wanted {least:.0f}x")
        table.add_row(rival, *cells)
    console.print(table)
    return missed


def frames(console: Console, values: dict[str, Any]) -> list[str]:
    """Sealed frame to record on this core, against the cipher alone."""
    key, device_id, epoch, batch = bytes(range(16)), 0xA0B0C0D0, 7, 256
    aead = Ccm(key)
    plaintext = codec.Event(**values).encode()
    control = envelope.control_byte(envelope.UP, envelope.RECORD)
    sealed = [envelope.seal(aead, device_id, control, epoch, number, plaintext) for number in range(batch)]
    link = GatewayLink(device_id, aead)

    def to_record() -> None:
        for frame in sealed:
            codec.decode(link.received(frame).payload)

    def to_payload() -> None:
        for frame in sealed:
            link.received(frame)

    def opened() -> None:
        for frame in sealed:
            envelope.open_frame(aead, device_id, frame)

    def seal() -> None:
        for number in range(batch):
            envelope.seal(aead, device_id, control, epoch, number, plaintext)

    cipher = AESCCM(key, tag_length=envelope.TAG_SIZE)
    nonce, associated = bytes(13), bytes(10)
    body = cipher.encrypt(nonce, plaintext, associated)

    def bare() -> None:
        for _ in range(batch):
            cipher.decrypt(nonce, body, associated)

    rows: dict[str, Callable[[], Any]] = {
        "frame to record: GatewayLink.received, codec.decode": to_record,
        "frame to payload: GatewayLink.received": to_payload,
        "envelope.open_frame": opened,
        "envelope.seal": seal,
        "cryptography's AESCCM.decrypt alone": bare,
    }
    times = {
        name: value / batch
        for name, value in medians({name: once(call) for name, call in rows.items()}, "frames").items()
    }
    table = Table(title=f"sealed frames of a {len(plaintext)}-byte message, CPython {sys.version.split()[0]}, one core")
    table.add_column("step")
    for column in ("µs a frame", "frames/s", "of the cipher alone"):
        table.add_column(column, justify="right")
    floor = times["cryptography's AESCCM.decrypt alone"]
    for name, value in times.items():
        table.add_row(name, f"{value / 1000:.2f}", f"{1e9 / value:,.0f}", f"{value / floor:.2f}x")
    console.print(table)
    rate = 1e9 / times[next(iter(rows))]
    return [] if rate >= FRAMES_TARGET else [f"{rate:,.0f} frames to records a second, wanted {FRAMES_TARGET:,}"]


def device(console: Console) -> None:
    """Seal and open on MicroPython."""
    beside = str(Path(sys.executable).with_name("micropython"))
    for candidate in (os.environ.get("EMTAG_MICROPYTHON"), beside, shutil.which("micropython")):
        if candidate and Path(candidate).exists():
            break
    else:
        console.print("MicroPython: skipped, needs an interpreter (EMTAG_MICROPYTHON)")
        return
    path = f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"
    command = [candidate, "-c", DEVICE]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"MICROPYPATH": path})
    seal_us, open_us = map(float, result.stdout.split())
    console.print(f"MicroPython's unix port, 40 bytes: seal {seal_us:.1f} µs, open {open_us:.1f} µs a frame")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    missed = [line for name, values in MESSAGES.items() for line in compare(console, name, values)]
    missed += frames(console, MESSAGES["event"])
    device(console)
    for line in missed:
        console.print(f"missed: {line}", style="bold red")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
