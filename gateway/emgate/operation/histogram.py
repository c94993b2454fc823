"""Counts durations by size, as Prometheus takes them; one thread writes, any may read."""

from bisect import bisect_left
from typing import Any

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""A commit takes 1 to 10 ms on a sound card or disk; a worn card stalls for seconds."""


class Histogram:
    """Durations in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)  # the last is for what is longer than every bound
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def facts(self) -> dict[str, Any]:
        """{"buckets": [[bound, how many took at most that long], …, ["+Inf", all]], "sum": seconds}."""
        total = 0
        buckets: list[list[float | int | str]] = []
        bounds: tuple[float | str, ...] = (*BOUNDS_S, "+Inf")
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count
            buckets.append([bound, total])
        return {"buckets": buckets, "sum": round(self._sum_s, 6)}
