"""Garbage at line rate on serial, BLE and MQTT at once, with a real tag on each: what that does to latency and memory.

`python tests/links/flood.py MINUTES` prints the measurement, and exits with 1 where real traffic takes more than twice
as long as while it is quiet; the test runs some seconds of it. The gateway is a process of its own, and so is whoever
makes the garbage: what he costs himself must not be taken for the gateway's delay. (BLE's comes from the mock of BlueZ,
which is one with the real tag.) Line rates: 115200 baud is 11,520 B/s; LTE-M sends up at 1 Mbit/s, 1,250 frames of
100 B; a BLE connection takes some 90 kB/s, 370 notifications of 244 B. Half of what looks like frames names a
registered device, the other half a stranger. Meanwhile made-up addresses offer the BLE service and never answer.
"""

import asyncio
import contextlib
import json
import os
import random
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root / "tests" / "gateway"), str(root / "firmware")]

from bluez_mock import Device, bluez, private_bus
from emgate.brokers import broker as brokers
from emrig.mortal import mortal
from emwire import fragments, topics
from emwire.framing import encode_stream
from gateway_kit import (
    DEVICE,
    GatewayProcess,
    Port,
    Tag,
    event_record,
    identities,
    over_mqtt,
    over_serial,
    toml,
)

SERIAL_BYTES_PER_S, MQTT_FRAMES_PER_S, BLE_NOTIFICATIONS_PER_S = 11_520, 1_250, 370
MADE_UP = 20
"""BLE addresses; the mock has each advertise 20 times a second."""
TICK_S, AT_ONCE_S = 0.02, 0.2
POOL = 2000
"""Pieces of garbage made beforehand, and sent round and round."""
KINDS = ("serial", "mqtt", "ble")
QUIET_SHARE = 0.5
"""Of quiet to flooded time: enough for a 99th percentile of either."""
ACKNOWLEDGED_S = 180.0
"""NIJ Standard-1004.00 §5.4.1: an alarm is at the data centre within 3 min."""
TURN_S = 12.0
"""In turns so short that what else the machine does weighs on both alike."""
SLOW_S = 2.0
MOST_RATIO = 2.0
"""Of flooded to quiet latency, median and 99th percentile alike."""
MOST_KIB = 128 * 1024
LEAST_ALARMS = 5
"""On each link in each phase, however slow the machine is."""


@dataclass
class Outcome:
    quiet_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    flooded_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    rss_kib: list[int] = field(default_factory=list)
    busy: dict[bool, list[float]] = field(default_factory=lambda: {False: [0.0, 0.0], True: [0.0, 0.0]})
    """Flooded or not: seconds, and the gateway's seconds of processor time in them."""
    garbage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    made_up_tried: int = 0
    ble_connections: int = 0
    """Of the real tag: a flood must not cost it one."""
    made: list[tuple[int, int, int]] = field(default_factory=list)
    stored: list[tuple[int, int, int]] = field(default_factory=list)
    delivered: list[tuple[int, int, int]] = field(default_factory=list)
    status: dict = field(default_factory=dict)


async def paced(per_s: float, send: Callable[[int], None], stop: asyncio.Event) -> None:
    """Call send(count) so that so many a second come out, whatever the sleeping costs.

    What this program was too busy to send is left out: made up for in one go, it would fill the socket of the bus until
    dbus-fast gives that up."""
    loop = asyncio.get_running_loop()
    due, before_s = 0.0, loop.time()
    while not stop.is_set():
        now_s = loop.time()
        due = min(due + (now_s - before_s) * per_s, AT_ONCE_S * per_s)
        before_s = now_s
        if due >= 1:
            send(int(due))
            due -= int(due)
        await asyncio.sleep(TICK_S)


def some_device(chance: random.Random) -> int:
    return DEVICE + chance.randrange(3) if chance.random() < 0.5 else chance.randrange(1, 1 << 32)


def mqtt_pieces(chance: random.Random) -> list[bytes]:
    """PUBLISH packets of QoS 0, 100 bytes each in them (MQTT 3.1.1 §3.3)."""
    pieces = []
    for _ in range(POOL):
        topic = topics.up(some_device(chance)).encode()
        body = struct.pack(">H", len(topic)) + topic + chance.randbytes(100)
        pieces.append(bytes([0x30, len(body) & 0x7F | 0x80, len(body) >> 7]) + body)
    return pieces


def serial_pieces(chance: random.Random) -> list[bytes]:
    """A third noise, a third damaged frames, a third whole frames that nobody sealed; the real ones go in between."""
    pieces = []
    for _ in range(POOL):
        whole = encode_stream(struct.pack("<I", some_device(chance)) + chance.randbytes(100))
        pieces.append(chance.choice([chance.randbytes(100) + b"\0", whole[:-5] + b"\0", whole]))
    return pieces


def ble_pieces(chance: random.Random) -> list[bytes]:
    """Noise, and whole datagrams that nobody sealed."""
    pieces = []
    for _ in range(POOL):
        whole = fragments.fragment(struct.pack("<I", some_device(chance)) + chance.randbytes(200), 244)[0]
        pieces.append(chance.choice([chance.randbytes(244), whole]))
    return pieces


def connect(port: int) -> socket.socket:
    """As a client of the broker, with nothing but what it takes (MQTT 3.1.1 §3.1)."""
    connection = socket.create_connection(("127.0.0.1", port))
    name = b"garbage"
    body = b"\0\x04MQTT\x04\x02\0\0" + struct.pack(">H", len(name)) + name
    connection.sendall(bytes([0x10, len(body)]) + body)
    assert connection.recv(4)[-1] == 0, "the broker does not take the one who floods"
    return connection


def make_garbage(port: int, descriptor: int) -> None:
    """In a process of its own: MQTT and serial at line rate from a line on standard input to the next; then how much.

    What it was too busy to send is left out, as on a line: made up for in one go, it would fill the pty in front of the
    real tag's frames."""
    connection = connect(port)
    mqtt, serial = mqtt_pieces(random.Random(2)), serial_pieces(random.Random(3))
    made = {"mqtt": 0, "serial": 0}
    due = {"mqtt": 0.0, "serial": 0.0}
    rates = {"mqtt": MQTT_FRAMES_PER_S, "serial": SERIAL_BYTES_PER_S}
    at = {"mqtt": 0, "serial": 0}
    loud, before_s = False, 0.0
    print("ready", flush=True)
    while True:
        if select.select([sys.stdin], [], [], TICK_S if loud else None)[0]:
            if not sys.stdin.readline():
                return
            loud, before_s = not loud, time.monotonic()
            if not loud:
                print(json.dumps(made), flush=True)
            continue
        now_s = time.monotonic()
        for kind, rate in rates.items():
            due[kind] = min(due[kind] + (now_s - before_s) * rate, AT_ONCE_S * rate)
        before_s = now_s
        count = int(due["mqtt"])
        connection.sendall(b"".join(mqtt[(at["mqtt"] + n) % POOL] for n in range(count)))
        at["mqtt"], due["mqtt"] = at["mqtt"] + count, due["mqtt"] - count
        made["mqtt"] += count
        data = b""
        while len(data) < due["serial"]:
            data += serial[at["serial"] % POOL]
            at["serial"] += 1
        due["serial"] -= len(data)
        with contextlib.suppress(BlockingIOError):
            made["serial"] += os.write(descriptor, data)


class Garbage:
    """That process; `loud` while it is to send."""

    def __init__(self, process: asyncio.subprocess.Process, outcome: Outcome) -> None:
        self._process = process
        self._outcome = outcome

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await asyncio.wait_for(self._process.stdout.readline(), 30)

    def _switch(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def loud(self, stop: asyncio.Event) -> None:
        self._switch()
        await stop.wait()
        self._switch()
        self._outcome.garbage |= json.loads(await self._line())

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, port: int, descriptor: int, outcome: Outcome) -> "AsyncIterator[Garbage]":
        process = await asyncio.create_subprocess_exec(
            *mortal(sys.executable, __file__, "garbage", str(port), str(descriptor)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=(descriptor,),
        )  # fmt: skip
        made = cls(process, outcome)
        try:
            assert await made._line() == b"ready\n"
            yield made
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def ble_garbage(device: Device, pieces: list[bytes], outcome: Outcome, stop: asyncio.Event) -> None:
    def send(count: int) -> None:
        if not device.ready.is_set():
            return
        for _ in range(count):
            device.tx.notify(pieces[outcome.garbage["ble"] % POOL])
            outcome.garbage["ble"] += 1

    await paced(BLE_NOTIFICATIONS_PER_S, send, stop)


async def measure(tags: dict[str, Tag], each_s: float, stop: asyncio.Event, into: dict[str, list[float]], made) -> None:
    """From a record's making to the sealed acknowledgement that it is stored; one alarm at a time on each link."""

    async def one(kind: str, tag: Tag) -> None:
        while not stop.is_set():
            began_s = time.perf_counter()
            sent, repeated, refused = tag.link.sent, tag.link.retransmitted, tag.link.refused
            sequence = tag.record(event_record(len(made)), alarm=True)
            identity = (tag.device_id, 1, sequence)
            made.append(identity)
            try:
                async with asyncio.timeout(ACKNOWLEDGED_S):
                    while identity not in tag.told:
                        tag.changed.clear()
                        await tag.changed.wait()
            except TimeoutError:
                raise AssertionError(f"{kind}: alarm {sequence} was not acknowledged in {ACKNOWLEDGED_S:g} s") from None
            took_s = time.perf_counter() - began_s
            into[kind].append(took_s * 1000)
            if took_s > SLOW_S:  # why, in a run of ten minutes
                print(
                    f"{kind}: alarm {sequence} took {took_s:.1f} s: sent {tag.link.sent - sent} frames, repeated"
                    f" {tag.link.retransmitted - repeated}, refused {tag.link.refused - refused}, journal"
                    f" {tag.link.idle=} {tag.link.is_open=}",
                    flush=True,
                )
            await asyncio.sleep(each_s)

    await asyncio.gather(*(one(kind, tag) for kind, tag in tags.items()))


async def end(seconds: float, latencies: dict[str, list[float]], stop: asyncio.Event) -> None:
    await asyncio.sleep(seconds)
    while min(map(len, latencies.values())) < LEAST_ALARMS:  # noqa: ASYNC110 - filled by measure()
        await asyncio.sleep(0.1)
    stop.set()


async def watch_memory(pid: int, outcome: Outcome, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/statm").read_text().split()  # noqa: ASYNC240 - not a disk
            outcome.rss_kib.append(int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await stop.wait()


def processor_s(pid: int) -> float:
    """Of all its threads so far (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ble_pump(tag: Tag, device: Device) -> None:
    device.arrived = lambda datagram: tag.arrived(datagram[4:])
    while True:
        await device.ready.wait()
        with contextlib.suppress(OSError):
            await tag.pump(lambda frame: device.send(tag.device_id, frame))


async def flood(folder: Path, quiet_s: float, flood_s: float) -> Outcome:
    outcome = Outcome()
    async with contextlib.AsyncExitStack() as stack:
        bus = await stack.enter_async_context(private_bus())
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus
        stack.callback(os.environ.pop, "DBUS_SYSTEM_BUS_ADDRESS")
        world = await stack.enter_async_context(bluez(bus))
        broker = stack.enter_context(brokers.start_broker("mosquitto"))
        port = Port()
        links = f'[[serial]]\nport = "{port.path}"\n[ble]\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}'
        gateway = GatewayProcess(folder, toml(links=links, devices=3))
        await gateway.start()
        assert gateway.process is not None
        tags = {kind: Tag(folder / kind, device_id=DEVICE + number) for number, kind in enumerate(KINDS)}
        await stack.enter_async_context(over_serial(tags["serial"], port))
        await stack.enter_async_context(over_mqtt(tags["mqtt"], "127.0.0.1", broker.port))
        real, liar = world.add(1), world.add(2)
        pumping = asyncio.create_task(ble_pump(tags["ble"], real))
        stack.callback(pumping.cancel)
        garbage = await stack.enter_async_context(Garbage.started(broker.port, port.master, outcome))
        pieces = ble_pieces(random.Random(4))
        async with asyncio.timeout(30):
            await real.ready.wait()
            await liar.ready.wait()
        made_up = [world.add(number) for number in range(100, 100 + MADE_UP)]
        for address in made_up:
            address.given_up = asyncio.Event()
            address.advertises = False
        turns = max(1, round(flood_s / TURN_S))
        phases = ((quiet_s / turns, outcome.quiet_ms, False), (flood_s / turns, outcome.flooded_ms, True))
        for seconds, into, loud in phases * turns:
            stop = asyncio.Event()
            for address in made_up:
                address.advertises = loud
            work = [measure(tags, 0.1, stop, into, outcome.made), watch_memory(gateway.process.pid, outcome, stop)]
            if loud:
                work += [garbage.loud(stop), ble_garbage(liar, pieces, outcome, stop)]
            work.append(end(seconds, into, stop))
            began_s, used_s = time.monotonic(), processor_s(gateway.process.pid)
            await asyncio.gather(*work)
            outcome.busy[loud][0] += time.monotonic() - began_s
            outcome.busy[loud][1] += processor_s(gateway.process.pid) - used_s
        for tag in tags.values():
            await tag.until_delivered()
        outcome.ble_connections, outcome.made_up_tried = real.connections, sum(each.attempts for each in made_up)
        assert await gateway.stop() == 0
        outcome.status = json.loads((folder / "state" / "status.json").read_text())
        outcome.stored, outcome.delivered = identities(gateway.store), identities(gateway.backend)
    return outcome


def report(outcome: Outcome) -> dict[str, object]:
    told: dict[str, object] = {"garbage": outcome.garbage, "rssMaximumMiB": round(max(outcome.rss_kib) / 1024, 1)}
    told |= {"bleConnections": outcome.ble_connections, "bleMadeUpTried": outcome.made_up_tried}
    third = max(1, len(outcome.rss_kib) // 3)
    told["rssGrowthMiB"] = round((max(outcome.rss_kib[-third:]) - max(outcome.rss_kib[:third])) / 1024, 1)
    (quiet_s, quiet_busy_s), (loud_s, loud_busy_s) = outcome.busy[False], outcome.busy[True]
    told["gatewayCorePercent"] = [round(100 * quiet_busy_s / quiet_s), round(100 * loud_busy_s / loud_s)]
    for kind in KINDS:
        quiet, loud = figures(outcome.quiet_ms[kind]), figures(outcome.flooded_ms[kind])
        told[kind] = {
            "medianRatio": round(loud[0] / quiet[0], 2), "p99Ratio": round(loud[1] / quiet[1], 2),
            "quietMedianMs": round(quiet[0], 1), "floodedMedianMs": round(loud[0], 1),
            "quietP99Ms": round(quiet[1], 1), "floodedP99Ms": round(loud[1], 1),
            "slowestMs": round(max(outcome.flooded_ms[kind])),
            "alarms": [len(outcome.quiet_ms[kind]), len(outcome.flooded_ms[kind])],
        }  # fmt: skip
    return told


def figures(latencies_ms: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    ordered = sorted(latencies_ms)
    return statistics.median(ordered), ordered[len(ordered) * 99 // 100]


def too_slow(told: dict[str, object]) -> list[str]:
    """What is beyond the promise."""
    return [
        f"{kind}: {name} {told[kind][name]} is above {MOST_RATIO:g}"  # type: ignore[index]
        for kind in KINDS
        for name in ("medianRatio", "p99Ratio")
        if told[kind][name] > MOST_RATIO  # type: ignore[index]
    ]


def main() -> int:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory(prefix="emtag-flood-") as scratch:
        outcome = asyncio.run(flood(Path(scratch), minutes * 60 * QUIET_SHARE, minutes * 60))
    told = report(outcome)
    for name, value in told.items():
        print(f"{name}: {json.dumps(value)}")
    beyond = too_slow(told)
    if not outcome.stored == outcome.delivered == sorted(outcome.made):
        beyond.append("a real record was lost")
    if outcome.ble_connections != 1:
        beyond.append("the real tag's BLE connection was ended")
    if max(outcome.rss_kib) > MOST_KIB:
        beyond.append(f"more than {MOST_KIB // 1024} MiB resident")
    print("\n".join(beyond) or f"real traffic within {MOST_RATIO:g} times its quiet latency")
    return 1 if beyond else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["garbage"]:
        make_garbage(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
