# The order a device serves: taken from its messages part by part, kept on flash, in force from its start to its end.
# The parts wait in a file of their own; the order in force is named in a slot, and changed in one write.
import os
import struct
from array import array
from binascii import crc32

from emwire import constants, device_codec
from emwire.errors import WireError

from common.slots import Slots, sync
from common.wait import Signal

# Of all zones of an order: 16 KiB. A board of 264 KB of RAM has no room for the wire's 32 zones of 256.
MOST_VERTICES = 2048
# Reasons in the evidence of ORDER_REFUSED, behind activation_id u32: reason u8, zone number u8.
REFUSED_OLDER = 1
REFUSED_ZONE = 2
REFUSED_TOO_LARGE = 3
REFUSED_FLASH = 4
REFUSED_PERIOD = 5
# Told again that an order is in force, when it is sent again, at most so often.
REPEAT_MS = 3600000
_NAMES = ("/order.a", "/order.b")
# file number, ended told, activation id, version, bytes and CRC of the file
_FORMAT = "<BBIHII"
_HEAD = "<HI"
_HEAD_SIZE = 6


class Zone:
    """vertices: array of latitude, longitude, latitude … in microdegrees; a circle has one and a radius."""

    __slots__ = (
        "number",
        "zone_type",
        "zone_shape",
        "starts_s",
        "ends_s",
        "points_inside",
        "radius_m",
        "vertices",
        "_next",
        "_parts",
    )

    def __init__(self, message):
        (self.number, self.zone_type, self.zone_shape, self.starts_s, self.ends_s) = message[3:8]
        self.points_inside, self.radius_m = message[8:10]
        self.vertices = array("i")
        self._next = 0
        self._parts = message[11]

    def add(self, message) -> bool:
        """The next part of the vertices; False if it is not that."""
        if message[10] != self._next or message[11] != self._parts:
            return False
        for latitude, longitude in message[12]:
            self.vertices.append(latitude)
            self.vertices.append(longitude)
        self._next += 1
        return True

    @property
    def complete(self) -> bool:
        return self._next == self._parts

    @property
    def sound(self) -> bool:
        """Whether it is a figure that can be judged."""
        if self.ends_s and self.starts_s >= self.ends_s:
            return False
        if self.zone_shape == constants.SHAPE_CIRCLE:
            return len(self.vertices) == 2 and self.radius_m > 0
        return self.zone_shape == constants.SHAPE_POLYGON and len(self.vertices) >= 6

    def active(self, time_s: int) -> bool:
        """Whether it applies at this time; 0 (clock unknown): yes."""
        return not time_s or (self.starts_s <= time_s and not (self.ends_s and time_s >= self.ends_s))


class Order:
    """Fields named as in order_conditions; curfew: ((day_of_week, start_minute, end_minute, address), …); zones."""

    def __init__(self, message):
        (
            self.activation_id,
            self.version,
            self.zone_count,
            self.starts_s,
            self.ends_s,
            self.utc_offset_minutes,
            self.offset_change_s,
            self.next_utc_offset_minutes,
            self.fix_interval_s,
            self.violation_fix_interval_s,
            self.violation_report_interval_s,
            self.sample_interval_s,
            self.raised_sample_interval_s,
            self.curfew,
        ) = message[1:15]
        self.zones = []

    def offset_s(self, time_s: int) -> int:
        """Local time less UTC at this time, seconds."""
        if self.offset_change_s and time_s >= self.offset_change_s:
            return self.next_utc_offset_minutes * 60
        return self.utc_offset_minutes * 60

    def active(self, time_s: int) -> bool:
        """Whether it is in force at this time; 0 (clock unknown): yes."""
        return not time_s or (self.starts_s <= time_s and not (self.ends_s and time_s >= self.ends_s))

    def take(self, message) -> bool:
        """One part of a zone; False if it does not follow what is there."""
        number = message[3]
        if number < len(self.zones):
            return self.zones[number].add(message)
        if number != len(self.zones) or number >= self.zone_count or (number and not self.zones[-1].complete):
            return False
        zone = Zone(message)
        self.zones.append(zone)
        return zone.add(message)

    @property
    def complete(self) -> bool:
        return len(self.zones) == self.zone_count and (not self.zones or self.zones[-1].complete)

    def fault(self):
        """(reason, zone number) why it cannot be served, or None."""
        if self.ends_s and self.starts_s >= self.ends_s:
            return REFUSED_PERIOD, 0
        vertices = 0
        for zone in self.zones:
            vertices += len(zone.vertices) // 2
            if not zone.sound:
                return REFUSED_ZONE, zone.number
            if vertices > MOST_VERTICES:
                return REFUSED_TOO_LARGE, zone.number
        return None


class Orders:
    """Task "order" of a device. `order` is the one in force now, or None."""

    def __init__(self, device):
        self._device = device
        self._path = device.board.storage_path
        self._slots = Slots(self._path + "/order.")
        self._callbacks = []
        self._changed = Signal()
        self._held = None  # begun or not
        self._file = 0
        self._ended = False
        self._told_ms = None
        self.order = None
        self.waiting = 0  # parts held of an order that is not complete
        self.ignored = 0  # parts that follow nothing that is held
        self._arriving = None  # (activation id, version)
        self._parts = {}  # (zone, part): where in the file; (255, 0): the conditions
        self._counts = {}  # zone: parts it has
        self._zone_count = 0
        self._load()

    def on_change(self, callback):
        """callback() after `order` changed: taken, begun, ended."""
        self._callbacks.append(callback)

    def received(self, message):
        """An order_conditions or order_zone message."""
        identity = message[1], message[2]
        held = self._held
        if held is not None and held.activation_id == identity[0]:
            if held.version == identity[1]:
                self._again(message)
                return
            if held.version > identity[1]:
                self._refuse(identity, REFUSED_OLDER, 0)
                return
        try:
            self._keep(identity, message)
            if self._complete():
                self._take(identity)
        except OSError as error:
            self._device.log("order: %r" % error)
            self._forget()
            self._refuse(identity, REFUSED_FLASH, 0)

    async def run(self):
        """Task: begin and end the order in time."""
        device = self._device
        while True:
            self._judge()
            held = self._held
            now_s = device.clock.time_s()
            wait_ms = None
            if held is not None and not self._ended:
                due_s = held.starts_s if now_s and now_s < held.starts_s else held.ends_s
                if due_s:
                    # The clock may be set meanwhile: look at least once an hour.
                    wait_ms = min(max(due_s - now_s, 1) if now_s else 60, 3600) * 1000
            await self._changed.wait(wait_ms)

    # -- taking an order ------------------------------------------------------------------------------------

    def _keep(self, identity, message):
        if self._arriving != identity:
            self._forget()
            self._arriving = identity
        if message[0] == constants.MESSAGE_ORDER_CONDITIONS:
            key = 255, 0
            encoded = device_codec.encode_order_conditions(*message[1:])
            self._zone_count = message[3]
        else:
            key = message[3], message[10]
            encoded = device_codec.encode_order_zone(*message[1:])
            self._counts[message[3]] = message[11]
        if key in self._parts:
            return
        with open(self._path + "/order.new", "ab") as file:
            self._parts[key] = file.seek(0, 2)
            file.write(struct.pack(_HEAD, len(encoded), crc32(encoded)) + encoded)
        self.waiting = len(self._parts)

    def _complete(self):
        if (255, 0) not in self._parts:
            return False
        for zone in range(self._zone_count):
            for part in range(self._counts.get(zone, 1)):
                if (zone, part) not in self._parts:
                    return False
        return True

    def _ordered(self):
        yield 255, 0
        for zone in range(self._zone_count):
            for part in range(self._counts[zone]):
                yield zone, part

    def _take(self, identity):
        # In order into the file that is not in force; then the slot names it.
        number = 1 - self._file if self._held is not None else self._file
        size = check = 0
        with open(self._path + "/order.new", "rb") as source, open(self._path + _NAMES[number], "wb") as target:
            for key in self._ordered():
                encoded = _read_part(source, self._parts[key])
                data = struct.pack(_HEAD, len(encoded), crc32(encoded)) + encoded
                target.write(data)
                size += len(data)
                check = crc32(data, check)
            sync(target)
        order = self._read(number, size)
        # Parts that contradict each other make no zone.
        fault = (REFUSED_ZONE, 0) if order is None else order.fault()
        if fault is None:
            self._slots.write(struct.pack(_FORMAT, number, 0, identity[0], identity[1], size, check))
        self._forget()
        if fault is not None:
            self._refuse(identity, *fault)
            return
        former = self._held
        self._held = order
        self._file = number
        self._size_check = size, check
        self._ended = False
        self._told_ms = self._device.ticks_ms()
        if former is not None and former.activation_id != order.activation_id:
            self._tell(constants.EVENT_ORDER_ENDED, former.version, former.activation_id)
        self._tell(constants.EVENT_ORDER_APPLIED, order.version, order.activation_id)
        self.order = None
        self._judge(True)
        self._changed.set()

    def _forget(self):
        self._arriving = None
        self._parts = {}
        self._counts = {}
        self.waiting = 0
        try:
            os.remove(self._path + "/order.new")
        except OSError:
            pass

    def _read(self, number, size):
        order = None
        with open(self._path + _NAMES[number], "rb") as file:
            while file.tell() < size:
                message = device_codec.decode(_read_part(file, None))
                if order is None:
                    order = Order(message)
                elif not order.take(message):
                    return None
        return order if order is not None and order.complete else None

    def _load(self):
        self._forget()  # parts that wait are sent again
        value = self._slots.value
        if value is None:
            return
        number, ended, activation_id, version, size, check = struct.unpack(_FORMAT, value)
        self._file = number
        self._ended = bool(ended)
        self._size_check = size, check
        try:
            self._held = self._read(number, size)
        except (OSError, WireError) as error:
            # Flash lost it: without it in force the gateway sends it again.
            self._device.log("order %d: %r" % (version, error))
        self._judge(True)

    # -- in force or not ------------------------------------------------------------------------------------

    def _judge(self, changed=False):
        held = self._held
        if held is None:
            return
        now_s = self._device.clock.time_s()
        if not self._ended and now_s and held.ends_s and now_s >= held.ends_s:
            self._ended = True
            self._tell(constants.EVENT_ORDER_ENDED, held.version, held.activation_id)
            size, check = self._size_check
            try:
                self._slots.write(struct.pack(_FORMAT, self._file, 1, held.activation_id, held.version, size, check))
            except OSError:
                pass  # told once more after a reset
        order = held if not self._ended and held.active(now_s) else None
        if changed or order is not self.order:
            self.order = order
            for callback in self._callbacks:
                callback()

    def _again(self, message):
        # It is in force: the gateway may have lost the word that says so.
        now = self._device.ticks_ms()
        if message[0] == constants.MESSAGE_ORDER_CONDITIONS and (
            self._told_ms is None or now - self._told_ms >= REPEAT_MS
        ):
            self._told_ms = now
            self._tell(constants.EVENT_ORDER_APPLIED, message[2], message[1])

    def _refuse(self, identity, reason, zone):
        evidence = struct.pack("<IBB", identity[0], reason, zone)
        self._device.records.event(constants.EVENT_ORDER_REFUSED, identity[1], evidence=evidence)

    def _tell(self, event, version, activation_id):
        self._device.records.event(event, version, evidence=struct.pack("<I", activation_id))


def _read_part(file, at):
    if at is not None:
        file.seek(at)
    head = file.read(_HEAD_SIZE)
    if len(head) == _HEAD_SIZE:
        size, check = struct.unpack(_HEAD, head)
        encoded = file.read(size)
        if len(encoded) == size and crc32(encoded) == check:
            return encoded
    raise OSError(5)  # EIO: not what was written
