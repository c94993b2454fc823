"""How much a target may cost: bytes an hour and a day, as buckets that fill evenly and outlast a restart.

Routine batches wait until the bucket has what they need. Alarms never wait, but are counted: what they take, routine
has to save. The level is kept in the store, so that a gateway that restarts again and again gets no new allowance.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Mapping

from emgate.clock import Clock
from emgate.store.store import Store

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
HANDSHAKE_BYTES = 5000
"""A TLS handshake: certificates of 2 to 4 kB, keys and signatures 700 B, TCP and IP headers of some ten segments."""
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
        """Return when `size` bytes may be sent."""
        if self._limits and not exempt:
            waited = False
            while not self._has(size):
                if not waited:
                    self.counters["waited_for_budget"] += 1
                    waited = True
                await asyncio.sleep(LOOK_S)
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
