# Zones of the order in force, judged on the tag: N of the last M positions, as the backend judges them too. Sans-IO.
import struct

from emwire import constants

from tags import geometry

# The highest zone_window_points (common/settings.py), whatever an order's points_inside.
LONGEST_WINDOW = 8
# order version u16, zone type u8, cause u8, positions that count, positions judged, seconds from the first of them to
# the last u16, precision m u16 (65535 unknown), latitude and longitude i32 of the last
EVIDENCE_FORMAT = "<HBBBBHHii"

CAUSE_POSITION = 0
CAUSE_ORDER = 1  # another order, or version, without this zone
CAUSE_TIME = 2  # the zone's time is over


class _State:
    """What is known of one zone: the last positions as bits, newest lowest; since when N of M are against it."""

    __slots__ = ("zone", "violated", "against", "clear", "times", "since_s")

    def __init__(self, zone):
        self.zone = zone
        self.violated = False
        self.forget()

    def forget(self):
        self.against = 0
        self.clear = 0
        self.times = []
        self.since_s = None


class Zones:
    """judge() every satellite position; it returns the events to raise: (type, zone number, time_s, evidence)."""

    def __init__(self, settings):
        """settings: zone_window_points, zone_dwell_s, zone_separation_s."""
        self._settings = settings
        self._states = []
        self._version = 0

    @property
    def violated(self) -> bool:
        """Whether any zone is violated; a RESTRICTION never is, its conditions are judged behind the gateway."""
        for state in self._states:
            if state.violated and state.zone.zone_type != constants.ZONE_RESTRICTION:
                return True
        return False

    @property
    def suspected(self) -> bool:
        """Whether a zone is violated, or the newest position may begin that: the next ones are wanted soon."""
        for state in self._states:
            if state.zone.zone_type != constants.ZONE_RESTRICTION and (state.violated or state.against & 1):
                return True
        return False

    def take(self, version: int, zones, now_s: int) -> list:
        """Another order: what is known of zones that it leaves as they were is kept, violations of others end."""
        old = self._states
        old_version = self._version
        self._states = []
        self._version = version
        for zone in zones:
            found = None
            for state in old:
                if _same(state.zone, zone):
                    found = state
            if found is None:
                found = _State(zone)
            else:
                old.remove(found)
                found.zone = zone
            self._states.append(found)
        events = []
        for state in old:
            if state.violated:
                events.append(self._event(state, False, now_s, CAUSE_ORDER, None, old_version))
        return events

    def judge(self, time_s: int, latitude: int, longitude: int, precision_m: int) -> list:
        """precision_m: -1 unknown. A time that goes back was wrong before: counting begins anew."""
        settings = self._settings
        self._window = settings.zone_window_points
        self._dwell_s = settings.zone_dwell_s
        self._separation_s = settings.zone_separation_s
        events = []
        for state in self._states:
            zone = state.zone
            if zone.ends_s and time_s >= zone.ends_s:
                if state.violated:
                    events.append(self._event(state, False, zone.ends_s, CAUSE_TIME, None, self._version))
                    state.violated = False
                state.forget()
            elif time_s >= zone.starts_s:
                event = self._judge(state, time_s, latitude, longitude, precision_m)
                if event is not None:
                    events.append(event)
        return events

    def _judge(self, state, time_s, latitude, longitude, precision_m):
        zone = state.zone
        times = state.times
        if times and not 0 <= time_s - times[-1] <= self._separation_s:
            state.forget()
            times = state.times
        where = place(zone, latitude, longitude, precision_m)
        against, clear = geometry.INSIDE, geometry.OUTSIDE
        if zone.zone_type == constants.ZONE_INCLUSION:
            against, clear = clear, against
        needed = zone.points_inside
        size = min(LONGEST_WINDOW, max(self._window, needed))
        mask = (1 << size) - 1
        state.against = (state.against << 1 | (where == against)) & mask
        # Consecutive, for leaving: one stray position does not split a visit.
        state.clear = state.clear + 1 if where == clear else 0
        times.append(time_s)
        del times[:-size]
        position = latitude, longitude, precision_m
        if not state.violated:
            if _bits(state.against) < needed:
                state.since_s = None
                return None
            # Longer ago than the window reaches: positions come sooner while a violation is suspected.
            if state.since_s is None:
                state.since_s = times[-_span(state.against)]
            if where != against or time_s - state.since_s < self._dwell_s:
                return None
            state.violated = True
            state.clear = 0
            return self._event(state, True, state.since_s, CAUSE_POSITION, position, self._version)
        if state.clear < needed:
            return None
        first_s = times[-min(state.clear, len(times))]
        event = self._event(state, False, first_s, CAUSE_POSITION, position, self._version)
        state.violated = False
        state.forget()
        return event

    def _event(self, state, begins, time_s, cause, position, version):
        zone = state.zone
        latitude, longitude, precision_m = position or (0, 0, -1)
        times = state.times
        counting = _bits(state.against) if begins else min(state.clear, 255)
        evidence = struct.pack(
            EVIDENCE_FORMAT,
            version,
            zone.zone_type,
            cause,
            counting,
            len(times),
            min(times[-1] - time_s, 65535) if position and times else 0,
            precision_m if 0 <= precision_m < 65535 else 65535,
            latitude,
            longitude,
        )
        entered = begins != (zone.zone_type == constants.ZONE_INCLUSION)
        kind = constants.EVENT_ZONE_ENTERED if entered else constants.EVENT_ZONE_LEFT
        return kind, zone.number, time_s, evidence


def place(zone, latitude: int, longitude: int, precision_m: int) -> int:
    """geometry.INSIDE, POSSIBLE or OUTSIDE of an order's zone."""
    if precision_m < 0:
        precision_m = geometry.UNKNOWN_PRECISION_M
    if zone.zone_shape == constants.SHAPE_CIRCLE:
        return geometry.in_circle(latitude, longitude, precision_m, zone.vertices, zone.radius_m)
    return geometry.in_polygon(latitude, longitude, precision_m, zone.vertices)


def _same(one, other):
    if (one.number, one.zone_type, one.zone_shape, one.radius_m, len(one.vertices)) != (
        other.number,
        other.zone_type,
        other.zone_shape,
        other.radius_m,
        len(other.vertices),
    ):
        return False
    for index, value in enumerate(one.vertices):
        if value != other.vertices[index]:
            return False
    return True


def _bits(value):
    count = 0
    while value:
        count += value & 1
        value >>= 1
    return count


def _span(value):
    """Positions from the oldest bit on."""
    count = 0
    while value:
        count += 1
        value >>= 1
    return count
