"""Garbage at line rate on serial, BLE and MQTT at once, with a real tag on each: what that does to latency and memory.

`python tests/links/flood.py MINUTES` prints the measurement; the test runs some seconds of it. The gateway is a process
of its own. Line rates: 115200 baud is 11,520 B/s; LTE-M sends up at 1 Mbit/s, 1,250 frames of 100 B; a BLE connection
takes some 90 kB/s, 370 notifications of 244 B. Half of what looks like frames names a registered device, the other half
a stranger.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root / "tests" / "gateway"), str(root / "firmware")]

import aiomqtt
from bluez_mock import Device, bluez, private_bus
from emgate import broker as brokers
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
TICK_S, AT_ONCE_S = 0.02, 0.2
KINDS = ("serial", "mqtt", "ble")
ACKNOWLEDGED_S = 180.0
"""NIJ Standard-1004.00 §5.4.1: an alarm is at the data centre within 3 min."""
TURN_S = 30.0
SLOW_S = 2.0
LEAST_ALARMS = 5
"""On each link in each phase, however slow the machine is."""


@dataclass
class Outcome:
    quiet_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    flooded_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    rss_kib: list[int] = field(default_factory=list)
    garbage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    made: list[tuple[int, int, int]] = field(default_factory=list)
    stored: list[tuple[int, int, int]] = field(default_factory=list)
    delivered: list[tuple[int, int, int]] = field(default_factory=list)
    status: dict = field(default_factory=dict)


async def paced(per_s: float, send, stop: asyncio.Event) -> None:
    """Call send(count) so that so many a second come out, whatever the sleeping costs.

    What this program was too busy to send is left out, as on a line: made up for in one go, it would fill the pty in
    front of the real tag's frames, and the socket of the bus until dbus-fast gives that up."""
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


async def mqtt_garbage(port: int, outcome: Outcome, stop: asyncio.Event) -> None:
    chance = random.Random(2)
    async with aiomqtt.Client("127.0.0.1", port, identifier="garbage") as client:

        def send(count: int) -> None:
            for _ in range(count):
                client._client.publish(topics.up(some_device(chance)), chance.randbytes(100), qos=0)
            outcome.garbage["mqtt"] += count

        await paced(MQTT_FRAMES_PER_S, send, stop)


async def serial_garbage(port: Port, outcome: Outcome, stop: asyncio.Event) -> None:
    """A third noise, a third damaged frames, a third whole frames that nobody sealed; the real ones go in between."""
    chance = random.Random(3)

    def send(count: int) -> None:
        made = b""
        while len(made) < count:
            whole = encode_stream(struct.pack("<I", some_device(chance)) + chance.randbytes(100))
            made += chance.choice([chance.randbytes(100) + b"\0", whole[:-5] + b"\0", whole])
        port.write(made)
        outcome.garbage["serial"] += len(made)

    await paced(SERIAL_BYTES_PER_S, send, stop)


async def ble_garbage(device: Device, outcome: Outcome, stop: asyncio.Event) -> None:
    chance = random.Random(4)

    def send(count: int) -> None:
        if not device.ready.is_set():
            return
        for _ in range(count):
            whole = fragments.fragment(struct.pack("<I", some_device(chance)) + chance.randbytes(200), 244)[0]
            device.tx.notify(chance.choice([chance.randbytes(244), whole]))
        outcome.garbage["ble"] += count

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
        async with asyncio.timeout(30):
            await real.ready.wait()
            await liar.ready.wait()
        # In turns: what else the machine does then weighs on both alike.
        turns = max(1, round(flood_s / TURN_S))
        phases = ((quiet_s / turns, outcome.quiet_ms, False), (flood_s / turns, outcome.flooded_ms, True))
        for seconds, into, loud in phases * turns:
            stop = asyncio.Event()
            work = [measure(tags, 0.1, stop, into, outcome.made), watch_memory(gateway.process.pid, outcome, stop)]
            if loud:
                work += [
                    mqtt_garbage(broker.port, outcome, stop),
                    serial_garbage(port, outcome, stop),
                    ble_garbage(liar, outcome, stop),
                ]
            work.append(end(seconds, into, stop))
            await asyncio.gather(*work)
        for tag in tags.values():
            await tag.until_delivered()
        assert await gateway.stop() == 0
        outcome.status = json.loads((folder / "state" / "status.json").read_text())
        outcome.stored, outcome.delivered = identities(gateway.store), identities(gateway.backend)
    return outcome


def report(outcome: Outcome) -> dict[str, object]:
    told: dict[str, object] = {"garbage": outcome.garbage, "rssMaximumMiB": round(max(outcome.rss_kib) / 1024, 1)}
    third = max(1, len(outcome.rss_kib) // 3)
    told["rssGrowthMiB"] = round((max(outcome.rss_kib[-third:]) - max(outcome.rss_kib[:third])) / 1024, 1)
    for kind in KINDS:
        quiet, loud = sorted(outcome.quiet_ms[kind]), sorted(outcome.flooded_ms[kind])
        median = statistics.median(loud) / statistics.median(quiet)
        last = loud[len(loud) * 99 // 100] / quiet[len(quiet) * 99 // 100]
        told[kind] = {
            "quietMedianMs": round(statistics.median(quiet), 1), "floodedMedianMs": round(statistics.median(loud), 1),
            "medianRatio": round(median, 2), "p99Ratio": round(last, 2), "slowestMs": round(loud[-1]),
            "quietP99Ms": round(quiet[len(quiet) * 99 // 100]), "alarms": len(loud),
        }  # fmt: skip
    return told


if __name__ == "__main__":
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory(prefix="emtag-flood-") as scratch:
        outcome = asyncio.run(flood(Path(scratch), minutes * 20, minutes * 60))
        for name, value in report(outcome).items():
            print(f"{name}: {json.dumps(value)}")
        assert outcome.stored == outcome.delivered == sorted(outcome.made), "a real record was lost"
