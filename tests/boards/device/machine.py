"""MicroPython's `machine` as the boards use it: pins, converters, looped UARTs, a power manager."""

import io
import time

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5
EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, GPIO_WAKE = 2, 3, 4, 7
# Of the AXP2101: registers, with 3.9 V at the battery, which is there and 61 % full, and the supply present.
REGISTERS = {0x00: 0x28, 0x34: 0x0F, 0x35: 0x3C, 0xA4: 61}
_POLL_RD, _POLL_WR, _REQUEST_POLL = 1, 4, 3


def reset_cause():
    return WDT_RESET


def unique_id():
    return b"\x01\x02\x03"


slept = []  # how long lightsleep was asked for
events = []  # (ms after the beginning of a sleep, what happens then), for the next sleeps
wakes = lambda: False  # whether what has happened wakes this chip, by its name  # noqa: E731
_reason = TIMER_WAKE


def lightsleep(milliseconds):
    """Time passes; pins change, and nobody's interrupt runs meanwhile. Ends when what happened wakes the chip."""
    global _reason
    slept.append(milliseconds)
    woken = wakes()
    if woken:
        _reason = woken
        return
    _reason = TIMER_WAKE
    if events and events[0][0] < milliseconds:
        after, happens = events.pop(0)
        time.sleep_ms(after)
        happens()
        milliseconds -= after
        woken = wakes()
        if woken:
            _reason = woken
            return
    time.sleep_ms(milliseconds)


def wake_reason():
    return _reason


class Pin:
    IN, OUT, PULL_UP, IRQ_RISING, IRQ_FALLING = 0, 1, 2, 4, 8
    made = {}
    resistors = set()  # those that have one to the supply

    def __new__(cls, number, mode=None, pull=None, value=None):
        return Pin.made.get(number) or super().__new__(cls)

    def __init__(self, number, mode=None, pull=None, value=None):
        if mode is None and number in Pin.made:
            return  # as it is
        assert number not in Pin.made or self.mode is None, "pin %r is used twice" % (number,)
        Pin.made[number] = self
        self.level = 1 if value is None and (pull == Pin.PULL_UP or number in Pin.resistors) else value or 0
        self.pull = pull
        self.mode = mode
        self.handler = None
        self.taken = False  # by the chip's own wake-up

    def value(self, level=None):
        if level is None:
            return self.level
        assert self.mode == Pin.OUT
        self.level = level

    def irq(self, handler, trigger):
        self.handler = handler

    def init(self, mode, pull=None):
        assert mode == self.mode
        self.taken = False

    def set_asleep(self, level):
        """What is wired to it changes, while no edge is seen."""
        self.level = level

    def set(self, level):
        """What is wired to the pin changes."""
        self.level = level
        if self.handler:
            self.handler(self)


class ADC:
    CORE_TEMP = 4
    microvolts = {CORE_TEMP: 706000}  # 27 degrees
    full_uv = 3300000

    def __init__(self, pin):
        self.pin = pin

    def read_uv(self):
        number = next((number for number, pin in Pin.made.items() if pin is self.pin), self.pin)
        return min(ADC.microvolts.get(number, 1900000), ADC.full_uv)

    def read_u16(self):
        return self.read_uv() * 65535 // ADC.full_uv


class UART(io.IOBase):
    IRQ_RXIDLE = 0x1000
    made = {}

    def __init__(self, number, baud_rate, **keywords):
        UART.made[number] = self
        self.handler = None
        for name in ("tx", "rx"):
            if name in keywords:
                Pin(keywords[name], Pin.OUT, value=1)
        self.waiting = b""

    def write(self, data):
        part = bytes(data[:100])  # a port may take less than all
        self.waiting += part
        return len(part)

    def any(self):
        return len(self.waiting)

    def irq(self, handler, trigger):
        assert trigger == self.IRQ_RXIDLE
        self.handler = handler

    def receive(self, data):
        """A burst, after which the line is idle."""
        self.waiting += data
        if self.handler:
            self.handler(self)

    def read(self, count):
        data, self.waiting = self.waiting[:count], self.waiting[count:]
        return data or None

    def ioctl(self, request, flags):
        if request == _REQUEST_POLL:
            return flags & (_POLL_WR | (_POLL_RD if self.waiting else 0))
        return -22  # EINVAL; 0 would be taken for standard input's file number


class I2C:
    silent = False  # as a power manager that is not soldered on, or a bus that is stuck
    half = False  # whether an answer breaks off
    gauge = {}  # registers of a MAX17048, where one is fitted

    def __init__(self, number, sda, scl):
        pass

    def readfrom_mem(self, address, register, count):
        if address in (0x18, 0x19):
            raise OSError(19)  # no accelerometer on the bus (check_accelerometer has one)
        self._answer()
        if address == 0x36 and register in I2C.gauge:
            return I2C.gauge[register]
        if address == 0x36:
            raise OSError(19)
        assert address == 0x34
        return bytes(REGISTERS.get(register + at, 0) for at in range(count - I2C.half))

    def _answer(self):
        if I2C.silent:
            raise OSError(19)

    def writeto_mem(self, address, register, data):
        assert address == 0x34
        self._answer()
        for at, value in enumerate(data):
            REGISTERS[register + at] = value


class Timer:
    ONE_SHOT, PERIODIC = 0, 1
    made = []

    def __init__(self, number):
        Timer.made.append(self)

    def init(self, mode, period, callback):
        self.period = period
        self.callback = callback


class RTC:
    moment = (2021, 1, 1, 4, 0, 0, 0, 0)

    def datetime(self, moment=None):
        if moment is None:
            return RTC.moment
        assert len(moment) == 8
        RTC.moment = tuple(moment)


class WDT:
    def __init__(self, timeout):
        self.timeout = timeout
        self.fed = time.ticks_ms()
        self.longest_ms = 0

    def feed(self):
        now = time.ticks_ms()
        self.longest_ms = max(self.longest_ms, time.ticks_diff(now, self.fed))
        self.fed = now
