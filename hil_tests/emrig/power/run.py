"""Runs one model through a scenario as fast as it goes, and what its battery would have given."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from emwire import codec, constants
from emwire.positions import decode_block

from emrig import interpreter as interpreters
from emrig.flash.boards import definition, definitions
from emrig.images.firmware_image import LACKING
from emrig.ledger import made
from emrig.power import processor
from emrig.power.charge import HOUR_MS
from emrig.power.meter import Meter
from emrig.power.table import Table
from emrig.scenario import Scenario, ScenarioError
from emrig.station import Station, StationError

# The board that a product of the model would resemble most, and its battery in the table.
DEFAULTS = {
    "ankle_gps": ("esp32s3", "ankle"),
    "home_unit": ("pico_w", "home_unit"),
    "alcohol": ("nrf52840", "alcohol"),
    "pid": ("nrf52840", "pid"),
}
REFRESH_S = 0.25
HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class Options:
    """What to run; `battery_mah` instead of the table's, `wait` what the processor does while every task waits."""

    scenario: Scenario
    model: str
    board: str
    folder: Path
    wait: str = "sleep"
    battery_mah: float | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Charges are the battery's; `mah_a_day` and `by_hour` by consumer, the latter by hour of the day in UTC."""

    model: str
    board: str
    scenario: str
    wait: str
    hours: float
    battery_mah: float
    usable_mah: float
    mah_a_day: dict[str, float]
    total_mah_a_day: float
    days: float
    wakes: int
    fixes: int
    counters: dict[str, int]
    slowness: float
    by_hour: dict[str, list[float]]

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        return asdict(self)


def of_model(scenario: Scenario, model: str) -> Scenario:
    """The scenario with the first device of this model alone, and with whatever it listens for."""
    chosen = next((device for device in scenario.devices if device.model == model), None)
    if chosen is None:
        known = ", ".join(sorted({device.model for device in scenario.devices}))
        raise ScenarioError(f"the scenario {scenario.name!r} has no {model!r}; it has {known}")
    heard = tuple(device for device in scenario.devices if device.name in chosen.beacons)
    return scenario.model_copy(update={"devices": (chosen, *heard)})


def check_board(model: str, board: str, table: Table) -> None:
    """ScenarioError unless the board runs this model and the table knows it."""
    fitting = [name for name in table.names("boards") if model in definitions()[name].models]
    if board not in fitting or model not in definition(board).models:
        raise ScenarioError(f"{model} on {board} cannot be reckoned; give --board {' or '.join(fitting)}")


async def simulate(options: Options, table: Table, progress: Callable[[float], None] = lambda done: None) -> Result:
    """Run it; progress is told the share done."""
    processor.usage(os.getpid())  # before minutes of simulation, where this machine does not tell
    interpreter = interpreters.find()
    here_s = await asyncio.to_thread(processor.reference_s, interpreter)
    slow = processor.slowness(table, options.board, here_s)
    scenario = of_model(options.scenario, options.model)
    name = scenario.devices[0].name
    battery = DEFAULTS[options.model][1]
    station = Station(options.folder, scenario, interpreter)
    logs = (options.folder / "devices.log").open("a", buffering=1)
    station.rig.on_log = lambda device, text: print(station.clock.now_ms(), device, text, file=logs)
    station.rig.before_firmware[name] = _without(LACKING.get(options.board, frozenset()), options.folder / "lacking")
    meters: list[Meter] = []
    station.on_wired = lambda: meters.append(Meter(station, name, table, options.board, battery, slow, options.wait))
    duration_ms = options.duration_ms or round(scenario.duration_h * HOUR_MS)

    async def show() -> None:
        while True:
            progress(station.clock.now_ms() / duration_ms)
            await asyncio.sleep(REFRESH_S)

    with contextlib.closing(logs):
        async with station:
            showing = asyncio.create_task(show())
            try:
                gateway = station.gateway_process
                await station.rig.run(duration_ms, until=lambda: gateway.returncode is not None)
                if gateway.returncode is not None:
                    raise StationError(f"the gateway ended by itself; see {station.gateway_folder}/gateway.log")
                meters[0].settle()
            finally:
                showing.cancel()
    progress(1.0)
    return _result(options, table, battery, meters[0], duration_ms, slow, station)


def _without(modules: frozenset[str], folder: Path) -> Path:
    """A folder on whose path MicroPython has none of these, as the board's: what the firmware brings costs its time."""
    folder.mkdir()
    for module in modules:
        (folder / f"{module}.py").write_text("raise ImportError\n")
    return folder


def _result(
    options: Options, table: Table, battery: str, meter: Meter, duration_ms: int, slow: float, station: Station
) -> Result:
    days = duration_ms / HOUR_MS / HOURS_A_DAY
    mah_a_day = {name: total / days for name, total in meter.charges.totals().items() if total > 0}
    capacity = options.battery_mah or table[f"batteries.{battery}.capacity_mah"]
    usable = capacity * table[f"batteries.{battery}.usable_share"]
    total = sum(mah_a_day.values())
    device = station.scenario.devices[0]
    return Result(
        model=options.model,
        board=options.board,
        scenario=options.scenario.name,
        wait=options.wait,
        hours=duration_ms / HOUR_MS,
        battery_mah=capacity,
        usable_mah=usable,
        mah_a_day=mah_a_day,
        total_mah_a_day=total,
        days=usable / total,
        wakes=meter.counters["wakes"],
        fixes=_satellite_fixes(options.folder / "devices" / device.name, device.device_id),
        counters=dict(sorted(meter.counters.items())),
        slowness=slow,
        by_hour={name: hours for name, hours in meter.charges.by_hour().items() if name in mah_a_day},
    )


def _satellite_fixes(folder: Path, device_id: int) -> int:
    """Positions by satellite in the records that the device made."""
    count = 0
    for payload in made(folder, device_id).values():
        message = codec.decode(payload)
        if isinstance(message, codec.PositionBlock):
            count += sum(fix[8] == constants.MECHANISM_GPS for fix in decode_block(message.block))
    return count
