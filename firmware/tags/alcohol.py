# The transdermal alcohol tag: a reading every half hour, more often after alcohol or tamper, or when the cell has one,
# over BLE. Once a day the cell checks itself.
import struct

from common import transports
from common.device import Device
from drivers.alcohol_cell import CHECK_FORMAT, READY_TIMEOUT_MS, AlcoholCell
from emwire import constants

from tags.contact import EVIDENCE_FORMAT, Contact

# Samples and check are expected by the watchdog within two intervals and what a slow cell takes.
_SLOW_MS = 3 * READY_TIMEOUT_MS


async def run(board):
    """The whole device, for ever."""
    await Alcohol(board).run()


class Alcohol:
    """Wiring of the model."""

    def __init__(self, board):
        self.device = device = Device(
            board,
            constants.MODEL_ALCOHOL,
            constants.CAPABILITY_ALCOHOL_CELL
            | constants.CAPABILITY_BLE
            | constants.CAPABILITY_STRAP
            | constants.CAPABILITY_CASE
            | constants.CAPABILITY_MOTION
            | constants.CAPABILITY_VIBRATION,
        )
        self._cell = AlcoholCell(board, device.settings)
        self._contact = Contact(board.storage_path, device.settings)
        self._movements = 0
        self._raised_until_ms = None
        self._checked_ms = None
        self._faulty = set()  # inputs told to be faulty
        board.pin_in("motion").on_change(self._on_motion)
        device.link_over(*transports.of(device))
        device.tamper.on_strap = self._on_strap
        device.tamper.on_case = self._on_tamper
        device.on_order(self._on_order)
        # In use by its own task: its last check or reading is its test.
        for part in ("alcohol_cell", "cell_check"):
            device.self_tests[part] = self._test_cell
        device.self_tests["contact_infrared"] = self._test_contact
        device.self_tests["skin_temperature"] = self._test_temperature

    async def run(self):
        self._on_order()
        self.device.start("alcohol", self._sample)
        self.device.start("settings", self.device.settings.on_change, self._cell.wake)
        await self.device.run()

    def _on_motion(self, level):
        if level and self._movements < 65535:
            self._movements += 1

    def _on_order(self):
        order = self.device.order
        if order is not None:
            self._cell.worn_by(order.activation_id)
        self._cell.wake()

    def _on_tamper(self, is_open):
        if is_open:
            self._raise()
            self._cell.wake()

    def _on_strap(self, is_open):
        self._on_tamper(is_open)
        if not is_open:
            self._cell.forget_contact()

    def _raise(self):
        """Alcohol or tamper: sample more often from now on."""
        device = self.device
        self._raised_until_ms = device.ticks_ms() + device.settings.raised_for_s * 1000

    def interval_s(self) -> int:
        """Between samples, as order, settings and what was seen have it."""
        device = self.device
        order = device.order
        if self._raised_until_ms is not None and device.ticks_ms() < self._raised_until_ms:
            return (order and order.raised_sample_interval_s) or device.settings.raised_sample_interval_s
        return (order and order.sample_interval_s) or device.settings.sample_interval_s

    async def _sample(self):
        device = self.device
        while True:
            begun = device.ticks_ms()
            device.watchdog.expect("alcohol", 2000 * self.interval_s() + _SLOW_MS)
            await self._check_daily()
            self._record(await self._cell.sample())
            # The next one is due an interval after this one began, unless the cell takes one of its own before: a cell
            # on a schedule of its own is asked when it was silent for so long.
            while await self._own_sample(begun):
                begun = device.ticks_ms()
                device.watchdog.expect("alcohol", 2000 * self.interval_s() + _SLOW_MS)
                self._record(await self._cell.read())

    async def _own_sample(self, since_ms):
        """Wait for the cell's own sample; False once the interval is over."""
        device = self.device
        while True:
            remaining = since_ms + self.interval_s() * 1000 - device.ticks_ms()
            if remaining <= 0:
                return False
            # The interval may have become longer than when the sample began: what raised it is over.
            device.watchdog.expect("alcohol", remaining + 1000 * self.interval_s() + _SLOW_MS)
            if await self._cell.ready(remaining):
                return True

    def _record(self, reading):
        device = self.device
        tac_ug_per_l, contact_mv, centi_celsius, quality = reading
        movements, self._movements = self._movements, 0
        device.records.alcohol_reading(
            device.clock.time_s(), tac_ug_per_l, contact_mv, centi_celsius, movements, quality
        )
        self._tell_input("contact_infrared", self._cell.contact_works)
        self._tell_input("skin_temperature", self._cell.temperature_works)
        off = quality & constants.QUALITY_CONTACT_LOST != 0
        if tac_ug_per_l >= device.settings.alcohol_threshold_ug_per_l or off:
            self._raise()
        if quality & constants.QUALITY_CONTACT_FAULT:
            return  # neither in contact nor out of it
        told = self._contact.reading(device.ticks_ms(), device.clock.time_s(), off)
        if told is not None:
            lost, seconds = told
            event = constants.EVENT_CONTACT_LOST if lost else constants.EVENT_CONTACT_RESTORED
            evidence = struct.pack(EVIDENCE_FORMAT, min(self._cell.contact_baseline_mv, 65535), contact_mv)
            device.records.event(event, seconds, evidence=evidence)

    def _tell_input(self, name, works):
        if works:
            self._faulty.discard(name)
        elif name not in self._faulty:
            self._faulty.add(name)
            self.device.records.event(constants.EVENT_SELF_TEST_FAILED, evidence=name.encode())

    async def _check_daily(self):
        device = self.device
        now = device.ticks_ms()
        if self._checked_ms is not None and now - self._checked_ms < device.settings.cell_check_interval_s * 1000:
            return
        self._checked_ms = now
        was_healthy = self._cell.healthy
        why, zero, response = await self._cell.check()
        if why and was_healthy:
            evidence = struct.pack(CHECK_FORMAT, why, zero, response)
            device.records.event(constants.EVENT_CELL_FAULT, zero, evidence=evidence)
        elif not why and not was_healthy:
            device.records.event(constants.EVENT_CELL_RESTORED, zero)

    async def _test_cell(self):
        return None if self._cell.healthy else "failed its last check"

    async def _test_contact(self):
        return None if self._cell.contact_works else "at the rail"

    async def _test_temperature(self):
        return None if self._cell.temperature_works else "at the rail"
