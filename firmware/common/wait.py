# Waiting until something happens or is due, without polling.
import asyncio


class Signal:
    """A wake-up that is not lost: set() before wait() ends the wait at once. One waiter."""

    def __init__(self):
        self._event = asyncio.Event()

    def set(self):
        self._event.set()

    def clear(self):
        self._event.clear()

    async def wait(self, timeout_ms: "int | None" = None) -> bool:
        """True if it was set, False after timeout_ms; clears it."""
        if timeout_ms is None:
            await self._event.wait()
        elif not self._event.is_set():
            try:
                await asyncio.wait_for_ms(self._event.wait(), timeout_ms)
            except asyncio.TimeoutError:
                return False
        self._event.clear()
        return True
