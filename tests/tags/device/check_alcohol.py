"""The alcohol tag reads on time and when the cell does; what it doubts it says, and it makes nothing up."""

import asyncio
import os

from common import space
from common.journal import Journal
from common.settings import Settings
from drivers.alcohol_cell import AlcoholCell
from emwire import constants, device_codec
from tags.contact import Contact

from at_work import BODY, AtWork

HOUR = 3600000
SAMPLE_MS = 20000


class CellModel:
    """Raises the ready line 20 s after it is asked; own() is a sample on the cell's own schedule."""

    def __init__(self, board):
        self.board = board
        self.faulty = False
        self.current = 0
        self.asked = 0
        self._task = None
        board.outputs["alcohol_sample"].on_level = self._on_sample
        board.outputs["cell_check"].on_level = self._on_check

    def _on_sample(self, level):
        if level:
            self.asked += 1
            if not self.faulty:
                self._task = asyncio.create_task(self._get_ready())
        else:
            self.board.inputs["alcohol_ready"].set(0)

    def _on_check(self, level):
        # The test current.
        self.current = 20000 if level else 0
        self.board.adcs["alcohol_cell"].counts += 20000 if level else -20000

    async def _get_ready(self):
        await asyncio.sleep_ms(SAMPLE_MS)
        self.board.inputs["alcohol_ready"].set(1)

    async def own(self):
        self.board.inputs["alcohol_ready"].set(1)
        await asyncio.sleep_ms(30000)
        self.board.inputs["alcohol_ready"].set(0)

    def shows(self, tac_ug_per_l=0, contact_mv=1000, centi_celsius=3000):
        adcs = self.board.adcs
        adcs["alcohol_cell"].counts = 1000 + tac_ug_per_l // 100 + self.current
        adcs["contact_infrared"].counts = contact_mv * 10
        adcs["skin_temperature"].counts = 10000 + centi_celsius


def _tag(folder, **identity):
    work = AtWork(folder, "alcohol", **identity)
    return work, CellModel(work.board)


def _readings(work):
    """(tac, contact mV, temperature, motion, quality) of each, oldest first."""
    return [record[BODY + 1 :] for record in work.records(constants.MESSAGE_ALCOHOL_READING)]


async def check_every_half_hour(folder):
    work, cell = _tag(folder)
    work.start()
    await asyncio.sleep_ms(1000)
    cell.shows(150000, 1207, -500)
    await asyncio.sleep_ms(24 * HOUR)
    readings = _readings(work)
    assert 48 <= len(readings) <= 49 and cell.asked in (48, 49)
    assert readings[0] == (150000, 1207, -500, 0, constants.QUALITY_TEMPERATURE_OUT_OF_RANGE)


async def check_interval_from_settings(folder):
    work, cell = _tag(folder, settings={"sample_interval_s": 3600})
    work.start()
    await asyncio.sleep_ms(24 * HOUR)
    assert 24 <= len(_readings(work)) <= 25


async def check_long_interval_after_a_raised_one_is_no_hung_task(folder):
    work, cell = _tag(
        folder, settings={"sample_interval_s": 7200, "raised_sample_interval_s": 300, "raised_for_s": 3600}
    )
    work.start()
    await asyncio.sleep_ms(1000)
    cell.shows(900000)
    await asyncio.sleep_ms(3 * HOUR)
    cell.shows(0)
    await asyncio.sleep_ms(12 * HOUR)
    assert len(_readings(work)) >= 36, "it was raised"
    assert not work.board.hardware_watchdog.expired and not work.events(constants.EVENT_TASK_STUCK)


async def check_what_is_judged_by_is_set_over_the_air(folder):
    folders = [folder + "/" + name for name in ("skin", "response", "drift")]
    for at, parameters, counts, quality in (
        (folders[0], ((constants.PARAMETER_SKIN_HIGHEST_C, 25),), 1000, constants.QUALITY_TEMPERATURE_OUT_OF_RANGE),
        (folders[1], ((constants.PARAMETER_CELL_RESPONSE_PERCENT, 5),), 1000, constants.QUALITY_CELL_FAULT),
        (folders[2], ((constants.PARAMETER_CELL_ZERO_DRIFT_UG_PER_L, 10000),), 850, constants.QUALITY_CELL_FAULT),
    ):
        os.mkdir(at)
        work, cell = _tag(at, settings={"cell_check_interval_s": 3600})
        adc = work.board.adcs["alcohol_cell"]
        adc.counts = counts

        def on_check(level, adc=adc):
            adc.counts += 18000 if level else -18000

        work.board.outputs["cell_check"].on_level = on_check
        work.start()
        await asyncio.sleep_ms(2 * HOUR)
        assert {reading[4] for reading in _readings(work)} == {0}
        assert Settings(at).apply_parameters(1, parameters) == b""
        work.stop()
        work, cell = _tag(at, settings={"cell_check_interval_s": 3600})
        work.board.adcs["alcohol_cell"].counts = counts
        adc = work.board.adcs["alcohol_cell"]
        work.board.outputs["cell_check"].on_level = lambda level, adc=adc: on_check(level, adc)
        work.start()
        await asyncio.sleep_ms(2 * HOUR)
        assert _readings(work)[-1][4] == quality, parameters
        work.stop()


async def check_cells_own_schedule_replaces_ours(folder):
    work, cell = _tag(folder, settings={"sample_interval_s": 3600})
    work.start()
    await asyncio.sleep_ms(60000)
    for number in range(20):
        cell.shows(number * 1000)
        await cell.own()
        await asyncio.sleep_ms(30 * 60000)
    assert [reading[0] for reading in _readings(work)[1:]] == [number * 1000 for number in range(20)]
    assert cell.asked == 1


async def check_cells_own_schedule_is_too_slow_after_alcohol_and_tamper(folder):
    work, cell = _tag(
        folder, settings={"sample_interval_s": 3600, "raised_sample_interval_s": 600, "raised_for_s": 7200}
    )
    work.start()
    await asyncio.sleep_ms(60000)

    async def asked_in(times, level):
        cell.shows(level)
        before = cell.asked
        for _ in range(times):
            await cell.own()
            await asyncio.sleep_ms(39 * 60000)
        return cell.asked - before

    assert await asked_in(3, 0) == 0, "its own schedule is the quicker one"
    # Every 10 min of silence, in each of 39.5 min three times.
    assert await asked_in(4, 900000) == 12
    assert 8 <= await asked_in(4, 0) <= 9, "2 h after the last alcohol"
    assert await asked_in(3, 0) == 0
    work.board.inputs["case"].set(1)
    assert 9 <= await asked_in(4, 0) <= 10, "2 h after the case was opened"
    assert await asked_in(3, 0) == 0
    assert not work.board.hardware_watchdog.expired and not work.events(constants.EVENT_TASK_STUCK)


async def check_cell_that_is_never_ready(folder):
    work, cell = _tag(folder)
    cell.faulty = True
    cell.shows(900000)
    work.start()
    await asyncio.sleep_ms(2 * HOUR)
    readings = _readings(work)
    assert len(readings) >= 3
    for tac, _, _, _, quality in readings:
        assert tac == 0 and quality & constants.QUALITY_CELL_FAULT
    cell.faulty = False
    await asyncio.sleep_ms(HOUR)
    assert _readings(work)[-1][0] == 900000 and not _readings(work)[-1][4] & constants.QUALITY_CELL_FAULT


async def check_input_at_the_rails_is_no_level(folder):
    work, cell = _tag(folder, settings={"sample_interval_s": 60})
    work.start()
    await asyncio.sleep_ms(60000)
    for counts in (0, 65535):
        work.board.adcs["alcohol_cell"].counts = counts
        await asyncio.sleep_ms(60000)
        tac, _, _, _, quality = _readings(work)[-1]
        assert tac == 0 and quality & constants.QUALITY_CELL_FAULT


async def check_below_zero_offset_is_zero(folder):
    work, cell = _tag(folder)
    work.board.adcs["alcohol_cell"].counts = 900
    work.start()
    await asyncio.sleep_ms(60000)
    assert _readings(work)[-1][0] == 0 and _readings(work)[-1][4] == 0


async def check_contact_lost(folder):
    work, cell = _tag(folder)
    cell.shows(contact_mv=1100)
    work.start()
    await asyncio.sleep_ms(5 * HOUR)
    cell.shows(contact_mv=1590)
    await asyncio.sleep_ms(HOUR // 2)
    assert _readings(work)[-1][4] == 0
    cell.shows(contact_mv=1850)
    await asyncio.sleep_ms(3 * HOUR)
    assert {reading[4] for reading in _readings(work)[-5:]} == {constants.QUALITY_CONTACT_LOST}
    cell.shows(contact_mv=1100)
    await asyncio.sleep_ms(HOUR)
    assert _readings(work)[-1][4] == 0


async def check_wet_sensor_is_noisy(folder):
    work, cell = _tag(folder)

    class Noisy:
        counts = 1000
        turn = 0

        def read_u16(self):
            self.turn += 1
            return self.counts + (2500 if self.turn % 2 else 0)

    work.board.adcs["alcohol_cell"] = Noisy()
    work.start()
    await asyncio.sleep_ms(60000)
    assert _readings(work)[-1][4] == constants.QUALITY_WET_SENSOR


async def check_isolated_spike_is_suspected_and_drinking_is_not(folder):
    work, cell = _tag(folder, settings={"raised_sample_interval_s": 1800})
    work.start()
    # The steepest rise of the recorded bracelets, 0.28 g/dL, and a splash of perfume.
    levels = (0, 560000, 3360000, 2000000, 0, 4500000, 0)
    for level in levels:
        cell.shows(level)
        await asyncio.sleep_ms(HOUR // 2)
    # A cleaning fluid: no faster than a drink, and gone at the next reading; then a drink that stays for two.
    later = (250000, 0, 250000, 210000, 0)
    for level in later:
        cell.shows(level)
        await asyncio.sleep_ms(HOUR // 2)
    readings = _readings(work)
    assert tuple(reading[0] for reading in readings[:12]) == levels + later
    suspected = constants.QUALITY_INTERFERENT_SUSPECTED
    assert [reading[4] for reading in readings[:12]] == [0, 0, 0, 0, 0, suspected, suspected, 0, suspected, 0, 0, 0]


async def check_movements_are_counted_between_readings(folder):
    work, cell = _tag(folder)
    work.start()
    await asyncio.sleep_ms(60000)
    for _ in range(7):
        work.board.inputs["motion"].set(1)
        work.board.inputs["motion"].set(0)
    await asyncio.sleep_ms(2 * HOUR)
    assert [reading[3] for reading in _readings(work)] == [0, 7, 0, 0, 0]


async def check_advertises_only_while_something_waits(folder):
    work, cell = _tag(folder)
    work.start()
    await asyncio.sleep_ms(60000)
    interval_us, data, connectable = work.board.radio.advertised[-1]
    assert connectable and b"\x9e\xca\xdc\x24\x0e\xe5\xa9\xe0\x93\xf3\xa3\xb5\x01\x00\x40\x6e" in data


async def check_more_often_after_alcohol_and_tamper(folder):
    work, cell = _tag(folder)
    work.start()
    await asyncio.sleep_ms(HOUR)
    cell.shows(300000)
    await asyncio.sleep_ms(HOUR)
    cell.shows(0)
    before = len(_readings(work))
    await asyncio.sleep_ms(2 * HOUR)
    assert 7 <= len(_readings(work)) - before <= 9, "every 15 min"
    await asyncio.sleep_ms(2 * HOUR)
    before = len(_readings(work))
    await asyncio.sleep_ms(6 * HOUR)
    assert 11 <= len(_readings(work)) - before <= 13, "every 30 min again"
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(10 * 60000)
    before = len(_readings(work))
    await asyncio.sleep_ms(HOUR)
    assert 4 <= len(_readings(work)) - before <= 5
    work.board.inputs["strap"].set(1)
    await asyncio.sleep_ms(12 * HOUR)
    work.board.inputs["case"].set(1)
    before = len(_readings(work))
    await asyncio.sleep_ms(3 * HOUR)
    assert 12 <= len(_readings(work)) - before <= 14, "the case is opened, not the strap"


async def check_contact_rule_of_ten_hours(folder):
    work, cell = _tag(folder)
    lost, restored = constants.EVENT_CONTACT_LOST, constants.EVENT_CONTACT_RESTORED
    cell.shows(contact_mv=1100)
    work.start()
    await asyncio.sleep_ms(5 * HOUR)
    for _ in range(3):  # nine hours off, then on again: nothing
        cell.shows(contact_mv=1700)
        await asyncio.sleep_ms(9 * HOUR)
        cell.shows(contact_mv=1100)
        await asyncio.sleep_ms(HOUR)
    assert not work.events(lost, restored)
    cell.shows(contact_mv=400)
    await asyncio.sleep_ms(30 * HOUR)
    told = work.events(lost, restored)
    assert len(told) == 1 and told[0][0] == lost and 36000 < told[0][3] <= 36000 + 1800
    assert bytes(told[0][4]) == (1100).to_bytes(2, "little") + (400).to_bytes(2, "little")
    cell.shows(contact_mv=1150)
    await asyncio.sleep_ms(HOUR)
    assert [event[0] for event in work.events(lost, restored)] == [lost, restored]


async def check_baseline_outlives_a_reset(folder):
    work, cell = _tag(folder)
    cell.shows(contact_mv=1100)
    work.start()
    await asyncio.sleep_ms(3 * HOUR)
    work.stop()
    work, cell = _tag(folder)
    cell.shows(contact_mv=2000)  # off while it was off
    work.start()
    await asyncio.sleep_ms(11 * HOUR)
    assert {reading[4] for reading in _readings(work)[-10:]} == {constants.QUALITY_CONTACT_LOST}
    assert len(work.events(constants.EVENT_CONTACT_LOST)) == 1


async def check_contact_rule_counts_over_resets(folder):
    settings = Settings(folder)
    one = Contact(folder, settings)
    start_s = 500000000
    assert one.reading(0, start_s, True) is None
    for boot in range(1, 6):
        again = Contact(folder, settings)
        assert again.reading(1000, start_s + boot * 7000, True) is None
    again = Contact(folder, settings)
    assert again.reading(1000, 0, True) is None, "clock unknown"
    assert again.reading(2000, start_s + 36001, True) == (True, 36001)
    again = Contact(folder, settings)
    assert again.reading(1000, start_s + 40000, True) is None, "told once"
    assert again.reading(2000, start_s + 41000, False) == (False, 41000)
    assert Contact(folder, settings).reading(1, start_s + 50000, True) is None


async def check_daily_check_finds_a_dying_cell(folder):
    for fault, why in (("rails", 1), ("zero", 2), ("deaf", 3), ("wild", 3)):
        os.mkdir(folder + "/" + fault)
        work, cell = _tag(folder + "/" + fault, settings={"cell_check_interval_s": 3600})
        response = {"sound": 20000, "deaf": 9000, "wild": 40000}
        state = ["sound"]
        adc = work.board.adcs["alcohol_cell"]

        def on_check(level, adc=adc, state=state):
            adc.counts += response.get(state[0], 20000) * (1 if level else -1)

        work.board.outputs["cell_check"].on_level = on_check
        work.start()
        await asyncio.sleep_ms(3 * HOUR)
        assert not work.events(constants.EVENT_CELL_FAULT)
        state[0] = fault
        adc.counts = {"rails": 20, "zero": 450}.get(fault, 1000)
        await asyncio.sleep_ms(5 * HOUR)
        ((_, _, _, _, evidence),) = work.events(constants.EVENT_CELL_FAULT)
        assert evidence[0] == why, (fault, evidence)
        assert _readings(work)[-1][4] & constants.QUALITY_CELL_FAULT
        assert not work.events(constants.EVENT_STRAP_CUT, constants.EVENT_CONTACT_LOST), "a fault is no tamper"
        state[0] = "sound"
        adc.counts = 1000
        await asyncio.sleep_ms(3 * HOUR)
        assert len(work.events(constants.EVENT_CELL_RESTORED)) == 1 and _readings(work)[-1][4] == 0
        work.stop()


async def check_a_zero_that_creeps_up_is_found(folder):
    settings = {"cell_check_interval_s": 3600, "sample_interval_s": 60, "raised_for_s": 0}
    work, cell = _tag(folder, settings=settings)
    work.start()
    # Half an hour after each other, as a drink's tail shows them: no fault, whatever the check finds just then.
    for _ in range(3):
        cell.shows(90000)
        await asyncio.sleep_ms(20 * 60000)
        cell.shows(0)
        await asyncio.sleep_ms(100 * 60000)
    cell.shows(70000)
    await asyncio.sleep_ms(30 * 60000)
    assert not work.events(constants.EVENT_CELL_FAULT)
    work.stop()
    work, cell = _tag(folder, settings=settings)
    cell.shows(70000)
    work.start()
    await asyncio.sleep_ms(20 * 60000)
    work.stop()
    # What it has seen so far outlives a reset.
    work, cell = _tag(folder, settings=settings)
    cell.shows(70000)
    work.start()
    await asyncio.sleep_ms(62 * 60000)
    ((_, _, _, zero, evidence),) = work.events(constants.EVENT_CELL_FAULT)
    assert evidence[0] == 2 and zero == 1700
    assert _readings(work)[-1][4] == constants.QUALITY_CELL_FAULT
    cell.shows(0)
    await asyncio.sleep_ms(62 * 60000)
    assert len(work.events(constants.EVENT_CELL_RESTORED)) == 1


async def check_front_end_that_misbehaves(folder):
    work, cell = _tag(folder)
    board = work.board
    settings = Settings(folder)
    front = AlcoholCell(board, settings)
    # Slow: nine minutes. Withdrawn in the middle once: asked again. Withdrawn always: a fault, no level.
    cell_ms, withdraw = [540000], [0]

    def on_sample(level):
        if level:
            asyncio.create_task(play())
        else:
            board.inputs["alcohol_ready"].set(0)

    async def play():
        await asyncio.sleep_ms(cell_ms[0])
        board.inputs["alcohol_ready"].set(1)
        if withdraw[0]:
            withdraw[0] -= 1
            await asyncio.sleep_ms(30)
            board.adcs["alcohol_cell"].counts = 0
            board.inputs["alcohol_ready"].set(0)
            await asyncio.sleep_ms(1000)
            board.adcs["alcohol_cell"].counts = 3000

    board.outputs["alcohol_sample"].on_level = on_sample
    board.adcs["alcohol_cell"].counts = 3000
    assert _level(await front.sample()) == (200000, 0)
    cell_ms[0], withdraw[0] = 1000, 1
    assert _level(await front.sample()) == (200000, 0) and front.withdrawn == 1
    withdraw[0] = 5
    assert _level(await front.sample()) == (0, constants.QUALITY_CELL_FAULT)
    # Ready that chatters before the sample is there.
    withdraw[0] = 0
    for _ in range(5):
        board.inputs["alcohol_ready"].set(1)
        board.inputs["alcohol_ready"].set(0)
    assert _level(await front.sample()) == (200000, 0)


def check_thirty_days_without_a_gateway(folder):
    for total in range(840, 2200, 8):
        share = space.journal_share(total * 1024, least_bytes=space.MONTH_JOURNAL_BYTES)
        assert space.MONTH_JOURNAL_BYTES <= share <= total * 1024 - space.OTHER_BYTES - space.TREE_BYTES, total
    # The most a tag makes: a reading every 15 min, status hourly, and five events a day; nothing is lost.
    journal = Journal(folder, 1, capacity_bytes=space.MONTH_JOURNAL_BYTES, durable=False)
    body = (4, 65535, 500000000, 400000)
    made = 0
    for day in range(31):
        for number in range(96):
            journal.append(False, device_codec.encode_alcohol_reading(*body, 500000000 + day, 10**6, 1100, 3100, 7, 0))
            made += 1
            if number % 4 == 0:
                status = (80, 3900, 0, -32768, 100000, 90000, 1000, 90000, 1000, 10, 0, 1, 0)
                journal.append(False, device_codec.encode_status(*body, *status))
                made += 1
            if number % 20 == 0:
                journal.append(True, device_codec.encode_event(*body, 1, 500000000, 0, 0, bytes(9)))
                made += 1
    assert journal.dropped_records == 0 and journal.records == made and made == 31 * (96 + 24 + 5)
    print("a month of alcohol readings takes", journal.bytes, "bytes")
    again = Journal(folder, 2, capacity_bytes=space.MONTH_JOURNAL_BYTES)
    assert again.records == made and again.damaged_bytes == 0


def _level(reading):
    return reading[0], reading[3]


async def check_a_reset_after_refitting_does_not_judge_by_the_former_skin(folder):
    work, cell = _tag(folder)
    cell.shows(contact_mv=1100)
    work.start()
    await asyncio.sleep_ms(3 * HOUR)
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(HOUR // 4)
    cell.shows(contact_mv=1900)
    work.board.inputs["strap"].set(1)
    await asyncio.sleep_ms(10000)  # told, and no reading yet
    work.stop()
    before = len(_readings(work))
    work, cell = _tag(folder)
    cell.shows(contact_mv=1900)
    work.start()
    await asyncio.sleep_ms(3 * HOUR)
    after = _readings(work)[before:]
    assert after and not any(reading[4] & constants.QUALITY_CONTACT_LOST for reading in after)


def check_another_wearer_s_skin_is_another(folder):
    import virtual

    board = virtual.Board(folder, {})
    for activation_id, is_kept in ((7, False), (7, True), (8, False), (8, True)):
        cell = AlcoholCell(board, Settings(folder))
        cell.worn_by(activation_id)
        assert (cell.contact_baseline_mv == 1200) == is_kept, activation_id
        cell._contact_quality(1200)
        cell._keep()


async def check_an_input_at_the_rail_is_a_fault_and_no_lost_contact(folder):
    work, cell = _tag(folder)
    cell.shows(contact_mv=1100)
    work.start()
    await asyncio.sleep_ms(3 * HOUR)
    for counts, part in ((0, "contact_infrared"), (65535, "contact_infrared"), (0, "skin_temperature")):
        cell.shows(contact_mv=1100)
        await asyncio.sleep_ms(HOUR)
        work.board.adcs[part].counts = counts
        await asyncio.sleep_ms(12 * HOUR)
        assert not _readings(work)[-1][4] & constants.QUALITY_CONTACT_LOST
        assert bytes(work.events(constants.EVENT_SELF_TEST_FAILED)[-1][4]) == part.encode()
    assert not work.events(constants.EVENT_CONTACT_LOST) and len(work.events(constants.EVENT_SELF_TEST_FAILED)) == 3
