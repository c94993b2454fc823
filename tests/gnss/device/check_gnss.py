# Power, waiting, settling and fault detection of the receiver driver, in virtual time.
# ruff: noqa: UP031
import asyncio
import struct

from drivers import fixes, gnss, ubx, ubx_setup
from virtual import Clock, PinOut, Uart


def sentence(body):
    checksum = 0
    for byte in body.encode():
        checksum ^= byte
    return ("$%s*%02X\r\n" % (body, checksum)).encode()


def epoch(second, hdop="0.9", valid=True, latitude="5130.1000"):
    if not valid:
        return sentence("GNGGA,,,,,,0,,,,,,,,") + sentence("GNRMC,,V,,,,,,,,,,N")
    time = "12%02d%02d.00" % (second // 60, second % 60)
    return (
        sentence("GNGGA,%s,%s,N,00007.2000,W,1,09,%s,30.0,M,47.0,M,," % (time, latitude, hdop))
        + sentence("GNGSA,A,3,01,02,03,04,,,,,,,,,1.8,%s,1.5" % hdop)
        + sentence("GNRMC,%s,A,%s,N,00007.2000,W,10.0,090.0,010626,,,A" % (time, latitude))
    )


class Bench:
    """A receiver that sends make(seconds since power-on) every second while it is powered."""

    def __init__(self, make, **options):
        self.uart = Uart()
        self.pin = PinOut()
        self.clock = Clock()
        self.logged = []
        self.make = make
        self.gnss = gnss.Gnss(self.uart, self.pin, self.clock, self.logged.append, **options)
        self._task = asyncio.create_task(self._run())

    async def _run(self):
        since = 0
        while True:
            await asyncio.sleep_ms(980)
            if not self.pin.level:
                since = 0
                await asyncio.sleep_ms(20)
                continue
            since += 1
            data = self.make(since)
            # In two pieces, as a UART delivers.
            if data:
                self.uart.feed(data[: len(data) // 2])
            await asyncio.sleep_ms(20)
            if data:
                self.uart.feed(data[len(data) // 2 :])


async def check_powers_up_settles_and_powers_down(folder):
    bench = Bench(lambda s: epoch(s, valid=s > 20))
    fix = await bench.gnss.fix(60000)
    assert bench.gnss.outcome == gnss.OUTCOME_FIX and bench.pin.level == 0 and not bench.gnss.fault
    # The third good fix in a row, given out when the burst pauses.
    assert fix.time_s % 3600 == 23 and fix.mode == 3
    assert 23000 <= bench.clock.ticks_ms() <= 24200, bench.clock.ticks_ms()
    assert 20900 <= bench.gnss.time_to_fix_ms <= 21300, bench.gnss.time_to_fix_ms
    assert bench.gnss.fix_ticks_ms <= bench.clock.ticks_ms()
    assert bench.gnss.receiver.sentences == 2 * 20 + 3 * 3


async def check_best_within_the_settling_time(folder):
    hdops = ["9.0", "8.0", "3.0"] + ["6.0"] * 60
    bench = Bench(lambda s: epoch(s, hdops[s - 1]))
    fix = await bench.gnss.fix(60000, settle_ms=8000)
    assert fix.hdop_hundredths == 300 and fix.time_s % 60 == 3
    assert 8000 <= bench.clock.ticks_ms() <= 10300


async def check_no_fix_is_not_a_fault(folder):
    bench = Bench(lambda s: epoch(s, valid=False))
    assert await bench.gnss.fix(40000) is None
    assert bench.gnss.outcome == gnss.OUTCOME_NO_FIX and bench.gnss.cause == fixes.CAUSE_VOID
    assert not bench.gnss.fault and bench.pin.level == 0 and 40000 <= bench.clock.ticks_ms() <= 40100


async def check_a_silent_receiver_is_a_fault(folder):
    bench = Bench(lambda s: b"")
    assert await bench.gnss.fix(120000) is None
    assert bench.gnss.outcome == gnss.OUTCOME_SILENT and bench.gnss.fault and bench.pin.level == 0
    assert bench.clock.ticks_ms() < 16000 and bench.logged and bench.gnss.faults == 1


async def check_garbage_is_a_fault(folder):
    bench = Bench(lambda s: bytes((i * 37 + s) & 0x7F for i in range(200)))
    assert await bench.gnss.fix(120000, keep_on=True) is None
    assert bench.gnss.outcome == gnss.OUTCOME_GARBAGE and bench.gnss.fault
    assert bench.pin.level == 0, "a faulty receiver is power-cycled"
    bench.make = lambda s: epoch(s)
    assert await bench.gnss.fix(60000) is not None
    assert not bench.gnss.fault


async def check_falling_silent_later_is_a_fault_too(folder):
    bench = Bench(lambda s: epoch(s, valid=False) if s < 30 else b"")
    assert await bench.gnss.fix(300000) is None
    assert bench.gnss.fault and bench.clock.ticks_ms() < 50000


async def check_kept_on_it_gives_only_what_is_new(folder):
    bench = Bench(lambda s: epoch(s))
    first = await bench.gnss.fix(60000, keep_on=True)
    assert bench.pin.level == 1
    await asyncio.sleep_ms(15000)
    before = bench.clock.ticks_ms()
    second = await bench.gnss.fix(60000, keep_on=True)
    assert bench.clock.ticks_ms() - before <= 1300, "settled already"
    assert second.time_s - first.time_s >= 15 and bench.gnss.starts == 1
    bench.gnss.off()
    assert bench.pin.level == 0


async def check_stale_bytes_are_not_a_fix(folder):
    bench = Bench(lambda s: epoch(s, valid=False))
    bench.uart.feed(epoch(1) + epoch(2))
    assert await bench.gnss.fix(5000) is None


async def check_one_at_five_hertz(folder):
    def make(since):
        data = b""
        for part in range(5):
            time = "1200%02d.%d0" % (since, 2 * part)
            data += sentence("GNGGA,%s,5130.1000,N,00007.2000,W,1,09,0.9,30.0,M,47.0,M,," % time)
            data += sentence("GNRMC,%s,A,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,A" % time)
        return data

    bench = Bench(make)
    fix = await bench.gnss.fix(60000)
    assert fix is not None and bench.clock.ticks_ms() < 1400


async def check_asks_for_nav_pvt_once_it_is_awake(folder):
    bench = Bench(lambda s: epoch(s), configure=True)
    written = bytearray()
    bench.uart.on_write = written.extend
    await bench.gnss.fix(60000)
    # CFG-MSG: NAV-PVT once per solution, with the checksum that u-blox's own tool gives.
    assert written.startswith(b"\xb5\x62\x06\x01\x03\x00\x01\x07\x01\x13\x51") and written.count(b"\xb5\x62") == 11


async def check_uart_that_fails(folder):
    bench = Bench(lambda s: b"")

    async def broken(after_ms):
        raise OSError(5)

    bench.uart.read = broken
    assert await bench.gnss.fix(60000) is None
    assert bench.gnss.outcome == gnss.OUTCOME_SILENT and len(bench.logged) == 2


class Ublox(Bench):
    """A u-blox receiver under open sky: NMEA until it is set up, NAV-PVT then, asleep between positions if told so."""

    def __init__(self, **options):
        self.sky = True
        self.binary = False
        self.period_s = 0
        self.written = []
        self.sent = 0
        Bench.__init__(self, self._make, configure=True, **options)
        self.uart.on_write = self._on_write

    def _on_write(self, data):
        self.written.append(data)
        if data == ubx_setup.binary():
            self.binary = True
        elif data == ubx_setup.always():
            self.period_s = 0
        else:
            for period_s in (15, 60, 240):
                if data == ubx_setup.every(period_s, period_s):
                    self.period_s = period_s

    def _make(self, since):
        second = self.clock.ticks_ms() // 1000 + 1
        if since == 1:
            # Power-off forgets it all.
            self.binary = False
            self.period_s = 0
        if not self.binary:
            return epoch(second, valid=self.sky)
        # Awake for two seconds of each period: the first without a fix.
        if self.period_s and second % self.period_s > 1:
            return b""
        self.sent += 1
        return pvt(second, self.sky and (not self.period_s or second % self.period_s == 1))


def pvt(second, fix):
    payload = bytearray(92)
    struct.pack_into("<IHBBBBBB", payload, 0, second * 1000, 2026, 6, 1, 12, second // 60, second % 60, 7)
    payload[20], payload[21], payload[23] = (3, 1, 11) if fix else (0, 0, 0)
    struct.pack_into("<iiiiI", payload, 24, -1200000, 515016667, 0, 0, 1500)
    return ubx.message(ubx.NAV_PVT, bytes(payload))


async def check_sleeps_between_positions_by_itself(folder):
    bench = Ublox()
    times = []
    for _ in range(20):
        fix = await bench.gnss.fix(40000, period_s=60)
        times.append(fix.time_s)
    assert times[3:] == [times[2] + 60 * (1 + index) for index in range(17)], times
    assert bench.gnss.starts == 1 and bench.pin.level == 1 and bench.sent < 2 * 20 + 8
    # A position is wanted at once: it is woken, and told to sleep again afterwards.
    waiting = asyncio.create_task(bench.gnss.fix(40000, period_s=60))
    await asyncio.sleep_ms(10000)
    before = bench.clock.ticks_ms()
    bench.gnss.hurry()
    fix = await waiting
    assert bench.clock.ticks_ms() - before < 5000 and bench.gnss.period_s == 60
    # Another interval is told to it.
    await bench.gnss.fix(40000, period_s=15)
    assert bench.period_s == 15 and bench.gnss.period_s == 15
    await bench.gnss.fix(40000)
    assert bench.pin.level == 0 and bench.gnss.period_s == 0


async def check_no_sky_while_it_sleeps_by_itself(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    bench.sky = False
    before = bench.clock.ticks_ms()
    assert await bench.gnss.fix(40000, period_s=60) is None
    assert 95000 <= bench.clock.ticks_ms() - before <= 105000 and not bench.gnss.fault
    assert bench.pin.level == 0, "switched off: its owner decides when to try again"
    bench.sky = True
    await asyncio.sleep_ms(5000)
    assert await bench.gnss.fix(40000, period_s=60) is not None


async def check_without_sky_it_is_read_once(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    read, reads = bench.uart.read, []

    async def counted(after_ms):
        data = await read(after_ms)
        reads.append(after_ms)
        return data

    bench.uart.read = counted
    bench.sky = False

    async def attempt(timeout_ms=40000, patient=True):
        await asyncio.sleep_ms(20000)
        del reads[:]
        begun = bench.clock.ticks_ms()
        fix = await bench.gnss.fix(timeout_ms, period_s=60, patient=patient)
        return fix, bench.clock.ticks_ms() - begun

    await attempt()
    for timeout_ms in (40000, 120000):
        fix, took_ms = await attempt(timeout_ms)
        assert fix is None and timeout_ms - 1100 <= took_ms <= timeout_ms, took_ms
        assert len(reads) == 1 + timeout_ms // 40000 and not bench.gnss.fault and bench.pin.level == 0, reads
    # The sky is back in the midst of it: one position, with its own time.
    waiting = asyncio.create_task(attempt())
    await asyncio.sleep_ms(40000)
    bench.sky = True
    fix, _ = await waiting
    assert abs(bench.gnss.fix_ticks_ms - 1000 * (fix.time_s % 3600)) <= 1100 and bench.gnss.period_s == 60
    # Wanted at once: whoever hurries waits for no such read.
    bench.sky = False
    await attempt()
    await attempt()
    bench.sky = True
    waiting = asyncio.create_task(attempt())
    await asyncio.sleep_ms(25000)
    bench.gnss.hurry()
    begun = bench.clock.ticks_ms()
    assert (await waiting)[0] is not None and bench.clock.ticks_ms() - begun < 5000
    # Not told to be patient, it listens all the time.
    bench.sky = False
    await attempt()
    assert (await attempt(patient=False))[0] is None and len(reads) > 30


async def check_one_that_searches_awake_is_put_out_of_its_sleep(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    await bench.gnss.fix(40000, period_s=60)
    really = bench.make

    def searches(since):
        # As a receiver does that finds nothing when it has woken: it stays awake, and says so every second.
        if not bench.period_s or bench.clock.ticks_ms() // 1000 % 60 > 50:
            return really(since)
        return pvt(bench.clock.ticks_ms() // 1000 + 1, False)

    bench.make = searches
    bench.sky = False
    sent = len(bench.written)
    assert await bench.gnss.fix(40000, period_s=60, patient=True) is None
    assert ubx_setup.always() in bench.written[sent:] and ubx_setup.WAKE not in bench.written[sent:]
    assert bench.pin.level == 0 and not bench.gnss.fault


async def check_one_that_forgot_in_a_long_read_gives_no_stale_position(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    bench.sky = False
    for _ in range(2):
        assert await bench.gnss.fix(40000, patient=True) is None and not bench.gnss.fault
        await asyncio.sleep_ms(20000)
    waiting = asyncio.create_task(bench.gnss.fix(40000, patient=True))
    await asyncio.sleep_ms(3000)
    # It has restarted, and its line holds the first seconds of NMEA only: a position, and long ago.
    bench.make = lambda since: b""
    bench.uart.feed(b"".join(epoch(second) for second in range(100, 108)) + bytes(6000))
    await asyncio.sleep_ms(36500)
    bench.uart.feed(b"\xff")
    assert await waiting is None


async def check_a_receiver_that_forgets_its_settings_is_told_again(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    await bench.gnss.fix(40000, period_s=60)
    bench.binary = False
    bench.period_s = 0
    assert await bench.gnss.fix(40000, period_s=60) is not None
    assert bench.binary and bench.gnss.period_s == bench.period_s == 60


async def check_a_receiver_that_dies_asleep_is_a_fault(folder):
    bench = Ublox()
    await bench.gnss.fix(40000, period_s=60)
    bench.make = lambda since: b""
    assert await bench.gnss.fix(40000, period_s=60) is None
    assert bench.gnss.fault and bench.pin.level == 0


class Plain(Bench):
    """Of another make: an epoch a second, the first `void` of them after power-on without a fix. Counts reads."""

    def __init__(self, **options):
        self.void = 1
        self.lost = 1000  # after so many epochs the sky is gone
        self.reads = 0
        Bench.__init__(self, self._make, configure=True, **options)
        self._read = self.uart.read
        self.uart.read = self.counted

    def _make(self, since):
        second = self.clock.ticks_ms() // 1000
        if since > self.lost:
            # Its clock goes on.
            return sentence("GNRMC,12%02d%02d.00,V,,,,,,,010626,,,N" % (second // 60, second % 60))
        return epoch(second, valid=since > self.void)

    async def counted(self, after_ms):
        data = await self._read(after_ms)
        self.reads += 1
        return data

    async def fix(self):
        """(the fix, reads it took, ms from power-on); the receiver was off for a while."""
        await asyncio.sleep_ms(20000)
        reads, begun = self.reads, self.clock.ticks_ms()
        fix = await self.gnss.fix(40000, period_s=60)
        return fix, self.reads - reads, self.clock.ticks_ms() - begun


async def check_one_read_a_fix_of_a_receiver_that_only_speaks_nmea(folder):
    bench = Plain()
    bench.void = 26  # a cold start, which says nothing about the next ones
    fix, reads, _ = await bench.fix()
    assert reads > 4, "what it is has to be found out"
    bench.void = 1
    for _ in range(16):
        fix, reads, _ = await bench.fix()
        assert reads == 1
    for _ in range(20):
        fix, reads, took_ms = await bench.fix()
        # The third good fix, as of a receiver that is heard all the time, dated when its burst ended.
        assert reads == 1 and 3900 <= took_ms <= 5200 and fix.mode == 3, (reads, took_ms)
        seconds = fix.time_s % 3600
        assert 0 <= bench.gnss.fix_ticks_ms - 1000 * seconds <= 1200, (bench.gnss.fix_ticks_ms, seconds)
    bench.void = 3  # a worse sky: one read more, once
    for expected in (2, 1, 1, 1):
        assert (await bench.fix())[1] == expected
    bench.void = 1  # a better one is believed after a while
    assert (await bench.fix())[2] > 5800
    for _ in range(12):
        _, _, took_ms = await bench.fix()
    assert took_ms < 5200
    # No sky: three epochs a read, and no longer than the time it was given.
    bench.void = 1000
    fix, reads, took_ms = await bench.fix()
    assert fix is None and reads <= 15 and took_ms <= 40100 and not bench.gnss.fault
    # It loses the sky in the midst of a read: each position has its own time.
    bench.void, bench.lost = 0, 2
    fix, reads, took_ms = await bench.fix()
    late_ms = bench.gnss.fix_ticks_ms - 1000 * (fix.time_s % 3600)
    assert -1000 <= late_ms <= 1200 and not bench.pin.level, late_ms
    # It dies.
    bench.make = lambda since: b""
    assert (await bench.fix())[0] is None and bench.gnss.outcome == gnss.OUTCOME_SILENT


async def check_another_make_is_switched_off_between(folder):
    bench = Bench(lambda s: epoch(s), configure=True)
    assert await bench.gnss.fix(40000, period_s=60) is not None
    assert bench.gnss.period_s == 0 and bench.pin.level == 0
