"""The alcohol tag reads on time and when the cell does; what it doubts it says, and it makes nothing up."""

import asyncio

from emwire import constants

from at_work import BODY, AtWork

HOUR = 3600000
SAMPLE_MS = 20000


class CellModel:
    """Raises the ready line 20 s after it is asked; own() is a sample on the cell's own schedule."""

    def __init__(self, board):
        self.board = board
        self.faulty = False
        self.asked = 0
        self._task = None
        board.outputs["alcohol_sample"].on_level = self._on_sample

    def _on_sample(self, level):
        if level:
            self.asked += 1
            if not self.faulty:
                self._task = asyncio.create_task(self._get_ready())
        else:
            self.board.inputs["alcohol_ready"].set(0)

    async def _get_ready(self):
        await asyncio.sleep_ms(SAMPLE_MS)
        self.board.inputs["alcohol_ready"].set(1)

    async def own(self):
        self.board.inputs["alcohol_ready"].set(1)
        await asyncio.sleep_ms(30000)
        self.board.inputs["alcohol_ready"].set(0)

    def shows(self, tac_ug_per_l=0, contact_mv=1000, centi_celsius=3000):
        adcs = self.board.adcs
        adcs["alcohol_cell"].counts = 1000 + tac_ug_per_l // 100
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
    cell.shows(850000, 1207, -500)
    await asyncio.sleep_ms(24 * HOUR)
    readings = _readings(work)
    assert 48 <= len(readings) <= 49 and cell.asked in (48, 49)
    assert readings[0] == (850000, 1207, -500, 0, constants.QUALITY_TEMPERATURE_OUT_OF_RANGE)


async def check_interval_from_settings(folder):
    work, cell = _tag(folder, settings={"sample_interval_s": 3600})
    work.start()
    await asyncio.sleep_ms(24 * HOUR)
    assert 24 <= len(_readings(work)) <= 25


async def check_cells_own_schedule_replaces_ours(folder):
    work, cell = _tag(folder, settings={"sample_interval_s": 3600})
    work.start()
    await asyncio.sleep_ms(60000)
    for number in range(20):
        cell.shows(number * 10000)
        await cell.own()
        await asyncio.sleep_ms(30 * 60000)
    assert [reading[0] for reading in _readings(work)[1:]] == [number * 10000 for number in range(20)]
    assert cell.asked == 1


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
        counts = 0

        def read_u16(self):
            self.counts += 1
            return 3000 + (2500 if self.counts % 2 else 0)

    work.board.adcs["alcohol_cell"] = Noisy()
    work.start()
    await asyncio.sleep_ms(60000)
    assert _readings(work)[-1][4] == constants.QUALITY_WET_SENSOR


async def check_isolated_spike_is_suspected_and_drinking_is_not(folder):
    work, cell = _tag(folder)
    work.start()
    # The steepest rise of the recorded bracelets, 0.28 g/dL, and a splash of perfume.
    levels = (0, 560000, 3360000, 2000000, 0, 4500000, 0)
    for level in levels:
        cell.shows(level)
        await asyncio.sleep_ms(HOUR // 2)
    readings = _readings(work)
    assert [reading[0] for reading in readings[:7]] == list(levels)
    suspected = [reading[4] for reading in readings[:7]]
    assert suspected == [0, 0, 0, 0, 0, constants.QUALITY_INTERFERENT_SUSPECTED, 0]


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
