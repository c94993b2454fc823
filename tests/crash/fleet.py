"""Devices enough to load a gateway, in one process: the firmware's journal and link, over MQTT and over a pty.

Every device keeps a ledger of what its journal has made durable, and of what acknowledgements have told it. The
harness's verdict is computed from these alone.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import pty
import random
import struct
import time
import tty
import zlib
from collections import Counter
from pathlib import Path

from common.journal import Journal
from emgate.keys.sealing import Ccm
from emwire import codec, constants, envelope, topics
from emwire.framing import StreamDecoder, encode_stream
from emwire.link import DeviceLink
from emwire.ranges import RangeSet

KEY = bytes(range(16))
FIRST_DEVICE = 0x0100_0000
ALARM_SHARE = 0.05
TICK_S = 0.02
RETRANSMIT_MS = 1000  # a device waits 20 s; the test has less time
CONNECT_AGAIN_S = 0.2
logging.getLogger("asyncio").setLevel(logging.ERROR)  # a warning for each frame to a broker that was killed
Identity = tuple[int, int, int]


def ticks_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Device:
    """One boot of a device, with its ledger."""

    def __init__(self, folder: Path, number: int) -> None:
        self.device_id = FIRST_DEVICE + number
        folder = folder / f"{self.device_id:08x}"
        folder.mkdir(parents=True)
        self.made: dict[int, tuple[bool, int]] = {}  # sequence: lane, CRC-32 of the payload
        self.stored = RangeSet()  # told as stored
        self.delivered = 0  # told as delivered: all below
        self.sent: Counter[str] = Counter()
        self._highest = [-1, -1]  # sent of each lane, which are sent in order
        self._aead = Ccm(KEY)
        self.journal = Journal(str(folder), 1, capacity_bytes=8 << 20, on_append=self._appended, durable=False)
        self.link = DeviceLink(
            self.device_id, 1, self._aead, self.journal, retransmit_ms=RETRANSMIT_MS, retransmit_limit_ms=4000,
            delivery_poll_ms=500,
        )  # fmt: skip
        self.journal.append(False, codec.Hello(0, 65535, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0).encode())

    def _appended(self, epoch: int, sequence: int, alarm: bool, payload: bytes) -> None:
        self.made[sequence] = (alarm, zlib.crc32(payload))

    def make(self, chance: random.Random) -> None:
        number = self.journal.next_sequence
        if chance.random() < ALARM_SHARE:
            event = constants.EVENT_STRAP_CUT
            payload = codec.Event(1, 100, 200_000_000, number, event, 200_000_000, 0, number, b"").encode()
            self.journal.append(True, payload)
        else:
            payload = codec.Status(
                1, 100, 200_000_000, number, 80, 3900, 0, 2150, 100_000, 50_000, 1, 100, number, 1, 0, 0, 0
            ).encode()
            self.journal.append(False, payload)

    def arrived(self, frame: bytes) -> None:
        try:
            message = codec.decode(envelope.open_frame(self._aead, self.device_id, frame, 1)[3])
        except Exception:  # the link counts it
            message = None
        if isinstance(message, codec.Acknowledgement) and message.acknowledged_epoch == 1:
            self.stored.add(0, message.stored_through - 1)
            for first, last in message.ranges:
                self.stored.add(first, last)
            self.delivered = max(self.delivered, message.delivered_through)
        self.link.received(ticks_ms(), frame)

    def frames(self) -> list[bytes]:
        """Everything there is to send now."""
        found = []
        while (frame := self.link.poll(ticks_ms())) is not None:
            found.append(frame)
        for frame in found:
            control, _, sequence = envelope.parse_header(frame)
            if envelope.is_link(control):
                self.sent["link_frames"] += 1
                continue
            alarm = envelope.is_alarm(control)
            self.sent["records_sent_first" if sequence > self._highest[alarm] else "records_sent_again"] += 1
            self._highest[alarm] = max(sequence, self._highest[alarm])
        return found

    @property
    def finished(self) -> bool:
        return self.link.idle and not self.journal.undelivered


class Cellular:
    """Devices behind one MQTT 3.1.1 connection of our own: a client library would take most of the core."""

    def __init__(self, devices: list[Device], port: int) -> None:
        self.devices = devices
        self._port = port
        self._by_id = {device.device_id: device for device in devices}
        self._writer: asyncio.StreamWriter | None = None
        self._packet = 0

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connection()
            for device in self.devices:
                device.link.closed()
            self._writer = None
            await asyncio.sleep(CONNECT_AGAIN_S)

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            name = f"fleet-{self.devices[0].device_id:08x}".encode()
            writer.write(_packet(0x10, _text(b"MQTT") + bytes([4, 2, 0, 0]) + _text(name)))
            topics_wanted = b"".join(_text(topics.down(each.device_id).encode()) + b"\0" for each in self.devices)
            writer.write(_packet(0x82, b"\0\1" + topics_wanted))
            while True:
                kind, body = await _read(reader)
                if kind >> 4 == 9:
                    break
            self._writer = writer
            for device in self.devices:
                device.link.opened(ticks_ms())
            while True:
                kind, body = await _read(reader)
                if kind >> 4 == 3:
                    length = int.from_bytes(body[:2], "big")
                    _, device_id = topics.parse(body[2 : 2 + length].decode())
                    self._by_id[device_id].arrived(body[2 + length :])
        finally:
            writer.close()

    def pump(self) -> None:
        writer = self._writer
        if writer is None or writer.is_closing() or writer.transport.get_write_buffer_size() > 1 << 20:
            return
        for device in self.devices:
            for frame in device.frames():
                self._packet = self._packet % 65535 + 1
                topic = _text(topics.up(device.device_id).encode())
                writer.write(_packet(0x32, topic + self._packet.to_bytes(2, "big") + frame))


class Wired:
    """One device on a pty."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.device = device
        self.devices = [device]
        self.master, slave = _free_pty()
        tty.setraw(slave)
        os.set_blocking(self.master, False)
        self.path = folder / f"{device.device_id:08x}.tty"  # goes before the pty, whose number may be another's then
        self.path.symlink_to(os.ttyname(slave))
        self._slave = slave  # held open, so that a gateway may come and go
        self._decoder = StreamDecoder()
        self._waiting = b""

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self.master, self._readable)
        self.device.link.opened(ticks_ms())
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().remove_reader(self.master)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for datagram in self._decoder.feed(os.read(self.master, 65536)):
                self.device.arrived(datagram[4:])

    def pump(self) -> None:
        if not self._waiting:
            self._waiting = b"".join(
                encode_stream(struct.pack("<I", self.device.device_id) + frame) for frame in self.device.frames()
            )
        with contextlib.suppress(BlockingIOError):
            self._waiting = self._waiting[os.write(self.master, self._waiting) :]

    def close(self) -> None:
        self.path.unlink()
        os.close(self.master)
        os.close(self._slave)


class Fleet:
    """All devices and their links."""

    def __init__(self, folder: Path, broker_port: int, chance: random.Random, cellular: int, wired: int) -> None:
        self.devices = [Device(folder, number) for number in range(cellular + wired)]
        self.wired = [Wired(folder, device) for device in self.devices[cellular:]]
        self.lines: list[Cellular | Wired] = [
            Cellular(self.devices[at : min(at + 10, cellular)], broker_port) for at in range(0, cellular, 10)
        ]
        self.lines += self.wired
        self.rate = 0.0  # records a second to make, of all together
        self._chance = chance
        self._owed = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for line in self.lines:
                group.create_task(line.run())
            group.create_task(self._pump())

    async def _pump(self) -> None:
        before = time.monotonic()
        while True:
            now = time.monotonic()
            self._owed = min(self.rate, self._owed + self.rate * (now - before))
            before = now
            while self._owed >= 1:
                self._owed -= 1
                self._chance.choice(self.devices).make(self._chance)
            for line in self.lines:
                line.pump()
            await asyncio.sleep(TICK_S)

    def sent(self) -> Counter[str]:
        """Sealed frames so far, by kind."""
        total: Counter[str] = Counter()
        for device in self.devices:
            total += device.sent
        return total

    @property
    def finished(self) -> bool:
        return all(device.finished for device in self.devices)


def _free_pty() -> tuple[int, int]:
    """One whose number nobody still holds from an earlier life of it."""
    tried = []
    while True:
        master, slave = pty.openpty()
        tried.append((master, slave))
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(slave, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(slave, fcntl.LOCK_UN)
            for pair in tried[:-1]:
                os.close(pair[0])
                os.close(pair[1])
            return master, slave


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _packet(kind: int, body: bytes) -> bytes:
    length, size = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        size.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(size) + body


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return kind, await reader.readexactly(length)
