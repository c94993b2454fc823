# A device's reports about itself: status records, battery warnings, charging and whether it works, prompts to charge.
import gc
import struct

from drivers.battery import CRITICAL, LOW, UNKNOWN_PERCENT, Battery
from drivers.charger import Charging
from emwire import constants

from common import wearer

# The wire's value for a thermometer that is not fitted has to be told apart from any temperature.
TEMPERATURE_UNKNOWN = -32768
_I32 = 0x7FFFFFFF


class Health:
    """Tasks "status" and "battery" of a device."""

    def __init__(self, device):
        self._device = device
        board = device.board
        # A board with a fuel gauge gives one; else the cell's voltage tells.
        gauge = getattr(board, "fuel_gauge", None)
        self.battery = Battery(board.adc("battery"), device.settings, gauge() if gauge else None)
        self.charging = False
        self.on_charging = None  # called when the charger was connected or disconnected
        self.memory_peak = 0
        self._silent = set()  # parts that do not answer
        self._silent = set()  # parts that do not answer
        self._charge = Charging()
        self._wearer = wearer.Wearer(device) if device.has(constants.CAPABILITY_VIBRATION) else None

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
            self._temperature(),
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

    def _temperature(self):
        # board.temperature() -> 0.01 °C, where a thermometer is fitted.
        read = getattr(self._device.board, "temperature", None)
        try:
            return max(-32767, min(32767, read())) if read else TEMPERATURE_UNKNOWN
        except OSError:
            return TEMPERATURE_UNKNOWN

    async def _report_regularly(self):
        device = self._device
        while True:
            begun = device.ticks_ms()
            self.report()
            await device.settings.sleep(device.ticks_ms, begun, "status_interval_s")

    async def _watch_battery(self):
        device = self._device
        charger = device.board.pin_in("charger")
        watched = False

        def on_charger(level):
            if (level == 1) != self.charging:
                self._connected(level == 1)
                event = constants.EVENT_CHARGE_STARTED if self.charging else constants.EVENT_CHARGE_STOPPED
                device.records.event(event, self.battery.percent)

        while True:
            begun = device.ticks_ms()
            # Two looks and one more: a device whose battery nobody looks at hangs. A part that is silent is no hang.
            device.watchdog.expect("battery", 3000 * device.settings.battery_interval_s)
            try:
                level = charger.value()
                if watched:
                    on_charger(level)  # an edge may have been lost
                else:
                    self._connected(level == 1)
                    charger.on_change(on_charger)
                    watched = True
                self._answers("charger")
            except OSError as error:
                self._answers("charger", error)
            self._measure()
            self.keep_motion()
            device.tamper.look()
            await device.settings.sleep(device.ticks_ms, begun, "battery_interval_s")

    def keep_motion(self, anew=False):
        """A motion sensor that forgets what it was told says "still" for ever."""
        keep = getattr(self._device.board, "keep_motion", None)
        if keep is not None:
            try:
                keep(anew)
                self._answers("motion")
            except OSError as error:
                self._answers("motion", error)

    def _answers(self, part, error=None):
        """A part that falls silent is a fault, told once until it answers again."""
        if error is None:
            self._silent.discard(part)
        elif part not in self._silent:
            self._silent.add(part)
            self._device.log("%s: %r" % (part, error))
            self._device.supervisor.failed(part, error)

    def _connected(self, charging):
        self.charging = charging
        if charging:
            self._charge.connected(self._device.ticks_ms(), self.battery.millivolts)
            if self._wearer is not None:
                self._wearer.charged()
        else:
            self._charge.disconnected()
        if self.on_charging is not None:
            self.on_charging()

    def _measure(self):
        device = self._device
        battery = self.battery
        try:
            warning = battery.measure()
            self._answers("battery")
        except OSError as error:
            battery.percent, battery.millivolts = UNKNOWN_PERCENT, 0
            self._answers("battery", error)
            return
        if warning:
            event = constants.EVENT_BATTERY_CRITICAL if warning == CRITICAL else constants.EVENT_BATTERY_LOW
            device.records.event(event, battery.percent, evidence=struct.pack("<H", battery.millivolts))
        if self.charging:
            self._judge_charge()
        elif self._wearer is not None and battery.level:
            self._wearer.prompt(wearer.BATTERY_CRITICAL if battery.level > LOW else wearer.BATTERY_LOW)

    def _judge_charge(self):
        # A charger that is connected and fills nothing is a fault of device or charger, never of the wearer.
        device = self._device
        limit_ms = device.settings.charge_failed_s * 1000
        change = self._charge.measured(
            device.ticks_ms(),
            self.battery.millivolts,
            self.battery.percent,
            limit_ms,
            device.settings.charge_gain_mv,
        )
        if change is not None:
            failed, since_ms, gained_mv = change
            device.records.event(
                constants.EVENT_CHARGE_FAILED if failed else constants.EVENT_CHARGE_RECOVERED,
                self.battery.millivolts,
                evidence=struct.pack("<Ih", since_ms // 1000, max(-32768, min(32767, gained_mv))),
            )
