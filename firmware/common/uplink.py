# Pumps a DeviceLink over a transport: when to connect, for how long, and how patiently to try again.
#
# A transport has `async connect()`, `send(frame)` (may be async), `async receive()`, `async close()`; OSError = lost.
import asyncio

from common.wait import Signal

# Back-off after a failed or lost connection, doubling. A modem's own attempt already takes seconds.
BACK_OFF_MS = 5000
BACK_OFF_LIMIT_MS = 300000
# With an alarm waiting: within the 180 s of NIJ 1004.00 §5.4.1 there are three attempts.
ALARM_BACK_OFF_LIMIT_MS = 45000
# Devices that lost the same cell or gateway come back spread over a quarter of the back-off.
JITTER_PARTS = 4
# Without waiting for the interval: a window of eight frames eight times over.
RECORDS_TO_REPORT = 64
# Between reports: everything is stored; the backend's word usually follows within seconds, else with the next report.
LINGER_MS = 5000
# Nothing came in for so long on a connection that should be answered: two retransmissions (20 s, 40 s) went unheard.
SILENCE_MS = 120000
# Records in RAM because flash refused them: try again.
JOURNAL_RETRY_MS = 30000


class Uplink:
    """Run `run()` as a task, call `wake()` when records were made.

    With `settings` it connects every `settings.report_interval_s` (and at once for an alarm) and hangs up when the
    gateway has everything; without, it keeps the connection up.
    """

    def __init__(self, link, transport, clock, on_message=None, settings=None):
        """clock.ticks_ms() is the board's; on_message(tuple) takes what DeviceLink.received gives."""
        self.link = link
        self.connected = False
        self.connections = 0
        self.failures = 0  # connections that could not be made or were lost
        self.heard = 0  # authentic frames of the gateway
        self.stay_until_ms = 0  # not to hang up before: more is to come down
        self.last_error = None
        self._transport = transport
        self._ticks_ms = clock.ticks_ms
        self._on_message = on_message
        self._settings = settings
        self.stays = None  # stays(): whether the connection is kept between reports, so that a command finds the device
        self.interval_s = 0  # instead of settings.report_interval_s, for as long as it is not 0
        self._signal = Signal()
        self._attempts = 0
        self._failed_ms = None
        self._report_ms = None  # when the last report began; None = none since the boot
        self._heard_ms = 0
        self.word_ms = None  # when the gateway last said something authentic; None = not since the boot
        self._error = None

    def stuck_ms(self, now: int) -> int:
        """How long records have waited without a connection or an attempt at one; 0 = all is well."""
        if self.connected or not self.link.journal.backlog or self._report_ms is None:
            return 0
        if getattr(self._transport, "waits_for_gateway", False):
            return 0
        interval_ms = self._settings.report_interval_s * 1000 if self._settings else 0
        return max(0, now - self._report_ms - interval_ms)

    def wake(self):
        """Something may have to be sent."""
        self._signal.set()

    async def run(self):
        """For ever; only what is no OSError comes out."""
        while True:
            await self._until_due()
            self._report_ms = self._ticks_ms()
            try:
                try:
                    await self._transport.connect()
                    await self._session()
                finally:
                    await self._close()
                self._attempts = 0
                self._failed_ms = None
            except OSError as error:
                self.failures += 1
                self.last_error = error
                self._attempts += 1
                self._failed_ms = self._ticks_ms()

    async def _until_due(self):
        while True:
            self._retry_journal()
            now = self._ticks_ms()
            due = self._due_ms(now)
            if due is not None and due <= now:
                return
            wait = None if due is None else due - now
            if self.link.journal.waiting:
                wait = min(wait or JOURNAL_RETRY_MS, JOURNAL_RETRY_MS)
            await self._signal.wait(wait)

    def _due_ms(self, now):
        link = self.link
        alarm = link.alarm_waits
        due = now
        if self._settings and not alarm and self._report_ms is not None:
            backlog = link.journal.backlog
            if self.stays is not None and self.stays():
                pass
            elif not backlog and not link.journal.undelivered and not link.time_wanted:
                return None
            elif backlog < RECORDS_TO_REPORT and self._failed_ms is None:
                due = self._report_ms + (self.interval_s or self._settings.report_interval_s) * 1000
        if self._failed_ms is not None:
            due = self._failed_ms + self._back_off_ms(alarm)
        return due

    def _back_off_ms(self, alarm):
        limit = ALARM_BACK_OFF_LIMIT_MS if alarm else BACK_OFF_LIMIT_MS
        delay = min(BACK_OFF_MS << min(self._attempts - 1, 10), limit)
        # Knuth's multiplicative hash: different for every device and attempt, the same when simulated again.
        spread = ((self.link.device_id + self._attempts) * 2654435761 >> 8) & 0xFF
        return delay - (delay // JITTER_PARTS * spread >> 8)

    async def _session(self):
        self._error = None
        self._heard_ms = self._ticks_ms()
        self.connected = True
        self.connections += 1
        self.link.opened(self._heard_ms)
        receiver = asyncio.create_task(self._receive())
        try:
            await self._send()
        finally:
            receiver.cancel()
            try:
                await receiver
            except asyncio.CancelledError:
                pass

    async def _send(self):
        finished_ms = None
        while self._error is None:
            self._retry_journal()
            now = self._ticks_ms()
            frame = self.link.poll(now)
            if frame is not None:
                if finished_ms is not None:
                    finished_ms = None
                    self._heard_ms = now  # nobody had reason to say anything until now
                sending = self._transport.send(frame)
                if sending is not None:
                    await sending
                await asyncio.sleep_ms(0)
                continue
            due = self.link.deadline(now)
            if self._settings:
                if self.link.idle and self.link.answered:
                    if finished_ms is None:
                        finished_ms = now
                    end = finished_ms + LINGER_MS if self.link.journal.undelivered else now
                    end = max(end, self.stay_until_ms)
                    if self.stays is not None and self.stays():
                        end = None
                    elif now >= end:
                        return
                else:
                    if finished_ms is not None:
                        finished_ms = None
                        self._heard_ms = now
                    end = self._heard_ms + SILENCE_MS
                    if now >= end:
                        raise OSError(110)  # ETIMEDOUT
                if end is not None:
                    due = end if due is None else min(due, end)
            wait = None if due is None else due - now
            if self.link.journal.waiting:
                wait = min(wait or JOURNAL_RETRY_MS, JOURNAL_RETRY_MS)
            await self._signal.wait(wait)
        raise self._error

    async def _receive(self):
        try:
            while True:
                frame = await self._transport.receive()
                now = self._ticks_ms()
                refused = self.link.refused
                messages = self.link.received(now, frame)
                if self.link.refused == refused:
                    # Only what is authentic shows that the gateway is there.
                    self._heard_ms = self.word_ms = now
                    self._attempts = 0
                    self.heard += 1
                for message in messages:
                    if self._on_message:
                        self._on_message(message)
                self._signal.set()
        except Exception as error:
            self._error = error
            self._signal.set()

    async def _close(self):
        self.link.closed()
        self.connected = False
        try:
            await self._transport.close()
        except OSError as error:
            self.last_error = error

    def _retry_journal(self):
        if self.link.journal.waiting:
            self.link.journal.retry()
