# A device's reports about itself: status records, battery warnings, charging.
import asyncio
import gc
import struct

from drivers.battery import CRITICAL, Battery
from emwire import constants

# A lithium cell moves slowly; a warning may be this late. Charging alone is noticed at once.
BATTERY_INTERVAL_MS = 300000
# The wire's value for a thermometer that is not fitted has to be told apart from any temperature.
TEMPERATURE_UNKNOWN = -32768
_I32 = 0x7FFFFFFF


class Health:
    """Tasks "status" and "battery" of a device."""

    def __init__(self, device):
        self._device = device
        self.battery = Battery(device.board.adc("battery"))
        self.charging = False
        self.memory_peak = 0

    def start(self):
        self._device.start("status", self._report_regularly)
        self._device.start("battery", self._watch_battery)

    def report(self):
        """One status record."""
        device = self._device
        link = device.link
        self._measure()
        # What is left after a collection is in use; before it, garbage counts too.
        gc.collect()
        used = gc.mem_alloc()
        self.memory_peak = max(self.memory_peak, used)
        device.records.status(
            self.battery.percent,
            self.battery.millivolts,
            1 if self.charging else 0,
            TEMPERATURE_UNKNOWN,
            gc.mem_free(),
            self.memory_peak,
            device.journal.records,
            device.journal.bytes,
            device.records.made,
            link.sent if link else 0,
            min(link.refused, 65535) if link else 0,
            device.settings.version,
            max(-_I32, min(_I32, device.clock.last_correction_ms)),
        )

    async def _report_regularly(self):
        device = self._device
        while True:
            begun = device.ticks_ms()
            self.report()
            await device.settings.sleep(device.ticks_ms, begun, "status_interval_s")

    async def _watch_battery(self):
        device = self._device
        charger = device.board.pin_in("charger")
        self.charging = charger.value() == 1

        def on_charger(level):
            if (level == 1) != self.charging:
                self.charging = level == 1
                event = constants.EVENT_CHARGE_STARTED if self.charging else constants.EVENT_CHARGE_STOPPED
                device.records.event(event, self.battery.percent)

        charger.on_change(on_charger)
        while True:
            self._measure()
            await asyncio.sleep_ms(BATTERY_INTERVAL_MS)

    def _measure(self):
        warning = self.battery.measure()
        if warning:
            event = constants.EVENT_BATTERY_CRITICAL if warning == CRITICAL else constants.EVENT_BATTERY_LOW
            evidence = struct.pack("<H", self.battery.millivolts)
            self._device.records.event(event, self.battery.percent, evidence=evidence)
