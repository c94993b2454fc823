"""Keeps one link or uplink running: restarts it alone, with jittered back-off, its reasons logged, counted and told."""

import asyncio
import contextlib
import errno
import random
from collections import Counter
from typing import Protocol

import structlog
from emwire import constants

from emgate.links import Events
from emgate.own_records import evidence_of

log = structlog.get_logger(__name__)

FIRST_S = 0.25
"""Soon after the first loss: a USB adapter re-enumerates in about a second, a broker restarts in less."""
STEADY_S = 30.0
"""A run that lasted this long was a good one: the next loss starts at FIRST_S again."""
METERED_LAST_S, METERED_URGENT_S = 900.0, 120.0
"""The longest pause where each attempt costs money (6 kB over HTTPS): some 130 attempts and 0.8 MB a day; and while
something waits that may not, which is to be there within 3 min (NIJ Standard-1004.00 §5.4.1)."""
EVENTS_BURST, EVENT_EACH_S = 6.0, 600.0
"""Changes of one link told to the backend: three outages at once, then one change in ten minutes; a loose plug does not
fill the store. The state that a link stays in is told in any case, later."""


class Runnable(Protocol):
    """A Link or an Uplink."""

    name: str
    up: asyncio.Event
    counters: "Counter[str]"

    async def run(self) -> None:
        """Until cancelled; OSError = lost."""


def first_of(errors: BaseExceptionGroup[BaseException], *kinds: type[BaseException]) -> BaseException | None:
    """The first error of a group that holds none but these kinds; None: there is another, a defect.

    For `except BaseExceptionGroup`: what is raised in an `except*` comes out in a group before Python 3.11.4."""
    if errors.split(kinds)[1] is not None:
        return None
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


class Supervisor:
    """Runs one Runnable for ever."""

    def __init__(
        self,
        what: Runnable,
        *,
        maximum_s: float = 30.0,
        events: Events | None = None,
        urgent: asyncio.Event | None = None,
    ) -> None:
        """`urgent`: of what costs money by the byte, set while something waits for it that may not."""
        self.what = what
        self.restarts: Counter[str] = (
            Counter()
        )  # by reason: the errno's name in lower case, "lost", "defect" or "ended"
        self.last_reason: str | None = None
        self.tried = asyncio.Event()  # up once, or failed once
        self.told = _Told(what.name, events) if events is not None else None
        self._ended = asyncio.Event()  # the present run is over
        self.maximum_s = maximum_s
        self._urgent = urgent
        self._up_at_s: float | None = None  # in the present run

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        watching = loop.create_task(self._watch())
        delay_s = FIRST_S
        try:
            while True:
                started = loop.time()
                self._ended.clear()
                self._up_at_s = None
                kind, reason = await self._once()
                self.what.up.clear()
                self._ended.set()
                self.tried.set()
                since_s = started if self._urgent is None else self._up_at_s  # to have hung for long is no good run
                if since_s is not None and loop.time() - since_s > STEADY_S:
                    delay_s = FIRST_S
                pause_s = delay_s * random.uniform(0.5, 1.0)  # many gateways lose one broker at the same moment
                report = log.warning if reason != self.last_reason else log.debug
                report("down", what=self.what.name, reason=reason, again_s=round(pause_s, 2))
                self.restarts[kind] += 1
                self.last_reason = reason
                if self.told is not None:
                    self.told.lost(reason)
                if await self._pause(pause_s):
                    delay_s = FIRST_S
                    continue
                longest_s = self.maximum_s if self._urgent is None else max(METERED_LAST_S, self.maximum_s)
                delay_s = min(longest_s, delay_s * 2)
        finally:
            watching.cancel()
            if self.told is not None:
                self.told.close()

    async def _pause(self, pause_s: float) -> bool:
        """Wait before the next attempt; True when what was missing has come meanwhile (`appeared`, if it has that)."""
        if self._urgent is not None:
            in_any_case_s = min(pause_s, METERED_URGENT_S)
            await asyncio.sleep(in_any_case_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s - in_any_case_s):
                    await self._urgent.wait()
            return False
        appeared = getattr(self.what, "appeared", None)
        if appeared is None:
            await asyncio.sleep(pause_s)
            return False
        try:
            async with asyncio.timeout(pause_s):
                await appeared()
        except TimeoutError:
            return False
        return True

    async def _once(self) -> tuple[str, str]:
        """Run it; why it ended, as a name to count by and in words."""
        # In a task of its own: what fails just as it is cancelled may hide the one behind the other (a TaskGroup does).
        run = asyncio.get_running_loop().create_task(self.what.run())
        try:
            await asyncio.wait([run])
        except asyncio.CancelledError:
            run.cancel()
            await asyncio.wait([run])
            if not run.cancelled() and (error := run.exception()) is not None:
                log.info("failed while it was stopped", what=self.what.name, reason=repr(error))
            raise
        error = None if run.cancelled() else run.exception()
        if isinstance(error, OSError):
            name = errno.errorcode.get(error.errno or 0) or "lost"
            return name.lower(), error.strerror or str(error) or type(error).__name__
        if isinstance(error, Exception):  # a defect in one link must not take the others along
            log.error("defect", what=self.what.name, exc_info=error)
            return "defect", f"defect: {error!r}"
        if error is not None:
            raise error
        return "ended", "ended"

    async def _watch(self) -> None:
        """Log every time it comes up."""
        while True:
            await self.what.up.wait()
            self.tried.set()
            self.last_reason = None
            self._up_at_s = asyncio.get_running_loop().time()
            log.info("up", what=self.what.name)
            if self.told is not None:
                self.told.restored()
            await self._ended.wait()


class _Told:
    """What the backend has been told of one link, and what it is still to be told."""

    def __init__(self, name: str, events: Events) -> None:
        self._name = name
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._told_lost = False
        self._reason = ""
        self._losses = 0  # since the last that was told
        self._since_s = 0.0
        self._tokens = EVENTS_BURST
        self._filled_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def lost(self, reason: str) -> None:
        """Down, or still down after another attempt."""
        self._losses += 1
        if not self._lost:
            self._lost = True
            self._since_s = self._loop.time()
            self._reason = reason
        self._tell()

    def restored(self) -> None:
        """Up."""
        self._lost = False
        self._tell()

    def _tell(self) -> None:
        if self._lost == self._told_lost or self._timer is not None:  # nothing new, or already waiting
            return
        now_s = self._loop.time()
        self._tokens = min(EVENTS_BURST, self._tokens + (now_s - self._filled_s) / EVENT_EACH_S)
        self._filled_s = now_s
        if self._tokens < 1:
            self._timer = self._loop.call_later((1 - self._tokens) * EVENT_EACH_S, self._later)
            return
        self._tokens -= 1
        self._told_lost = self._lost
        if self._lost:
            # In the alarm lane: whether somebody is absent or nobody listened must be known as soon as the absence.
            self._events.event(
                constants.EVENT_GATEWAY_LINK_LOST,
                value=self._losses,
                evidence=evidence_of(self._name, self._reason),
                alarm=True,
            )
            self._losses = 0
        else:
            self._events.event(
                constants.EVENT_GATEWAY_LINK_RESTORED,
                value=int(now_s - self._since_s),
                evidence=evidence_of(self._name),
                alarm=True,
            )

    def _later(self) -> None:
        self._timer = None
        self._tell()

    def close(self) -> None:
        """Nothing is told after the end."""
        if self._timer is not None:
            self._timer.cancel()
