# The ESP32-S3 board: modem, battery, charger and mains are behind its power manager.
import machine
from drivers.axp2101 import Axp2101

from boards.esp32s3 import pins
from boards.machine_board import MachineBoard

# SIM7080 Series Hardware Design §3.3.1: the key is held for more than 1 s.
POWER_KEY_MS = 1200


class _Battery:
    # In the unit of the battery's ADC: 0.1 mV a count.
    def __init__(self, power):
        self._power = power

    def read_u16(self):
        return min(65535, self._power.battery_mv() * 10)


class _Supply:
    # The charger of a tag, the mains of a home unit: whether 5 V are there.
    def __init__(self, power):
        self._power = power

    def value(self):
        return 1 if self._power.supplied() else 0

    def on_change(self, callback):
        self._power.on_supply(lambda: callback(self.value()))


class _ModemPower:
    # The rail, then the key for a moment.
    def __init__(self, power):
        self._power = power
        self._key = machine.Pin(pins.MODEM_POWER_KEY, machine.Pin.OUT, value=0)
        # Not 0: MicroPython's UARTs took it for IRQ_RXIDLE (ports/esp32/machine_uart.c).
        self._timer = machine.Timer(1)
        self._on = False

    def value(self, level):
        if bool(level) == self._on:
            return
        self._on = bool(level)
        self._power.modem_rail(self._on)
        if self._on:
            self._key.value(1)
            self._timer.init(mode=machine.Timer.ONE_SHOT, period=POWER_KEY_MS, callback=lambda _: self._key.value(0))


class Board(MachineBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
        bus = machine.I2C(0, sda=machine.Pin(pins.POWER_SDA), scl=machine.Pin(pins.POWER_SCL))
        self._power = Axp2101(bus, machine.Pin(pins.POWER_INTERRUPT, machine.Pin.IN, machine.Pin.PULL_UP))
        # Low from the start: the modem remembers that it may doze while this is high, or open.
        self.pin_out("modem_doze")

    def adc(self, name):
        return self._own(name, _Battery) if name == "battery" else super().adc(name)

    def pin_in(self, name):
        return self._own(name, _Supply) if name in ("charger", "mains") else super().pin_in(name)

    def pin_out(self, name):
        return self._own(name, _ModemPower) if name == "modem_power" else super().pin_out(name)

    def _own(self, name, kind):
        if name not in self._parts:
            self._parts[name] = kind(self._power)
        return self._parts[name]
