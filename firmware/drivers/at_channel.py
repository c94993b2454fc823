# AT commands over a UART: one command at a time, unsolicited lines anywhere between. Bounded, whatever comes.
import asyncio

from common.wait import Signal

# Longest line there is: +SMSUB with a frame of 1020 bytes in hex, its topic and quotes.
MAXIMUM_LINE = 2176
# No command used here answers with more lines.
MAXIMUM_ANSWER_LINES = 16
# After a command went unanswered its late answer must not be taken for the next one's.
DRAIN_MS = 500
SYNC_TIMEOUT_MS = 1000
SYNC_TRIES = 5


class ModemError(OSError):
    """The modem refused a command, or is silent."""


class Lines:
    """Splits a byte stream into lines, and finds the prompt that is not a line. Overlong lines are dropped, counted."""

    def __init__(self):
        self.prompt_expected = False
        self.overlong = 0
        self._line = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list:
        """Complete lines, stripped, without empty ones; a prompt is b">"."""
        out = []
        at = 0
        while at < len(data):
            if self.prompt_expected and not self._skipping and not self._line.strip():
                while at < len(data) and data[at] in b"\r\n \0":
                    at += 1
                if at < len(data) and data[at] == 62:  # ">"
                    at += 1
                    self._line = bytearray()
                    self.prompt_expected = False
                    out.append(b">")
                    continue
            end = data.find(b"\n", at)
            part = data[at : end if end >= 0 else len(data)]
            at += len(part)
            if not self._skipping:
                if len(self._line) + len(part) > MAXIMUM_LINE:
                    self.overlong += 1
                    self._skipping = True
                    self._line = bytearray()
                else:
                    self._line.extend(part)
            if end >= 0:
                at += 1
                line = bytes(self._line).strip(b"\r\n \0")
                self._line = bytearray()
                if line and not self._skipping:
                    out.append(line)
                self._skipping = False
        return out


class AtChannel:
    """command() and publish-style exchanges; on_line(line) -> True takes unsolicited lines out of answers."""

    def __init__(self, uart, on_line):
        self._uart = uart
        self._on_line = on_line
        self._lines = Lines()
        self._lock = asyncio.Lock()
        self._signal = Signal()
        self._command = b""
        self._answer = None
        self._result = None
        self._prompted = False
        self._unsynchronised = False
        self.timeouts = 0
        self.unexpected = 0

    async def read_forever(self):
        """Run as a task as long as the channel is used."""
        while True:
            for line in self._lines.feed(await self._uart.read()):
                self._take(line)

    async def command(self, text: str, timeout_ms: int = 5000, payload: "bytes | None" = None) -> list:
        """Lines of the answer. payload is what the modem prompts for. ModemError if refused, or unanswered."""
        async with self._lock:
            if self._unsynchronised:
                await self._synchronise()
            return await self._exchange(text, timeout_ms, payload)

    async def synchronise(self):
        """Find out whether the modem answers, and bring both ends to the same command. ModemError if it is silent."""
        async with self._lock:
            await self._synchronise()

    def abort(self, reason: str):
        """The command under way will not be answered."""
        if self._answer is not None and self._result is None:
            self._result = reason.encode()
            self._unsynchronised = True
            self._signal.set()

    async def _synchronise(self):
        for _ in range(SYNC_TRIES):
            try:
                await self._exchange("AT", SYNC_TIMEOUT_MS, None)
            except OSError:
                continue
            # Late answers of older commands come before this one's; what is still under way comes now.
            await asyncio.sleep_ms(DRAIN_MS)
            self._unsynchronised = False
            return
        raise ModemError("modem silent")

    async def _exchange(self, text, timeout_ms, payload):
        self._command = text.encode()
        self._answer = []
        self._result = None
        self._prompted = False
        self._lines.prompt_expected = payload is not None
        self._signal.clear()
        self._uart.write(self._command + b"\r")
        sent = payload is None
        try:
            while self._result is None:
                if not await self._signal.wait(timeout_ms):
                    self.timeouts += 1
                    self._unsynchronised = True
                    raise ModemError("no answer to " + text[:24])
                if self._prompted and not sent:
                    sent = True
                    self._uart.write(payload)
            if self._result != b"OK":
                raise ModemError("%s: %s" % (text[:24], self._result.decode()))
            return self._answer
        except asyncio.CancelledError:
            self._unsynchronised = True
            raise
        finally:
            self._answer = None
            self._lines.prompt_expected = False

    def _take(self, line):
        if line == self._command:
            return  # echo
        if self._on_line(line):
            if self._answer is not None and len(self._answer) < MAXIMUM_ANSWER_LINES:
                self._answer.append(line)
            return
        if self._answer is None:
            self.unexpected += 1
        elif line in (b">", b"DOWNLOAD"):
            self._prompted = True
            self._signal.set()
        elif line == b"OK" or line == b"ERROR" or line.startswith(b"+CME ERROR") or line.startswith(b"+CMS ERROR"):
            self._result = line
            self._signal.set()
        elif len(self._answer) < MAXIMUM_ANSWER_LINES:
            self._answer.append(line)
        else:
            self.unexpected += 1
