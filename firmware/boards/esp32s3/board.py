# The ESP32-S3 board: modem, battery, charger and mains are behind its power manager.
import esp32
import machine
from drivers import lis2dw12
from drivers.axp2101 import Axp2101

from boards.clock_board import ClockBoard
from boards.esp32s3 import pins

# SIM7080 Series Hardware Design §3.3.1: the key is held for more than 1 s.
POWER_KEY_MS = 1200
# While a contact is open (its pin high) its closing cannot wake: it is looked at so often. Debounced for 50 ms.
OPEN_LOOK_MS = 1000
# Everything else is woken for; the power manager's line, too.
LONGEST_SLEEP_MS = 60000


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
        self._callback = None

    def value(self):
        return 1 if self._power.supplied() else 0

    def on_change(self, callback):
        # Anew by a task that failed and starts again: it takes the place of the one before.
        if self._callback is None:
            self._power.on_supply(lambda: self._callback(self.value()))
        self._callback = callback


class _ModemPower:
    # The rail, then the key for a moment.
    def __init__(self, power):
        self._power = power
        self._key = machine.Pin(pins.MODEM_POWER_KEY, machine.Pin.OUT, value=0)
        # Not 0: MicroPython's UARTs took it for IRQ_RXIDLE (ports/esp32/machine_uart.c).
        self._timer = machine.Timer(1)
        self.level = 0

    def value(self, level):
        if bool(level) == bool(self.level):
            return
        self._power.modem_rail(bool(level))
        self.level = 1 if level else 0  # not before: who is refused asks again
        if level:
            self._key.value(1)
            self._timer.init(mode=machine.Timer.ONE_SHOT, period=POWER_KEY_MS, callback=lambda _: self._key.value(0))

    def sleep(self):
        """It sleeps by itself, and remembers where it is attached as long as it has its rail: value(1) is its key."""
        self.level = 0


class Board(ClockBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
        self._bus = bus = machine.I2C(0, sda=machine.Pin(pins.POWER_SDA), scl=machine.Pin(pins.POWER_SCL))
        self._interrupt = machine.Pin(pins.POWER_INTERRUPT, machine.Pin.IN, machine.Pin.PULL_UP)
        self._power = Axp2101(bus, self._interrupt)
        # Low from the start: the modem remembers that it may doze while this is high, or open.
        self.pin_out("modem_doze")
        self._lines = [machine.Pin(entry[2]["rx"]) for name, entry in pins.UART.items() if name != "host"]
        # MicroPython, "esp32": wake_on_gpio, from 1.27; a line that cannot wake us would be deaf. Then we stay awake.
        if hasattr(esp32, "wake_on_gpio"):
            self.sleep_lightly()

    def temperature(self):
        # Of the chip, in whole degrees ("Quick reference for the ESP32", The internal temperature sensor).
        return 100 * esp32.mcu_temperature()

    def check_motion(self):
        lis2dw12.check(self._bus)

    def keep_motion(self, anew):
        (lis2dw12.setup if anew else lis2dw12.keep)(self._bus)

    def fuel_gauge(self):
        return self._power

    # -- light sleep (boards/light_sleep.py)

    def must_wake(self):
        if "host" in self._parts:
            return True
        try:
            # USB is the console, and its host would lose the board; with 5 V there is nothing to save.
            if self._power.supplied():
                return True
        except OSError:
            return True
        # NimBLE's controller does not sleep along.
        if self._radio is not None and self._radio.active():
            return True
        # The modem's DTR is low: a command is under way, or may be answered at any time.
        modem = self._parts.get("modem_power")
        return modem is not None and modem.level and not self._parts["modem_doze"].level

    def arm(self):
        """Wake by strap, case, motion and cell going high, power manager and UARTs going low; the longest sleep."""
        low = [contact.pin for contact in self._inputs if not contact.pin.value()]
        # MicroPython, "esp32": EXT1 wakes by any of its pins that is high, EXT0 by one pin, GPIO by any at one level.
        # EXT0 and EXT1 use RTC pins, GPIO 0 to 21 of this chip; GPIO would turn a pin's own interrupt into another.
        # An empty tuple disarms; None would leave what was armed before (ports/esp32/modesp32.c).
        esp32.wake_on_ext1(tuple(low), esp32.WAKEUP_ANY_HIGH)
        esp32.wake_on_ext0(self._interrupt if self._interrupt.value() else None, esp32.WAKEUP_ALL_LOW)
        # A line without a powered part at its end may be low all the time. One that was armed once stays so in the chip
        # as long as another is: then it wakes at once, and we stay awake rather than deaf.
        esp32.wake_on_gpio(tuple([line for line in self._lines if line.value()]), esp32.WAKEUP_ALL_LOW)
        return LONGEST_SLEEP_MS if len(low) == len(self._inputs) else OPEN_LOOK_MS

    def woken(self, by_timer):
        for contact in self._inputs:
            contact.look(True)
        # As PinIn.look: back from the RTC, which had it for EXT0.
        self._interrupt.init(machine.Pin.IN, machine.Pin.PULL_UP)
        self._power.look()
        # What woke it was a byte on a line, or a level that may still change.
        if not by_timer and machine.wake_reason() != machine.TIMER_WAKE:
            self._sleep.used()

    def adc(self, name):
        return self._own(name, _Battery) if name == "battery" else super().adc(name)

    def pin_in(self, name):
        if name == "motion" and name not in self._parts:
            try:
                lis2dw12.setup(self._bus)
            except OSError as error:
                # Its line then never says "moves", and is not believed (tags/motion.py).
                self.log("accelerometer: %r" % error)
        return self._own(name, _Supply) if name in ("charger", "mains") else super().pin_in(name)

    def pin_out(self, name):
        return self._own(name, _ModemPower) if name == "modem_power" else super().pin_out(name)

    def _own(self, name, kind):
        if name not in self._parts:
            self._parts[name] = kind(self._power)
        return self._parts[name]
