"""The command `emtag power`."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

# Standard output is the report's or the program's; progress and errors go to standard error.


def power(
    model: Annotated[str | None, typer.Option(help="ankle_gps, home_unit, alcohol or pid.")] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="A scenario: commuter, commuter-restless, commuter-nmea, pid-day, day, or a file (TOML)."
            " Default: the model's."
        ),
    ] = None,
    board: Annotated[str | None, typer.Option(help="esp32s3, pico_w or nrf52840. Default: the model's.")] = None,
    battery: Annotated[
        float | None, typer.Option("--battery", metavar="MAH", min=1, help="Instead of the table's, mAh.")
    ] = None,
    wait: Annotated[
        str, typer.Option(help="The processor while it waits: sleep, or idle as in a stock image.")
    ] = "sleep",
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How much of the scenario: 90s, 20m, 2h, 1d.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where flash and logs go. Default: var/power-<time>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Print the table of figures with their sources.")] = False,
) -> None:
    """What a model draws from its battery, for what its firmware does in a scenario."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from emrig import scenario as scenarios
    from emrig.commands import guarded, parse_duration
    from emrig.power import report, run, table

    if figures:
        print(table.markdown(table.load()), end="")
        raise typer.Exit
    if model not in run.DEFAULTS:
        raise typer.BadParameter(f"--model: give {', '.join(run.DEFAULTS)}")
    if wait not in ("sleep", "idle"):
        raise typer.BadParameter("--wait: give sleep or idle")
    duration_ms = parse_duration(duration) if duration else None

    def work() -> int:
        assert model is not None
        known = table.load()
        chosen = board or run.DEFAULTS[model][0]
        run.check_board(model, chosen, known)
        loaded = scenarios.load(_path(scenario or SCENARIOS_BY_MODEL.get(model, "day")))
        target = (folder or Path("var") / f"power-{datetime.now():%Y%m%d-%H%M%S}").resolve()
        target.mkdir(parents=True, exist_ok=True)
        options = run.Options(loaded, model, chosen, target, wait, battery, duration_ms)
        columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=1.0)
            result = asyncio.run(run.simulate(options, known, lambda done: progress.update(task, completed=done)))
        if as_json:
            json.dump(result.as_dict(), sys.stdout, indent=1)
            print()
        else:
            report.show(result, Console())
        return 0

    raise typer.Exit(guarded("power", work))


SCENARIOS_BY_MODEL = {"ankle_gps": "commuter", "pid": "pid-day"}


def _path(name: str) -> Path:
    from emrig.scenario import SCENARIOS

    own = SCENARIOS / f"{name}.toml"
    return own if own.is_file() else Path(name)
