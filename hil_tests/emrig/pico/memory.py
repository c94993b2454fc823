"""`python -m emrig.pico.memory [--cycles N] [MODEL ...]`: what each model allocates on an emulated Pico.

The device lives in a station with a real gateway, its clock stepped by the rig, with intervals as short as it takes
them. `gc.mem_alloc()` is asked each time that every task of the device waits, garbage included, and sometimes after a
collection. Code runs from flash and is not in it. A reporting cycle is one record of what the model reports with all
that leads to it: four fixes and their position block, a presence window, a reading; of the pid, a token.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emwire import constants

from emrig import interpreter, scenario
from emrig.pico.spawner import PicoSpawner
from emrig.station import Station

LIMIT_BYTES = 96 * 1024
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
CYCLES = 60
# The record that ends a cycle, and settings that bring it soon.
REPORTS = {
    "ankle_gps": (constants.MESSAGE_POSITION_BLOCK, {"report_interval_s": 60, "fix_interval_s": 15}),
    "home_unit": (constants.MESSAGE_PRESENCE, {"presence_window_s": 10}),
    "alcohol": (constants.MESSAGE_ALCOHOL_READING, {"sample_interval_s": 60, "report_interval_s": 60}),
    # It journals nothing while all is well: a cycle is a token of its beacon, 10 s.
    "pid": (0, {}),
}
# A cycle takes at most a minute, and the first ones wait for a fix; what takes ten times that is stuck.
LONGEST_MS_PER_CYCLE = 600_000
TOKEN_MS = 10_000
_MEASURED = struct.Struct("<4sII")
# main.py of the board: the firmware as ever, and before each wait a word to the rig.
_MAIN = b"""
import asyncio
import gc
import struct
import sys

import selector

sys.path.insert(0, selector.begin(""))

import main
from boards.sim import wire
from rig_wire import DATA

_wait = wire.wait
_waits = 0


def wait(deadline_ms):
    global _waits
    allocated = gc.mem_alloc()
    if _waits % 8 == 0:
        gc.collect()
    _waits += 1
    wire.send(DATA, "control", struct.pack("<4sII", b"mem ", allocated, gc.mem_alloc()))
    return _wait(deadline_ms)


wire.wait = wait
asyncio.run(main.run(main.make_board(sys.argv)))
"""


@dataclass(slots=True)
class Peak:
    """Largest of what was measured, in bytes; `waits`: how often; `cycles`: how many ended."""

    report: int
    allocated: int = 0
    live: int = 0
    waits: int = 0
    cycles: int = 0

    def output(self, kind: int, payload: bytes) -> None:
        """The board's word; what else comes on this channel is the rig's book of records."""
        if payload[:4] == b"mem " and len(payload) == _MEASURED.size:
            _, allocated, live = _MEASURED.unpack(payload)
            self.allocated = max(self.allocated, allocated)
            if self.waits % 8 == 0:
                self.live = max(self.live, live)
            self.waits += 1
        elif len(words := payload.split()) == 4:
            self.cycles += int(words[3][:2], 16) == self.report

    def call(self, operation: int, argument: bytes) -> bytes:
        """This channel has no calls."""
        return b""


async def measure(model: str, cycles: int, folder: Path) -> Peak:
    """Run one model for so many reporting cycles."""
    report, settings = REPORTS[model]
    day = scenario.load(scenario.SCENARIOS / "day.toml")
    kept = [device for device in day.devices if device.model in (model, "pid" if model == "home_unit" else model)]
    station = Station(folder, day.model_copy(update={"devices": tuple(kept)}), interpreter.find())
    device = next(device.name for device in kept if device.model == model)
    station.rig.spawners[device] = PicoSpawner({"main.py": _MAIN})
    station.more_identity[device] = {"settings": settings}
    peak = Peak(report)
    station.on_wired = lambda: station.rig.devices[device].parts.__setitem__("control", peak)
    async with station:
        await station.rig.run(
            until_ms=station.clock.now_ms() + ((cycles + 2) * LONGEST_MS_PER_CYCLE if report else cycles * TOKEN_MS),
            until=lambda: peak.cycles >= cycles,
        )
        if not report:
            peak.cycles = cycles
        restarts = station.rig.counters["device_crashes"] + station.rig.counters["device_restarts"]
    if restarts:
        raise RuntimeError(f"{model} restarted {restarts} times; see its console.log")
    return peak


def main() -> None:
    """Print a line for each model; exit status 1 if one is above the limit."""
    parser = argparse.ArgumentParser(prog="emrig.pico.memory", description="What each model allocates on a Pico.")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="reporting cycles of each")
    arguments = parser.parse_args()
    above = False
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            peak = asyncio.run(measure(model, arguments.cycles, Path(folder)))
        above |= peak.allocated > LIMIT_BYTES
        print(
            f"{model}: peak {peak.allocated} bytes, live {peak.live}, in {peak.cycles} cycles of {peak.waits} waits",
            flush=True,
        )
    raise SystemExit(1 if above else 0)


if __name__ == "__main__":
    main()
