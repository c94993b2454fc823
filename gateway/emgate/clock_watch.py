"""Notices when the gateway's own clock is stepped: what it tells devices, and what records say, hangs on it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from emgate.clock import Clock

log = structlog.get_logger(__name__)

LOOK_S = 1.0
STEP_MS = 500
"""Slewing moves a clock by 0.5 ms a second at most (adjtimex); NTP daemons step from 128 ms (ntpd) or 400 ms
(systemd-timesyncd) on. A second looked at late counts on both clocks, so half a second is a step and nothing else."""


class ClockWatch:
    """Compares the clock with the monotonic one; `stepped` is called with the milliseconds of every step."""

    def __init__(
        self,
        clock: Clock,
        stepped: Callable[[int], None],
        monotonic_ms: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.last_step_ms: int | None = None
        self._clock = clock
        self._stepped = stepped
        self._monotonic_ms = monotonic_ms
        self._ahead_ms = clock.now_ms() - monotonic_ms()

    def look(self) -> None:
        """Compare now."""
        ahead_ms = self._clock.now_ms() - self._monotonic_ms()
        step_ms, self._ahead_ms = ahead_ms - self._ahead_ms, ahead_ms
        if abs(step_ms) < STEP_MS:
            return
        self.counters["forward" if step_ms > 0 else "back"] += 1
        self.last_step_ms = step_ms
        log.warning("the gateway's clock was stepped", step_ms=step_ms)
        self._stepped(step_ms)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)
