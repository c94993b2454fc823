"""How much a target may cost: bytes an hour and a day, as buckets that fill evenly and outlast a restart.

Routine batches wait until the bucket has what they need, and so do questions and connections, unless an alarm needs
them. Alarms never wait, but are counted: what they take, routine has to save. The level is kept in the store, so that a
gateway that restarts again and again gets no new allowance.
"""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from emgate.clock import Clock
from emgate.store.store import Store

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
HANDSHAKE_BYTES = 5000
"""A TLS handshake: certificates of 2 to 4 kB, keys and signatures 700 B, TCP and IP headers of some ten segments."""
REACH_BYTES = 300
"""An attempt that reached nobody: the question for the address and its answer, a few SYNs, or a refusal."""
LOOK_S = 1.0
"""The clock may be moved or shared, so that sleeping exactly as long as needed would be wrong; a look costs nothing."""


class Meter:
    """The buckets of one target; without limits it only counts."""

    def __init__(self, target: str, limits: Mapping[int, int], store: Store | None, clock: Clock | None) -> None:
        self.counters: Counter[str] = Counter()
        self._target = target
        self._limits = dict(limits)  # period in ms: bytes in it
        self._levels: dict[int, float] = {period: float(size) for period, size in limits.items()}
        self._at_ms: int | None = None
        self._store = store
        self._clock = clock
        self.urgent = asyncio.Event()
        """While alarms are being delivered: nothing that they need waits."""
        self.waiting = 0
        """How many wait for the budget now."""
        self._alarms = 0
        self._asked = False

    @contextlib.contextmanager
    def delivering(self, alarm: bool) -> Iterator[None]:
        """While a batch is under way, or waits for it."""
        if alarm:
            self._alarms += 1
            self.urgent.set()
        try:
            yield
        finally:
            if alarm:
                self._alarms -= 1
                if not self._alarms:
                    self.urgent.clear()

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return bool(self._limits)

    @property
    def largest(self) -> int | None:
        """What one batch may take at most, so that the limit is never overrun by one; None = no limit."""
        return min(self._limits.values()) // 4 if self._limits else None

    async def load(self) -> None:
        """Go on with the level of the last run."""
        if self._store is None or not self._limits:
            return
        rows = await self._store.read(
            lambda connection: connection.execute(
                "SELECT period_ms, level, at_ms FROM uplink_meters WHERE target = ?", (self._target,)
            ).fetchall()
        )
        for period, level, at_ms in rows:
            if period in self._limits:
                self._levels[period] = min(float(self._limits[period]), level)
                self._at_ms = at_ms

    async def spend(self, size: int, exempt: bool) -> None:
        """Return when `size` bytes may be sent; they are counted."""
        if not exempt:
            await self._wait(size, lambda: False)
        self.count(size, exempt)

    async def may_ask(self, size: int) -> bool:
        """Return when a question or a connection of `size` bytes may be made: whether that is beyond the budget.

        It is for an alarm, and the first time: somebody waits for this target to have been tried."""
        if not self._asked:
            self._asked = True
            return True
        await self._wait(size, self.urgent.is_set)
        return self.urgent.is_set()

    async def _wait(self, size: int, anyway: Callable[[], bool]) -> None:
        if not self._limits or anyway() or self._has(size):
            return
        self.counters["waited_for_budget"] += 1
        self.waiting += 1
        try:
            while not anyway() and not self._has(size):  # noqa: ASYNC110 - a clock tells nobody
                await asyncio.sleep(LOOK_S)
        finally:
            self.waiting -= 1

    def count(self, size: int, exempt: bool) -> None:
        """They were sent."""
        self.counters["bytes_sent"] += size
        if exempt:
            self.counters["bytes_sent_exempt"] += size
        if self._limits:
            self._fill()
            for period, limit in self._limits.items():
                # Alarms may run up a debt, of one period at most: after a flood of them routine comes back some time.
                self._levels[period] = max(-float(limit), self._levels[period] - size)
            self._save()

    def _has(self, size: int) -> bool:
        self._fill()
        return all(self._levels[period] >= min(size, limit) for period, limit in self._limits.items())

    def _fill(self) -> None:
        assert self._clock is not None, "given with limits"
        now_ms = self._clock.now_ms()
        if self._at_ms is not None and now_ms > self._at_ms:  # a clock set back fills nothing
            for period, limit in self._limits.items():
                gain = (now_ms - self._at_ms) * limit / period
                self._levels[period] = min(float(limit), self._levels[period] + gain)
        self._at_ms = now_ms

    def _save(self) -> None:
        if self._store is None:
            return
        rows = [(self._target, period, level, self._at_ms) for period, level in self._levels.items()]

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO uplink_meters VALUES (?,?,?,?)", rows)

        self._store.write(apply, refused=None)

    def levels(self) -> dict[str, int]:
        """For the status: bytes left by period."""
        names = {HOUR_MS: "bytes_left_hour", DAY_MS: "bytes_left_day"}
        return {names.get(period, str(period)): int(level) for period, level in self._levels.items()}
