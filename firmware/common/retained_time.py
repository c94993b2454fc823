# The time kept over a reset by a board whose real-time clock goes on: coarse, but enough to judge a timetable and to
# date records until somebody tells better.
#
# Such a board offers `retain_time(utc_ms, uncertainty_ms)` and `retained_time() -> (utc_ms, uncertainty_ms) or None`.
from emwire import constants

# Written again when it would be further off than this, or after a day: what drifts is the crystal of both.
WORTH_MS = 500
DAY_MS = 86400000


class RetainedTime:
    """Takes the retained time at the boot, and keeps the clock's from then on."""

    def __init__(self, board, clock):
        self._board = board
        self._clock = clock
        self._offset_ms = None
        self._kept_ms = 0
        if not hasattr(board, "retain_time"):
            return
        try:
            found = board.retained_time()
        except (OSError, ValueError):
            found = None
        if found is not None:
            clock.observe(constants.CLOCK_RETAINED, found[0], found[1])
        clock.on_set = self._on_set

    def _on_set(self):
        clock = self._clock
        if clock.source == constants.CLOCK_RETAINED:
            return
        now = clock.ticks_ms()
        # Not utc_ms(): that may be held still while a step back is waited out.
        offset = clock.utc_ms() - now
        known = self._offset_ms is not None and abs(offset - self._offset_ms) <= WORTH_MS
        if known and now - self._kept_ms < DAY_MS:
            return
        try:
            self._board.retain_time(offset + now, clock.uncertainty_ms())
        except OSError:
            return  # tried again when the clock is next set
        self._offset_ms = offset
        self._kept_ms = now
