# Virtual time: replaces asyncio's clock and I/O wait by the rig's, before any firmware runs.
# When every task waits, the device tells the rig its next deadline and blocks until the rig names the new "now".
import asyncio.core as core

from boards.sim import wire

# MicroPython's C code stamps "run now" with real ticks; a clock far ahead of them keeps such tasks always due.
BASE = 1 << 50

_now = BASE
_watchdog = None


class Watchdog:
    """As machine.WDT; expired() is called when virtual time passes without a feed."""

    def __init__(self, timeout_ms, expired):
        global _watchdog
        self._timeout_ms = timeout_ms
        self.expired = expired
        self.feed()
        _watchdog = self

    def feed(self):
        self.due = _now + self._timeout_ms


def _ticks():
    return _now


class _VirtualQueue:
    # Stands where asyncio keeps its poll queue. Simulated peripherals wake tasks through events: nothing is polled.
    # asyncio.run() ends when no task is due and this is empty; here input from the rig can always come.
    map = (True,)

    def wait_io_event(self, timeout_ms):
        global _now
        if timeout_ms == 0:
            return
        deadline = -1 if timeout_ms < 0 else _now - BASE + timeout_ms
        while True:
            wait = deadline
            if _watchdog is not None and (deadline < 0 or BASE + deadline > _watchdog.due):
                wait = _watchdog.due - BASE
            _now = BASE + wire.wait(wait)
            if _watchdog is not None and _now >= _watchdog.due:
                _watchdog.expired()
            wire.hand_out()
            # With no task due asyncio takes the next one without looking: return only once there is one.
            if deadline >= 0 or core._task_queue.peek():
                return

    def queue_read(self, stream):
        raise OSError("the simulated board has no streams; use board.uart()")

    queue_write = queue_read

    def remove(self, task):
        pass


def now_ms():
    """Virtual milliseconds since the rig's start."""
    return _now - BASE


def install():
    """Take over asyncio's time, starting at the rig's present."""
    global _now
    core.ticks = _ticks
    core._io_queue = _VirtualQueue()
    _now = BASE + wire.wait(0)
