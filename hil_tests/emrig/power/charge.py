"""Charge by consumer and hour: integrates currents over virtual time. Milliamperes, milliseconds, milliampere-hours."""

from __future__ import annotations

from collections import defaultdict

HOUR_MS = 3_600_000
HOURS_A_DAY = 24


class Charges:
    """What was taken from the battery; `start_unix_ms` places virtual time in the day (UTC)."""

    def __init__(self, start_unix_ms: int) -> None:
        self._start_unix_ms = start_unix_ms
        self._milliampere_ms: dict[str, list[float]] = defaultdict(lambda: [0.0] * HOURS_A_DAY)

    def span(self, consumer: str, milliamperes: float, begin_ms: int, end_ms: int) -> None:
        """A steady current from begin to end, divided at full hours."""
        at = begin_ms
        while at < end_ms:
            unix_ms = self._start_unix_ms + at
            until = min(end_ms, at + HOUR_MS - unix_ms % HOUR_MS)
            self._milliampere_ms[consumer][unix_ms // HOUR_MS % HOURS_A_DAY] += milliamperes * (until - at)
            at = until

    def pulse(self, consumer: str, microcoulombs: float, at_ms: int) -> None:
        """A charge too short for a span; a microcoulomb is a milliampere for a millisecond."""
        hour = (self._start_unix_ms + at_ms) // HOUR_MS % HOURS_A_DAY
        self._milliampere_ms[consumer][hour] += microcoulombs

    def by_hour(self) -> dict[str, list[float]]:
        """mAh of each consumer by hour of the day."""
        return {name: [part / HOUR_MS for part in hours] for name, hours in sorted(self._milliampere_ms.items())}

    def totals(self) -> dict[str, float]:
        """mAh of each consumer."""
        return {name: sum(hours) for name, hours in self.by_hour().items()}


class Level:
    """One consumer's current, as it changes; `factor` turns the part's current into the battery's."""

    def __init__(self, charges: Charges, consumer: str, now_ms: int, milliamperes: float = 0.0, factor: float = 1.0):
        self._charges, self._consumer, self._factor = charges, consumer, factor
        self._since_ms, self.milliamperes = now_ms, milliamperes

    def set(self, milliamperes: float, now_ms: int) -> None:
        """From now on this current flows."""
        self.settle(now_ms)
        self.milliamperes = milliamperes

    def settle(self, now_ms: int) -> None:
        """Account for everything up to now."""
        self._charges.span(self._consumer, self.milliamperes * self._factor, self._since_ms, now_ms)
        self._since_ms = now_ms
