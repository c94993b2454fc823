# Bluetooth interrupts: one handler per radio shared by its users, and a flag to carry them into a task.
import asyncio

IRQ_CENTRAL_CONNECT = 1
IRQ_CENTRAL_DISCONNECT = 2
IRQ_GATTS_WRITE = 3
IRQ_SCAN_RESULT = 5
IRQ_SCAN_DONE = 6
IRQ_MTU_EXCHANGED = 21

_listeners = []


def listen(ble, listener):
    """listener(event, data) for every interrupt; data is valid only within the call, which must be short."""
    if listener not in _listeners:
        _listeners.append(listener)
    ble.irq(_dispatch)


def unlisten(listener):
    if listener in _listeners:
        _listeners.remove(listener)


def _dispatch(event, data):
    for listener in _listeners:
        listener(event, data)


class Flag:
    """set() from an interrupt ends the wait() of one task; not lost when nobody waits yet."""

    def __init__(self):
        import bluetooth

        # On a board interrupts come between two byte codes, where only ThreadSafeFlag may be set (and only it wakes a
        # sleeping poll). The simulated radio's come between tasks, and its loop has nothing to poll.
        self._flag = asyncio.Event() if getattr(bluetooth, "IRQ_IN_LOOP", False) else asyncio.ThreadSafeFlag()

    def set(self):
        self._flag.set()

    async def wait(self, timeout_ms: "int | None" = None) -> bool:
        """True if it was set, False after timeout_ms; clears it."""
        try:
            if timeout_ms is None:
                await self._flag.wait()
            else:
                await asyncio.wait_for_ms(self._flag.wait(), timeout_ms)
        except asyncio.TimeoutError:
            return False
        self._flag.clear()
        return True
