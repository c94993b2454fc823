"""A strap is cut once, restored once; a flicker is one fault; what stays open is repeated daily."""

import asyncio
import struct

from common.settings import Settings
from drivers import strap

from virtual import PinIn, now_ms


class Watched:
    def __init__(self, folder, level=1):
        self.pin = PinIn(level)
        self.seen = []
        self._task = asyncio.create_task(strap.watch(self.pin, now_ms, self._report, Settings(folder)))

    def _report(self, kind, since_ms, value, evidence):
        self.seen.append((kind, since_ms, now_ms(), value, evidence))

    def kinds(self):
        return [item[0] for item in self.seen]


async def check_cut_and_restored(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(10000)
    w.pin.set(0)
    await asyncio.sleep_ms(4999)
    assert w.kinds() == [strap.OPENED]
    assert w.seen[0][1] == 10000, "time stamp is the opening"
    assert w.seen[0][2] <= 15000, "raised within 5 s"
    await asyncio.sleep_ms(600000)
    w.pin.set(1)
    await asyncio.sleep_ms(600000)
    assert w.kinds() == [strap.OPENED, strap.CLOSED]


async def check_repeated_daily(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1000)
    w.pin.set(0)
    await asyncio.sleep_ms(3 * 86400 * 1000 - 5000)
    assert w.kinds() == [strap.OPENED] * 3
    assert [item[1] for item in w.seen] == [1000] * 3
    assert 86400 <= w.seen[1][3] <= 86405


async def check_open_at_boot(folder):
    w = Watched(folder, 0)
    await asyncio.sleep_ms(5000)
    assert w.kinds() == [strap.OPENED]


async def check_bounce_is_nothing(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1)
    for _ in range(10):
        w.pin.set(0)
        await asyncio.sleep_ms(3)
        w.pin.set(1)
        await asyncio.sleep_ms(3)
    await asyncio.sleep_ms(3600000)
    assert w.seen == []


async def check_flicker_is_one_fault(folder):
    for open_ms, closed_ms in ((100, 400), (700, 300), (1900, 1900)):
        w = Watched(folder)
        await asyncio.sleep_ms(1000)
        pairs = 600000 // (open_ms + closed_ms)
        for _ in range(pairs):
            w.pin.set(0)
            await asyncio.sleep_ms(open_ms)
            w.pin.set(1)
            await asyncio.sleep_ms(closed_ms)
        await asyncio.sleep_ms(3600000)
        assert w.kinds() == [strap.FAULT], (open_ms, w.seen)
        changes, edges, opened, lasted = struct.unpack(strap.EVIDENCE_FORMAT, w.seen[0][4])
        expected = 60000 // (open_ms + closed_ms)
        assert abs(changes - 2 * expected) <= 2 and abs(edges - 2 * expected) <= 2
        assert abs(opened - expected * open_ms) <= open_ms and lasted >= 60000


async def check_dense_flicker(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1)
    for _ in range(3000):
        w.pin.set(1 - w.pin.level)
        await asyncio.sleep_ms(20)
    await asyncio.sleep_ms(3600000)
    assert w.kinds() == [strap.FAULT]


async def check_brief_opening_is_a_fault_not_a_cut(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1)
    w.pin.set(0)
    await asyncio.sleep_ms(500)
    w.pin.set(1)
    await asyncio.sleep_ms(3600000)
    assert w.kinds() == [strap.FAULT]
    assert struct.unpack(strap.EVIDENCE_FORMAT, w.seen[0][4])[:3] == (2, 2, 500)


async def check_cut_after_flicker(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1)
    for _ in range(50):
        w.pin.set(1 - w.pin.level)
        await asyncio.sleep_ms(300)
    w.pin.set(0)
    await asyncio.sleep_ms(120000)
    assert w.kinds() == [strap.FAULT, strap.OPENED]


async def check_edge_missed_by_the_interrupt(folder):
    w = Watched(folder)
    await asyncio.sleep_ms(1)
    w.pin.set(0)
    await asyncio.sleep_ms(100)
    w.pin.level = 1  # closed again without an edge
    await asyncio.sleep_ms(3600000)
    assert w.kinds() == [strap.FAULT]
