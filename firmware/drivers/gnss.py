# The satellite receiver: bytes in, fixes out (Receiver, sans-IO), and its power and waiting (Gnss).
import asyncio

from common.wait import Signal

from drivers import fixes, nmea, ubx, ubx_setup
from drivers.nmea import DAY_MS

# NMEA allows 82 characters; high-precision and vendor sentences run longer. None we use does.
SENTENCE_LIMIT = 128
# The longest message verified whole (NAV-SAT of 72 satellites is 880 bytes). Of longer ones only the sync is skipped.
MESSAGE_LIMIT = 1024

_DOLLAR = 36
_STAR = 42
_SYNC = 0xB5


class Receiver:
    """Finds sentences and messages in a byte stream, in pieces of any size; holds at most MESSAGE_LIMIT + one piece."""

    def __init__(self, not_before_day: "int | None" = None):
        """not_before_day: see fixes.Epochs."""
        self.epochs = fixes.Epochs(not_before_day)
        self.bytes_heard = 0
        self.bytes_skipped = 0  # between sentences, line ends too
        self.sentences = 0
        self.messages = 0
        self.checksum_errors = 0
        self.malformed = 0  # checksum right, fields not
        self.broken = 0  # sentences that began and did not end
        self.refused_commands = 0  # UBX-ACK-NAK
        self.accepted_commands = 0  # UBX-ACK-ACK
        self.solutions = 0  # NAV-PVT: a u-blox receiver that does as it is told
        self.interference = None  # ubx.interference() of the last report
        self.interference_reports = 0
        self._buffer = b""
        self._dop = None

    def feed(self, data: bytes) -> list:
        """The fixes whose epochs these bytes completed."""
        self.bytes_heard += len(data)
        self._buffer = self._buffer + data if self._buffer else data
        self._scan(False)
        return self._take()

    def pause(self) -> list:
        """The receiver has been silent for a while: the open epoch is complete. Part of a sentence is kept."""
        self.epochs.close()
        return self._take()

    def flush(self) -> list:
        """The stream has ended: what is left of it is looked through and given up, and the open epoch is complete."""
        self._scan(True)
        return self.pause()

    @property
    def understood(self) -> int:
        """Sentences and messages with a right checksum."""
        return self.sentences + self.messages

    def _take(self):
        done = self.epochs.done
        if done:
            self.epochs.done = []
            return done
        return []

    def _scan(self, ended):
        data = self._buffer
        size = len(data)
        at = 0
        while at < size:
            start = _nearest(data.find(b"$", at), data.find(b"\xb5", at))
            if start < 0:
                self.bytes_skipped += size - at
                at = size
                break
            self.bytes_skipped += start - at
            end = self._sentence(data, start, size) if data[start] == _DOLLAR else self._message(data, start, size)
            if end < 0:
                if not ended:
                    at = start
                    break
                end = start + 1
            at = end
            if end == start + 1:
                self.bytes_skipped += 1
        self._buffer = data[at:] if at < size else b""

    def _sentence(self, data, start, size):
        """Index after the sentence at start; start + 1 if there is none, -1 if more bytes must tell."""
        limit = min(size, start + SENTENCE_LIMIT)
        star = data.find(b"*", start + 1, limit)
        checksum = 0
        for index in range(start + 1, limit if star < 0 else star):
            byte = data[index]
            if byte < 32 or byte > 126 or byte == _DOLLAR:
                self.broken += 1
                return start + 1
            checksum ^= byte
        if star < 0:
            if limit < size or size - start >= SENTENCE_LIMIT:
                self.broken += 1
                return start + 1
            return -1
        if star + 3 > size:
            return -1
        if data[star + 1 : star + 3].upper() != ("%02X" % checksum).encode():
            self.checksum_errors += 1
            return start + 1
        self.sentences += 1
        try:
            seen = nmea.parse(data[start + 1 : star])
            if seen is not None:
                self.epochs.observe(seen)
        except nmea.Malformed:
            self.malformed += 1
        return star + 3

    def _message(self, data, start, size):
        """As _sentence, of a UBX message."""
        if start + 1 < size and data[start + 1] != 0x62:
            return start + 1
        if start + ubx.HEADER_SIZE > size:
            return -1
        class_id = data[start + 2] << 8 | data[start + 3]
        length = data[start + 4] | data[start + 5] << 8
        if length + ubx.OVERHEAD > MESSAGE_LIMIT or not ubx.plausible_length(class_id, length):
            return start + 1
        end = start + length + ubx.OVERHEAD
        if end > size:
            return -1
        if ubx.checksum(data, start + 2, end - 2) != data[end - 2 : end]:
            self.checksum_errors += 1
            return start + 1
        self.messages += 1
        try:
            self._understand(class_id, data[start + ubx.HEADER_SIZE : end - 2])
        except nmea.Malformed:
            self.malformed += 1
        return end

    def _understand(self, class_id, payload):
        if class_id == ubx.NAV_PVT:
            time_of_week, seen = ubx.nav_pvt(payload)
            hdop = self._dop[1] if self._dop and self._dop[0] == time_of_week else None
            self.solutions += 1
            self.epochs.observe_pvt(seen, hdop)
        elif class_id == ubx.NAV_DOP:
            self._dop = ubx.nav_dop(payload)
        elif class_id in (ubx.MON_HW, ubx.MON_RF):
            self.interference = ubx.interference(class_id, payload)
            self.interference_reports += 1
        elif class_id == ubx.ACK_ACK:
            self.accepted_commands += 1
        elif class_id == ubx.ACK_NAK:
            self.refused_commands += 1


def _nearest(first, second):
    if first < 0:
        return second
    return first if second < 0 or first < second else second


# What the last wait for a fix came to.
OUTCOME_NONE = 0  # not asked yet
OUTCOME_FIX = 1
OUTCOME_NO_FIX = 2  # the receiver works and has none; why: cause
OUTCOME_SILENT = 3  # it says nothing: a fault
OUTCOME_GARBAGE = 4  # nothing it says can be understood: a fault
OUTCOME_NAMES = ("none", "fix", "no fix", "silent", "garbage")

# Receivers report at 1 Hz from power-on whether they have a fix or not, the slowest to start after some 5 s.
FAULT_AFTER_MS = 15000
# A burst is over when nothing comes for this long; between bursts of 5 Hz and slower there is at least so much.
IDLE_MS = 100
# The first fixes after power-on lie further out while satellites are still being added.
SETTLED_FIXES = 3
SETTLE_MS = 10000
# A receiver in power save goes back to sleep within so long of its fix (u-blox M8: onTime 0, orbits read meanwhile).
AWAKE_AFTER_MS = 10000
# What counts as good enough not to wait for better: usual masks for navigation are HDOP 2 to 2.5.
GOOD_HDOP_HUNDREDTHS = 250
# A receiver that only speaks NMEA is read once in so long at most: what a UART has to hold (boards/*/pins.py).
LONGEST_READ_MS = 6000
# One that sends what it was told, 100 bytes a second and a word about interference, is read once in so long while it
# has no position to tell: four fifths of what a UART holds.
LONGEST_SEARCH_MS = 40000
# More than that: it has forgotten what it was told, and the line what came last.
_TALKATIVE = 5500
# Solutions in a row without a position: one that slept will not have one within a second or two.
VOID_SOLUTIONS = 4
# A position may take a second longer now and then: only so many in a row that took less are believed.
SOONER_AFTER = 4
# What was told to a receiver may have been lost.
ASK_AGAIN = 256
# Of what came in one read, looked at together: less than two epochs.
_PIECE = 64


class Gnss:
    """A receiver on a UART with a power switch. One fix() at a time."""

    def __init__(self, uart, power_pin, clock, log, not_before_day: "int | None" = None, configure: bool = False):
        """clock has ticks_ms(); log takes text; configure: set a u-blox receiver up (drivers.ubx_setup)."""
        self.outcome = OUTCOME_NONE
        self.receiver: "Receiver | None" = None  # counters since power-on
        self.powered = False
        self.fix_ticks_ms = None  # when the last fix came in
        self.time_to_fix_ms = None  # from power-on to the first fix
        self.starts = 0
        self.faults = 0
        self.period_s = 0  # the receiver sleeps between positions so far apart; 0 = it does not
        self.limit_ms = None  # limit_ms(): a fix() ends by then whatever its timeout, None = no such limit
        self.on_awake = None  # called when a receiver that slept is heard again, or has power again
        self._uart = uart
        self._power_pin = power_pin
        self._clock = clock
        self._log = log
        self._not_before_day = not_before_day
        self._configure = configure
        self._ask = False
        self._plain = False  # a whole fix without a word of UBX: nothing can be told to it, and it sends every second
        self._lead_ms = 0  # from its power-on to a fix that had settled, the last time
        self._sooner = 0  # how often in a row it had settled sooner
        self._until_ms = 0
        self._hurry = False
        self._vain = False  # one that does as it is told had no position the last time
        self._patient = False  # so it is read seldom: it will hardly have one at once
        self._blind_ms = 0  # nothing is read until then
        self._voids = 0  # solutions without a position before it woke
        self._sentences = 0
        self._signal = Signal()
        self._fresh = []
        self._reader: "asyncio.Task | None" = None
        self._settled = 0
        self._on_ms = self._heard_ms = self._understood_ms = 0
        self._understood = 0

    @property
    def fault(self) -> bool:
        """True if the last fix() found the receiver silent or unintelligible."""
        return self.outcome in (OUTCOME_SILENT, OUTCOME_GARBAGE)

    @property
    def cause(self) -> int:
        """Why there is no fix now (fixes.CAUSE_…)."""
        return self.receiver.epochs.cause if self.receiver else fixes.CAUSE_NOTHING_HEARD

    def on(self) -> None:
        """Power the receiver and begin to listen."""
        if self.powered:
            return
        self._uart.discard()  # bytes left from an earlier session would pass for a fix of now
        self.receiver = Receiver(self._not_before_day)
        self.time_to_fix_ms = None
        self._settled = 0
        self._understood = 0
        self._fresh = []
        self._on_ms = self._heard_ms = self._understood_ms = self._clock.ticks_ms()
        if not self.starts % ASK_AGAIN:
            self._plain = False
        self._ask = self._configure and not self._plain
        self.period_s = 0
        if self._plain and self.on_awake:
            self.on_awake()
        self.starts += 1
        self.powered = True
        self._power_pin.value(1)
        self._reader = asyncio.create_task(self._read())

    def off(self) -> None:
        """Stop listening and cut the power."""
        if not self.powered:
            return
        self._reader.cancel()
        self._reader = None
        self._power_pin.value(0)
        self.powered = False
        self.period_s = 0

    def hurry(self) -> None:
        """A fix is wanted at once: a fix() that waits for a sleeping receiver wakes it."""
        self._hurry = True
        self._signal.set()

    async def fix(
        self,
        timeout_ms: int,
        settle_ms: int = SETTLE_MS,
        keep_on: bool = False,
        period_s: int = 0,
        patient: bool = False,
    ) -> "fixes.Fix | None":
        """A fix measured after this call, or None (see outcome, cause, fault).

        Ends with the first good fix (3D, small HDOP, time known) once SETTLED_FIXES good ones in a row have come since
        power-on, else with the best of the settle_ms after the first, else at timeout_ms or when the receiver proves
        faulty. Powers the receiver down unless keep_on.

        period_s: the next fix is wanted so much later. A receiver that can then sleeps by itself (self.period_s), and
        the next call waits for what it sends when it has woken: no more than a message a fix.

        patient: a receiver that had no position the last time and does as it is told is read once at the end; a
        position that it has after all is heard so much later. hurry() ends that, too.
        """
        best = None
        self._patient = patient and self._vain
        try:
            self.on()
            if self.period_s and self.period_s != period_s:
                await self._full_power()
            if not self.period_s:
                # What has been heard so far, the open epoch too, was measured before this call.
                self._take(self.receiver.pause())
                self._fresh = []
            best = await self._wait(timeout_ms, settle_ms, patient)
            self._vain = best is None and not self.fault and self.receiver.solutions > 0
            if best is not None and period_s and not self.period_s and self.receiver.solutions:
                self._uart.write(ubx_setup.every(period_s, period_s))
                self.period_s = period_s
                self._sentences = self.receiver.sentences
                self._voids = self.receiver.epochs.no_fix_epochs
                self._fresh = []
        finally:
            if self.fault or not (keep_on or (best is not None and self.period_s)):
                self.off()
        return best

    async def _full_power(self, asleep=True):
        if asleep:
            self._uart.write(ubx_setup.WAKE)
            await asyncio.sleep_ms(ubx_setup.WAKE_MS)
        self._uart.write(ubx_setup.always())
        self.period_s = 0
        self._settled = 0

    async def _wait(self, timeout_ms, settle_ms, patient):
        best = best_ticks_ms = None
        self.outcome = OUTCOME_NO_FIX
        begun_ms = self._clock.ticks_ms()
        deadline_ms = self._until_ms = begun_ms + timeout_ms + self.period_s * 1000
        while True:
            voids = self.receiver.epochs.no_fix_epochs - self._voids
            sought = patient and self.period_s and voids >= VOID_SOLUTIONS and not self._fresh
            if self._hurry or sought:
                again = self._patient or sought
                self._patient = not self._hurry
                if self.period_s:
                    # It goes on searching, and need not say so.
                    await self._full_power(self._hurry)
                    begun_ms = self._clock.ticks_ms()
                    deadline_ms = self._until_ms = begun_ms + timeout_ms
                    self._fresh = []
                self._hurry = False
                if again:
                    # The line holds what has come.
                    self._reader.cancel()
                    self._reader = asyncio.create_task(self._read())
            for fix, ticks_ms in self._fresh:
                if self.period_s:
                    # It may stay awake for some seconds after a fix and tell each; one a period is wanted.
                    if _good(fix) and ticks_ms - self.fix_ticks_ms > min(self.period_s * 500, AWAKE_AFTER_MS):
                        best, best_ticks_ms = fix, ticks_ms
                        deadline_ms = ticks_ms
                        break
                    continue
                if best is None:
                    deadline_ms = min(deadline_ms, ticks_ms + settle_ms)
                if best is None or _rank(fix) <= _rank(best):
                    best, best_ticks_ms = fix, ticks_ms
                if _good(fix) and self._settled >= SETTLED_FIXES:
                    best, best_ticks_ms = fix, ticks_ms
                    deadline_ms = ticks_ms
            self._fresh = []
            limit_ms = self.limit_ms() if self.limit_ms else None
            if limit_ms is not None and limit_ms < deadline_ms:
                deadline_ms = self._until_ms = limit_ms
            now_ms = self._clock.ticks_ms()
            fault_ms = max(begun_ms, self._understood_ms, self._blind_ms) + FAULT_AFTER_MS + self.period_s * 1000
            left_ms = deadline_ms - now_ms
            if left_ms <= 0 or now_ms >= fault_ms or (self._patient and best is None and left_ms <= 1000):
                break
            until_ms = min(deadline_ms, fault_ms)
            idle = self.receiver.epochs.pending
            if not await self._signal.wait(min(until_ms - now_ms, IDLE_MS) if idle else until_ms - now_ms) and idle:
                self._take(self.receiver.pause())
        if best is not None:
            self.outcome = OUTCOME_FIX
            self.fix_ticks_ms = best_ticks_ms
            self._plain = not self.receiver.messages
            if self._settled == SETTLED_FIXES:
                self._lead_ms = min(self._heard_ms - self._on_ms - 500, LONGEST_READ_MS)
                self._sooner = 0
            elif self._settled > SETTLED_FIXES:
                self._sooner += 1
                if self._sooner >= SOONER_AFTER:
                    self._lead_ms -= 1000
                    self._sooner = 0
        elif now_ms >= fault_ms:
            self.outcome = OUTCOME_SILENT if self._heard_ms <= begun_ms else OUTCOME_GARBAGE
            self.faults += 1
            self._plain = False
            self._log("gnss: %s for %d ms" % (OUTCOME_NAMES[self.outcome], FAULT_AFTER_MS))
        return best

    async def _read(self):
        while True:
            try:
                late_ms = self._patience_ms()
                data = await self._uart.read(late_ms)
            except OSError as error:
                self._log("gnss: UART: %s" % error)
                return  # silence is then noticed as such
            silent_ms = self._clock.ticks_ms() - self._heard_ms
            self._heard_ms += silent_ms
            if self.period_s and silent_ms >= AWAKE_AFTER_MS // 2:
                self._voids = self.receiver.epochs.no_fix_epochs
                if self.on_awake:
                    self.on_awake()
            if self._ask:
                # Only now is it certainly awake.
                self._ask = False
                self._uart.write(ubx_setup.binary())
            if late_ms:
                self._take_all(data)
                if self._patient and len(data) > _TALKATIVE:
                    self._patient = False
                    self._settled = 0
                    self._fresh = []
            else:
                self._take(self.receiver.feed(data))
            if self.period_s and self.receiver.sentences != self._sentences:
                # It has restarted by itself, and forgotten what it was told.
                self.period_s = 0
                self._ask = True
            if self.receiver.understood != self._understood:
                self._understood = self.receiver.understood
                self._understood_ms = self._heard_ms
            self._signal.set()

    def _patience_ms(self):
        """How long nothing of what a receiver says can matter: until it may have settled, and half a second less."""
        now_ms = self._clock.ticks_ms()
        left_ms = self._until_ms - now_ms - 1000
        if self._patient and not (self._settled or self._fresh):
            # First it has to be heard, and told.
            patience_ms = 1 if self._ask else max(1, min(left_ms, LONGEST_SEARCH_MS))
            self._blind_ms = now_ms + patience_ms
            return patience_ms
        if not self._plain:
            return 0
        since_ms = now_ms - self._on_ms
        if self.receiver.bytes_heard:
            lead_ms = max(1, SETTLED_FIXES - self._settled) * 1000 - 500
        else:
            lead_ms = self._lead_ms - since_ms
        return max(1, min(lead_ms, left_ms, LONGEST_READ_MS))

    def _take_all(self, data):
        """Some epochs at once, up to now: the same as one by one, each with its own time."""
        self._fresh = []
        for at in range(0, len(data), _PIECE):
            self._take(self.receiver.feed(data[at : at + _PIECE]))
        self._take(self.receiver.pause())
        epochs = self.receiver.epochs
        fresh = []
        for fix, ticks_ms in self._fresh:
            if fix.time_s is not None and epochs.newest_ms is not None:
                late_ms = (epochs.newest_ms - fix.time_s % 86400 * 1000 - fix.millisecond) % DAY_MS
                fresh.append((fix, ticks_ms - late_ms))
            elif fix is self._fresh[-1][0] and epochs.cause == fixes.CAUSE_NONE:
                fresh.append((fix, ticks_ms))
        self._fresh = fresh

    def _take(self, done):
        for fix in done:
            now_ms = self._clock.ticks_ms()
            if self.time_to_fix_ms is None:
                self.time_to_fix_ms = now_ms - self._on_ms
            self._settled = self._settled + 1 if _good(fix) else 0
            self._fresh.append((fix, now_ms))
        if self.receiver.epochs.cause != fixes.CAUSE_NONE:
            self._settled = 0
        del self._fresh[:-SETTLED_FIXES]  # nobody may be waiting


def _good(fix):
    return (
        fix.mode == 3
        and fix.time_s is not None
        and (fix.hdop_hundredths is None or fix.hdop_hundredths <= GOOD_HDOP_HUNDREDTHS)
    )


def _rank(fix):
    """Smaller is better."""
    return (-fix.mode, fix.time_s is None, fixes.PRECISION_UNKNOWN_M if fix.precision_m is None else fix.precision_m)
