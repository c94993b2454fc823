# The transdermal alcohol front end: asks for a sample, waits until it is ready, reads it and says what to doubt.
import asyncio

from common.wait import Signal
from emwire import constants

# Fielded bracelets read every 30 min and up to 39 min apart: a cell may take nine minutes over its interval.
READY_TIMEOUT_MS = 600000
# Cell: 100 µg/L a count above 1000 counts (board's ADC scaling).
ZERO_COUNTS = 1000
UG_PER_L_PER_COUNT = 100
# An unconnected or shorted input reads at the rails; so far below zero offset no working cell goes.
LOWEST_COUNTS = 100
HIGHEST_COUNTS = 65400
# Samples of one reading, 20 ms apart (one period of 50 Hz mains); their median is the reading.
SAMPLES = 5
SAMPLE_SPACING_MS = 20
# Noise of a wet sensor: samples of one reading spread by more than the detection limit of 0.020 g/dL.
WET_SPREAD_UG_PER_L = 200000
# IR contact differing by more than 0.5 V from its own baseline (field rule). The baseline follows slowly,
# 1/16 a reading, and only while in contact.
CONTACT_DEVIATION_MV = 500
BASELINE_SHIFT = 4
# Skin under a bracelet; recorded bracelets show 18.6 to 38.4 °C while worn.
LOWEST_CENTI_CELSIUS = 1500
HIGHEST_CENTI_CELSIUS = 4200
# A rise no drinker shows within one interval: recorded drinking rises by at most 0.28 g/dL between readings.
INTERFERENT_RISE_UG_PER_L = 3500000


class AlcoholCell:
    """Front end of one cell; read() gives (tac_ug_per_l, contact_ir_mv, centi_celsius, quality)."""

    def __init__(self, board):
        self._sample = board.pin_out("alcohol_sample")
        self._ready = board.pin_in("alcohol_ready")
        self._cell = board.adc("alcohol_cell")
        self._infrared = board.adc("contact_infrared")
        self._temperature = board.adc("skin_temperature")
        self._ticks_ms = board.clock.ticks_ms
        self._is_ready = False
        self._wake = Signal()
        self._baseline_mv_shifted = None
        self._previous_tac = None
        self._ready.on_change(self._on_ready)

    def _on_ready(self, level):
        if level:
            self._is_ready = True
            self._wake.set()

    def wake(self):
        """End a ready() under way."""
        self._wake.set()

    async def ready(self, timeout_ms: int) -> bool:
        """Wait for a sample that the cell takes on its own schedule; False after timeout_ms or wake()."""
        await self._wake.wait(timeout_ms)
        is_ready, self._is_ready = self._is_ready, False
        return is_ready

    async def sample(self):
        """Ask for a sample now, and read it; a cell that never gets ready yields CELL_FAULT and no level."""
        self._sample.value(1)
        try:
            self._is_ready = self._ready.value() == 1
            due = self._ticks_ms() + READY_TIMEOUT_MS
            while not self._is_ready and self._ticks_ms() < due:
                await self._wake.wait(due - self._ticks_ms())
            return await self.read(self._is_ready)
        finally:
            self._sample.value(0)
            self._is_ready = False

    async def read(self, ready: bool = True):
        cell, infrared, temperature = [], [], []
        for number in range(SAMPLES):
            if number:
                await asyncio.sleep_ms(SAMPLE_SPACING_MS)
            cell.append(self._cell.read_u16())
            infrared.append(self._infrared.read_u16())
            temperature.append(self._temperature.read_u16())
        for values in (cell, infrared, temperature):
            values.sort()
        middle = SAMPLES // 2
        counts = cell[middle]
        contact_mv = infrared[middle] // 10
        centi_celsius = min(temperature[middle] - 10000, 32767)
        quality = self._contact_quality(contact_mv)
        if not LOWEST_CENTI_CELSIUS <= centi_celsius <= HIGHEST_CENTI_CELSIUS:
            quality |= constants.QUALITY_TEMPERATURE_OUT_OF_RANGE
        if not ready or not LOWEST_COUNTS <= counts <= HIGHEST_COUNTS:
            self._previous_tac = None
            return 0, contact_mv, centi_celsius, quality | constants.QUALITY_CELL_FAULT
        if (cell[-1] - cell[0]) * UG_PER_L_PER_COUNT > WET_SPREAD_UG_PER_L:
            quality |= constants.QUALITY_WET_SENSOR
        tac = max(0, counts - ZERO_COUNTS) * UG_PER_L_PER_COUNT
        if self._previous_tac is not None and tac - self._previous_tac > INTERFERENT_RISE_UG_PER_L:
            quality |= constants.QUALITY_INTERFERENT_SUSPECTED
        self._previous_tac = tac
        return tac, contact_mv, centi_celsius, quality

    def _contact_quality(self, contact_mv):
        if self._baseline_mv_shifted is None:
            self._baseline_mv_shifted = contact_mv << BASELINE_SHIFT
        difference = contact_mv - (self._baseline_mv_shifted >> BASELINE_SHIFT)
        if abs(difference) > CONTACT_DEVIATION_MV:
            return constants.QUALITY_CONTACT_LOST
        self._baseline_mv_shifted += difference
        return 0
