# Keeps a device's tasks running: what fails is logged, counted, recorded and started again, ever more patiently.
try:
    from typing import Callable
except ImportError:
    pass

import asyncio

BACK_OFF_MS = 1000
MAXIMUM_BACK_OFF_MS = 300000
# A task that ran this long before it failed starts with the shortest pause again.
STEADY_MS = 600000


class Supervisor:
    """start() tasks, then wait() for ever."""

    def __init__(self, ticks_ms: "Callable[[], int]", log, on_failure):
        """on_failure(name, error, failures) is told of every failure, and must not raise."""
        self._ticks_ms = ticks_ms
        self._log = log
        self._on_failure = on_failure
        self._tasks = []
        self.failures = {}

    def start(self, name: str, function, *arguments):
        """Run `await function(*arguments)` for ever; a function that returns has done its work."""
        self._tasks.append(asyncio.create_task(self._run(name, function, arguments)))

    async def wait(self):
        try:
            # Not gather: a supervised task ends only when its work is done, and the device goes on.
            await asyncio.Event().wait()
        finally:
            self.stop()

    def stop(self):
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def failed(self, name: str, error):
        """Count and tell a failure: a task's, or of a part that its task goes on without."""
        self.failures[name] = count = self.failures.get(name, 0) + 1
        self._on_failure(name, error, count)

    async def _run(self, name, function, arguments):
        pause = BACK_OFF_MS
        while True:
            started = self._ticks_ms()
            try:
                await function(*arguments)
                return
            except Exception as error:
                self._log("task %s: %r" % (name, error))
                self.failed(name, error)
            if self._ticks_ms() - started > STEADY_MS:
                pause = BACK_OFF_MS
            await asyncio.sleep_ms(pause)
            pause = min(pause * 2, MAXIMUM_BACK_OFF_MS)
