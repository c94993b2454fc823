"""`python -m emrig.pico.memory [--minutes N] [MODEL ...]`: what each model allocates on an emulated Pico.

The device lives in a station with a real gateway, its clock stepped by the rig. `gc.mem_alloc()` is asked each time
that every task of the device waits: as it is (garbage included), and after a collection. Code runs from flash and is
not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emrig import interpreter, scenario
from emrig.pico.spawner import PicoSpawner
from emrig.station import Station

LIMIT_BYTES = 96 * 1024
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
# Sixty reporting cycles of 300 s, the longest default; the other models report as often or are silent.
MINUTES = 300.0
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


def wait(deadline_ms):
    allocated = gc.mem_alloc()
    gc.collect()
    wire.send(DATA, "control", struct.pack("<4sII", b"mem ", allocated, gc.mem_alloc()))
    return _wait(deadline_ms)


wire.wait = wait
asyncio.run(main.run(main.make_board(sys.argv)))
"""


@dataclass(slots=True)
class Peak:
    """Largest of what was measured, in bytes; `waits`: how often."""

    allocated: int = 0
    live: int = 0
    waits: int = 0

    def output(self, kind: int, payload: bytes) -> None:
        """The board's word; what else comes on this channel is the rig's book of records."""
        if payload[:4] == b"mem " and len(payload) == _MEASURED.size:
            _, allocated, live = _MEASURED.unpack(payload)
            self.allocated, self.live = max(self.allocated, allocated), max(self.live, live)
            self.waits += 1

    def call(self, operation: int, argument: bytes) -> bytes:
        """This channel has no calls."""
        return b""


async def measure(model: str, minutes: float, folder: Path) -> Peak:
    """Run one model for so long."""
    day = scenario.load(scenario.SCENARIOS / "day.toml")
    kept = [device for device in day.devices if device.model in (model, "pid" if model == "home_unit" else model)]
    station = Station(folder, day.model_copy(update={"devices": tuple(kept)}), interpreter.find())
    device = next(device.name for device in kept if device.model == model)
    station.rig.spawners[device] = PicoSpawner({"main.py": _MAIN})
    peak = Peak()
    station.on_wired = lambda: station.rig.devices[device].parts.__setitem__("control", peak)
    async with station:
        await station.rig.run(until_ms=station.clock.now_ms() + round(minutes * 60_000))
        restarts = station.rig.counters["device_crashes"] + station.rig.counters["device_restarts"]
    if restarts:
        raise RuntimeError(f"{model} restarted {restarts} times; see its console.log")
    return peak


def main() -> None:
    """Print a line for each model; exit status 1 if one is above the limit."""
    parser = argparse.ArgumentParser(prog="emrig.pico.memory", description="What each model allocates on a Pico.")
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of the device's time")
    arguments = parser.parse_args()
    above = False
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            peak = asyncio.run(measure(model, arguments.minutes, Path(folder)))
        above |= peak.allocated > LIMIT_BYTES
        print(f"{model}: peak {peak.allocated} bytes, live {peak.live}, in {peak.waits} waits", flush=True)
    raise SystemExit(1 if above else 0)


if __name__ == "__main__":
    main()
