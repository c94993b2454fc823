"""Position on demand, motion, the dock, shielding, doubted positions, and what a kill leaves."""

import asyncio
import os
import struct

from check_accelerometer import Bus
from cryptolib import aes
from drivers import lis2dw12
from emwire import beacon, constants
from tags import locate, shielding
from virtual import now_ms

from tag_at_work import HOUR, LATITUDE, MINUTE, Tag, now_s, seconds

BEACON = 0x30000001
BEACON_KEY = bytes(range(16, 32))


def _spacing(fixes):
    return [b[0] - a[0] for a, b in zip(fixes, fixes[1:])]


def _results(work):
    return [record[5:] for record in work.records(constants.MESSAGE_COMMAND_RESULT)]


async def check_locate_now(folder):
    work = Tag(folder, settings={"fix_interval_s": 600}).start()
    await asyncio.sleep_ms(25 * MINUTE)
    before = len(work.fixes())
    work.tell(constants.MESSAGE_COMMAND, 7, constants.COMMAND_LOCATE_NOW, 0, 0)
    await asyncio.sleep_ms(10000)
    number, kind, outcome, _, age, detail = _results(work)[-1]
    assert (number, kind, outcome) == (7, constants.COMMAND_LOCATE_NOW, constants.OUTCOME_DONE) and age <= 2
    time_s, latitude, _, precision_m, mechanism = struct.unpack(locate.DETAIL_FORMAT, bytes(detail))
    assert seconds(time_s) >= 25 * 60 and latitude == LATITUDE and (precision_m, mechanism) == (14, 1)
    assert len(work.fixes()) > before and work.fixes()[-1][0] == time_s, "its position is in a record already"


async def check_locate_without_sky_fails_in_time_with_what_is_known(folder):
    work = Tag(folder, covered=True, settings={"gnss_back_off_s": 60}).start()
    work.modem.delays_ms = {b"AT+CLBS": 25000}
    await asyncio.sleep_ms(10 * MINUTE)
    work.receiver.sky = False
    await asyncio.sleep_ms(5 * MINUTE)
    # At every second of an attempt of 40 s, and after it; the last ones of a modem that is slower than it may be.
    for number in range(45):
        starts = work.receiver.starts
        while work.receiver.starts == starts:
            await asyncio.sleep_ms(500)
        await asyncio.sleep_ms(number * 1000)
        if number == 38:
            work.modem.delays_ms = {b"AT+CSQ": 4500, b"AT+CLBS": 40000}
        limit_s = (0, 60, 10)[number % 3]
        given_ms = limit_s * 1000 or 180000
        begun = now_ms()
        work.tell(constants.MESSAGE_COMMAND, 1000 + number, constants.COMMAND_LOCATE_NOW, limit_s, 0)
        while work.device.commands._running:
            await asyncio.sleep_ms(100)
        took_ms = now_ms() - begun
        assert given_ms - min(30000, given_ms // 2) <= took_ms <= given_ms, (number, limit_s, took_ms)
    results = [result for result in _results(work) if result[2] != constants.OUTCOME_ACCEPTED]
    assert len(results) == 45 and {result[2] for result in results} == {constants.OUTCOME_FAILED}
    mechanisms = {struct.unpack(locate.DETAIL_FORMAT, bytes(result[5]))[4] for result in results}
    assert mechanisms == {constants.MECHANISM_LBS}
    work.stop()
    folder += "/next"
    os.mkdir(folder)
    work = Tag(folder).start()
    await asyncio.sleep_ms(1000)
    work.tell(constants.MESSAGE_COMMAND, 9, constants.COMMAND_LOCATE_NOW, 181, 0)
    await asyncio.sleep_ms(1000)
    assert _results(work)[-1][2] == constants.OUTCOME_REFUSED


async def check_still_sleeps_longer_and_motion_wakes(folder):
    work = Tag(folder).start()
    motion = work.board.inputs["motion"]
    await asyncio.sleep_ms(20 * MINUTE)
    assert max(_spacing(work.fixes())) <= 61, "a sensor that never spoke is not believed"
    motion.set(1)
    await asyncio.sleep_ms(MINUTE)
    motion.set(0)
    await asyncio.sleep_ms(HOUR)
    assert min(_spacing(work.fixes())[-8:]) >= 230
    await asyncio.sleep_ms(30000)
    motion.set(1)
    moved = now_s()
    await asyncio.sleep_ms(20 * MINUTE)
    after = [seconds(fix[0]) for fix in work.fixes() if seconds(fix[0]) >= moved]
    assert after[0] - moved < 10 and after[5] - after[0] <= 305
    assert work.kinds() == []


async def check_positions_that_move_contradict_a_still_sensor(folder):
    work = Tag(folder)
    set_up = []
    work.board.keep_motion = set_up.append
    work.start()
    motion = work.board.inputs["motion"]
    motion.set(1)
    await asyncio.sleep_ms(MINUTE)
    motion.set(0)
    for step in range(30):
        work.north(step * 1000)
        await asyncio.sleep_ms(2 * MINUTE)
    assert max(_spacing(work.fixes())[-20:]) <= 61
    assert 1 <= set_up.count(True) <= 2 and set_up.count(False) >= 12, set_up


async def check_a_sensor_that_forgets_is_set_up_again(folder):
    bus = Bus()
    lis2dw12.setup(bus)
    work = Tag(folder)
    work.board.keep_motion = lambda anew: (lis2dw12.setup if anew else lis2dw12.keep)(bus)
    work.start()
    await asyncio.sleep_ms(20 * MINUTE)
    assert bus.resets == 1
    bus.forget()
    await asyncio.sleep_ms(6 * MINUTE)
    lis2dw12.check(bus)
    bus.mute_from = bus.accesses
    await asyncio.sleep_ms(HOUR)
    faults = work.events(constants.EVENT_SELF_TEST_FAILED)
    assert [bytes(fault[4])[:6] for fault in faults] == [b"motion"], "once"
    bus.mute_from = None
    bus.forget()
    await asyncio.sleep_ms(6 * MINUTE)
    lis2dw12.check(bus)


async def check_motion_without_satellites(folder):
    work = Tag(folder, covered=True).start()
    await asyncio.sleep_ms(10 * MINUTE)
    work.receiver.sky = False
    work.board.inputs["motion"].set(1)
    await asyncio.sleep_ms(18 * MINUTE)
    assert constants.EVENT_MOTION_WITHOUT_GNSS not in work.kinds(), "10 min of motion and 10 min of grace"
    await asyncio.sleep_ms(8 * MINUTE)
    work.receiver.sky = True
    await asyncio.sleep_ms(30 * MINUTE)
    events = work.events(constants.EVENT_MOTION_WITHOUT_GNSS, constants.EVENT_MOTION_GNSS_RESTORED)
    assert [event[0] for event in events] == [26, 64] and 600 <= events[0][3] <= 1600, events


async def check_its_own_motor_moves_nobody(folder):
    """NOTIFY_WEARER until acknowledged: 20 times 34.5 s, of which the sensor makes one motion."""
    work = Tag(folder)
    work.receiver.sky = False
    work.start()
    work.device.clock.observe(constants.CLOCK_GATEWAY, 5 * 10**11, 500)
    motion = work.board.inputs["motion"]
    shaken = []

    async def asleep_after(number):
        await asyncio.sleep_ms(41000)
        if number == len(shaken):
            motion.set(0)

    def shake(level):
        if level:
            motion.set(1)
        shaken.append(level)
        asyncio.create_task(asleep_after(len(shaken)))

    work.board.outputs["vibration"].on_level = shake
    work.tell(constants.MESSAGE_COMMAND, 7, constants.COMMAND_NOTIFY_WEARER, 3, 0)
    await asyncio.sleep_ms(45 * MINUTE)
    assert shaken.count(1) == 60 and constants.EVENT_MOTION_WITHOUT_GNSS not in work.kinds()
    motion.set(1)
    await asyncio.sleep_ms(30 * MINUTE)
    assert constants.EVENT_MOTION_WITHOUT_GNSS in work.kinds()


async def check_motion_that_ends_when_it_becomes_an_event_is_told(folder):
    work = Tag(folder, settings={"gnss_back_off_s": 3600}).start()
    work.receiver.sky = False
    motion = work.board.inputs["motion"]
    motion.set(1)
    await asyncio.sleep_ms(10 * MINUTE)
    # An edge every half minute: one of them comes before the next attempt is over.
    for number in range(60):
        motion.set(number % 2)
        await asyncio.sleep_ms(30000)
    assert work.kinds().count(constants.EVENT_MOTION_WITHOUT_GNSS) == 1


async def check_doubted_positions_are_kept_told_and_not_judged(folder):
    work = Tag(folder).start()
    work.order(1, (constants.ZONE_EXCLUSION, 1, 2000, ((LATITUDE + 360000, -115600),)))
    await asyncio.sleep_ms(10 * MINUTE)
    work.north(40000)
    await asyncio.sleep_ms(55000)
    work.north(0)
    await asyncio.sleep_ms(10 * MINUTE)
    (event,) = work.events(constants.EVENT_POSITION_DOUBTED)
    assert event[3] > 1000 and struct.unpack("<II", bytes(event[4]))[0] > 39000
    wrong = [fix for fix in work.fixes() if fix[1] > LATITUDE + 300000]
    assert len(wrong) == 1 and wrong[0][0] == event[1], "in the trail, and named by its time"
    assert work.events(constants.EVENT_ZONE_ENTERED) == []


async def check_shielding(folder):
    """Foil round the tag: both gone within a minute. And what is not shielding."""
    for sky_first_min, dbm, expected in ((0, 20, 2), (15, 20, 0), (0, 3, 0), (None, 20, 0)):
        work = Tag(folder, covered=True)
        work.modem.answers[b"AT+CSQ"] = b"\r\n+CSQ: %d,99\r\n\r\nOK\r\n" % dbm
        work.start()
        await asyncio.sleep_ms(30 * MINUTE)
        if sky_first_min is not None:
            work.receiver.sky = False
            await asyncio.sleep_ms(sky_first_min * MINUTE)
        work.modem._registered = False
        work.modem.registers_after_ms = None
        work.modem.send(b"\r\n+CEREG: 2\r\n")
        await asyncio.sleep_ms(20 * MINUTE)
        work.receiver.sky = True
        await asyncio.sleep_ms(10 * MINUTE)
        kinds = (constants.EVENT_SHIELDING_SUSPECTED, constants.EVENT_SHIELDING_ENDED)
        events = work.events(*kinds)
        assert len(events) == expected, (sky_first_min, dbm, events)
        if events:
            assert [event[0] for event in events] == list(kinds)
            assert 120 <= events[0][3] <= 200 and abs(events[1][3] - 20 * 60) <= 120, events
            no_sky, no_cell, strength, _, satellites, _ = struct.unpack(shielding.EVIDENCE_FORMAT, bytes(events[0][4]))
            assert no_sky >= 100 and no_cell >= 120 and (strength, satellites) == (2 * dbm - 113, 10)
        work.stop()
        folder += "/n"
        os.mkdir(folder)


def _token(counter, key=BEACON_KEY):
    return beacon.build(aes(key, 1).encrypt, BEACON, counter, 0, 90)


async def _send_beacons(work, state):
    counter = 0
    while True:
        await asyncio.sleep_ms(10000)
        counter += 1
        if state["on"]:
            work.board.radio.hear(b"123456", -60, _token(counter, state["key"]))


async def check_docked_it_rests(folder):
    work = Tag(folder, beacons=[{"beacon_id": BEACON, "key": "101112131415161718191a1b1c1d1e1f"}]).start()
    state = {"on": True, "key": BEACON_KEY}
    asyncio.create_task(_send_beacons(work, state))
    await asyncio.sleep_ms(10 * MINUTE)
    assert len(work.fixes()) >= 4 and work.records(constants.MESSAGE_PRESENCE) == []
    charger = work.board.inputs["charger"]
    charger.set(1)
    await asyncio.sleep_ms(2 * MINUTE)
    before, starts = len(work.fixes()), work.receiver.starts
    await asyncio.sleep_ms(HOUR)
    (docked,) = work.events(constants.EVENT_DOCKED)
    assert docked[2] == BEACON and len(work.fixes()) <= before + 6 and work.receiver.starts == starts
    presence = work.records(constants.MESSAGE_PRESENCE)
    assert len(presence) >= 11
    for record in presence:
        assert record[5:7] == (BEACON, constants.AUTHENTICITY_AUTHENTIC)
        assert record[9] + record[10] == record[8], "listened and deaf make up the window"
    # Windows without a hole between them.
    for one, other in zip(presence, presence[1:]):
        assert abs(one[7] + one[8] - other[7]) <= 1
    work.tell(constants.MESSAGE_COMMAND, 7, constants.COMMAND_NOTIFY_WEARER, 2, 0)
    await asyncio.sleep_ms(100)
    work.board.inputs["motion"].set(1)
    await asyncio.sleep_ms(45000)
    work.board.inputs["motion"].set(0)
    await asyncio.sleep_ms(6 * MINUTE)
    assert constants.EVENT_UNDOCKED not in work.kinds(), "its own motor moved it"
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(10000)
    assert constants.EVENT_STRAP_CUT in work.kinds(), "all else is watched"
    charger.set(0)
    undocked = now_s()
    await asyncio.sleep_ms(10 * MINUTE)
    (event,) = work.events(constants.EVENT_UNDOCKED)
    assert event[3] > 3600 and event[4] == b"\x01"
    assert [fix for fix in work.fixes() if 0 <= seconds(fix[0]) - undocked < 60], "at once again"
    assert not work.board.radio.active(), "on battery it listens for nothing"


async def check_charging_elsewhere_is_not_docked(folder):
    """Charging without the beacon, with a stranger's, with a recorded one, or in motion: positions go on."""
    work = Tag(folder, beacons=[{"beacon_id": BEACON, "key": "101112131415161718191a1b1c1d1e1f"}]).start()
    work.board.inputs["charger"].set(1)
    state = {"on": False, "key": bytes(16)}
    asyncio.create_task(_send_beacons(work, state))
    await asyncio.sleep_ms(30 * MINUTE)
    state["on"] = True
    await asyncio.sleep_ms(30 * MINUTE)
    assert len(work.fixes()) >= 45 and constants.EVENT_DOCKED not in work.kinds()
    state["key"] = BEACON_KEY
    await asyncio.sleep_ms(10 * MINUTE)
    assert constants.EVENT_DOCKED in work.kinds()
    work.board.inputs["motion"].set(1)
    moved = now_s()
    await asyncio.sleep_ms(10 * MINUTE)
    assert work.kinds()[-1] == constants.EVENT_UNDOCKED
    assert len([fix for fix in work.fixes() if seconds(fix[0]) > moved]) >= 4


async def check_beacon_lost_ends_the_rest(folder):
    work = Tag(folder, beacons=[{"beacon_id": BEACON, "key": "101112131415161718191a1b1c1d1e1f"}]).start()
    state = {"on": True, "key": BEACON_KEY}
    asyncio.create_task(_send_beacons(work, state))
    work.board.inputs["charger"].set(1)
    await asyncio.sleep_ms(30 * MINUTE)
    state["on"] = False
    await asyncio.sleep_ms(20 * MINUTE)
    (event,) = work.events(constants.EVENT_UNDOCKED)
    assert event[4] == b"\x02" and len(work.fixes()) >= 5


async def check_a_kill_loses_at_most_the_fix_under_way(folder):
    work = Tag(folder, settings={"report_interval_s": 3600}).start()
    await asyncio.sleep_ms(30 * MINUTE)
    taken = list(work.tag.log.fixes)
    assert len(taken) >= 28 and work.records(constants.MESSAGE_POSITION_BLOCK) == []
    work.stop()
    await asyncio.sleep_ms(MINUTE)
    again = Tag(folder, settings={"report_interval_s": 3600}).start()
    await asyncio.sleep_ms(MINUTE)
    assert again.fixes()[: len(taken)] == taken and len(again.records(constants.MESSAGE_POSITION_BLOCK)) == 1
    again.stop()
    third = Tag(folder).start()
    await asyncio.sleep_ms(1000)
    assert third.fixes()[: len(taken)] == taken and third.fixes().count(taken[0]) == 1, "told once"
