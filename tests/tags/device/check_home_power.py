"""The home unit on its battery, without its link, carried off, tested for range, and told of the pid's strap."""

import asyncio
import struct

from emwire import beacon, constants
from tags import range_test
from tags.home_unit import HomeUnit

import check_home_unit as home_unit
from at_work import BODY

MINUTE = home_unit.MINUTE
PID = home_unit.PID


def _unit(folder, **settings):
    work = home_unit._made(folder, **settings)
    unit = HomeUnit(work.board)
    return work, unit, asyncio.create_task(unit.run())


async def check_works_on_and_spares_the_battery(folder):
    work, unit, running = _unit(folder, listening_interval_s=600)
    await asyncio.sleep_ms(0)
    home_unit.PidModel(work)
    await asyncio.sleep_ms(10 * MINUTE)
    work.board.inputs["mains"].set(0)
    await asyncio.sleep_ms(2000)
    lost = work.events(constants.EVENT_MAINS_LOST)
    assert len(lost) == 1, "at once"
    await asyncio.sleep_ms(32 * MINUTE)
    windows = home_unit._presences(work)
    assert windows[-1][4:6] == (180, 120) and windows[-1][6] > 10, "listens on for its share"
    ledger = [record[BODY:] for record in work.records(constants.MESSAGE_LISTENING)]
    assert ledger[0][2] == ((constants.RECEIVER_BLE, 600, 0, constants.DEAF_NONE),)
    spared = (constants.RECEIVER_BLE, 0, 240, constants.DEAF_NO_POWER)
    assert ledger[-1][2] == ((constants.RECEIVER_BLE, 360, 0, constants.DEAF_NONE), spared)
    assert not work.events(constants.EVENT_RECEIVER_DEAF), "on purpose is no fault"
    work.board.inputs["mains"].set(1)
    await asyncio.sleep_ms(12 * MINUTE)
    assert home_unit._presences(work)[-1][4:6] == (300, 0)
    running.cancel()


async def check_wan_lost_and_restored(folder):
    work, unit, running = _unit(folder, wan_lost_s=900)
    uplink = unit.device.uplink
    word = 0
    for minute in range(60):
        await asyncio.sleep_ms(MINUTE)
        if minute < 20 or minute >= 50:
            word = uplink.word_ms = unit.device.ticks_ms()
    lost, restored = work.events(constants.EVENT_WAN_LOST, constants.EVENT_WAN_RESTORED)
    assert lost[0] == constants.EVENT_WAN_LOST and 900 <= lost[3] <= 1500, lost
    assert restored[0] == constants.EVENT_WAN_RESTORED and restored[3] == 31 * 60, restored
    assert word
    running.cancel()


async def check_silent_gateway_is_asked_first(folder):
    work, unit, running = _unit(folder, wan_lost_s=900)
    asked = []
    link = unit.device.link
    await asyncio.sleep_ms(1000)
    link.time_wanted = False
    ask, link.ask = link.ask, lambda: asked.append(unit.device.ticks_ms())
    await asyncio.sleep_ms(6 * MINUTE)
    assert asked and not work.events(constants.EVENT_WAN_LOST)
    link.ask = ask
    running.cancel()


async def check_motion_with_a_lost_link_is_a_move(folder):
    work, unit, running = _unit(folder, wan_lost_s=900)
    await asyncio.sleep_ms(10 * MINUTE)
    unit.device.uplink.word_ms = unit.device.ticks_ms()
    await asyncio.sleep_ms(MINUTE)
    work.board.inputs["motion"].set(1)
    work.board.inputs["motion"].set(0)
    await asyncio.sleep_ms(10 * MINUTE)
    work.board.inputs["motion"].set(1)
    assert not work.events(constants.EVENT_HOME_UNIT_MOVED)
    await asyncio.sleep_ms(10 * MINUTE)
    moved = work.events(constants.EVENT_HOME_UNIT_MOVED)
    assert len(moved) == 1 and moved[0][3] == 60, "known once the link counts as lost"
    running.cancel()


async def check_walking_about_first_and_unplugging_then_is_a_move(folder):
    """An accelerometer holds its line while it is moved: there is no edge near the loss of power."""
    work, unit, running = _unit(folder)
    await asyncio.sleep_ms(10 * MINUTE)
    work.board.inputs["motion"].set(1)
    await asyncio.sleep_ms(3 * MINUTE)
    work.board.inputs["mains"].set(0)
    await asyncio.sleep_ms(MINUTE)
    work.board.inputs["motion"].set(0)
    (moved,) = work.events(constants.EVENT_HOME_UNIT_MOVED)
    assert moved[3] == 0
    running.cancel()


async def check_a_vibration_switch_s_many_edges_push_nothing_out(folder):
    """Carried off on its battery: the link is known as lost a quarter of an hour and thousands of edges later."""
    work, unit, running = _unit(folder, wan_lost_s=900)
    await asyncio.sleep_ms(10 * MINUTE)
    unit.device.uplink.word_ms = unit.device.ticks_ms()
    for _ in range(30 * 60):
        for level in (1, 0, 1, 0):
            work.board.inputs["motion"].set(level)
        await asyncio.sleep_ms(1000)
    assert work.events(constants.EVENT_WAN_LOST) and work.events(constants.EVENT_HOME_UNIT_MOVED)
    running.cancel()


async def check_what_was_lost_before_a_reset_is_told_to_be_back(folder):
    work, _, running = _unit(folder, wan_lost_s=900)
    await asyncio.sleep_ms(MINUTE)
    work.board.inputs["mains"].set(0)
    work.board.inputs["case"].set(1)
    await asyncio.sleep_ms(30 * MINUTE)
    running.cancel()
    await asyncio.sleep_ms(0)
    lost = (constants.EVENT_MAINS_LOST, constants.EVENT_WAN_LOST, constants.EVENT_CASE_OPEN)
    assert len(work.events(*lost)) == 3
    work, unit, running = _unit(folder, wan_lost_s=900)  # the battery was empty, and the mains came back
    await asyncio.sleep_ms(MINUTE)
    unit.device.uplink.word_ms = unit.device.ticks_ms()
    await asyncio.sleep_ms(MINUTE)
    back = (constants.EVENT_MAINS_RESTORED, constants.EVENT_WAN_RESTORED, constants.EVENT_CASE_CLOSED)
    assert sorted(event[0] for event in work.events(*back)) == sorted(back)
    assert len(work.events(*lost)) == 3
    running.cancel()
    await asyncio.sleep_ms(0)
    work, unit, running = _unit(folder, wan_lost_s=900)
    await asyncio.sleep_ms(5 * MINUTE)
    assert len(work.events(*back)) == 3, "once"
    running.cancel()


async def check_range_test_before_activation(folder):
    work, unit, running = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = home_unit.PidModel(work)
    commands = unit.device.commands
    commands.received((constants.MESSAGE_COMMAND, 1, constants.COMMAND_RANGE_TEST, 60, 0))
    for rssi_dbm in (-70, -90, 99, -75):
        pid.rssi_dbm = rssi_dbm
        await asyncio.sleep_ms(15000)
    await asyncio.sleep_ms(1000)
    accepted, done = [record[BODY:] for record in work.records(constants.MESSAGE_COMMAND_RESULT)]
    assert accepted[2] == constants.OUTCOME_ACCEPTED and done[2] == constants.OUTCOME_DONE and done[4] == 1
    number, count, weakest, median, strongest = struct.unpack(range_test.DETAIL_FORMAT, bytes(done[5]))
    assert (number, weakest, strongest) == (PID, -90, -70) and 10 <= count <= 13 and median in (-75, -70)
    pid.near = False
    commands.received((constants.MESSAGE_COMMAND, 2, constants.COMMAND_RANGE_TEST, 30, 0))
    commands.received((constants.MESSAGE_COMMAND, 3, constants.COMMAND_RANGE_TEST, 9999, 0))
    commands.received((constants.MESSAGE_COMMAND, 4, constants.COMMAND_SET_PROFILE, 1, 0))
    commands.received((constants.MESSAGE_COMMAND, 5, constants.COMMAND_SET_PROFILE, 4, 0))
    await asyncio.sleep_ms(40000)
    results = {record[BODY]: record[BODY:] for record in work.records(constants.MESSAGE_COMMAND_RESULT)}
    assert results[2][4] == 0 and bytes(results[2][5])[4] == 0, "nothing heard"
    assert results[3][2] == constants.OUTCOME_REFUSED == results[5][2]
    assert results[4][2] == constants.OUTCOME_DONE and unit.device.settings.range_profile == 1
    running.cancel()


async def check_strap_and_battery_of_the_pid_at_once(folder):
    work, unit, running = _unit(folder)
    await asyncio.sleep_ms(0)
    pid = home_unit.PidModel(work)
    await asyncio.sleep_ms(6 * MINUTE)
    before = len(home_unit._presences(work))
    pid.status = beacon.STATUS_STRAP_OPEN
    await asyncio.sleep_ms(15000)
    windows = home_unit._presences(work)
    assert len(windows) == before + 1 and windows[-1][13] == constants.STRAP_OPEN, "not after the window"
    assert unit.device.settings.apply_parameters(1, ((constants.PARAMETER_BATTERY_LOW_PERCENT, 90),)) == b""
    await asyncio.sleep_ms(20 * MINUTE)
    assert [event[2:4] for event in work.events(constants.EVENT_BEACON_BATTERY_LOW)] == [(PID, 87)]
    running.cancel()
