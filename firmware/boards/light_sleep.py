# The processor's light sleep while every task waits, by machine.lightsleep: memory and time go on, UARTs do not.
#
# MicroPython, "machine": lightsleep(time_ms) sleeps "at most" so long, and what wakes it before "should be configured
# before sleeping". "Upon wake execution is resumed from the point where the sleep was requested".
import time

import machine

from boards.sliced_wait import SlicedWait

# No sleep for so long after a byte on a UART: epochs of a receiver come each second. The bytes that wake are lost.
UART_AWAKE_MS = 1500
# Below it there is nothing to gain: out of sleep and back takes 3 ms (hil_tests/emrig/power/figures.toml).
SHORTEST_MS = 10
# While something keeps the processor awake it is asked so often whether it still does.
LOOK_MS = 1000


class LightSleep(SlicedWait):
    """board: must_wake() -> True while it may not sleep; arm() -> ms that a sleep may last; woken(by_timer)."""

    def __init__(self, queue, board):
        super().__init__(queue, 0)
        self._board = board
        self._awake_from = time.ticks_ms()
        self._used = True
        self.sleeps = 0
        self.slept_ms = 0
        self.woken = 0  # by something else than the time

    def used(self) -> None:
        """A line was used, or is about to be."""
        self._awake_from = time.ticks_ms()
        self._used = True

    def rest(self, left_ms: int) -> None:
        if self._used:
            stay_ms = UART_AWAKE_MS - time.ticks_diff(time.ticks_ms(), self._awake_from)
            if stay_ms > 0:
                self._queue.wait_io_event(min(left_ms, stay_ms))
                return
            self._used = False
        if left_ms < SHORTEST_MS:
            self._queue.wait_io_event(left_ms)
            return
        if self._board.must_wake():
            self._queue.wait_io_event(min(left_ms, LOOK_MS))
            return
        # Never beyond the next task's moment: the watchdog is fed by one.
        asked_ms = min(left_ms, self._board.arm())
        begun = time.ticks_ms()
        machine.lightsleep(asked_ms)
        slept_ms = time.ticks_diff(time.ticks_ms(), begun)
        self.sleeps += 1
        self.slept_ms += slept_ms
        by_timer = slept_ms + SHORTEST_MS >= asked_ms  # two clocks
        if not by_timer:
            self.woken += 1
        self._board.woken(by_timer)
