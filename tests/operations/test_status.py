"""`emtag gateway status`, and what is measured beside the way: commits, the clock."""

import asyncio
import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from emgate.clock_watch import ClockWatch
from emgate.commands import status_view
from emgate.operation import metrics
from emgate.operation.histogram import BOUNDS_S, Histogram
from gateway_kit import GatewayProcess, Port, Tag, over_serial, status_record, toml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console


def text_of(facts: dict[str, Any], running: bool) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(status_view.dashboard(facts, running))
    return console.export_text()


async def test_the_dashboard_of_a_running_and_a_stopped_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, tag = Port(), Tag(tmp_path / "tag")
    gateway = GatewayProcess(
        tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"\n[[serial]]\nport = "{tmp_path}/absent"', devices=2)
    )
    await gateway.start()
    async with over_serial(tag, port):
        tag.record(status_record(1, battery=12))
        await tag.until_delivered()
    assert status_view.show(gateway.config, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["running"] is True
    assert status_view.show(gateway.config, once=True) == 0
    shown = capsys.readouterr().out
    assert "gw-test" in shown and "0a0b0c0d" in shown
    assert await gateway.stop() == 0
    assert status_view.show(gateway.config, as_json=True) == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["running"] is False
    with contextlib.closing(sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True)) as store:
        (kept,) = store.execute("SELECT sum(length(payload)) FROM records").fetchone()
    assert facts["store"]["payload_bytes"] == kept
    assert facts["writtenPerPayloadByte"] == round(facts["writtenBytes"] / kept, 1)
    shown = text_of(facts, False)
    for words in (
        "DOES NOT RUN",
        "down: No such file or directory",
        "12 %",
        "nothing sealed at rest",
        "never",
        "stored 1",
        "bytes a byte of payload",
    ):
        assert words in shown, words
    assert status_view.show(gateway.config, once=True) == 3


def test_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(toml(links='[[serial]]\nport = "/dev/null"'))
    assert status_view.show(config) == 2
    assert "has this gateway ever run?" in capsys.readouterr().err
    config.write_text("nonsense")
    assert status_view.show(config) == 2
    assert "not valid TOML" in capsys.readouterr().err


@pytest.mark.parametrize("memory", [True, False])
async def test_a_card_is_not_worn_by_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool) -> None:
    """In memory it is written all the time; on the card with the first minute, and at the end."""
    from emgate import config as configuration
    from emgate import daemon

    if memory:
        (tmp_path / "run").mkdir()
        monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/run")
    monkeypatch.setattr(daemon, "STATUS_S", 0.001)
    assert daemon.CARD_STATUS_S >= 60
    path = tmp_path / "gateway.toml"
    path.write_text(toml(links='[[serial]]\nport = "/dev/null"').replace("status_interval_s = 0.2", ""))
    written: list[Path] = []
    replace = daemon.Gateway._replace
    many = asyncio.Event()

    def counted(self: daemon.Gateway, place: Path, text: str) -> None:
        written.append(place)
        replace(self, place, text)
        if len(written) >= 5:
            many.set()

    monkeypatch.setattr(daemon.Gateway, "_replace", counted)
    stop, ready = asyncio.Event(), asyncio.Event()
    gateway = daemon.Gateway(configuration.load(path))
    running = asyncio.create_task(gateway.run(stop, lambda _: ready.set()))
    await (many if memory else ready).wait()
    if memory:  # what a reload says of it counts from the next one on
        seldom = gateway._config.gateway.model_copy(update={"status_interval_s": 3600.0})
        gateway._config = gateway._config.model_copy(update={"gateway": seldom})
        count = len(written)
        await asyncio.sleep(0.1)
        assert len(written) <= count + 1
    stop.set()
    await running
    card = [place for place in written if place == tmp_path / "state" / "status.json"]
    assert len(card) == (1 if memory else 2) and len(written) >= (6 if memory else 2)
    facts = json.loads(card[0].read_text())
    assert facts["writtenBytes"] >= 0
    assert b"emtag_written_bytes_total " in metrics.render(facts)


async def test_deaf_time_is_a_metric_by_cause(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, toml(links='[[serial]]\nport = "/dev/null"'))
    await gateway.start()
    assert await gateway.stop() == 0
    facts = json.loads((tmp_path / "state" / "status.json").read_text())
    facts["links"].append(
        {"name": "ble:hci0", "up": True, "reason": None, "restarts": {}, "listened_ms": 4000, "deaf_busy_ms": 1500}
    )
    facts["clockSteps"] = {"back": 1, "lastMs": -3000}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render(facts).decode())
        for sample in family.samples
    }
    assert found["emtag_link_listened_seconds_total", "ble:hci0"] == 4
    assert found["emtag_link_deaf_seconds_total", "busy", "ble:hci0"] == 1.5
    assert found["emtag_clock_steps_total", "back"] == 1
    assert "clock stepped by -3.0 s" in text_of(facts, True)


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_counts_every_duration_once(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.observe(duration)
    facts = histogram.facts()
    for (bound, count), limit in zip(facts["buckets"], (*BOUNDS_S, float("inf")), strict=True):
        assert count == sum(duration <= limit for duration in durations)
        assert bound == limit or bound == "+Inf"
    assert facts["sum"] == pytest.approx(sum(durations), abs=1e-5)


class SteppedClock:
    """Unix and monotonic time that go on together until somebody sets the first."""

    def __init__(self) -> None:
        self.monotonic = 1_000_000
        self.offset = 1_780_000_000_000

    def now_ms(self) -> int:
        return self.offset + self.monotonic

    def elapsed_ms(self) -> int:
        return self.monotonic

    def uncertainty_ms(self) -> int:
        return 1


@given(st.lists(st.tuples(st.integers(1, 100_000), st.integers(-400_000_000, 400_000_000)), max_size=20))
def test_every_step_is_told_and_nothing_else(moves: list[tuple[int, int]]) -> None:
    clock, told = SteppedClock(), []
    watch = ClockWatch(clock, told.append, lambda: clock.monotonic)
    for passed, step in moves:
        clock.monotonic += passed
        clock.offset += step
        watch.look()
    steps = [step for _, step in moves if abs(step) >= 500]
    assert told == steps
    assert watch.counters["forward"] == sum(step > 0 for step in steps)
    assert watch.counters["back"] == sum(step < 0 for step in steps)
    assert watch.last_step_ms == (steps[-1] if steps else None)


async def test_a_stepped_clock_is_logged_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a gateway of this process, whose clock a test can set."""
    from emgate import config as configuration
    from emgate import daemon
    from emgate.store.store import Store
    from emwire import codec, constants

    path = tmp_path / "gateway.toml"
    path.write_text(toml(links='[[serial]]\nport = "/dev/null"'))
    gateway = daemon.Gateway(configuration.load(path))
    real = time.time_ns
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(gateway.run(stop, lambda _: ready.set()))
    await ready.wait()
    monkeypatch.setattr(time, "time_ns", lambda: real() - 86_400_000_000_000)
    assert gateway._clock_watch is not None
    gateway._clock_watch.look()
    stop.set()
    await running
    monkeypatch.undo()
    facts = json.loads((tmp_path / "state" / "status.json").read_text())
    assert facts["clockSteps"]["back"] == 1
    store = await Store.open(tmp_path / "state" / "store.sqlite", consumers={"check": True})
    try:
        events = [
            message
            for alarm in (False, True)
            for record in await store.undelivered("check", alarm, 100, 1 << 20)
            if isinstance(message := codec.decode(record.payload), codec.Event)
        ]
    finally:
        await store.close()
    (step,) = [event for event in events if event.event_type == constants.EVENT_GATEWAY_CLOCK_STEPPED]
    assert step.value == -86_400
