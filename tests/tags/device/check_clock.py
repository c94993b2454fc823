"""The clock is honest about its error, believes the better source, and never steps without saying so."""

import asyncio

from common.clock import UNCERTAINTY_UNKNOWN_MS, Clock
from emwire import constants

from virtual import now_ms

T0 = 200000000 * 1000


def _clock():
    jumps = []
    return Clock(now_ms, lambda *jump: jumps.append(jump)), jumps


async def check_unknown_until_told(folder):
    clock, jumps = _clock()
    assert (clock.time_s(), clock.uncertainty_ms(), clock.source) == (
        0,
        UNCERTAINTY_UNKNOWN_MS,
        constants.CLOCK_UNKNOWN,
    )
    assert clock.observe(constants.CLOCK_NETWORK, T0, 2000)
    assert clock.time_s() == T0 // 1000 and jumps == []
    await asyncio.sleep_ms(7000)
    assert clock.time_s() == T0 // 1000 + 7
    assert clock.time_at(0) in (T0 // 1000, T0 // 1000 - 1) and clock.time_at(3500) == T0 // 1000 + 3


async def check_uncertainty_grows_with_drift(folder):
    clock, _ = _clock()
    clock.observe(constants.CLOCK_GNSS, T0, 50)
    await asyncio.sleep_ms(86400 * 1000)
    assert clock.uncertainty_ms() == 50 + 1728, "20 ppm of a day"
    await asyncio.sleep_ms(60 * 86400 * 1000)
    assert clock.uncertainty_ms() == UNCERTAINTY_UNKNOWN_MS


async def check_narrower_agreeing_source_corrects(folder):
    clock, jumps = _clock()
    clock.observe(constants.CLOCK_NETWORK, T0, 2000)
    assert clock.observe(constants.CLOCK_GNSS, T0 + 700, 20)
    assert clock.source == constants.CLOCK_GNSS and clock.last_correction_ms == 700
    assert not clock.observe(constants.CLOCK_NETWORK, T0 + 1500, 2000), "wider: tells nothing"
    assert clock.source == constants.CLOCK_GNSS and jumps == []


async def check_small_step_back_is_waited_out(folder):
    clock, jumps = _clock()
    clock.observe(constants.CLOCK_NETWORK, T0 + 900, 2000)
    seen = clock.utc_ms()
    clock.observe(constants.CLOCK_GNSS, T0, 20)
    last = seen
    for _ in range(20):
        await asyncio.sleep_ms(100)
        assert clock.utc_ms() >= last
        last = clock.utc_ms()
    assert last == T0 + 2000 and jumps == []


async def check_jump_is_told(folder):
    clock, jumps = _clock()
    clock.observe(constants.CLOCK_NETWORK, T0, 2000)
    assert clock.observe(constants.CLOCK_GNSS, T0 - 3600000, 20)
    assert jumps == [(T0 // 1000, T0 // 1000 - 3600, constants.CLOCK_GNSS, -3600000)]
    assert clock.time_s() == T0 // 1000 - 3600


async def check_one_wild_answer_is_not_believed(folder):
    clock, jumps = _clock()
    clock.observe(constants.CLOCK_GNSS, T0, 50)
    wild = T0 + 1024 * 7 * 86400 * 1000
    assert not clock.observe(constants.CLOCK_GNSS, wild, 50)
    assert clock.observe(constants.CLOCK_GNSS, T0, 40), "agreement forgets it"
    assert not clock.observe(constants.CLOCK_GNSS, wild, 50)
    assert not clock.observe(constants.CLOCK_GNSS, wild, 50)
    assert jumps == [] and clock.rejected == 3
    assert clock.observe(constants.CLOCK_GNSS, wild, 50), "three in a row are a fact"
    assert len(jumps) == 1


async def check_lower_source_never_overrules_a_fresh_higher_one(folder):
    clock, jumps = _clock()
    clock.observe(constants.CLOCK_GATEWAY, T0, 500)
    for _ in range(10):
        assert not clock.observe(constants.CLOCK_GNSS, T0 - 500000, 20)
    await asyncio.sleep_ms(25 * 3600 * 1000)
    assert [clock.observe(constants.CLOCK_GNSS, T0, 20) for _ in range(3)] == [False, False, True]
    assert len(jumps) == 1


async def check_nonsense_is_refused(folder):
    clock, _ = _clock()
    for utc_ms in (0, -5, (1 << 32) * 1000):
        assert not clock.observe(constants.CLOCK_GNSS, utc_ms, 20)
    assert not clock.known and clock.rejected == 3


class _Rtc:
    def __init__(self, found):
        self.found = found
        self.kept = []

    def retained_time(self):
        if self.found == "broken":
            raise OSError(5)
        return self.found

    def retain_time(self, utc_ms, uncertainty_ms):
        self.kept.append((utc_ms, uncertainty_ms))


def check_time_over_a_reset(folder):
    from common.retained_time import RetainedTime

    from virtual import now_ms

    utc_ms = 500000000000
    for found in (None, "broken"):
        clock = Clock(now_ms)
        RetainedTime(_Rtc(found), clock)
        assert not clock.known
    clock = Clock(now_ms)
    rtc = _Rtc((utc_ms, 60000))
    RetainedTime(rtc, clock)
    assert clock.source == constants.CLOCK_RETAINED and clock.utc_ms() == utc_ms and clock.uncertainty_ms() == 60000
    assert clock.observe(constants.CLOCK_NETWORK, utc_ms + 20000, 2000), "anybody knows better"
    assert rtc.kept == [(utc_ms + 20000, 2000)]
    assert clock.observe(constants.CLOCK_GATEWAY, utc_ms + 20100, 20) and len(rtc.kept) == 1, "not worth a write"
    assert clock.observe(constants.CLOCK_GATEWAY, utc_ms + 30000, 20) and len(rtc.kept) == 2
    assert not clock.observe(constants.CLOCK_RETAINED, utc_ms - 10**9, 10)
