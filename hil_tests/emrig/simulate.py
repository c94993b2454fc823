"""`emtag sim`: one model at the pace of a real one, its log on the terminal, and a prompt into it."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

from emrig import scenario as scenarios
from emrig.interpreter import find
from emrig.micropython import rig_wire as w
from emrig.scenario import Scenario, ScenarioError
from emrig.station import Station
from emrig.target import Device

PROMPT = ">>> "
CHANNEL = "repl"
HELP = """One line at a time, evaluated in the running device: `board`, `device`, `asyncio`. Try
  {suggestions}
The end of input (Ctrl-D) or `quit` powers it off."""
SUGGESTIONS = (
    'board.adc("battery").read_u16()',
    "device.journal.records",
    "device.settings.status_interval_s",
    "device.health.report()",
    "device.records.event(7, 15)",
    "await asyncio.sleep_ms(5000)",
)
SUGGESTIONS_OF_A_PID = ('board.adc("battery").read_u16()', "device.wakes", "await asyncio.sleep_ms(5000)")
"""It keeps no records."""


class _Prompt:
    """The channel of the device's prompt."""

    def __init__(self, device: Device, suggestions: tuple[str, ...]) -> None:
        self._device = device
        self._suggestions = suggestions
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        device.parts[CHANNEL] = self

    def output(self, kind: int, payload: bytes) -> None:
        """What the device printed."""
        sys.stdout.write("\r" + payload.decode(errors="replace") + PROMPT)
        sys.stdout.flush()

    def call(self, operation: int, argument: bytes) -> bytes:
        """The device asks nothing here."""
        return b""

    async def read(self) -> None:
        """Hand lines over until the input ends."""
        # A thread of its own, left behind when the device ends first: nothing wakes a read of a terminal.
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), daemon=True).start()
        print(HELP.format(suggestions="\n  ".join(self._suggestions)) + "\n" + PROMPT, end="", flush=True)
        while True:
            line = await self._lines.get()
            if not line or line.strip() in ("quit", "exit"):
                return
            if line.strip():
                self._device.feed(CHANNEL, w.DATA, line.encode())
            else:
                print(PROMPT, end="", flush=True)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        line = "\n"
        while line:
            line = sys.stdin.readline()
            loop.call_soon_threadsafe(self._lines.put_nowait, line)


def scenario_of(model: str) -> Scenario:
    """The day's scenario with this model alone, and with whatever it listens for."""
    day = scenarios.load(scenarios.SCENARIOS / "day.toml")
    chosen = next((device for device in day.devices if device.model == model), None)
    if chosen is None:
        raise ScenarioError(f"there is no model {model!r}: give ankle_gps, home_unit, alcohol or pid")
    heard = tuple(device for device in day.devices if device.name in chosen.beacons)
    return day.model_copy(update={"devices": (chosen, *heard)})


async def simulate(model: str, folder: Path, speed: float, duration_ms: int | None, repl: bool) -> int:
    """Run it until the input or the duration ends; 0."""
    scenario = scenario_of(model)
    name = scenario.devices[0].name

    def log(device: str, text: str) -> None:
        print(f"\r[{device}] {text}\n{PROMPT if repl else ''}", end="", flush=True)

    station = Station(folder, scenario, find(), on_log=log)
    station.more_identity = {name: {"repl": repl}}
    prompts: list[_Prompt] = []
    suggestions = SUGGESTIONS_OF_A_PID if model == "pid" else SUGGESTIONS
    station.on_wired = lambda: prompts.append(_Prompt(station.rig.devices[name], suggestions))
    async with station:
        running = asyncio.create_task(station.rig.run(duration_ms, speed))
        if not repl:
            await running
            return 0
        reading = asyncio.create_task(prompts[0].read())
        await asyncio.wait([running, reading], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, reading):
            task.cancel()
        await asyncio.gather(running, reading, return_exceptions=True)
    return 0
