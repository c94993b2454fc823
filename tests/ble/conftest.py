"""A rig with devices that run the test firmware, an air, and gateway processes attached to it over HCI."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bumble", reason="needs bumble")

from emrig.air import Air, HciServer
from emrig.air.part import BlePart, hold_while_busy
from emrig.clock import VirtualClock
from emrig.interpreter import InterpreterMissing, find
from emrig.mortal import mortal
from emrig.rig import Rig
from emrig.target import Device

HERE = Path(__file__).parent
# Real time that anything here may take; only a failing test waits for so long.
LIMIT_S = 30


class Bench:
    """The rig, its air, what the devices reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock(unix_start_ms=1_700_000_000_000)
        self.rig = Rig(folder, find(), self.clock)
        self.air = Air(self.clock, busy_s=0.03)  # everything here answers within milliseconds
        hold_while_busy(self.rig, self.air)
        self.reports: dict[str, list[dict[str, Any]]] = {}
        self.crashes: list[str] = []
        self.rig.on_log = self._log
        self.server: HciServer | None = None

    def _log(self, name: str, text: str) -> None:
        if text.startswith("crash"):
            console = (self.folder / name / "console.log").read_text()[-1500:]
            self.crashes.append(f"{name}: {console}")
        self.reports.setdefault(name, []).append(json.loads(text) if text.startswith("{") else {"log": text})

    def reported(self, name: str, key: str) -> list[Any]:
        """Values of a key in a device's reports."""
        return [report[key] for report in self.reports.get(name, []) if key in report]

    async def device(self, name: str, device_id: int, role: str, **identity: Any) -> Device:
        """Add and start a device with the test firmware."""
        device = self.rig.add(name)
        device._module_path = [HERE / "device", *device._module_path]
        (device.folder / "identity.json").write_text(json.dumps({"device_id": device_id, "role": role, **identity}))
        await BlePart.add(device, self.air, device_id)
        self.rig.start(device)
        return device

    async def hci(self) -> HciServer:
        """The socket for gateways."""
        self.server = HciServer(self.air, self.folder / "hci")
        await self.server.start()
        return self.server

    async def run(
        self, until: Callable[[], bool] | None = None, hours: float | None = None, speed: float | None = None
    ) -> None:
        """Run virtual time until the condition holds or for so many hours."""
        until_ms = None if hours is None else self.clock.now_ms() + int(hours * 3_600_000)
        try:
            async with asyncio.timeout(LIMIT_S * 3):
                await self.rig.run(
                    until_ms=until_ms, until=lambda: bool(self.crashes) or (until is not None and until()), speed=speed
                )
        except TimeoutError:
            pytest.fail(f"nothing came of it; reports {str(self.reports)[-2000:]}")
        if self.crashes:
            pytest.fail(f"a device crashed: {self.crashes[0]}")


class Gateway:
    """A gateway process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.news = asyncio.Condition()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self.news:
                self.lines.append(json.loads(line))
                self.news.notify_all()

    def said(self, key: str) -> list[Any]:
        """Values of a key in what the process printed."""
        return [line[key] for line in self.lines if key in line]

    async def wait(self, key: str) -> Any:
        """The last value of a key, once there is one."""
        async with asyncio.timeout(LIMIT_S), self.news:
            await self.news.wait_for(lambda: bool(self.said(key)))
        return self.said(key)[-1]

    async def counters(self) -> dict[str, dict[str, int]]:
        """What the link counted."""
        assert self.process.stdin is not None
        self.lines = [line for line in self.lines if "counters" not in line]
        self.process.stdin.write(b"counters\n")
        await self.wait("counters")
        return next(line for line in self.lines if "counters" in line)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    try:
        bench = Bench(tmp_path)
    except InterpreterMissing as missing:
        pytest.skip(f"needs MicroPython: {missing}")
    yield bench
    if bench.server is not None:
        await bench.server.close()
    bench.rig.close()


@pytest.fixture
async def gateways(bench: Bench) -> AsyncIterator[Callable[..., Any]]:
    """start(**timing) starts a gateway process on the bench's HCI socket."""
    started: list[Gateway] = []

    async def start(**timing: Any) -> Gateway:
        assert bench.server is not None
        process = await asyncio.create_subprocess_exec(
            *mortal(sys.executable, str(HERE / "gateway_process.py"), str(bench.server.path), json.dumps(timing)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        gateway = Gateway(process)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        await gateway.kill()
