"""The demo as its users start it: it ends by itself, and says plainly what is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emgate.backend.queries import Reader
from emrig.scenario import SCENARIOS, Scenario
from emrig.station import Station, StationError

DEMO = [sys.executable, "-m", "emgate.cli", "demo", "--plain"]


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [*DEMO, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, **environment},
    )


@contextmanager
def running_demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo at work: everything has started, and it would go on for long."""
    with subprocess.Popen(
        [*DEMO, "--speed", "60", "--folder", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "scenario" in line:
                break
        yield process


def test_it_ends_by_itself_with_nothing_lost(tmp_path: Path, micropython: str) -> None:
    done = demo("--for", "40m", "--speed", "1000", "--folder", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    assert "lost 0" in done.stdout
    assert "MicroPython" in done.stdout
    for name in ("ankle", "home", "pid", "bracelet"):
        assert name in done.stdout
    assert str(tmp_path / "demo") in done.stdout.replace("\n", "")


def test_the_embedded_broker_serves_too(tmp_path: Path, micropython: str) -> None:
    done = demo("--for", "20m", "--speed", "1000", "--folder", str(tmp_path / "demo"), EMTAG_BROKER="amqtt")
    assert done.returncode == 0, done.stderr
    assert "amqtt" in done.stdout
    assert "lost 0" in done.stdout


def test_an_interpreter_named_in_the_environment_serves(tmp_path: Path, micropython: str) -> None:
    done = demo("--for", "10m", "--speed", "1000", "--folder", str(tmp_path / "demo"), EMTAG_MICROPYTHON=micropython)
    assert done.returncode == 0, done.stderr
    assert "lost 0" in done.stdout


def test_control_c_stops_it_cleanly(tmp_path: Path, micropython: str) -> None:
    with running_demo(tmp_path / "demo") as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "lost 0" in output
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EMTAG_MICROPYTHON": "/nowhere/micropython"}, "MicroPython"),
        ({"EMTAG_MICROPYTHON": "/bin/true"}, "not a MicroPython interpreter"),
        ({"EMTAG_BROKER": "nonesuch"}, "set it to mosquitto or amqtt"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    done = demo("--for", "1m", "--folder", str(tmp_path / "demo"), **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_scenario_is_named(tmp_path: Path) -> None:
    scenario = tmp_path / "bad.toml"
    scenario.write_text(
        'name = "x"\nstart = 2026-11-20T06:00:00Z\nduration_h = 0\norders = "none.toml"\ndevices = []\n'
    )
    done = demo("--scenario", str(scenario))
    assert done.returncode == 2
    assert "bad.toml" in done.stderr
    assert "duration_h" in done.stderr


async def test_a_missing_port_is_named(busy_day: Scenario, make_station: Callable[..., Station]) -> None:
    home = tuple(device for device in busy_day.devices if device.name in ("home", "pid"))
    station = make_station(busy_day.model_copy(update={"devices": home}))
    station.on_wired = lambda: station.cables["home"].path.unlink()
    with pytest.raises(StationError, match=r"home\.tty"):
        async with asyncio.timeout(60):
            await station.start()
    await station.close()


def gateway_of(pid: int) -> int:
    """The child of that process which is the gateway."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return next(child for child in children if "gateway\0run" in Path(f"/proc/{child}/cmdline").read_text())


def test_a_gateway_that_ends_is_named(tmp_path: Path, micropython: str) -> None:
    with running_demo(tmp_path / "demo") as process:
        os.kill(gateway_of(process.pid), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the gateway ended with status -9" in errors


def test_a_scenario_may_have_one_device(tmp_path: Path, micropython: str) -> None:
    scenario = tmp_path / "one.toml"
    orders = (SCENARIOS / "day-orders.toml").resolve()
    scenario.write_text(
        f'name = "one"\nstart = 2026-11-20T06:00:00Z\nduration_h = 0.2\norders = "{orders}"\n'
        '[[devices]]\nname = "home"\nmodel = "home_unit"\ndevice_id = 1\n'
    )
    done = demo("--scenario", str(scenario), "--speed", "1000", "--folder", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    assert "lost 0" in done.stdout


@pytest.mark.slow
def test_recordings_replace_the_synthetic_input(shared_data: Path, tmp_path: Path, micropython: str) -> None:
    folder = tmp_path / "demo"
    done = demo(
        *("--for", "1h", "--speed", "1000", "--folder", str(folder)),
        *("--gnss", str(shared_data / "gnss" / "ublox-neo-m8n.log")),
        *("--alcohol", str(shared_data / "alcohol" / "SA0297.csv")),
        *("--ble", str(shared_data / "ble" / "straight_02_all_sensors.mbd")),
    )
    assert done.returncode == 0, done.stderr
    assert "lost 0" in done.stdout
    check_recorded_input(folder)


def check_recorded_input(folder: Path) -> None:
    """What arrived is what the recordings hold: Adelaide in July 2017, alcohol readings, a beacon."""
    with Reader(folder / "gateway" / "backend.sqlite") as reader:
        # Once the recording has ended the receiver is silent, and the network is asked.
        positions = [row for row in reader.positions(0x10000001) if row["mechanismName"] == "GPS"]
        readings = reader.readings()
        presences = [row for row in reader.presences() if row["heardCount"]]
    assert positions
    for position in positions:
        assert position["latitude"] == pytest.approx(-34.9062, abs=0.001)
        assert position["longitude"] == pytest.approx(138.6081, abs=0.001)
        assert position["gpsDate"].startswith("2017-07-19")
    assert readings
    assert presences
    for presence in presences:
        assert -110 <= presence["rssiMinimum"] <= presence["rssiMaximum"] <= -30
