# Curfew judged by the home unit itself, from the order's timetable, so that it needs no link. The backend stays the
# judge: these events say what the unit saw, and why it thinks so.
import struct

from common.slots import Slots
from emwire import constants

from tags import whereabouts

DAY_S = 86400
# 2010-01-01, the wire's epoch, was a Friday: ISO day 5.
_EPOCH_DAY = 4
# Timetables split at midnight end at 23:59 or 00:00: parts a minute apart are one curfew.
ADJACENT_S = 60
# A day with the longer changeover: a curfew round the clock is judged day by day.
LONGEST_S = 25 * 3600
# Days before today whose curfews may still last: joined ones too.
_DAYS_BACK = 2
# cause u8, window's start and end u32, last heard u32 (0 never), learned interval in 0.1 s u16, RSSI i8, profile u8
EVIDENCE_FORMAT = "<BIIIHbB"
# Beside whereabouts.CAUSE_…: out when the unit began to watch, in the middle of the curfew.
CAUSE_WATCHED_LATE = 5
_SAVED = "<IIBI"  # pid, window's start, flags, seconds out
_HOME_SEEN = 1
_OUT_TOLD = 2
_UNKNOWN_TOLD = 4


def utc_s(order, local_s: int) -> int:
    """UTC of a local time. One that occurs twice is its first occurrence; one left out is read in the offset before."""
    before = local_s - order.utc_offset_minutes * 60
    change = order.offset_change_s
    if change and before >= change:
        after = local_s - order.next_utc_offset_minutes * 60
        if after >= change:
            return after
    return before


def windows(order, now_s: int, address: int) -> list:
    """[start, end) in UTC of the curfews at this address around now, in order, those that adjoin joined."""
    today = (now_s + order.offset_s(now_s)) // DAY_S
    found = []
    for day in range(today - _DAYS_BACK, today + 2):
        for day_of_week, start_minute, end_minute, entry_address in order.curfew:
            if entry_address != address or day_of_week != (day + _EPOCH_DAY) % 7 + 1:
                continue
            end_day = day + 1 if end_minute <= start_minute else day
            start = max(utc_s(order, day * DAY_S + start_minute * 60), order.starts_s)
            end = utc_s(order, end_day * DAY_S + end_minute * 60)
            if order.ends_s:
                end = min(end, order.ends_s)
            if end > start:
                found.append((start, end))
    found.sort()
    joined = []
    for start, end in found:
        if joined and start <= joined[-1][1] + ADJACENT_S and end - joined[-1][0] <= LONGEST_S:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def window_at(order, now_s: int, address: int):
    """The curfew that lasts now, or None."""
    for start, end in windows(order, now_s, address):
        if start <= now_s < end:
            return start, end
    return None


class Curfew:
    """One pid's present curfew. tick() gives events (type, value, evidence, time)."""

    def __init__(self, settings, watching_since_s: int = 0):
        self._settings = settings
        # Since when this unit could have told: before that it was off, or had no order or time.
        self._watching_s = watching_since_s
        self._window = None
        self._restored: "tuple[int, int, int] | None" = None
        self._clear()
        self.saved: "tuple[int, int, int] | None" = None  # what restore() needs after a reset; None = nothing to keep

    def _clear(self):
        self._home_seen = False
        self._out_told = False
        self._unknown_told = False
        self._out_s = 0
        self._out_since_s = self._unknown_since_s = None
        self._last_s = None

    def restore(self, window_start_s: int, flags: int, out_s: int):
        """What was told before a reset, of the curfew that began then. Kept until that one is known to be over."""
        self._restored = self.saved = window_start_s, flags, out_s

    def watch(self, now_s: int):
        """Only from now on can be told."""
        self._watching_s = now_s

    def tick(self, now_s: int, window, state: int, cause: int, last_heard_s: int, interval_ms: int, rssi_dbm: int):
        """window: as window_at gives; last_heard_s: 0 = never since the boot."""
        events = []
        self._facts = cause, last_heard_s, interval_ms, rssi_dbm
        if self._window is not None and (window is None or window[0] != self._window[0]):
            self._end(min(now_s, self._window[1]), events)
        if window is None:
            return events
        if self._window is None:
            self._begin(window)
        self._window = window
        self._judge(now_s, state, last_heard_s, events)
        self._last_s = now_s
        return events

    def _begin(self, window):
        self._clear()
        self._window = window
        if self._restored is not None:
            start_s, flags, out_s = self._restored
            self._restored = None
            if start_s == window[0]:
                self._home_seen = flags & _HOME_SEEN != 0
                self._out_told = flags & _OUT_TOLD != 0
                self._unknown_told = flags & _UNKNOWN_TOLD != 0
                self._out_s = out_s
            else:
                self.saved = None

    def _judge(self, now_s, state, last_heard_s, events):
        start_s = self._window[0]
        grace_s = self._settings.curfew_grace_s
        if state == whereabouts.HOME:
            self._home(now_s, last_heard_s, events)
            return
        if state == whereabouts.OUT:
            self._unknown_since_s = None
            if self._out_since_s is None:
                # Out since it was last heard, as far as that is in this curfew and was watched.
                self._out_since_s = max(start_s, last_heard_s, self._watching_s)
            if not self._out_told and now_s - self._out_since_s >= grace_s:
                self._out_told = True
                left = self._home_seen
                late = not left and self._watching_s > start_s + grace_s
                kind = constants.EVENT_CURFEW_LEFT_HOME if left else constants.EVENT_CURFEW_OUT_AT_START
                value = now_s - last_heard_s if last_heard_s else 0
                events.append(self._event(kind, value, self._out_since_s, CAUSE_WATCHED_LATE if late else None))
            return
        if self._out_since_s is not None:
            self._add_out(now_s)
        if self._unknown_since_s is None:
            self._unknown_since_s = max(start_s, last_heard_s, self._watching_s)
        if not self._unknown_told and now_s - self._unknown_since_s >= grace_s:
            self._unknown_told = True
            value = now_s - last_heard_s if last_heard_s else 0
            events.append(self._event(constants.EVENT_CURFEW_UNKNOWN, value, self._unknown_since_s))

    def _home(self, now_s, last_heard_s, events):
        if self._out_since_s is not None:
            self._add_out(max(self._out_since_s, min(now_s, last_heard_s or now_s)))
        if self._out_told:
            self._out_told = False
            events.append(self._event(constants.EVENT_CURFEW_RETURNED, self._out_s, now_s))
        elif self._unknown_told:
            since_s = self._unknown_since_s
            value = now_s - since_s if since_s is not None else 0
            events.append(self._event(constants.EVENT_CURFEW_KNOWN_AGAIN, value, now_s))
        self._unknown_told = False
        self._unknown_since_s = None
        # Heard before the curfew began is no sign of being home in it.
        if last_heard_s >= self._window[0]:
            if not self._home_seen:
                self._home_seen = True
                self._keep()

    def _end(self, end_s, events):
        if self._out_since_s is not None:
            self._add_out(end_s)
        if self._out_told:
            events.append(self._event(constants.EVENT_CURFEW_OUT_AT_END, self._out_s, end_s))
        self._clear()
        self._window = None
        self.saved = None

    def _add_out(self, until_s):
        self._out_s += max(0, until_s - self._out_since_s)
        self._out_since_s = None

    def _event(self, kind, value, time_s, cause=None):
        self._keep()
        own_cause, last_heard_s, interval_ms, rssi_dbm = self._facts
        evidence = struct.pack(
            EVIDENCE_FORMAT,
            own_cause if cause is None else cause,
            self._window[0],
            self._window[1],
            last_heard_s,
            min(interval_ms // 100, 65535),
            max(-128, min(127, rssi_dbm)),
            self._settings.range_profile,
        )
        return kind, value, evidence, time_s

    def _keep(self):
        flags = self._home_seen * _HOME_SEEN | self._out_told * _OUT_TOLD | self._unknown_told * _UNKNOWN_TOLD
        self.saved = self._window[0], flags, self._out_s


class Curfews:
    """Task "curfew" of a home unit: one Curfew a pid, kept over resets."""

    # How often to look: a minute late matters to nobody, and arrivals wake it at once.
    TICK_MS = 30000

    def __init__(self, device, pids):
        """pids() -> [(beacon id, Whereabouts)]."""
        self._device = device
        self._pids = pids
        self._curfews = {}
        self._slots = Slots(device.board.storage_path + "/curfew.")
        self._restored = {}
        self._order = None
        value = self._kept = self._slots.value or b""
        size = struct.calcsize(_SAVED)
        for at in range(0, len(value) - size + 1, size):
            beacon_id, start_s, flags, out_s = struct.unpack_from(_SAVED, value, at)
            self._restored[beacon_id] = start_s, flags, out_s

    def tick(self, listened_ms: int):
        """Look at every pid now."""
        device = self._device
        now_s = device.clock.time_s()
        order = device.order
        window = None
        if now_s and order is not None:
            window = window_at(order, now_s, device.settings.curfew_address)
        now_ms = device.ticks_ms()
        for beacon_id, where in self._pids():
            state = where.judge(now_ms, listened_ms)
            if not now_s:
                continue  # without the time nothing can be told of a timetable
            curfew = self._curfews.get(beacon_id)
            if curfew is None or (order is not None and self._order is None):
                curfew = self._curfew(beacon_id, now_s)
            last_s = 0 if where.last_ms is None else device.clock.time_at(where.last_ms)
            for kind, value, evidence, time_s in curfew.tick(
                now_s, window, state, where.cause, last_s, where.interval_ms, where.rssi_dbm
            ):
                device.records.event(kind, value, beacon_id, evidence, time_s)
        if now_s:
            self._order = order
        self._keep()

    def _curfew(self, beacon_id, now_s):
        curfew = self._curfews.get(beacon_id)
        if curfew is None:
            curfew = self._curfews[beacon_id] = Curfew(self._device.settings)
            if beacon_id in self._restored:
                curfew.restore(*self._restored.pop(beacon_id))
        curfew.watch(now_s)
        return curfew

    def _keep(self):
        # Also of whom there was nothing to judge yet: the time or the order may come later.
        parts = [struct.pack(_SAVED, beacon_id, *saved) for beacon_id, saved in self._restored.items()]
        for beacon_id, curfew in self._curfews.items():
            if curfew.saved is not None:
                parts.append(struct.pack(_SAVED, beacon_id, *curfew.saved))
        value = b"".join(parts)
        if value != self._kept:
            try:
                self._slots.write(value)
                self._kept = value
            except OSError:
                pass  # tried again at the next look
