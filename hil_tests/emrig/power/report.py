"""Shows a result in the terminal: a table by consumer, and bars by hour of the day."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emrig.power.run import Result

BARS = " ▁▂▃▄▅▆▇█"
BLOCK_WIDTH = 30


def groups(by_hour: dict[str, list[float]]) -> dict[str, list[float]]:
    """Consumers whose names begin with the same word together, the greatest first."""
    out: dict[str, list[float]] = defaultdict(lambda: [0.0] * 24)
    for name, hours in by_hour.items():
        together = out[name.split()[0]]
        for hour, value in enumerate(hours):
            together[hour] += value
    return dict(sorted(out.items(), key=lambda item: -sum(item[1])))


def bar(values: list[float], highest: float) -> str:
    """One character a value, an eighth of `highest` a step; anything at all shows."""
    steps = len(BARS) - 1
    return "".join(BARS[min(steps, max(1, round(value / highest * steps)))] if value > 0 else " " for value in values)


def show(result: Result, console: Console) -> None:
    """Table, verdict and plot."""
    table = Table(title=f"{result.model} on {result.board}: {result.scenario}, {result.hours:g} h")
    table.add_column("consumer")
    table.add_column("mAh a day", justify="right")
    table.add_column("mA", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    greatest = max(result.mah_a_day.values())
    for name, mah in sorted(result.mah_a_day.items(), key=lambda item: -item[1]):
        length = max(1, round(mah / greatest * BLOCK_WIDTH))
        share = mah / result.total_mah_a_day
        table.add_row(name, _number(mah), _number(mah / 24), f"{share:.1%}", Text("█" * length, style="cyan"))
    table.add_section()
    table.add_row("all", _number(result.total_mah_a_day), _number(result.total_mah_a_day / 24), "100.0%", "")
    console.print(table)
    console.print(
        f"{result.days:.1f} days ({_long(result.days)}) from {result.battery_mah:g} mAh, "
        f"of which {result.usable_mah:g} mAh count"
    )
    if result.wait == "idle":
        console.print("The processor idles while every task waits; with a board that sleeps then: --wait sleep.")
    fixes = f", {result.wakes / result.fixes:.2f} a position of {result.fixes}" if result.fixes else ""
    console.print(f"{result.wakes} wakes{fixes}; {', '.join(f'{k} {v}' for k, v in result.counters.items())}")
    _plot(result, console)


def _plot(result: Result, console: Console) -> None:
    plot = Table(title="by hour of the day (UTC)", box=None, pad_edge=False)
    plot.add_column("")
    plot.add_column("0     6     12    18    ", no_wrap=True)
    plot.add_column("highest, mAh an hour", justify="right")
    together = groups(result.by_hour)
    days = max(1.0, result.hours / 24)
    for name, hours in together.items():
        highest = max(hours)
        plot.add_row(name, Text(bar(hours, highest), style="cyan"), _number(highest / days))
    console.print(plot)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _long(days: float) -> str:
    return f"{days / 365.25:.1f} years" if days >= 365 else f"{days * 24:.0f} h"
