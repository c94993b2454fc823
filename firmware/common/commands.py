# Commands of the gateway: each number carried out once, whatever happens to the power, and answered as often as asked.
# A number is on flash before its handler runs; a reset in between is an answer too (FAILED, detail "reset").
import asyncio
import struct

from emwire import constants

from common.slots import Slots

try:
    from typing import Callable
except ImportError:
    pass

# Answers kept: a gateway sends a few at a time, and asks again for those whose answer it lacks.
REMEMBERED = 16
# Under way at once; a further one is not begun, and the gateway sends it again.
MOST_RUNNING = 4
# What takes longer is told as begun.
ACCEPTED_AFTER_MS = 5000
MAXIMUM_DETAIL = 64
# number, kind, outcome (0 = begun), finished time, value, length of detail
_FORMAT = "<IBBIiB"
_SIZE = struct.calcsize(_FORMAT)
_BEGUN = 0


class Commands:
    """register() handlers; the device feeds received()."""

    def __init__(self, device):
        self._device = device
        self._handlers = {}
        self._running = set()
        self._results = []  # [number, kind, outcome, finished_time_s, value, detail], oldest first
        self.ignored = 0  # not begun: clock unknown, too many at once, or flash refused; the gateway sends it again
        self._slots = Slots(device.board.storage_path + "/commands.")
        # Numbers up to this one are forgotten, and so may have been carried out.
        self._forgotten = 0
        self._load()

    def register(self, kind: int, handler: "Callable"):
        """async handler(argument) -> (outcome, value, detail bytes)."""
        self._handlers[kind] = handler

    def start(self):
        """Answer what a reset interrupted."""
        for result in self._results:
            if result[2] == _BEGUN:
                self._finish(result, constants.OUTCOME_FAILED, 0, b"reset")

    def received(self, message):
        """A command message: (type, number, kind, argument, expires_s)."""
        number, kind, argument, expires_s = message[1:5]
        for result in self._results:
            if result[0] == number:
                # Still under way: its answer follows.
                self._answer(result, constants.OUTCOME_ACCEPTED if result[2] == _BEGUN else result[2])
                return
        now_s = self._device.clock.time_s()
        if number <= self._forgotten:
            self._tell(number, kind, constants.OUTCOME_REFUSED, b"number too old")
        elif kind not in self._handlers:
            self._tell(number, kind, constants.OUTCOME_UNSUPPORTED, b"")
        elif expires_s and not now_s:
            self.ignored += 1
        elif expires_s and now_s > expires_s:
            self._tell(number, kind, constants.OUTCOME_EXPIRED, b"")
        elif len(self._running) >= MOST_RUNNING:
            self.ignored += 1
        else:
            result = [number, kind, _BEGUN, 0, 0, b""]
            try:
                self._remember(result)
            except OSError:
                self._results.remove(result)
                self.ignored += 1
                return
            self._running.add(number)
            asyncio.create_task(self._run(result, argument))

    async def _run(self, result, argument):
        done = asyncio.Event()
        task = asyncio.create_task(self._handle(result, argument, done))
        try:
            await asyncio.wait_for_ms(done.wait(), ACCEPTED_AFTER_MS)
        except asyncio.TimeoutError:
            self._answer(result, constants.OUTCOME_ACCEPTED)
        await task

    async def _handle(self, result, argument, done):
        try:
            outcome, value, detail = await self._handlers[result[1]](argument)
        except Exception as error:
            self._device.log("command %d: %r" % (result[0], error))
            outcome, value, detail = constants.OUTCOME_FAILED, 0, type(error).__name__.encode()
        self._running.discard(result[0])
        done.set()
        self._finish(result, outcome, value, bytes(detail[:MAXIMUM_DETAIL]))

    def _finish(self, result, outcome, value, detail):
        result[2:] = [outcome, self._device.clock.time_s(), value, detail]
        self._answer(result, outcome)
        try:
            self._store()
        except OSError:
            self._device.log("command %d: its answer is not kept" % result[0])

    def _tell(self, number, kind, outcome, detail):
        self._answer([number, kind, outcome, self._device.clock.time_s(), 0, detail], outcome)

    def _answer(self, result, outcome):
        self._device.records.command_result(result[0], result[1], outcome, result[3], result[4], result[5])

    def _remember(self, result):
        results = self._results
        results.append(result)
        at = 0
        while len(results) > REMEMBERED:
            # What is under way stays.
            if results[at][2] == _BEGUN:
                at += 1
            else:
                self._forgotten = max(self._forgotten, results.pop(at)[0])
        self._store()

    def _store(self):
        parts = [struct.pack("<I", self._forgotten)]
        for number, kind, outcome, finished_s, value, detail in self._results:
            parts.append(struct.pack(_FORMAT, number, kind, outcome, finished_s, value, len(detail)) + detail)
        self._slots.write(b"".join(parts))

    def _load(self):
        value = self._slots.value
        if value is None:
            return
        self._forgotten = struct.unpack_from("<I", value, 0)[0]
        at = 4
        while at < len(value):
            fields = list(struct.unpack_from(_FORMAT, value, at))
            size = fields.pop()
            at += _SIZE
            self._results.append(fields + [value[at : at + size]])
            at += size
