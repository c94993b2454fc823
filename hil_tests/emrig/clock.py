"""The rig's virtual time: one clock for all devices and models, and the file through which a gateway shares it."""

from __future__ import annotations

import heapq
import itertools
import mmap
import struct
from collections.abc import Callable
from pathlib import Path

_INT64 = struct.Struct("<q")


class Timer:
    """A callback to come; cancel() forgets it."""

    __slots__ = ("callback", "due_ms")

    def __init__(self, due_ms: int, callback: Callable[[], None]) -> None:
        self.due_ms = due_ms
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self.callback = None


class VirtualClock:
    """Milliseconds since the rig's start, advanced only by the rig; `unix_start_ms` says when that is in UTC."""

    def __init__(self, unix_start_ms: int, shared: Path | None = None) -> None:
        self.unix_start_ms = unix_start_ms
        self._now_ms = 0
        self._timers: list[tuple[int, int, Timer]] = []
        self._number = itertools.count()
        self._map: mmap.mmap | None = None
        if shared is not None:
            shared.write_bytes(_INT64.pack(unix_start_ms))
            with shared.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 8)

    def now_ms(self) -> int:
        """Virtual milliseconds since the rig's start."""
        return self._now_ms

    def unix_ms(self) -> int:
        """Virtual UTC in unix milliseconds."""
        return self.unix_start_ms + self._now_ms

    def call_at(self, due_ms: int, callback: Callable[[], None]) -> Timer:
        """Run callback when virtual time reaches due_ms (at once when it is past)."""
        timer = Timer(due_ms, callback)
        heapq.heappush(self._timers, (due_ms, next(self._number), timer))
        return timer

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Run callback delay_ms from now."""
        return self.call_at(self._now_ms + delay_ms, callback)

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def advance(self, now_ms: int) -> None:
        """Move to now_ms (never back) and run what is due."""
        if now_ms > self._now_ms:
            self._now_ms = now_ms
            if self._map is not None:
                _INT64.pack_into(self._map, 0, self.unix_ms())
        while (due := self.next_due_ms()) is not None and due <= self._now_ms:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def close(self) -> None:
        """Let go of the shared file."""
        if self._map is not None:
            self._map.close()
            self._map = None
