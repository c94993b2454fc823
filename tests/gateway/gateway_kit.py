"""A device for gateway tests: the real journal and the real link, over a pty or a broker, in real time."""

import asyncio
import contextlib
import json
import os
import pty
import sqlite3
import struct
import sys
import tempfile
import time
import tty
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import pytest
from common.journal import Journal
from emgate.keys.sealing import Ccm
from emrig.mortal import mortal
from emwire import codec, constants, envelope, topics
from emwire.framing import StreamDecoder, encode_stream
from emwire.link import DeviceLink

KEY = bytes(range(16))
DEVICE = 0x0A0B0C0D
PATIENCE_S = 20.0


def ticks_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def status_record(number: int, *, battery: int = 80, configuration_version: int = 0) -> bytes:
    """A status record; records_made makes each one different."""
    return codec.Status(
        1, 100, 200_000_000 + number, number, battery, 3900, 0, 2150, 100_000, 50_000, number, 100, number, number, 0,
        configuration_version, 0,
    ).encode()  # fmt: skip


def event_record(number: int) -> bytes:
    return codec.Event(
        1, 100, 200_000_000 + number, number, constants.EVENT_STRAP_CUT, 200_000_000 + number, 0, 0, b""
    ).encode()


def hello_record(configuration_version: int = 0) -> bytes:
    return codec.Hello(0, 65535, 0, 1, 1, 1, 0, 1, 0, 1, 0, configuration_version, 0, 0, 0).encode()


class Tag:
    """One boot of a device. `pump` moves its frames over whatever `send` and `arrived` are joined to."""

    def __init__(self, folder: Path, *, device_id: int = DEVICE, key: bytes = KEY, epoch: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.device_id = device_id
        self.key = key
        self.told: set[tuple[int, int, int]] = set()  # identities that an acknowledgement called stored
        self.journal = Journal(str(folder), epoch, durable=False)
        self.link = DeviceLink(device_id, epoch, Ccm(key), self.journal, retransmit_ms=300, delivery_poll_ms=200)
        self.messages: list[tuple[Any, ...]] = []
        self.changed = asyncio.Event()
        self._wake = asyncio.Event()

    def record(self, payload: bytes, alarm: bool = False) -> int:
        sequence = self.journal.append(alarm, payload)
        self._wake.set()
        return sequence

    def arrived(self, frame: bytes) -> None:
        message = codec.decode(envelope.open_frame(Ccm(self.key), self.device_id, frame, self.link.epoch)[3])
        if isinstance(message, codec.Acknowledgement):
            ranges = [(0, message.stored_through - 1), *message.ranges]
            self.told |= {(self.device_id, message.acknowledged_epoch, n) for a, b in ranges for n in range(a, b + 1)}
        self.messages += self.link.received(ticks_ms(), frame)
        self._wake.set()
        self.changed.set()

    async def pump(self, send: Callable[[bytes], Any]) -> None:
        self.link.opened(ticks_ms())
        try:
            while True:
                self._wake.clear()
                frame = self.link.poll(ticks_ms())
                if frame is not None:
                    sent = send(frame)
                    if sent is not None:
                        await sent
                    continue
                due = self.link.deadline(ticks_ms())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else max(0, due - ticks_ms()) / 1000):
                        await self._wake.wait()
        finally:
            self.link.closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_delivered(self) -> None:
        await self.until(lambda: self.link.idle and not self.journal.undelivered)


class Port:
    """A pty: the gateway opens `path`, the device is at the master's end.

    `path` is a link of our own that goes before the pty does. The number of a pty is given to the next who wants one: a
    gateway that looks for a port that has gone must not find another test's."""

    def __init__(self, tag: Tag | None = None) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)  # before anybody has written
        os.set_blocking(self.master, False)
        self.folder = tempfile.TemporaryDirectory(prefix="tty-")
        Path(self.folder.name).chmod(0o755)  # as /dev is
        self.path = f"{self.folder.name}/0"
        Path(self.path).symlink_to(os.ttyname(slave))
        self._slave = slave
        self._decoder = StreamDecoder()
        self.tag = tag
        self.frames: list[bytes] = []

    def attach(self) -> None:
        asyncio.get_running_loop().add_reader(self.master, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self.master, 4096)
        except OSError:
            return
        for datagram in self._decoder.feed(data):
            self.frames.append(datagram[4:])
            if self.tag is not None:
                self.tag.arrived(datagram[4:])

    def send(self, frame: bytes) -> None:
        assert self.tag is not None
        self.write(encode_stream(struct.pack("<I", self.tag.device_id) + frame))

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # as a UART with nobody listening
            os.write(self.master, data)

    def unplug(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        self.folder.cleanup()
        os.close(self.master)
        os.close(self._slave)


@contextlib.asynccontextmanager
async def over_serial(tag: Tag, port: Port) -> AsyncIterator[Port]:
    port.tag = tag
    port.attach()
    pumping = asyncio.create_task(tag.pump(port.send))
    try:
        yield port
    finally:
        pumping.cancel()
        await asyncio.wait([pumping])
        with contextlib.suppress(OSError):
            asyncio.get_running_loop().remove_reader(port.master)


@contextlib.asynccontextmanager
async def over_mqtt(tag: Tag, host: str, port: int) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client(host, port, identifier=f"tag-{tag.device_id:08x}") as client:
        await client.subscribe(topics.down(tag.device_id), qos=1)

        async def listen() -> None:
            async for message in client.messages:
                tag.arrived(message.payload)

        def send(frame: bytes) -> Any:
            return client.publish(topics.up(tag.device_id), frame, qos=1)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(tag.pump(send))]
        try:
            yield client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class GatewayProcess:
    """`emtag gateway run` as a process of its own."""

    started: ClassVar[list[asyncio.subprocess.Process]] = []

    def __init__(self, folder: Path, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = folder / "gateway.toml"
        self.config.write_text(text)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> dict[str, Any]:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *mortal(
                    sys.executable,
                    "-c",
                    "import sys, pathlib; from emgate.commands.run_commands import run_gateway;"
                    " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))",
                    str(self.config),
                ),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.started.append(self.process)
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        facts: dict[str, Any] = json.loads(line)
        assert facts["ready"]
        return facts

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    @property
    def store(self) -> Path:
        return self.folder / "state" / "store.sqlite"

    @property
    def backend(self) -> Path:
        return self.folder / "state" / "backend.sqlite"


SEALED_IF_GIVEN = '[protection]\nat_rest = "auto"\n'


def toml(*, links: str, uplink: str = "", devices: int = 1, extra: str = "", protection: str = SEALED_IF_GIVEN) -> str:
    text = f"""
[gateway]
id = "gw-test"
state_directory = "state"
status_interval_s = 0.2
restart_maximum_s = 0.2
{extra}
[clock]
uncertainty_ms = 7
{links}
{uplink}
{protection}"""
    for number in range(devices):
        text += f"""
[[devices]]
device_id = {DEVICE + number}
model = "ankle_gps"
key = "{KEY.hex()}"
"""
    return text


def identities(path: Path, where: str = "1") -> list[tuple[int, int, int]]:
    """(device_id, epoch, sequence) of devices' records in a store or a backend database."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(
            f"SELECT device_id, epoch, sequence FROM records WHERE link <> 'gateway' AND {where} ORDER BY 1, 2, 3"
        ).fetchall()


@pytest.fixture(autouse=True)
async def no_gateway_is_left() -> AsyncIterator[None]:
    """No gateway process outlives its test, nor what its loop has of it; a conftest that imports this has it so."""
    yield
    while GatewayProcess.started:
        process = GatewayProcess.started.pop()
        if process.returncode is None:
            process.kill()
        await process.wait()
