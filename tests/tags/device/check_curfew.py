"""Curfew on the home unit: windows of every kind of night, and home, out or unknown told apart."""

import asyncio
import struct

from common.order import Order
from common.settings import Settings
from emwire import constants
from tags import curfew, whereabouts
from tags.curfew import Curfew, window_at, windows
from tags.home_unit import HomeUnit
from tags.whereabouts import HOME, OUT, UNKNOWN, Whereabouts

import check_home_unit as home_unit
import virtual
from at_work import BODY

HOUR = 3600
# 2026-01-05T00:00:00Z, a Monday, since 2010; 2026-03-29T01:00Z and 2026-10-25T01:00Z, when British time changes.
MONDAY = 1767571200 - 1262304000
SPRING = 1774746000 - 1262304000
AUTUMN = 1792890000 - 1262304000
PRIMARY = constants.ADDRESS_PRIMARY
EVERY_NIGHT = tuple((day, 19 * 60, 7 * 60, PRIMARY) for day in range(1, 8))


def order(entries=EVERY_NIGHT, offset=0, change_s=0, following=0, starts_s=0, ends_s=0):
    return Order((0x83, 1, 1, 0, starts_s, ends_s, offset, change_s, following, 0, 0, 0, 0, 0, entries))


def check_a_night_crosses_midnight(folder):
    one = order()
    night = MONDAY + 19 * HOUR, MONDAY + 31 * HOUR
    for at in (night[0], MONDAY + 24 * HOUR, night[1] - 1):
        assert window_at(one, at, PRIMARY) == night
    assert window_at(one, night[0] - 1, PRIMARY) is None and window_at(one, night[1], PRIMARY) is None
    assert window_at(one, night[0], constants.ADDRESS_SECONDARY) is None
    only_sunday = order(((7, 19 * 60, 7 * 60, PRIMARY),))
    assert window_at(only_sunday, MONDAY + HOUR, PRIMARY) == (MONDAY - 5 * HOUR, MONDAY + 7 * HOUR)
    assert window_at(only_sunday, MONDAY + 20 * HOUR, PRIMARY) is None


def check_both_changeover_nights(folder):
    spring = order(offset=0, change_s=SPRING, following=60)
    assert window_at(spring, SPRING, PRIMARY) == (SPRING - 6 * HOUR, SPRING + 5 * HOUR), "19:00 to 07:00 is 11 h"
    autumn = order(offset=60, change_s=AUTUMN, following=0)
    assert window_at(autumn, AUTUMN, PRIMARY) == (AUTUMN - 7 * HOUR, AUTUMN + 6 * HOUR), "13 h"
    # 01:30 is left out in spring (read in the offset before), and occurs twice in autumn (the first counts).
    early = tuple((day, 90, 180, PRIMARY) for day in range(1, 8))
    assert windows(order(early, 0, SPRING, 60), SPRING, PRIMARY)[2] == (SPRING + 1800, SPRING + HOUR)
    assert windows(order(early, 60, AUTUMN, 0), AUTUMN, PRIMARY)[2] == (AUTUMN - 1800, AUTUMN + 2 * HOUR)


def check_parts_are_joined_and_clipped(folder):
    split = tuple((day, 19 * 60, 1439, PRIMARY) for day in range(1, 8))
    split += tuple((day, 0, 420, PRIMARY) for day in range(1, 8))
    assert window_at(order(split), MONDAY + 20 * HOUR, PRIMARY) == (MONDAY + 19 * HOUR, MONDAY + 31 * HOUR)
    clipped = order(starts_s=MONDAY + 20 * HOUR, ends_s=MONDAY + 30 * HOUR)
    assert window_at(clipped, MONDAY + 21 * HOUR, PRIMARY) == (MONDAY + 20 * HOUR, MONDAY + 30 * HOUR)
    day_long = order(tuple((day, 0, 0, PRIMARY) for day in range(1, 8)))
    for hour in range(0, 72, 5):
        at = MONDAY + hour * HOUR
        start = MONDAY + hour // 24 * 24 * HOUR
        assert window_at(day_long, at, PRIMARY) == (start, start + 24 * HOUR), "judged day by day"


def _play(folder, states, settings=None, one=None):
    """states: [(seconds from the window's start, state, cause, last heard from its start or None)]."""
    one = one or Curfew(settings or Settings(folder), 1)
    window = MONDAY + 19 * HOUR, MONDAY + 31 * HOUR
    told = []
    for at, state, cause, last in states:
        now = window[0] + at
        last_s = 0 if last is None else window[0] + last
        inside = window if window[0] <= now < window[1] else None
        for kind, value, evidence, time_s in one.tick(now, inside, state, cause, last_s, 10000, -70):
            fields = struct.unpack(curfew.EVIDENCE_FORMAT, evidence)
            assert fields[1:3] == window and fields[4] == 100 and fields[5] == -70
            told.append((kind, value, time_s - window[0], fields[0]))
    return told


S = whereabouts.CAUSE_SILENT
H = whereabouts.CAUSE_HEARD
D = whereabouts.CAUSE_DEAF
LEFT = constants.EVENT_CURFEW_LEFT_HOME
AT_START = constants.EVENT_CURFEW_OUT_AT_START
RETURNED = constants.EVENT_CURFEW_RETURNED
AT_END = constants.EVENT_CURFEW_OUT_AT_END
NOT_KNOWN = constants.EVENT_CURFEW_UNKNOWN
KNOWN = constants.EVENT_CURFEW_KNOWN_AGAIN


def check_left_and_returned(folder):
    told = _play(folder, [(10, HOME, H, 5), (700, OUT, S, 500), (790, OUT, S, 500), (820, OUT, S, 500)])
    assert told == [(LEFT, 320, 500, S)], "once the grace is over, since it was last heard"
    told = _play(folder, [(10, HOME, H, 5), (900, OUT, S, 500), (5000, HOME, H, 5000), (6000, HOME, H, 5990)])
    assert told == [(LEFT, 400, 500, S), (RETURNED, 4500, 5000, H)]


def check_out_at_start_and_at_end(folder):
    end = 12 * HOUR
    told = _play(folder, [(0, OUT, S, -9000), (301, OUT, S, -9000), (end - 1, OUT, S, -9000), (end, OUT, S, -9000)])
    assert told == [(AT_START, 9301, 0, S), (AT_END, end, end, S)]
    told = _play(folder, [(0, OUT, S, -9000), (400, OUT, S, -9000), (1800, HOME, H, 1800), (end, HOME, H, end)])
    assert told == [(AT_START, 9400, 0, S), (RETURNED, 1800, 1800, H)], "came home late"


def check_short_absence_is_nothing(folder):
    assert _play(folder, [(0, HOME, H, 0), (500, OUT, S, 250), (540, HOME, H, 540), (12 * HOUR, HOME, H, 0)]) == []


def check_deaf_is_unknown_never_out(folder):
    told = _play(folder, [(10, HOME, H, 5), (400, UNKNOWN, D, 5), (9000, UNKNOWN, D, 5), (12 * HOUR, UNKNOWN, D, 5)])
    assert told == [(NOT_KNOWN, 395, 5, D)]
    told = _play(folder, [(10, HOME, H, 5), (400, UNKNOWN, D, 5), (9000, HOME, H, 9000)])
    assert told == [(NOT_KNOWN, 395, 5, D), (KNOWN, 8995, 9000, H)]
    # Out, then deaf: what was told stands, and only silence is counted.
    told = _play(
        folder,
        [(0, HOME, H, 5), (1000, OUT, S, 5), (2000, UNKNOWN, D, 5), (2400, UNKNOWN, D, 5), (8000, HOME, H, 8000)],
    )
    assert [item[0] for item in told] == [LEFT, NOT_KNOWN, RETURNED] and told[-1][1] < 3000


def check_a_unit_that_watched_late_says_so(folder):
    one = Curfew(Settings(folder))
    one.watch(MONDAY + 22 * HOUR)
    told = _play(folder, [(3 * HOUR + 400, OUT, S, None)], one=one)
    assert told == [(AT_START, 0, 3 * HOUR, curfew.CAUSE_WATCHED_LATE)]


def check_a_reset_tells_nothing_twice(folder):
    one = Curfew(Settings(folder), 1)
    _play(folder, [(10, HOME, H, 5), (900, OUT, S, 500)], one=one)
    again = Curfew(Settings(folder))
    again.restore(*one.saved)
    again.watch(MONDAY + 20 * HOUR)
    told = _play(folder, [(5000, OUT, S, None), (6000, HOME, H, 6000)], one=again)
    assert [item[0] for item in told] == [RETURNED]


def check_learned_interval_and_range(folder):
    settings = Settings(folder)
    where = Whereabouts(settings, 0, 0)
    assert where.judge(1000, 1000) == UNKNOWN, "nothing is known yet"
    now = 0
    for counter in range(60):
        now += 30000
        if counter % 5:  # every fifth is missed
            where.heard(now, now, -70, counter)
            where.heard(now + 100, now + 100, -70, counter)
    assert 29000 <= where.interval_ms <= 31000
    assert where.judge(now + 350000, now + 350000) == HOME and where.judge(now + 361000, now + 361000) == OUT
    assert settings.apply_parameters(1, ((constants.PARAMETER_RANGE_PROFILE, 1),)) == b""
    assert not where.heard(now + 362000, now, -85, 61) and where.state == OUT, "weaker than the setting"
    assert where.heard(now + 363000, now, -79, 62) and where.heard(now + 364000, now, -85, 63), "hysteresis"
    assert not where.heard(now + 365000, now, -87, 64)
    assert where.heard(now + 366000, now, 42, 65), "a corrupt RSSI says nothing of the distance"
    where.judge(now + 900000, now + 900000)
    assert where.state == OUT and where.cause == whereabouts.CAUSE_SILENT


def check_silence_is_not_absence(folder):
    where = Whereabouts(Settings(folder), 0, 0)
    where.heard(0, 0, -60, 1)
    assert where.judge(119000, 119000) == HOME
    assert where.judge(600000, 60000) == UNKNOWN and where.cause == whereabouts.CAUSE_DEAF
    assert where.judge(800000, 700000) == OUT
    where.heard(800000, 700000, -60, 81)
    where.doubted(850000)
    assert where.judge(1000000, 900000) == UNKNOWN and where.cause == whereabouts.CAUSE_DOUBTFUL


async def check_a_night_without_any_link(folder):
    # No gateway answers from the boot on: order and time were given before. Home, out for an hour, home; then deaf.
    evening_s = MONDAY + 18 * HOUR
    work = home_unit._made(folder, listening_interval_s=3600, wan_lost_s=900)
    unit = HomeUnit(work.board)
    running = asyncio.create_task(unit.run())
    await asyncio.sleep_ms(100)
    device = unit.device
    device.clock.observe(constants.CLOCK_GATEWAY, evening_s * 1000, 10)
    device._orders.received((constants.MESSAGE_ORDER_CONDITIONS, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, EVERY_NIGHT))
    pid = home_unit.PidModel(work)
    await asyncio.sleep_ms(3 * HOUR * 1000)
    pid.near = False
    await asyncio.sleep_ms(HOUR * 1000)
    pid.near = True
    await asyncio.sleep_ms(HOUR * 1000)
    work.board.radio.refuses = True
    await asyncio.sleep_ms(3 * HOUR * 1000)
    kinds = (LEFT, AT_START, RETURNED, AT_END, NOT_KNOWN, KNOWN)
    told = list(work.events(*kinds))
    assert [event[0] for event in told] == [LEFT, RETURNED, NOT_KNOWN], told
    assert {event[2] for event in told} == {home_unit.PID}
    assert abs(told[0][1] - (evening_s + 3 * HOUR)) < 20 and 3500 < told[1][3] < 3700
    assert [event[0] for event in work.events(constants.EVENT_WAN_LOST)] == [constants.EVENT_WAN_LOST]
    ledger = [record[BODY:] for record in work.records(constants.MESSAGE_LISTENING)]
    assert len(ledger) >= 7
    assert ledger[2][2] == ((constants.RECEIVER_BLE, 3600, 0, constants.DEAF_NONE),)
    assert ledger[-1][2] == ((constants.RECEIVER_BLE, 0, 3600, constants.DEAF_FAULT),)
    running.cancel()


async def check_what_was_told_is_kept_over_any_number_of_resets(folder):
    began_ms = None
    told = []
    for boot in range(3):
        work = home_unit._made(folder)
        unit = HomeUnit(work.board)
        running = asyncio.create_task(unit.run())
        device = unit.device
        await asyncio.sleep_ms(60000 if boot else 100)  # after a reset the time comes later
        if began_ms is None:
            began_ms = virtual.now_ms()
            entries = (constants.MESSAGE_ORDER_CONDITIONS, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, EVERY_NIGHT)
            device._orders.received(entries)
        at_ms = (MONDAY + 18 * HOUR) * 1000 + virtual.now_ms() - began_ms
        device.clock.observe(constants.CLOCK_GATEWAY, at_ms, 10)
        if not boot:
            pid = home_unit.PidModel(work)
            await asyncio.sleep_ms(3 * HOUR * 1000)
            pid.near = False
        await asyncio.sleep_ms(1800 * 1000)
        running.cancel()
        await asyncio.sleep_ms(0)
        told.append([event[0] for event in work.events(LEFT, AT_START, RETURNED, AT_END)])
    assert told == [[LEFT]] * 3, told
