# Asks the gateway for the time when the clock has become too uncertain, and takes its answers.
from emwire import constants

from common.wait import Signal

# Half of the 5 s within which a strap cut must be stamped.
BOUND_MS = 2500
# How often to look at a good clock: at 20 ppm it loses 1.2 s in 17 h.
LOOK_MS = 3600000
# An answer that this device did not ask for just now (the link asks too, when it opens): longest time on its way.
UNASKED_DELAY_MS = 5000


class Timekeeper:
    """Task of a device with a link. The link repeats a question until it is answered."""

    def __init__(self, clock, link, uplink):
        self._clock = clock
        self._link = link
        self._uplink = uplink
        self._asked_ms = None
        self._told = Signal()

    async def run(self):
        while True:
            if self._clock.uncertainty_ms() > BOUND_MS:
                self._asked_ms = self._clock.ticks_ms() if self._link.is_open else None
                self._link.ask()
                self._uplink.wake()
            await self._told.wait(LOOK_MS)

    def told(self, time_s, millisecond, uncertainty_ms):
        """A time message came in."""
        if not time_s:
            return
        now = self._clock.ticks_ms()
        # It was true somewhere between the question and now: the middle, give or take half of it.
        unasked = self._asked_ms is None
        delay = UNASKED_DELAY_MS if unasked else now - self._asked_ms
        self._asked_ms = None
        half = delay // 2
        utc_ms = time_s * 1000 + millisecond + half
        self._clock.observe(constants.CLOCK_GATEWAY, utc_ms, uncertainty_ms + half + 1, now)
        if unasked:
            # If that was too vague, ask again, this time with a stopwatch.
            self._told.set()
