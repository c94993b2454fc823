# The transdermal alcohol tag: a reading every half hour, or when the cell has one, over BLE.
from common.device import Device
from drivers.alcohol_cell import AlcoholCell
from drivers.ble_link import BleLink
from emwire import constants


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
            | constants.CAPABILITY_MOTION,
        )
        self._cell = AlcoholCell(board)
        self._movements = 0
        board.pin_in("motion").on_change(self._on_motion)
        device.link_over(BleLink(board.ble(), device.device_id, "emtag-%08x" % device.device_id), periodic=True)

    async def run(self):
        self.device.start("alcohol", self._sample)
        self.device.start("settings", self.device.settings.on_change, self._cell.wake)
        await self.device.run()

    def _on_motion(self, level):
        if level and self._movements < 65535:
            self._movements += 1

    async def _sample(self):
        device = self.device
        while True:
            begun = device.ticks_ms()
            self._record(await self._cell.sample())
            # The next one is due an interval after this one began, unless the cell takes one of its own before.
            while await self._own_sample(begun):
                begun = device.ticks_ms()
                self._record(await self._cell.read())

    async def _own_sample(self, since_ms):
        """Wait for the cell's own sample; False once the interval is over."""
        device = self.device
        while True:
            remaining = since_ms + device.settings.sample_interval_s * 1000 - device.ticks_ms()
            if remaining <= 0:
                return False
            if await self._cell.ready(remaining):
                return True

    def _record(self, reading):
        device = self.device
        tac_ug_per_l, contact_mv, centi_celsius, quality = reading
        movements, self._movements = self._movements, 0
        device.records.alcohol_reading(
            device.clock.time_s(), tac_ug_per_l, contact_mv, centi_celsius, movements, quality
        )
