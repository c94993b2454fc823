"""Keeps one link or uplink running: restarts it alone, with jittered back-off, its reasons logged and counted."""

import asyncio
import errno
import random
from collections import Counter
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

FIRST_S = 0.25
"""Soon after the first loss: a USB adapter re-enumerates in about a second, a broker restarts in less."""
STEADY_S = 30.0
"""A run that lasted this long was a good one: the next loss starts at FIRST_S again."""


class Runnable(Protocol):
    """A Link or an Uplink."""

    name: str
    up: asyncio.Event
    counters: "Counter[str]"

    async def run(self) -> None:
        """Until cancelled; OSError = lost."""


class Supervisor:
    """Runs one Runnable for ever."""

    def __init__(self, what: Runnable, *, maximum_s: float = 30.0) -> None:
        self.what = what
        self.restarts: Counter[str] = (
            Counter()
        )  # by reason: the errno's name in lower case, "lost", "defect" or "ended"
        self.last_reason: str | None = None
        self.tried = asyncio.Event()  # up once, or failed once
        self._ended = asyncio.Event()  # the present run is over
        self._maximum_s = maximum_s

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        watching = loop.create_task(self._watch())
        delay_s = FIRST_S
        try:
            while True:
                started = loop.time()
                self._ended.clear()
                kind, reason = await self._once()
                self.what.up.clear()
                self._ended.set()
                self.tried.set()
                if loop.time() - started > STEADY_S:
                    delay_s = FIRST_S
                pause_s = delay_s * random.uniform(0.5, 1.0)  # many gateways lose one broker at the same moment
                report = log.warning if reason != self.last_reason else log.debug
                report("down", what=self.what.name, reason=reason, again_s=round(pause_s, 2))
                self.restarts[kind] += 1
                self.last_reason = reason
                await asyncio.sleep(pause_s)
                delay_s = min(self._maximum_s, delay_s * 2)
        finally:
            watching.cancel()

    async def _once(self) -> tuple[str, str]:
        """Run it; why it ended, as a name to count by and in words."""
        try:
            await self.what.run()
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0) or "lost"
            return name.lower(), error.strerror or str(error) or type(error).__name__
        except Exception as error:  # a defect in one link must not take the others along
            log.exception("defect", what=self.what.name)
            return "defect", f"defect: {error!r}"
        return "ended", "ended"

    async def _watch(self) -> None:
        """Log every time it comes up."""
        while True:
            await self.what.up.wait()
            self.tried.set()
            self.last_reason = None
            log.info("up", what=self.what.name)
            await self._ended.wait()
