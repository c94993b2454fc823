# The Pico W: its table of pins, the RP2040's own thermometer, and a fuel gauge where one is fitted.
import machine
from drivers.fuel_gauge import FuelGauge

from boards.clock_board import ClockBoard
from boards.pico_w import pins


class Board(ClockBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
        # MicroPython, "Quick reference for the RP2": ADC.CORE_TEMP; 4 before that had a name.
        self._thermometer = machine.ADC(getattr(machine.ADC, "CORE_TEMP", 4))
        number, sda, scl = pins.FUEL_GAUGE
        gauge = FuelGauge(machine.I2C(number, sda=machine.Pin(sda), scl=machine.Pin(scl)))
        try:
            gauge.read()
            self.fuel_gauge = lambda: gauge
        except OSError:
            pass  # none: the cell's voltage tells
        # Only the radio knows whether USB has power (Raspberry Pi Pico W data sheet, "VBUS sense").
        self._usb_power = machine.Pin(pins.USB_POWER, machine.Pin.IN)
        self._usb = True
        self._usb_asked = self.clock.ticks_ms()
        self.sleep_lightly()

    def temperature(self):
        # RP2040 data sheet, Temperature Sensor: 0.706 V at 27 degrees, 1.721 mV less a degree.
        microvolts = self._thermometer.read_u16() * 3300000 // 65535
        return 2700 - (microvolts - 706000) * 100 // 1721

    # -- light sleep (boards/light_sleep.py)

    def must_wake(self):
        # MicroPython's lightsleep on this chip stops the clocks of UARTs and pins, and only a timer wakes it
        # (ports/rp2/modmachine.c): a board with a host listens, one without may sleep for a slice. It also stops that
        # of USB until a host knows the device, which then could not get to know it.
        return bool(self._uarts) or self._usb_is_supplied()

    def _usb_is_supplied(self):
        now = self.clock.ticks_ms()
        if now < pins.AWAKE_AFTER_BOOT_MS:
            return True
        # Its pins answer once the radio has been started; to ask takes a transfer over its SPI.
        if self._radio is None:
            return False
        if now - self._usb_asked >= pins.USB_LOOK_MS:
            self._usb_asked = now
            self._usb = bool(self._usb_power.value())
        return self._usb

    def arm(self):
        return pins.SLEEP_SLICE_MS

    def woken(self, by_timer):
        for contact in self._inputs:
            contact.look()
