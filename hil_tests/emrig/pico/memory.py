"""`python -m emrig.pico.memory [--cycles N] [--json] [MODEL[=N] ...]`: what each model allocates on an emulated Pico.

The device lives in a station with a real gateway, its clock stepped by the rig, with intervals as short as it takes
them (scenarios/memory.toml). `gc.mem_alloc()` is asked at everything the device puts out and each time that all its
tasks wait, garbage included, and sometimes after a collection. Code runs from flash and is not in it. A
reporting cycle is one record of what the model reports with all that leads to it: four fixes and their position block,
a presence window, a reading; of the pid, a token. Models run beside each other, as many as there are cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from emwire import constants

from emrig import interpreter, scenario
from emrig.images import firmware_image
from emrig.pico.spawner import BOARD, PicoSpawner
from emrig.station import Station

LIMIT_BYTES = 96 * 1024
# The one that takes longest first.
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
CYCLES = 60
# The record that ends a cycle; the pid makes none while all is well.
REPORTS = {
    "ankle_gps": constants.MESSAGE_POSITION_BLOCK,
    "home_unit": constants.MESSAGE_PRESENCE,
    "alcohol": constants.MESSAGE_ALCOHOL_READING,
    "pid": 0,
}
# A cycle takes at most a minute, and the first ones wait for a fix; what takes ten times that is stuck.
LONGEST_MS_PER_CYCLE = 600_000
TOKEN_MS = 10_000
SCENARIO = scenario.SCENARIOS / "memory.toml"
_WORD = b"mem "
# How often the rest is measured without its garbage: each collection costs the board some milliseconds.
COLLECT_EVERY = 8
# On the board, imported before the firmware. It stands between that and UART 0, so that it needs to know nothing of the
# firmware but the wire's format; before each WAIT goes out it tells the rig. A collection costs the board milliseconds.
_MEASURING = b"""
import gc
import machine
import struct
import sys
import time

from rig_wire import CHANNELS, DATA, HEADER_FORMAT, HEADER_SIZE, WAIT

TOLD = "<4sIII"
_CONTROL = CHANNELS.index("control")


class Uart:
    def __init__(self, *arguments, **keywords):
        self._uart = machine.UART(*arguments, **keywords)
        self._allocated = 0
        self._waits = 0
        self._busy_ms = 0
        self._since_ms = time.ticks_ms()

    def read(self, count):
        # What the board waits for the rig is no time of its own.
        self._busy_ms += time.ticks_diff(time.ticks_ms(), self._since_ms)
        data = self._uart.read(count)
        self._since_ms = time.ticks_ms()
        return data

    def write(self, data):
        self._allocated = max(self._allocated, gc.mem_alloc())
        if len(data) > HEADER_SIZE and struct.unpack(HEADER_FORMAT, data[:HEADER_SIZE])[1] == WAIT:
            self._tell()
        return self._uart.write(data)

    def _tell(self):
        if self._waits % COLLECT_EVERY == 0:
            gc.collect()
        self._waits += 1
        payload = struct.pack(TOLD, b"mem ", self._allocated, gc.mem_alloc(), self._busy_ms)
        self._uart.write(struct.pack(HEADER_FORMAT, len(payload), DATA, _CONTROL) + payload)
        self._allocated = 0


class _Machine:
    UART = Uart

    def __getattr__(self, name):
        return getattr(machine, name)


sys.modules["machine"] = _Machine()
"""


@dataclass(slots=True)
class Peak:
    """Largest of what was measured, in bytes; `cycles`: how many ended; `busy_ms`: of the board's time, not waiting.

    `live_of_cycles`: what is allocated after a collection, largest of each cycle; 0 of one that saw no collection.
    """

    report: int
    allocated: int = 0
    live: int = 0
    waits: int = 0
    cycles: int = 0
    busy_ms: int = 0
    live_of_cycles: list[int] = field(default_factory=list)
    on_cycle: Callable[[int], None] = lambda cycles: None
    _live_since: int = 0

    @property
    def growth(self) -> float | None:
        """Bytes more after a collection from cycle to cycle, least squares; None before three cycles saw one.

        The first is the start, and no cycle like the others.
        """
        seen = [(number, live) for number, live in enumerate(self.live_of_cycles) if number and live]
        return statistics.linear_regression(*zip(*seen, strict=True)).slope if len(seen) >= 3 else None

    def ended(self) -> None:
        """One cycle more is over."""
        self.cycles += 1
        self.live_of_cycles.append(self._live_since)
        self._live_since = 0
        self.on_cycle(self.cycles)

    def output(self, kind: int, payload: bytes) -> None:
        """The board's word; what else comes on this channel is the rig's book of records."""
        if payload.startswith(_WORD):
            numbers = [int.from_bytes(payload[at : at + 4], "little") for at in range(4, len(payload), 4)]
            self.allocated = max(self.allocated, numbers[0])
            if self.waits % COLLECT_EVERY == 0:
                self.live = max(self.live, numbers[1])
                self._live_since = max(self._live_since, numbers[1])
            self.busy_ms = sum(numbers[2:])
            self.waits += 1
        elif len(words := payload.split()) == 4 and int(words[3][:2], 16) == self.report:
            self.ended()

    def call(self, operation: int, argument: bytes) -> bytes:
        """This channel has no calls."""
        return b""


async def measure(model: str, cycles: int, folder: Path, on_cycle: Callable[[int], None] = lambda cycles: None) -> Peak:
    """Run one model for so many reporting cycles; on_cycle(number) as each ends."""
    report = REPORTS[model]
    whole = scenario.load(SCENARIO)
    kept = [device for device in whole.devices if device.model in (model, "pid" if model == "home_unit" else model)]
    station = Station(folder, whole.model_copy(update={"devices": tuple(kept)}), interpreter.find())
    device = next(device.name for device in kept if device.model == model)
    source = b"COLLECT_EVERY = %d" % COLLECT_EVERY + _MEASURING
    measuring = dict([firmware_image.compiled_module("rom/measuring.py", source, BOARD)])
    station.rig.spawners[device] = PicoSpawner(
        {"main.py": b"import measuring\n" + firmware_image.start_file(), **measuring}
    )
    peak = Peak(report, on_cycle=on_cycle)
    station.on_wired = lambda: station.rig.devices[device].parts.__setitem__("control", peak)
    async with station:
        begun_ms = station.clock.now_ms()

        def finished() -> bool:
            tokens = (station.clock.now_ms() - begun_ms) // TOKEN_MS
            while not report and tokens > peak.cycles:
                peak.ended()
            return peak.cycles >= cycles or station.rig.devices[device].boots > 1

        await station.rig.run(until_ms=begun_ms + (cycles + 2) * LONGEST_MS_PER_CYCLE, until=finished)
        boots = station.rig.devices[device].boots
    if boots > 1:
        raise RuntimeError(f"{model} restarted: {(folder / 'devices' / device / 'console.log').read_text()[-2000:]}")
    if peak.cycles < cycles:
        raise RuntimeError(f"{model} ended {peak.cycles} cycles of {cycles} in {cycles + 2} times ten minutes")
    return peak


_progress: Any = None


def _begin(progress: Any) -> None:
    global _progress
    _progress = progress


def _measured(model: str, cycles: int) -> dict[str, object]:
    """In a process of its own: what is told of one model."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        peak = asyncio.run(measure(model, cycles, Path(folder), lambda number: _progress.put((model, number))))
    return {
        "model": model,
        "peak_bytes": peak.allocated,
        "live_bytes": peak.live,
        "live_bytes_of_cycles": peak.live_of_cycles,
        "growth_bytes_per_cycle": None if peak.growth is None else round(peak.growth, 1),
        "limit_bytes": LIMIT_BYTES,
        "cycles": peak.cycles,
        "waits": peak.waits,
        "board_busy_s": round(peak.busy_ms / 1000, 1),
        "took_s": round(time.monotonic() - begun),
    }


def _show(progress: Any, futures: Sequence[Future[dict[str, object]]], wanted: Mapping[str, int]) -> None:
    """How far each is, until all are done; nothing where no one looks."""
    done = dict.fromkeys(wanted, 0)
    looked_at = sys.stderr.isatty()
    while not all(future.done() for future in futures):
        try:
            model, number = progress.get(timeout=0.5)
        except Empty:
            continue
        done[model] = number
        if looked_at:
            line = "  ".join(
                f"{model} {'#' * (10 * number // wanted[model]):.<10} {number}/{wanted[model]}"
                for model, number in done.items()
            )
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
    if looked_at:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Print a line for each model; exit status 1 if one is above the limit."""
    parser = argparse.ArgumentParser(prog="emrig.pico.memory", description="What each model allocates on a Pico.")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL[=N]")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="reporting cycles of each")
    parser.add_argument("--json", action="store_true", help="an array with an object for each model")
    arguments = parser.parse_args()
    wanted = {}
    for argument in arguments.models:
        model, _, number = argument.partition("=")
        if model not in MODELS:
            parser.error(f"there is no model {model}; the models are {', '.join(MODELS)}")
        if not (number or "1").isdecimal() or (cycles := int(number or arguments.cycles)) < 1:
            parser.error("cycles are a number, 1 or more")
        wanted[model] = cycles
    context = multiprocessing.get_context("spawn")
    progress = context.Queue()
    with ProcessPoolExecutor(os.cpu_count(), context, _begin, (progress,)) as pool:
        futures = [pool.submit(_measured, model, cycles) for model, cycles in wanted.items()]
        _show(progress, futures, wanted)
    told = [future.result() for future in futures]
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for one in told:
            print(
                "{model}: peak {peak_bytes} bytes of {limit_bytes}, live {live_bytes}, {growth_bytes_per_cycle} more a "
                "cycle, in {cycles} cycles of {waits} waits; {board_busy_s} s of the board's time in {took_s} s".format(
                    **one
                )
            )
    raise SystemExit(1 if any(future.result()["peak_bytes"] > LIMIT_BYTES for future in futures) else 0)  # type: ignore[operator]


if __name__ == "__main__":
    main()
