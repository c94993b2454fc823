"""Time that passes only while asyncio waits or the chip sleeps, for what has to be right to the millisecond."""

import asyncio.core as core
import time as real

# MicroPython's C code stamps "run now" with real ticks; a clock far ahead of them keeps such tasks always due.
_now = 1 << 50

ticks_add, ticks_diff, gmtime, mktime = real.ticks_add, real.ticks_diff, real.gmtime, real.mktime


def ticks_ms():
    return _now


def sleep_ms(milliseconds):
    global _now
    _now += milliseconds


class _Queue:
    def __init__(self, queue):
        self._queue = queue

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def wait_io_event(self, timeout_ms):
        self._queue.wait_io_event(0)
        task = core._task_queue.peek()
        if timeout_ms > 0 and (task is None or ticks_diff(task.ph_key, _now) > 0):
            sleep_ms(timeout_ms)


def install(*modules):
    """In asyncio, and in these modules instead of `time`."""
    import pretended_time

    core.ticks = ticks_ms
    core._io_queue = _Queue(core._io_queue)
    for module in modules:
        module.time = pretended_time
