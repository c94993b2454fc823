"""The commands that the rig adds to emtag."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?$")
UNITS_MS = {"s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1_000}
# Exit status when something that is needed is missing or wrong; 1 means that records were lost.
MISSING = 2

replay = typer.Typer(help="Put recordings through the firmware.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this package's commands to the emtag command."""
    from emrig.flash.command import flash
    from emrig.images.commands import firmware
    from emrig.power.command import power

    app.command("demo")(demo)
    app.command("flash")(flash)
    app.command("power")(power)
    app.command("sim")(sim)
    app.add_typer(replay, name="replay")
    app.add_typer(firmware, name="firmware")


def parse_duration(text: str) -> int:
    """Milliseconds of "90s", "20m", "2h", "1d" or plain seconds."""
    match = DURATION.match(text.strip())
    if not match or float(match[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no duration; write for example 90s, 20m, 2h or 1d")
    return round(float(match[1]) * UNITS_MS[match[2]])


def demo(
    speed: Annotated[
        float | None, typer.Option(help="Times real time; 1 is real time. Default: the scenario's.")
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="How much of the scenario to play: 90s, 20m, 2h, 1d."),
    ] = None,
    scenario: Annotated[Path | None, typer.Option(help="A scenario file (TOML). Default: one day.")] = None,
    gnss: Annotated[Path | None, typer.Option(help="Raw NMEA or UBX bytes of a receiver, for the ankle tag.")] = None,
    alcohol: Annotated[Path | None, typer.Option(help="A CSV of transdermal readings, for the alcohol tag.")] = None,
    ble: Annotated[Path | None, typer.Option(help="An advertisement recording (.mbd), for the RF tag.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where databases and logs go. Default: var/demo-<time>.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
) -> None:
    """Play a day of four tags against a real gateway, and account for every record."""
    from rich.console import Console

    from emrig import demo as player
    from emrig import recordings
    from emrig import scenario as scenarios

    if speed is not None and speed <= 0:
        raise typer.BadParameter("--speed must be greater than 0")
    duration_ms = parse_duration(duration) if duration else None

    def work() -> int:
        loaded = scenarios.load(scenario or scenarios.SCENARIOS / "day.toml")
        loaded, recorded = recordings.load(loaded, gnss, alcohol, ble)
        target = folder or Path("var") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
        options = player.Options(loaded, target.resolve(), speed, duration_ms, plain, recorded)
        return asyncio.run(player.play(options, Console()))

    raise typer.Exit(guarded("demo", work))


def sim(
    model: Annotated[str, typer.Argument(help="ankle_gps, home_unit, alcohol or pid.")],
    repl: Annotated[bool, typer.Option("--repl", help="A prompt into the running device.")] = False,
    speed: Annotated[float, typer.Option(min=0.1, help="Times real time.")] = 1.0,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Stop after so much of its time: 90s, 20m, 2h.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where its flash and logs go. Default: var/sim-<model>.")] = None,
) -> None:
    """Run one model of the firmware in the simulator, with a real gateway; its log, and on request a prompt into it."""
    from emrig.simulate import simulate

    duration_ms = parse_duration(duration) if duration else None
    target = (folder or Path("var") / f"sim-{model}").resolve()
    raise typer.Exit(guarded("sim", lambda: asyncio.run(simulate(model, target, speed, duration_ms, repl))))


@replay.command("gnss")
def replay_gnss(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Raw NMEA or UBX bytes of a receiver.")],
) -> None:
    """Run a receiver's bytes through the firmware's driver on MicroPython; one JSON object per fix."""
    from emrig.gnss_replay import main

    raise typer.Exit(main(file))


@replay.command("alcohol")
def replay_alcohol(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: local_time,tac_g_per_dl,ir_volts,temperature_f.")],
    order: Annotated[Path | None, typer.Option("--order", help="Orders (TOML). Default: total abstinence.")] = None,
) -> None:
    """Replay readings through the alcohol tag, the wire, the gateway and the backend; JSON lines."""
    from emrig.alcohol_replay import DEFAULT_ORDERS
    from emrig.alcohol_replay import replay as run

    raise typer.Exit(guarded("replay alcohol", lambda: run(file, order or DEFAULT_ORDERS)))


def guarded(name: str, work: Callable[[], int]) -> int:
    """Run it; what a user can mend ends as one plain message, not as a traceback."""
    from emgate.brokers.broker import BrokerError
    from emgate.errors import ConfigError

    from emrig.interpreter import InterpreterMissing
    from emrig.scenario import ScenarioError
    from emrig.station import StationError

    try:
        return work()
    except (InterpreterMissing, BrokerError, StationError, ScenarioError, ConfigError, ValueError, OSError) as error:
        print(f"emtag {name}: {error}", file=sys.stderr)
        return MISSING
