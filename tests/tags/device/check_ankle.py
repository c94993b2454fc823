"""The ankle tag's trail: real fixes only, none invented, no fix said as such, a fault only when there is one."""

import asyncio
import struct

from emwire import constants
from emwire.positions import decode_block
from tags import trail

from at_work import BODY, AtWork
from modem_model import ModemModel
from receiver_model import START_TIME_S, ReceiverModel

HOUR = 3600000


def _tag(folder, **identity):
    work = AtWork(folder, "ankle_gps", **identity)
    modem = ModemModel(work.board)
    # Without coverage: the modem is not what is looked at here.
    modem.registers_after_ms = None
    modem.clock = b'+CCLK: "80/01/06,00:00:00+00"'
    return work, ReceiverModel(work.board), modem


def _fixes(work):
    return [fix for record in work.records(constants.MESSAGE_POSITION_BLOCK) for fix in decode_block(record[BODY])]


async def check_a_fix_a_minute_in_blocks(folder):
    work, receiver, _ = _tag(folder)
    work.start()
    await asyncio.sleep_ms(2 * HOUR)
    fixes = _fixes(work)
    assert 114 <= len(fixes) <= 121
    spacing = [b[0] - a[0] for a, b in zip(fixes, fixes[1:])]
    assert min(spacing[1:]) >= 59 and max(spacing[1:]) <= 61
    assert fixes[0][1:9] == (51461200, -115600, 28, 90, 14, 10, 9, constants.MECHANISM_GPS)
    assert START_TIME_S < fixes[0][0] < START_TIME_S + 120
    blocks = work.records(constants.MESSAGE_POSITION_BLOCK)
    assert 22 <= len(blocks) <= 25 and work.events() == []
    assert receiver.on_ms < HOUR, "switched off between fixes"


async def check_clock_from_the_sky(folder):
    work, _, _ = _tag(folder)
    work.start()
    await asyncio.sleep_ms(HOUR)
    status = work.records(constants.MESSAGE_STATUS)[-1]
    block = work.records(constants.MESSAGE_POSITION_BLOCK)[-1]
    source, uncertainty_ms, recorded_s, uptime_s = block[1:5]
    assert source == constants.CLOCK_GNSS and uncertainty_ms <= 510
    assert abs(recorded_s - (START_TIME_S + uptime_s)) <= 1
    assert status[BODY + 12] == 0


async def check_settings_change_takes_effect_at_once(folder):
    work, _, _ = _tag(folder, settings={"fix_interval_s": 600, "report_interval_s": 600})
    work.start()
    await asyncio.sleep_ms(HOUR // 2)
    assert len(_fixes(work)) <= 4


async def check_no_sky_is_no_violation_and_no_fault(folder):
    work, receiver, _ = _tag(folder)
    work.start()
    await asyncio.sleep_ms(HOUR)
    before = len(_fixes(work))
    receiver.sky = False
    await asyncio.sleep_ms(3 * HOUR)
    assert len(_fixes(work)) <= before + 6, "nothing is made up"
    receiver.sky = True
    await asyncio.sleep_ms(HOUR)
    assert len(_fixes(work)) > before + 50
    events = work.events()
    assert {event[0] for event in events} == {constants.EVENT_NO_FIX}
    assert len(events) == 4, "begun, two hourly, over"
    attempts, _, ended = struct.unpack(trail.EVIDENCE_FORMAT, bytes(events[-1][4]))
    assert ended and 55 < attempts < 75, "every 3 min after the first"
    assert abs(events[-1][3] - 3 * 3600) < 120
    assert {event[1] for event in events} == {events[0][1]}, "one span, one beginning"


async def check_network_position_in_between(folder):
    work, receiver, modem = _tag(folder)
    modem.registers_after_ms = 3000
    modem.clock = b'+CCLK: "26/11/20,06:00:05+00"'
    receiver.sky = False
    work.start()
    await asyncio.sleep_ms(HOUR)
    _network_s(_fixes(work))


def _network_s(fixes):
    assert max(b[0] - a[0] for a, b in zip(fixes, fixes[1:])) < 300 and len(fixes) >= 12
    assert {fix[1:] for fix in fixes} == {(51507351, -127758, -1, -1, 550, -1, -1, constants.MECHANISM_LBS)}


async def check_silent_or_senseless_receiver_is_a_fault(folder):
    """And no more than that, however the wearer moves: the network says where, as without sky."""
    for fault, covered in (("silent", False), ("garbage", True)):
        work, receiver, modem = _tag(folder)
        if covered:
            modem.registers_after_ms = 3000
            modem.clock = b'+CCLK: "26/11/20,06:00:05+00"'
        setattr(receiver, fault, True)
        work.start()
        work.board.inputs["motion"].set(1)
        await asyncio.sleep_ms(HOUR - 60000)
        assert [event[0] for event in work.events()] == [constants.EVENT_GNSS_FAULT]
        if covered:
            _network_s(_fixes(work))
        else:
            assert _fixes(work) == []
        work.stop()
        folder = _fresh(folder)


def _fresh(folder):
    import os

    os.mkdir(folder + "/next")
    return folder + "/next"


async def check_wild_receiver_clock_is_told_not_followed(folder):
    work, receiver, _ = _tag(folder)
    work.start()
    await asyncio.sleep_ms(HOUR)
    receiver.skew_s = 900
    await asyncio.sleep_ms(HOUR)
    jumps = work.events(constants.EVENT_CLOCK_JUMPED)
    assert len(jumps) == 1 and abs(jumps[0][3] - 900000) <= 1000


async def check_strap_cut_brings_a_fix_at_once(folder):
    work, _, _ = _tag(folder, settings={"fix_interval_s": 600})
    work.start()
    await asyncio.sleep_ms(HOUR - 120000)
    before = len(_fixes(work))
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(20000)
    assert [event[0] for event in work.events()] == [constants.EVENT_STRAP_CUT]
    assert len(_fixes(work)) > before
