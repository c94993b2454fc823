# Asks the gateway for the time when the clock has become too uncertain, and takes its answers.
import asyncio

from emwire import constants

from common.wait import Signal

# How often to look at a good clock: at 20 ppm it loses 1.2 s in 17 h.
LOOK_MS = 3600000
# An answer that was too long on its way to be of use: ask again, ever more patiently.
AGAIN_MS = 60000


class Timekeeper:
    """Task of a device with a link. The link asks when it opens, and repeats a question until it is answered."""

    def __init__(self, clock, link, uplink, settings):
        """settings: clock_bound_ms."""
        self._settings = settings
        self._clock = clock
        self._link = link
        self._uplink = uplink
        self._told = Signal()

    async def run(self):
        pause = AGAIN_MS
        while True:
            vague = self._vague
            if vague and not self._link.time_wanted:
                self._link.ask()
                self._uplink.wake()
            if await self._told.wait(LOOK_MS) and self._vague:
                await asyncio.sleep_ms(pause)
                pause = min(pause * 2, LOOK_MS)
            else:
                pause = AGAIN_MS

    @property
    def _vague(self):
        return self._clock.uncertainty_ms() > self._settings.clock_bound_ms

    def told(self, time_s, millisecond, uncertainty_ms):
        """A time message came in."""
        asked_ms, self._link.asked_ms = self._link.asked_ms, None
        if not time_s or asked_ms is None:
            return  # nobody can say how long it was on its way
        now = self._clock.ticks_ms()
        # It was true somewhere between the question and now: the middle, give or take half of it.
        half = (now - asked_ms + 1) // 2
        utc_ms = time_s * 1000 + millisecond + half
        self._clock.observe(constants.CLOCK_GATEWAY, utc_ms, uncertainty_ms + half + 1, now)
        self._told.set()
