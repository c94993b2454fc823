"""A gateway's core in one process, with a real device link at the other end of a wire in memory."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from emgate.devices.registry import Device, Registry
from emgate.devices.sessions import Sessions
from emgate.down.downlink import Downlink
from emgate.down.requests import Requests
from emgate.store.store import Store
from emrig.mortal import mortal
from emwire import codec, constants
from gateway_kit import DEVICE, KEY, GatewayProcess, Tag


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


async def emtag(*arguments: str) -> Done:
    """The command, without stopping what runs here."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "emgate.cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


class MovableClock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.ms = 1_780_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def elapsed_ms(self) -> int:
        return self.ms

    def uncertainty_ms(self) -> int:
        return 42


class Wire:
    """A Link in memory: what the gateway sends arrives at once, unless it is cut or lossy."""

    name, kind = "wire", "serial"

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.counters: Counter[str] = Counter()
        self.tags: dict[int, Tag] = {}
        self.lose: Callable[[bytes], bool] = lambda frame: False
        self.sent = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    def proven(self, device_id: int) -> None:
        pass

    async def send(self, device_id: int, frame: bytes) -> bool:
        if device_id not in self.tags:
            return False
        self.sent += 1
        if not self.lose(frame):
            self.tags[device_id].arrived(frame)
        return True


class Site:
    """Store, sessions, downlink and requests as the daemon joins them."""

    def __init__(self, folder: Path, devices: int = 1) -> None:
        self.folder = folder
        self.clock = MovableClock()
        self.wire = Wire()
        self.registry = Registry(
            [Device(device_id=DEVICE + n, model="ankle_gps", key=KEY.hex()) for n in range(devices)]
        )

    async def start(self) -> None:
        self.store = await Store.open(self.folder / "store.sqlite")
        self.downlink = Downlink()
        self.sessions = Sessions(self.registry, self.store, self.clock, acknowledge_within_ms=0, downlink=self.downlink)
        self.requests = Requests(self.store, self.clock, self.downlink, lambda device_id: self._knows(device_id))
        await self.requests.load()
        await self.sessions.load()

    def _knows(self, device_id: int) -> bool:
        return self.registry.get(device_id) is not None

    async def stop(self) -> None:
        await self.sessions.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def settle(self) -> None:
        """Until everything that came in has had its effect."""
        for _ in range(4):
            await self.store.drain()
            for session in self.sessions:
                while session.timer is not None or (session.flushing is not None and not session.flushing.done()):
                    await asyncio.sleep(0)
                    if session.flushing is not None:
                        await asyncio.wait([session.flushing])

    @contextlib.asynccontextmanager
    async def joined(self, tag: Tag) -> AsyncIterator[Tag]:
        """The tag's link is open."""
        self.wire.tags[tag.device_id] = tag
        pumping = asyncio.create_task(
            tag.pump(lambda frame: self.sessions.received(self.wire, tag.device_id, frame) and None)
        )
        try:
            yield tag
        finally:
            del self.wire.tags[tag.device_id]
            pumping.cancel()
            await asyncio.wait([pumping])


def commands_of(tag: Tag) -> list[tuple[int, ...]]:
    """(number, kind, argument, expires) of every command that arrived."""
    return [message[1:5] for message in tag.messages if message[0] == constants.MESSAGE_COMMAND]


def result_record(number: int, kind: int, outcome: int = constants.OUTCOME_DONE, value: int = 0) -> bytes:
    return codec.CommandResult(1, 100, 200_000_000, 60, number, kind, outcome, 200_000_000, value, b"").encode()


def event_of(event_type: int, value: int, evidence: bytes = b"") -> bytes:
    return codec.Event(1, 100, 200_000_000, 60, event_type, 200_000_000, 0, value, evidence).encode()


class BackendProcess:
    """`emtag backend run --config` as a process of its own."""

    def __init__(self, folder: Path, ways: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = folder / "backend.sqlite"
        self.config = folder / "backend.toml"
        self.config.write_text(f'[backend]\ndatabase = "backend.sqlite"\n{ways}')

    async def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *mortal(sys.executable, "-m", "emgate.cli", "backend", "run", "--config", str(self.config)),
                stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        GatewayProcess.started.append(self.process)
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        assert line, (self.folder / "log").read_text()

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), 20)
