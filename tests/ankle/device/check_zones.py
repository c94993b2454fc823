"""Zones of an order on the whole tag: alarms at once, denser positions and reports while violated."""

import asyncio
import os
import struct

from emwire import constants
from tags.ankle_gps import OUTCOME_MISDATED

from tag_at_work import LATITUDE, LONGITUDE, MINUTE, START_TIME_S, Tag, seconds

SCHOOL = (constants.ZONE_EXCLUSION, 2, 300, ((LATITUDE + 9000, LONGITUDE),))  # its centre is 1,000 m north


def _spacing(fixes):
    return [b[0] - a[0] for a, b in zip(fixes, fixes[1:])]


async def check_entered_and_left(folder):
    work = Tag(folder).start()
    work.order(3, SCHOOL)
    await asyncio.sleep_ms(20 * MINUTE)
    assert work.events(constants.EVENT_ZONE_ENTERED) == []
    work.north(1000)
    entered_s = 20 * 60
    await asyncio.sleep_ms(4 * MINUTE)
    (event,) = work.events(constants.EVENT_ZONE_ENTERED)
    # One position a minute, and the next 15 s after the first inside.
    assert 0 <= seconds(event[1]) - entered_s <= 70 and event[3] == 0
    version, kind, cause, count, judged, span, precision, latitude, longitude = struct.unpack(
        "<HBBBBHHii", bytes(event[4])
    )
    assert (version, kind, cause, count) == (3, constants.ZONE_EXCLUSION, 0, 2) and 10 <= span <= 20, span
    assert abs(latitude - LATITUDE - 9000) < 30 and longitude == LONGITUDE and precision == 14
    await asyncio.sleep_ms(6 * MINUTE)
    spacing = _spacing(work.fixes())[-20:]
    assert max(spacing) <= 16 and min(spacing) >= 14, spacing
    work.north(2000)
    await asyncio.sleep_ms(10 * MINUTE)
    (event,) = work.events(constants.EVENT_ZONE_LEFT)
    assert 30 * 60 <= seconds(event[1]) <= 30 * 60 + 20
    spacing = _spacing(work.fixes())[-4:]
    assert min(spacing) >= 59, spacing


async def check_a_violation_takes_the_trail_along_and_reports_each_minute(folder):
    work = Tag(folder, covered=True, settings={"report_interval_s": 3600}).start()
    work.order(1, SCHOOL)
    await asyncio.sleep_ms(30 * MINUTE)
    work.north(1000)
    await asyncio.sleep_ms(3 * MINUTE)
    assert work.events(constants.EVENT_ZONE_ENTERED)
    assert work.fixes()[-1][0] - work.events(constants.EVENT_ZONE_ENTERED)[0][1] > 10, "with the trail up to it"
    assert work.device.uplink.interval_s == 60
    work.north(3000)
    await asyncio.sleep_ms(3 * MINUTE)
    assert work.device.uplink.interval_s == 0


async def check_order_that_ends_closes_the_violation(folder):
    work = Tag(folder).start()
    work.order(1, SCHOOL)
    work.north(1000)
    await asyncio.sleep_ms(5 * MINUTE)
    assert work.kinds().count(constants.EVENT_ZONE_ENTERED) == 1
    work.order(2)
    await asyncio.sleep_ms(1 * MINUTE)
    (event,) = work.events(constants.EVENT_ZONE_LEFT)
    assert event[4][0] == 1 and event[4][3] == 1, "cause: order; version: the one it belonged to"
    assert not work.tag.zones.violated


async def check_no_fix_and_a_cell_position_are_no_violation(folder):
    work = Tag(folder, covered=True)
    work.receiver.sky = False
    work.start()
    # All of the country.
    work.order(1, (constants.ZONE_EXCLUSION, 1, 60000, ((51507351, -127758),)))
    await asyncio.sleep_ms(60 * MINUTE)
    assert len(work.fixes()) > 10 and work.events(constants.EVENT_ZONE_ENTERED) == []


async def check_leaving_an_inclusion_polygon(folder):
    home = ((LATITUDE - 5000, LONGITUDE - 5000), (LATITUDE - 5000, LONGITUDE + 5000), (LATITUDE + 5000, LONGITUDE))
    work = Tag(folder).start()
    work.order(1, (constants.ZONE_INCLUSION, 3, 0, home))
    await asyncio.sleep_ms(20 * MINUTE)
    work.north(900)
    await asyncio.sleep_ms(5 * MINUTE)
    assert work.kinds() == [constants.EVENT_ORDER_APPLIED, constants.EVENT_ZONE_LEFT] and work.tag.zones.violated
    work.north(0)
    await asyncio.sleep_ms(5 * MINUTE)
    assert work.kinds()[-1] == constants.EVENT_ZONE_ENTERED and not work.tag.zones.violated


async def check_a_dwell_is_told_when_it_is_over(folder):
    """However short the span of the positions that are counted: every 15 s, three of them."""
    for dwell_s in (60, 300):
        work = Tag(folder, settings={"zone_dwell_s": dwell_s}).start()
        work.order(3, SCHOOL)
        work.north(1000)
        await asyncio.sleep_ms(dwell_s * 1000)
        assert work.events(constants.EVENT_ZONE_ENTERED) == []
        await asyncio.sleep_ms(2 * MINUTE)
        (event,) = work.events(constants.EVENT_ZONE_ENTERED)
        first = work.fixes()[0][0]
        assert event[1] == first and dwell_s <= struct.unpack("<HBBBBH", bytes(event[4]))[5] <= dwell_s + 16
        work.stop()
        folder += "/n"
        os.mkdir(folder)


async def check_a_receiver_s_wrong_date_is_told_and_zones_are_judged_on(folder):
    work = Tag(folder).start()
    work.order(3, SCHOOL)
    work.device.clock.observe(constants.CLOCK_GATEWAY, START_TIME_S * 1000, 100)
    await asyncio.sleep_ms(5 * MINUTE)
    work.receiver.skew_s = 86400
    await asyncio.sleep_ms(3 * MINUTE)
    work.receiver.skew_s = 0
    work.receiver.dated = False
    await asyncio.sleep_ms(5 * MINUTE)
    work.receiver.dated = True
    work.north(1000)
    await asyncio.sleep_ms(5 * MINUTE)
    times = [seconds(fix[0]) for fix in work.fixes()]
    assert times == sorted(times) and len(times) >= 14 and times[-1] <= 18 * 60, times
    (fault,) = work.events(constants.EVENT_GNSS_FAULT)
    assert fault[3] == OUTCOME_MISDATED and 300 <= seconds(fault[1]) <= 370
    assert work.events(constants.EVENT_ZONE_ENTERED)
    # A wrong time that was believed first, and put right.
    work.stop()
    folder += "/n"
    os.mkdir(folder)
    work = Tag(folder)
    work.receiver.skew_s = 86400
    work.start()
    work.order(3, SCHOOL)
    await asyncio.sleep_ms(5 * MINUTE)
    work.receiver.skew_s = 0
    await asyncio.sleep_ms(5 * MINUTE)
    work.north(1000)
    await asyncio.sleep_ms(5 * MINUTE)
    assert work.events(constants.EVENT_ZONE_ENTERED)
