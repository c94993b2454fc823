# Whether a connected charger charges, judged by the cell itself. Sans-IO.

# Above it there is nothing left to gain: the charger tapers and stops.
FULL_PERCENT = 95


class Charging:
    """connected(), then measured() with every measurement, until disconnected()."""

    def __init__(self):
        self._since_ms = None
        self._failed = False

    def connected(self, now_ms: int, millivolts: int):
        """The charger was plugged in. millivolts: 0 if not measured yet."""
        self._since_ms = self._mark_ms = now_ms
        self._mark_mv = millivolts
        self._failed = False

    def disconnected(self):
        self._since_ms = None

    def measured(self, now_ms: int, millivolts: int, percent: int, limit_ms: int, gain_mv: int):
        """(failed, ms since the last gain, mV gained since) when that changes, else None."""
        if self._since_ms is None:
            return None
        if not self._mark_mv:
            self._mark_mv = millivolts
        gained = millivolts - self._mark_mv
        if gained >= gain_mv or percent >= FULL_PERCENT:
            since_ms = now_ms - self._mark_ms
            self._mark_ms, self._mark_mv = now_ms, max(millivolts, self._mark_mv)
            if self._failed:
                self._failed = False
                return False, since_ms, gained
            return None
        if not self._failed and now_ms - self._mark_ms >= limit_ms:
            self._failed = True
            return True, now_ms - self._mark_ms, gained
        return None
