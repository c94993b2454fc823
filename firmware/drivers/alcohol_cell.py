# The transdermal alcohol front end: asks for a sample, waits until it is ready, reads it and says what to doubt;
# checks itself; knows the ordinary levels of its contact sensor and of its cell, over a reset too.
import asyncio
import struct

from common.slots import Slots
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
# A sample that is withdrawn while it is read (the front end was reset) is asked for once more.
ATTEMPTS = 2
# The baselines follow slowly: of the contact by 1/16 a reading, only while in contact; of the cell by 1/64 (32 h),
# while there is no alcohol and nothing else to doubt.
BASELINE_SHIFT = 4
CELL_SHIFT = 6
# Kept on flash when a baseline has moved so far: a tenth of what is judged by it, a quarter of the cell's.
KEEP_MV = 50
KEEP_COUNTS = 125
# Own check: raising "cell_check" lets a known current through the cell, worth 0.2 g/dL, for as long as its filter
# needs.
CHECK_SETTLE_MS = 2000
CHECK_COUNTS = 20000
# Why a check failed, in the evidence of CELL_FAULT: why u8, zero u16, response u16.
FAULT_RAILS = 1
FAULT_ZERO = 2
FAULT_RESPONSE = 3
CHECK_FORMAT = "<BHH"
_KEPT = "<HHBI"  # contact baseline mV, cell baseline counts, known (1 contact, 2 cell), whose (activation; 0 unknown)


class AlcoholCell:
    """Front end of one cell; read() gives (tac_ug_per_l, contact_ir_mv, centi_celsius, quality)."""

    def __init__(self, board, settings):
        """settings: common.settings.Settings."""
        self._settings = settings
        self._sample = board.pin_out("alcohol_sample")
        self._ready = board.pin_in("alcohol_ready")
        self._cell = board.adc("alcohol_cell")
        self._infrared = board.adc("contact_infrared")
        self._temperature = board.adc("skin_temperature")
        try:
            self._check = board.pin_out("cell_check")
        except (KeyError, ValueError):
            self._check = None  # a board without: zero and rails are checked
        self._ticks_ms = board.clock.ticks_ms
        self._is_ready = False
        self._wake = Signal()
        self._contact_shifted = None
        self._cell_shifted = ZERO_COUNTS << CELL_SHIFT
        self._previous_tac = None
        self._alone = False  # the reading before was at or above the threshold, and the one before it below
        self.healthy = True  # by its own check
        self.contact_works = self.temperature_works = True  # no input at a rail, by the last reading
        self._activation_id = 0  # who wears it
        self.withdrawn = 0  # samples that were gone before they were read
        self.write_failures = 0
        self._slots = Slots(board.storage_path + "/cell.")
        self._load()
        self._ready.on_change(self._on_ready)

    @property
    def contact_baseline_mv(self) -> int:
        return 0 if self._contact_shifted is None else self._contact_shifted >> BASELINE_SHIFT

    @property
    def cell_baseline_counts(self) -> int:
        return self._cell_shifted >> CELL_SHIFT

    def _on_ready(self, level):
        self._is_ready = level == 1
        if level:
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
        for left in range(ATTEMPTS - 1, -1, -1):
            self._sample.value(1)
            try:
                self._is_ready = self._ready.value() == 1
                due = self._ticks_ms() + READY_TIMEOUT_MS
                while not self._is_ready and self._ticks_ms() < due:
                    await self._wake.wait(due - self._ticks_ms())
                if not self._is_ready:
                    return await self.read(False)
                reading = await self.read(True, left == 0)
                if reading is not None:
                    return reading
            finally:
                self._sample.value(0)
                self._is_ready = False

    async def read(self, ready: bool = True, last: bool = True):
        """The reading; None if the sample was withdrawn meanwhile and this was not the last attempt."""
        cell, infrared, temperature = [], [], []
        for number in range(SAMPLES):
            if number:
                await asyncio.sleep_ms(SAMPLE_SPACING_MS)
            cell.append(self._cell.read_u16())
            infrared.append(self._infrared.read_u16())
            temperature.append(self._temperature.read_u16())
        if ready and not self._ready.value():
            self.withdrawn += 1
            if not last:
                return None
            ready = False
        for values in (cell, infrared, temperature):
            values.sort()
        middle = SAMPLES // 2
        counts = cell[middle]
        contact_mv = infrared[middle] // 10
        centi_celsius = min(temperature[middle] - 10000, 32767)
        self.contact_works = LOWEST_COUNTS <= infrared[middle] <= HIGHEST_COUNTS
        self.temperature_works = LOWEST_COUNTS <= temperature[middle] <= HIGHEST_COUNTS
        quality = self._contact_quality(contact_mv) if self.contact_works else constants.QUALITY_CONTACT_FAULT
        settings = self._settings
        if not 100 * settings.skin_lowest_c <= centi_celsius <= 100 * settings.skin_highest_c:
            quality |= constants.QUALITY_TEMPERATURE_OUT_OF_RANGE
        if not ready or not LOWEST_COUNTS <= counts <= HIGHEST_COUNTS:
            self._previous_tac = None
            self._alone = False
            return 0, contact_mv, centi_celsius, quality | constants.QUALITY_CELL_FAULT
        if (cell[-1] - cell[0]) * UG_PER_L_PER_COUNT > settings.wet_spread_ug_per_l:
            quality |= constants.QUALITY_WET_SENSOR
        tac = max(0, counts - ZERO_COUNTS) * UG_PER_L_PER_COUNT
        # A rise no drinker shows within one interval, or the end of one that stood alone: a fast, an isolated spike.
        high = tac >= settings.alcohol_threshold_ug_per_l
        before = self._previous_tac
        if before is not None and tac - before > settings.interferent_rise_ug_per_l or self._alone and not high:
            quality |= constants.QUALITY_INTERFERENT_SUSPECTED
        self._alone = high and before is not None and before < settings.alcohol_threshold_ug_per_l
        self._previous_tac = tac
        if not self.healthy:
            quality |= constants.QUALITY_CELL_FAULT
        if not (quality or high):
            self._cell_shifted += counts - self.cell_baseline_counts
        self._keep()
        return tac, contact_mv, centi_celsius, quality

    async def check(self):
        """Own check: (why it failed or 0, zero counts, response counts; response 0 where it cannot be tested)."""
        settings = self._settings
        zero = await self._settled()
        # Off its place: a cell that reads too low, or, where its baseline is as far above (no wearer stays so long
        # between it and the threshold), too high, for ever.
        drift = settings.cell_zero_drift_ug_per_l // UG_PER_L_PER_COUNT
        if not LOWEST_COUNTS <= zero <= HIGHEST_COUNTS:
            why, response = FAULT_RAILS, 0
        elif zero < ZERO_COUNTS - drift or min(zero, self.cell_baseline_counts) > ZERO_COUNTS + drift:
            why, response = FAULT_ZERO, 0
        elif self._check is None:
            why, response = 0, 0
        else:
            self._check.value(1)
            try:
                await asyncio.sleep_ms(CHECK_SETTLE_MS)
                response = max(0, await self._settled() - zero)
            finally:
                self._check.value(0)
            # Until the current has died away nothing may be read.
            await asyncio.sleep_ms(CHECK_SETTLE_MS)
            off = CHECK_COUNTS * settings.cell_response_percent // 100
            why = FAULT_RESPONSE if abs(response - CHECK_COUNTS) > off else 0
        self.healthy = not why
        return why, zero, response

    async def _settled(self):
        values = []
        for _ in range(SAMPLES):
            values.append(self._cell.read_u16())
            await asyncio.sleep_ms(SAMPLE_SPACING_MS)
        values.sort()
        return values[SAMPLES // 2]

    def _contact_quality(self, contact_mv):
        if self._contact_shifted is None:
            self._contact_shifted = contact_mv << BASELINE_SHIFT
        difference = contact_mv - (self._contact_shifted >> BASELINE_SHIFT)
        if abs(difference) > self._settings.contact_deviation_mv:
            return constants.QUALITY_CONTACT_LOST
        self._contact_shifted += difference
        return 0

    # -- over a reset -----------------------------------------------------------------------------------------

    def forget_contact(self):
        """The tag was put on: another skin. A reset before the next reading does not bring the former one back."""
        self._contact_shifted = None
        self._write()

    def worn_by(self, activation_id: int):
        """Whose skin it is: of another wearer than before, the baseline is forgotten."""
        if activation_id == self._activation_id:
            return
        is_another = self._activation_id != 0
        self._activation_id = activation_id
        if is_another:
            self.forget_contact()
        else:
            self._write()

    def _keep(self):
        moved_counts = abs(self.cell_baseline_counts - self._kept_counts)
        if (
            self._kept_mv is not None
            and abs(self.contact_baseline_mv - self._kept_mv) < KEEP_MV
            and moved_counts < KEEP_COUNTS
        ):
            return
        self._write()

    def _write(self):
        known = 2 if self._contact_shifted is None else 3
        contact_mv, counts = self.contact_baseline_mv, self.cell_baseline_counts
        try:
            self._slots.write(struct.pack(_KEPT, contact_mv, counts, known, self._activation_id))
            self._kept_mv = contact_mv if known & 1 else None
            self._kept_counts = counts
        except OSError:
            self.write_failures += 1
            self._kept_mv = None  # tried again with the next reading

    def _load(self):
        self._kept_mv = None
        self._kept_counts = ZERO_COUNTS
        value = self._slots.value
        if value is not None and len(value) == struct.calcsize(_KEPT):
            contact_mv, cell_counts, known, self._activation_id = struct.unpack(_KEPT, value)
            if known & 1:
                self._contact_shifted = contact_mv << BASELINE_SHIFT
                self._kept_mv = contact_mv
            if known & 2:
                self._cell_shifted = cell_counts << CELL_SHIFT
                self._kept_counts = cell_counts
