# UTC kept over the board's monotonic clock, with the uncertainty of every reading of it.
# An observation ("it is now X, give or take U") from a better source, or a narrower one, moves the clock.
try:
    from typing import Callable
except ImportError:
    pass

from emwire import constants

# Crystal of a small board over temperature and ageing: 20 ppm is what 32.768 kHz parts promise.
DRIFT_PPM = 20
# 65535 on the wire means unknown or more.
UNCERTAINTY_UNKNOWN_MS = 65535
# Smaller backward corrections are absorbed by holding the clock still; larger ones, either way, are a jump.
JUMP_MS = 1000
# One bad answer (a receiver a week rollover late, a network's unset clock) must not move the clock: a source that
# contradicts one of its own rank must say so this many times in a row, agreeing with itself.
CONTRADICTIONS_TO_YIELD = 3
# A lower source is not even counted against a higher one that spoke within this time; after it, it is.
HIGHER_SOURCE_HOLDS_MS = 24 * 3600 * 1000
# Largest time the wire can carry: u32 seconds.
LATEST_TIME_MS = 0xFFFFFFFF * 1000

# How far a source is trusted against another that contradicts it. A gateway's time is authenticated.
_RANK = {
    constants.CLOCK_RETAINED: 0,
    constants.CLOCK_NETWORK: 1,
    constants.CLOCK_GNSS: 2,
    constants.CLOCK_GATEWAY: 3,
}


class Clock:
    """UTC in whole seconds since 2010 with its uncertainty; 0 while unknown."""

    def __init__(self, ticks_ms: "Callable[[], int]", on_jump=None):
        """on_jump(old_time_s, new_time_s, source, correction_ms) is called after a jump has been made."""
        self.ticks_ms = ticks_ms
        self.on_jump = on_jump
        self.on_set: "Callable[[], None] | None" = None  # called whenever the clock was moved
        self.source = constants.CLOCK_UNKNOWN
        self.last_correction_ms = 0
        self.rejected = 0
        self._offset_ms = 0
        self._set_ticks = 0
        self._confirmed_ticks = 0
        self._set_uncertainty_ms = UNCERTAINTY_UNKNOWN_MS
        self._given_ms = 0
        self._contradictions = 0
        self._contradiction_offset_ms = 0

    @property
    def known(self) -> bool:
        return self.source != constants.CLOCK_UNKNOWN

    def utc_ms(self) -> int:
        """Milliseconds since 2010, never less than given before except after a reported jump; 0 = unknown."""
        if not self.known:
            return 0
        self._given_ms = max(self._given_ms, self.ticks_ms() + self._offset_ms)
        return self._given_ms

    def time_s(self) -> int:
        return self.utc_ms() // 1000

    def time_at(self, ticks_ms: int) -> int:
        """time_s of a moment of this boot; 0 = unknown."""
        if not self.known:
            return 0
        return max(0, (ticks_ms + self._offset_ms) // 1000)

    def uncertainty_ms(self) -> int:
        if not self.known:
            return UNCERTAINTY_UNKNOWN_MS
        elapsed = self.ticks_ms() - self._set_ticks
        # Rounded up: a bound, not an estimate.
        drift = (elapsed * DRIFT_PPM + 999999) // 1000000
        return min(self._set_uncertainty_ms + drift, UNCERTAINTY_UNKNOWN_MS)

    def observe(self, source: int, utc_ms: int, uncertainty_ms: int, at_ticks_ms: "int | None" = None) -> bool:
        """Take note that it was utc_ms (since 2010) at a moment of this boot; True if the clock was moved by it."""
        if at_ticks_ms is None:
            at_ticks_ms = self.ticks_ms()
        if not 0 < utc_ms <= LATEST_TIME_MS or uncertainty_ms < 0 or source not in _RANK:
            self.rejected += 1
            return False
        offset = utc_ms - at_ticks_ms
        if not self.known:
            self._set(source, offset, uncertainty_ms, at_ticks_ms)
            return True
        correction = offset - self._offset_ms
        present = self.uncertainty_ms()
        if abs(correction) <= present + uncertainty_ms:
            self._contradictions = 0
            if _RANK[source] >= _RANK[self.source]:
                self._confirmed_ticks = at_ticks_ms
            if uncertainty_ms > present:
                return False  # agrees, and tells nothing new
        elif not self._yields(source, offset, uncertainty_ms, at_ticks_ms):
            self.rejected += 1
            return False
        self._set(source, offset, uncertainty_ms, at_ticks_ms)
        return True

    def _yields(self, source, offset, uncertainty_ms, at_ticks_ms):
        # A gateway's time is authenticated and at once believed, as is any source above the present one.
        if source == constants.CLOCK_GATEWAY or _RANK[source] > _RANK[self.source]:
            return True
        if _RANK[source] < _RANK[self.source] and at_ticks_ms - self._confirmed_ticks < HIGHER_SOURCE_HOLDS_MS:
            return False
        if abs(offset - self._contradiction_offset_ms) <= 2 * uncertainty_ms + JUMP_MS:
            self._contradictions += 1
        else:
            self._contradictions = 1
        self._contradiction_offset_ms = offset
        return self._contradictions >= CONTRADICTIONS_TO_YIELD

    def _set(self, source, offset, uncertainty_ms, at_ticks_ms):
        old_ms = self.utc_ms()
        first = not self.known
        correction = 0 if first else offset - self._offset_ms
        self.source = source
        self._offset_ms = offset
        self._set_ticks = at_ticks_ms
        self._confirmed_ticks = at_ticks_ms
        self._set_uncertainty_ms = min(uncertainty_ms, UNCERTAINTY_UNKNOWN_MS)
        self._contradictions = 0
        self.last_correction_ms = correction
        if self.on_set:
            self.on_set()
        if abs(correction) > JUMP_MS:
            self._given_ms = 0
            if self.on_jump:
                self.on_jump(old_ms // 1000, self.time_s(), source, correction)
