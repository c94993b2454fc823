"""The receiving end of a UART that keeps what comes in its buffer until the line falls silent (rig_wire.HOLD)."""

from __future__ import annotations

from collections.abc import Callable

from emrig.clock import Timer, VirtualClock
from emrig.micropython import rig_wire as w


class Line:
    """receive() what comes; give(data) is called with all of it at the first silence after the time that hold() set."""

    def __init__(self, clock: VirtualClock, give: Callable[[bytes], None]) -> None:
        self._clock, self._give = clock, give
        self._kept = bytearray()
        self._after_ms: int | None = None
        self._timer: Timer | None = None

    def hold(self, after_ms: int) -> None:
        """Wanted is what has come by the first end of a burst that is so far away at least."""
        self._after_ms = self._clock.now_ms() + after_ms

    def receive(self, data: bytes) -> None:
        """Bytes on the line: the silence begins anew."""
        self._kept += data
        if self._timer:
            self._timer.cancel()
        self._timer = self._clock.call_later(w.SILENCE_MS, self._silent)

    def release(self) -> bytes:
        """Everything that it keeps, at once."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        data = bytes(self._kept)
        self._kept.clear()
        return data

    def _silent(self) -> None:
        if self._after_ms is not None and self._clock.now_ms() >= self._after_ms:
            self._after_ms = None  # until the next hold() nobody reads
            self._give(self.release())
