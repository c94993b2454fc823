"""Taking an order into force: parts in any order, over resets and spoilt flash, begun and ended in time."""

import asyncio
import os
import struct

from common import order as order_module
from common.order import Orders
from emwire import constants

import virtual

ACTIVATION = 77
POINTS = tuple((51500000 + 1000 * n, -120000 - 1000 * (n % 7)) for n in range(64))
NOW_S = 500000000


class Device:
    """What Orders needs of a device."""

    def __init__(self, folder):
        self.board = virtual.Board(folder, {"device_id": 1})
        self.ticks_ms = self.board.clock.ticks_ms
        self.log = self.board.log
        self.events = []
        self.records = self
        self.clock = self
        self.now_s = NOW_S

    def time_s(self):
        return self.now_s and self.now_s + virtual.now_ms() // 1000

    def event(self, event_type, value=0, evidence=b""):
        self.events.append((event_type, value, evidence))

    def told(self):
        events, self.events = self.events, []
        return [event[:2] for event in events]


def conditions(version=1, zones=0, starts_s=0, ends_s=0, activation=ACTIVATION, curfew=()):
    head = (constants.MESSAGE_ORDER_CONDITIONS, activation, version, zones, starts_s, ends_s)
    return head + (60, NOW_S + 1000, 0, 60, 15, 60, 1800, 900, curfew)


def zone(number, version=1, part=0, parts=1, vertices=POINTS, shape=constants.SHAPE_POLYGON, radius=0):
    head = (constants.MESSAGE_ORDER_ZONE, ACTIVATION, version, number, constants.ZONE_EXCLUSION, shape, 0, 0, 2)
    return head + (radius, part, parts, vertices)


APPLIED = constants.EVENT_ORDER_APPLIED
REFUSED = constants.EVENT_ORDER_REFUSED
ENDED = constants.EVENT_ORDER_ENDED


def check_parts_in_any_order_and_twice(folder):
    device = Device(folder)
    orders = Orders(device)
    changes = []
    orders.on_change(lambda: changes.append(orders.order))
    circle = zone(1, vertices=POINTS[:1], shape=constants.SHAPE_CIRCLE, radius=300)
    for message in (zone(0, part=1, parts=2), circle, circle, conditions(zones=2, curfew=((1, 1140, 420, 1),))):
        orders.received(message)
        assert orders.order is None and not device.events
    orders.received(zone(0, part=0, parts=2))
    assert device.told() == [(APPLIED, 1)]
    taken = orders.order
    assert changes == [taken] and taken.activation_id == ACTIVATION and taken.curfew == ((1, 1140, 420, 1),)
    assert [len(one.vertices) for one in taken.zones] == [256, 2] and taken.zones[1].radius_m == 300
    assert tuple(taken.zones[0].vertices[:4]) == POINTS[0] + POINTS[1]
    assert (taken.offset_s(NOW_S), taken.offset_s(NOW_S + 1000)) == (3600, 0)
    again = Orders(device)
    assert again.order.zones[0].vertices == taken.zones[0].vertices and again.order.curfew == taken.curfew
    again.received(conditions(zones=2))
    again.received(conditions(zones=2))
    assert device.told() == [(APPLIED, 1)], "told again once, for a gateway that lost the word"


def check_what_is_refused_leaves_the_order_in_force(folder):
    device = Device(folder)
    orders = Orders(device)
    orders.received(conditions(5))
    first = orders.order
    device.told()
    for bad in (
        (conditions(6, zones=1), zone(0, 6, vertices=POINTS[:2])),
        (conditions(7, zones=1), zone(0, 7, vertices=POINTS[:1], shape=constants.SHAPE_CIRCLE)),
        (conditions(8, zones=1), zone(0, 8, shape=9)),
        (conditions(9, starts_s=10, ends_s=10),),
        (conditions(10, zones=1), zone(0, 10, part=0, parts=2), zone(0, 10, part=1, parts=1)),
        (conditions(4),),
    ):
        for message in bad:
            orders.received(message)
        assert orders.order is first
        assert device.told()[0] == (REFUSED, bad[0][2]), bad[0]
    many = [conditions(11, zones=9)]
    for number in range(9):
        many += [zone(number, 11, part=part, parts=4) for part in range(4)]
    for message in many:
        orders.received(message)
    number, version, evidence = device.events.pop()
    expected = struct.pack("<IBB", ACTIVATION, order_module.REFUSED_TOO_LARGE, 8)
    assert (number, version, evidence) == (REFUSED, 11, expected)
    assert Orders(device).order.version == 5


def check_power_cut_at_every_write(folder):
    # Cut before every single write to flash of the second order: the first or the second is in force, never neither.
    messages = [conditions(2, zones=1), zone(0, 2, 0, 2), zone(0, 2, 1, 2)]
    real_open = open
    cut = 0
    while True:
        device = Device(folder)
        for name in os.listdir(folder):
            os.remove(folder + "/" + name)
        Orders(device).received(conditions(1))
        budget = [cut]

        def cutting(path, mode="r", *rest, left=budget):
            file = real_open(path, mode, *rest)
            return Cutting(file, left) if "w" in mode or "a" in mode else file

        order_module.open = cutting
        import common.slots as slots

        slots.open = cutting
        orders = Orders(device)
        try:
            for message in messages:
                orders.received(message)
            finished = True
        except PowerCut:
            finished = False
        finally:
            del order_module.open
            del slots.open
        after = Orders(device)
        assert after.order is not None and after.order.version == (2 if finished else after.order.version)
        assert after.order.version in (1, 2)
        for message in messages:
            after.received(message)
        assert after.order.version == 2 and len(after.order.zones[0].vertices) == 256
        if finished:
            break
        cut += 1
    assert cut >= 6, "as many writes at least were cut"


class PowerCut(Exception):
    pass


class Cutting:
    """A file whose power goes in the middle of a write."""

    def __init__(self, file, left):
        self._file = file
        self._left = left

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self._file.close()

    def write(self, data):
        if self._left[0] == 0:
            self._file.write(bytes(data[: len(data) // 2]))
            self._file.close()
            raise PowerCut
        self._left[0] -= 1
        return self._file.write(data)

    def seek(self, *arguments):
        return self._file.seek(*arguments)

    def flush(self):
        self._file.flush()

    def fileno(self):
        return self._file.fileno()


async def check_begins_and_ends_in_time(folder):
    device = Device(folder)
    orders = Orders(device)
    task = asyncio.create_task(orders.run())
    changes = []
    orders.on_change(lambda: changes.append(orders.order))
    begun_s = device.time_s()
    orders.received(conditions(1, starts_s=begun_s + 7200, ends_s=begun_s + 10800))
    assert device.told() == [(APPLIED, 1)] and orders.order is None
    await asyncio.sleep_ms(7199000)
    assert orders.order is None
    await asyncio.sleep_ms(2000)
    assert orders.order is not None
    await asyncio.sleep_ms(3600000)
    assert orders.order is None and device.told() == [(ENDED, 1)]
    task.cancel()
    assert Orders(device).order is None
    task = asyncio.create_task(Orders(device).run())
    await asyncio.sleep_ms(1000)
    assert device.told() == [], "ended once, not at every boot"
    task.cancel()


def check_spoilt_flash_is_asked_for_again(folder):
    device = Device(folder)
    Orders(device).received(conditions(3, curfew=((1, 0, 60, 1),)))
    for name in ("/order.a", "/order.b"):
        try:
            with open(folder + name, "r+b") as file:
                file.seek(10)
                file.write(b"\xff")
        except OSError:
            pass
    orders = Orders(device)
    assert orders.order is None
    device.told()
    orders.received(conditions(3, curfew=((1, 0, 60, 1),)))
    assert orders.order.version == 3 and device.told() == [(APPLIED, 3)]


def check_another_activation_takes_its_place(folder):
    device = Device(folder)
    orders = Orders(device)
    orders.received(conditions(9))
    device.told()
    orders.received(conditions(1, activation=78))
    assert device.told() == [(ENDED, 9), (APPLIED, 1)] and orders.order.activation_id == 78
