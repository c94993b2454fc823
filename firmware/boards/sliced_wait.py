# Waiting that lets the processor sleep, for ports whose poll wakes it every millisecond and whose time.sleep_ms does
# not.
import asyncio.core as core
import time

# Without a task in asyncio's queue: the time is only to be looked at now and then.
LONGEST_MS = 60000


class SlicedWait:
    """Stands before asyncio's poll queue: looks at the streams and flags, then sleeps for a slice at most."""

    def __init__(self, queue, slice_ms):
        self._queue = queue
        self._slice_ms = slice_ms

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def wait_io_event(self, timeout_ms):
        # asyncio takes the next task when this returns, so that there has to be one.
        self._queue.wait_io_event(0)
        while timeout_ms:
            left_ms = LONGEST_MS
            task = core._task_queue.peek()
            if task:
                left_ms = core.ticks_diff(task.ph_key, core.ticks())
                if left_ms <= 0:
                    return
            self.rest(left_ms)
            self._queue.wait_io_event(0)

    def rest(self, left_ms: int) -> None:
        """Sleep for at most so long; an end before that is no harm."""
        time.sleep_ms(min(left_ms, self._slice_ms))


def install(slice_ms: int) -> None:
    """What an interrupt tells is noticed within slice_ms."""
    take(lambda queue: SlicedWait(queue, slice_ms))


def take(make):
    """Put make(asyncio's queue) in its place, once."""
    if not isinstance(core._io_queue, SlicedWait):
        core._io_queue = make(core._io_queue)
