# Runs on MicroPython: uplink, link, journal and CCM as on a device, against a GatewayLink, in virtual time.
# Prints one JSON object; test_uplink.py judges it.
import asyncio
import asyncio.core as core
import json
import sys

from common.ccm import Ccm
from common.epoch import begin_epoch
from common.journal import Journal
from common.uplink import Uplink
from emwire import constants, device_codec, envelope
from emwire.link import DeviceLink, GatewayLink

# Ahead of any real ticks, which MicroPython's C code stamps on what is to run at once.
BASE = 1 << 50
DAY_MS = 86400000


class VirtualTime:
    """Stands where asyncio keeps its clock and poll queue: when all wait, time moves to the next deadline."""

    def __init__(self):
        self.now = BASE
        self.waits = 0

    def wait_io_event(self, timeout_ms):
        if timeout_ms == 0:
            return
        if timeout_ms < 0:
            raise RuntimeError("nothing will ever happen")
        self.waits += 1
        self.now += timeout_ms

    def remove(self, task):
        pass

    def ticks_ms(self):
        return self.now - BASE


class Transport:
    """Straight into a GatewayLink that stores and delivers at once; fails as told."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.fail = {}  # operation: how many more times
        self.mute = False  # frames vanish
        self.arrived = asyncio.Event()
        self.down = []
        self.open = False
        self.log = []
        self.records = []

    def _may_fail(self, operation):
        left = self.fail.get(operation, 0)
        if left:
            self.fail[operation] = left - 1
            raise OSError(5)

    async def connect(self):
        self.log.append(("connect", clock.ticks_ms()))
        await asyncio.sleep_ms(1500)
        self._may_fail("connect")
        self.open = True

    async def send(self, frame):
        await asyncio.sleep_ms(20)
        self._may_fail("send")
        if self.mute:
            return
        received = self.gateway.received(frame)
        if received.kind == envelope.RECORD:
            self.records.append((clock.ticks_ms(), received.epoch, received.sequence, received.alarm))
            self.gateway.stored(received.epoch, received.sequence, received.payload)
            self.gateway.delivered(received.epoch, received.sequence, received.payload)
        elif received.message[0] == constants.MESSAGE_POLL:
            self.down.append(self.gateway.seal(device_codec.encode_time(5, 0, 1)))
        self.down.extend(self.gateway.acknowledgements())
        self.arrived.set()

    async def receive(self):
        while not self.down:
            self.arrived.clear()
            await self.arrived.wait()
            self._may_fail("receive")
        return self.down.pop(0)

    async def close(self):
        self.open = False
        self.log.append(("close", clock.ticks_ms()))
        self._may_fail("close")


class Settings:
    report_interval_s = 300


class Scene:
    def __init__(self, path, settings):
        self.journal = Journal(path, begin_epoch(path), durable=False)
        self.reserved = 0
        self.gateway = GatewayLink(7, Ccm(bytes(16)), self.reserve)
        self.link = DeviceLink(7, self.journal.epoch, Ccm(bytes(16)), self.journal)
        self.transport = Transport(self.gateway)
        self.messages = []
        self.uplink = Uplink(self.link, self.transport, clock, self.messages.append, settings)

    def reserve(self, epoch, count):
        self.reserved += count
        return self.reserved - count

    def start(self):
        self.task = asyncio.create_task(self.uplink.run())

    def append(self, count, alarm=False):
        for _ in range(count):
            self.journal.append(alarm, b"\x06" + bytes(60))
        self.uplink.wake()

    def result(self):
        return {
            "epochs": self.journal.epochs(),
            "connections": self.uplink.connections,
            "failures": self.uplink.failures,
            "undelivered": self.journal.undelivered,
            "log": self.transport.log,
            "records": self.transport.records,
            "open": self.transport.open,
            "messages": self.messages,
            "waits": clock.waits,
            "now_ms": clock.ticks_ms(),
            "sent": self.link.sent,
        }


async def failures(path):
    """Every operation fails several times; the link stays up otherwise."""
    scene = Scene(path, None)
    scene.transport.fail = {"connect": 3, "send": 3, "receive": 2, "close": 2}
    scene.append(100)
    scene.append(10, True)
    scene.start()
    await asyncio.sleep_ms(3600000)
    return scene.result()


async def quiet_day(path):
    """A connection that stays, and nothing to say."""
    scene = Scene(path, None)
    scene.append(1)
    scene.start()
    await asyncio.sleep_ms(600000)
    clock.waits = 0
    await asyncio.sleep_ms(DAY_MS)
    return scene.result()


async def reports(path):
    """A record a minute for an hour, one alarm between two reports."""
    scene = Scene(path, Settings())
    scene.start()
    for minute in range(60):
        scene.append(1)
        await asyncio.sleep_ms(30000)
        if minute == 32:
            scene.append(1, True)
        await asyncio.sleep_ms(30000)
    return scene.result()


async def nobody(path):
    """The transport takes everything and nobody answers, for an hour; then somebody does."""
    scene = Scene(path, Settings())
    scene.transport.mute = True
    scene.append(5)
    scene.append(1, True)
    scene.start()
    await asyncio.sleep_ms(3600000)
    scene.transport.mute = False
    await asyncio.sleep_ms(600000)
    return scene.result()


async def no_gateway(path):
    """No connection for a day, then an alarm."""
    scene = Scene(path, Settings())
    scene.transport.fail = {"connect": 1000000}
    scene.append(1)
    scene.start()
    await asyncio.sleep_ms(DAY_MS)
    scene.append(1, True)
    scene.transport.log.append(("alarm", clock.ticks_ms()))
    await asyncio.sleep_ms(600000)
    return scene.result()


clock = VirtualTime()
core.ticks = lambda: clock.now
core._io_queue = clock
print(json.dumps(asyncio.run(globals()[sys.argv[1]](sys.argv[2]))))
