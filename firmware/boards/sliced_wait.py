# Waiting that lets the processor sleep, for ports whose poll wakes it every millisecond and whose time.sleep_ms does
# not.
import asyncio.core as core
import time


class SlicedWait:
    """Stands before asyncio's poll queue: looks at the streams and flags, then sleeps for a slice at most."""

    def __init__(self, queue, slice_ms):
        self._queue = queue
        self._slice_ms = slice_ms

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def wait_io_event(self, timeout_ms):
        self._queue.wait_io_event(0)
        if timeout_ms == 0:
            return
        task = core._task_queue.peek()
        if task and core.ticks_diff(task.ph_key, core.ticks()) <= 0:
            return
        # asyncio asks again until something is due.
        time.sleep_ms(self._slice_ms if timeout_ms < 0 else min(timeout_ms, self._slice_ms))


def install(slice_ms: int) -> None:
    """What an interrupt tells is noticed within slice_ms."""
    if not isinstance(core._io_queue, SlicedWait):
        core._io_queue = SlicedWait(core._io_queue, slice_ms)
