"""An order in the words of the wire: order_conditions and order_zone for the device of one activation.

The device gets what it can act on; the backend goes on judging everything. What the wire has no words for (a zone with
holes, or of more than 256 corners) is left out there, and named.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zlib import crc32
from zoneinfo import ZoneInfo

from emwire import codec, constants

from emgate.backend.conditions.exclusion_zone import POINTS_INSIDE
from emgate.backend.orders import DAYS, FOR_EVER_MS, Activation, EnforcementZone, Order, OrderFile
from emgate.down.kinds import RequestError, names

MOST_ENTRIES, MOST_ZONES, MOST_PARTS, PART_VERTICES = 42, 32, 4, 64
"""As emwire.orders declares them."""
LARGEST_RADIUS_M = 65_535
"""A larger circle is drawn as a polygon of CIRCLE_CORNERS: its sides lie at most 0.12 % of the radius inside."""
CIRCLE_CORNERS = 64
METRES_PER_DEGREE = 111_195.0  # mean Earth radius 6,371,009 m (IUGG), 2 pi / 360 of it
VIOLATION_FIX_INTERVAL_S = 15  # field notes: every 15 s while in a zone violation (3M)
LOOK_AHEAD_DAYS = 400
"""How far to look for a change of the offset: time zones with daylight saving change within half a year."""


@dataclass(slots=True)
class Told:
    """What a device is to be told, apart from the version."""

    # starts_s … raised_sample_interval_s of order_conditions
    conditions: tuple[int, int, int, int, int, int, int, int, int, int]
    curfew: list[tuple[int, int, int, int]]
    # Of each the fields zone_type … radius_m, and its vertices
    zones: list[tuple[tuple[int, int, int, int, int, int], list[tuple[int, int]]]]
    left_out: list[str] = field(default_factory=list)

    def messages(self, activation_number: int, version: int) -> list[bytes]:
        """One order_conditions, then every zone in its parts."""
        found = [
            codec.OrderConditions(activation_number, version, len(self.zones), *self.conditions, self.curfew).encode()
        ]
        for number, (fields, vertices) in enumerate(self.zones):
            parts = [vertices[at : at + PART_VERTICES] for at in range(0, len(vertices), PART_VERTICES)]
            for part, corners in enumerate(parts):
                zone = codec.OrderZone(activation_number, version, number, *fields, part, len(parts), corners)
                found.append(zone.encode())
        return found

    def digest(self) -> str:
        """Changes when, and only when, the device must be told something else."""
        return hashlib.sha256(b"".join(self.messages(0, 1))).hexdigest()


def activation_number(activation_id: str) -> int:
    """The u32 of an activation on the wire: its own number if it is one, else the CRC-32 of its text."""
    if activation_id.isascii() and activation_id.isdigit() and 0 < int(activation_id) <= 0xFFFF_FFFF:
        return int(activation_id)
    return crc32(activation_id.encode())


def told(orders: Sequence[Order], from_ms: int, until_ms: int | None, now_ms: int) -> Told | None:
    """What the orders of a person mean for a device that is theirs from … until; None = nothing (any more).

    Orders in force count together; while none is, the next one does."""
    live = sorted(
        (order for order in orders if order.span_ms()[1] > max(now_ms, from_ms)), key=lambda order: order.span_ms()
    )
    chosen = [order for order in live if order.span_ms()[0] <= now_ms] or live[:1]
    if not chosen:
        return None
    first = max(from_ms, min(order.span_ms()[0] for order in chosen))
    last = min(until_ms or FOR_EVER_MS, max(order.span_ms()[1] for order in chosen))
    offset, change_s, next_offset = _offsets(ZoneInfo(chosen[0].timezone), now_ms)
    told = Told(
        (
            _wire(first),
            0 if last >= FOR_EVER_MS else _wire(last),
            offset,
            change_s,
            next_offset,
            0,
            VIOLATION_FIX_INTERVAL_S if any(order.enforcementZones for order in chosen) else 0,
            0,
            0,
            0,
        ),
        [],
        [],
    )
    for order in chosen:
        told.curfew += _curfew(order)
        for zone in order.enforcementZones:
            _add_zone(told, order, zone)
    if len(told.curfew) > MOST_ENTRIES:
        told.left_out.append(f"curfew: {len(told.curfew) - MOST_ENTRIES} entries beyond {MOST_ENTRIES}")
        del told.curfew[MOST_ENTRIES:]
    return told


def end_message(activation_number: int, version: int, now_ms: int) -> bytes:
    """An order that is over: whatever was in force before is not any more."""
    return codec.OrderConditions(
        activation_number, version, 0, 0, max(1, _wire(now_ms)), 0, 0, 0, 0, 0, 0, 0, 0, []
    ).encode()


def of_device(file: OrderFile, device_id: int, version: int, now_ms: int | None = None) -> list[bytes]:
    """The messages for a device by an order file; RequestError when nobody wears it, or has no order."""
    now = int(datetime.now(UTC).timestamp() * 1000) if now_ms is None else now_ms
    activation = _activation(file, device_id, now)
    if activation is None:
        raise RequestError(f"no activation of device {device_id} is in force: add one to the file")
    orders = [order for order in file.orders if order.personId == activation.personId]
    what = told(orders, activation.from_ms, activation.until_ms, now)
    if what is None:
        raise RequestError(f"person {activation.personId} has no order in force or to come: add one to the file")
    return what.messages(activation_number(activation.deviceActivationId), version)


def _activation(file: OrderFile, device_id: int, now_ms: int) -> Activation | None:
    for activation in file.activations:
        ends = activation.until_ms is None or now_ms < activation.until_ms
        if activation.deviceId == device_id and activation.from_ms <= now_ms and ends:
            return activation
    return None


def _wire(unix_ms: int) -> int:
    return min(0xFFFF_FFFF, max(0, unix_ms // 1000 - constants.TIME_EPOCH_UNIX_S))


def _offsets(zone: ZoneInfo, now_ms: int) -> tuple[int, int, int]:
    """(minutes now, when that changes as time_s or 0, minutes from then on), from the IANA database."""

    def minutes(moment: datetime) -> int:
        offset = moment.astimezone(zone).utcoffset()
        assert offset is not None, "of an aware date-time"
        return round(offset.total_seconds() / 60)

    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    present = minutes(now)
    for day in range(1, LOOK_AHEAD_DAYS):
        if minutes(now + timedelta(days=day)) != present:
            low, high = now + timedelta(days=day - 1), now + timedelta(days=day)
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                middle = middle.replace(microsecond=0)
                if middle in (low, high):
                    break
                if minutes(middle) == present:
                    low = middle
                else:
                    high = middle
            return present, _wire(int(high.timestamp() * 1000)), minutes(high)
    return present, 0, present


def _curfew(order: Order) -> list[tuple[int, int, int, int]]:
    entries = []
    addresses = names("ADDRESS_")
    for item in order.curfew.timetable if order.curfew is not None else ():
        start, end = _minute(item.startTime), _minute(item.endTime)
        for name in item.dayOfWeek:
            day = DAYS.index(name) + start // 1440  # "24:00" is the next day's beginning
            entries.append((day % 7 + 1, start % 1440, end % 1440, addresses[item.curfewAddress]))
    return sorted(set(entries))


def _minute(wall_time: str) -> int:
    return int(wall_time[:2]) * 60 + int(wall_time[3:])


def _add_zone(told: Told, order: Order, zone: EnforcementZone) -> None:
    if len(told.zones) >= MOST_ZONES:
        told.left_out.append(f"zone {zone.zoneId}: more than {MOST_ZONES} zones")
        return
    geometry, radius_m = zone.geometry, 0
    if geometry.type == "Circle" and geometry.radiusMetres <= LARGEST_RADIUS_M:
        shape, radius_m = constants.SHAPE_CIRCLE, max(1, math.ceil(geometry.radiusMetres))
        corners = [_point(*geometry.center)]
    elif geometry.type == "Circle":
        shape, corners = constants.SHAPE_POLYGON, _ring(geometry.center, geometry.radiusMetres)
    elif len(geometry.coordinates) > 1:
        told.left_out.append(f"zone {zone.zoneId}: it has holes")
        return
    else:
        shape, corners = constants.SHAPE_POLYGON, [_point(*corner) for corner in geometry.coordinates[0][:-1]]
    if len(corners) > PART_VERTICES * MOST_PARTS:
        told.left_out.append(f"zone {zone.zoneId}: more than {PART_VERTICES * MOST_PARTS} corners")
        return
    begins, ends = order.span_ms(zone.startDate, zone.endDate)
    if ends <= begins:
        return
    fields = (
        names("ZONE_")[zone.zoneType],
        shape,
        _wire(begins) if zone.startDate is not None else 0,
        _wire(ends) if ends < FOR_EVER_MS else 0,
        zone.pointsInside or POINTS_INSIDE,
        radius_m,
    )
    told.zones.append((fields, corners))


def _point(longitude: float, latitude: float) -> tuple[int, int]:
    return round(latitude * 1e6), round(longitude * 1e6)


def _ring(center: tuple[float, float], radius_m: float) -> list[tuple[int, int]]:
    longitude, latitude = center
    north = radius_m / METRES_PER_DEGREE
    east = north / max(0.01, math.cos(math.radians(latitude)))
    turns = [2 * math.pi * corner / CIRCLE_CORNERS for corner in range(CIRCLE_CORNERS)]
    return [
        _point(
            min(180.0, max(-180.0, longitude + east * math.sin(turn))),
            min(90.0, max(-90.0, latitude + north * math.cos(turn))),
        )
        for turn in turns
    ]
