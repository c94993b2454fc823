# What real boards have in common: the hardware boundary over MicroPython's `machine`. A board is a table of pins.
import asyncio
import json
import os
import sys
import time

import machine
from emwire import constants
from machine import Pin

READ_BYTES = 256
# Bytes of a session that is over; a receiver that cannot be switched off would send for ever.
DISCARDED_READS = 64
# Lowest and highest count of a converter of 12 bits, as ports spread them over 16; a converter's own offset is some
# counts, so an input below 10 mV is at the end, too.
_LOWEST_RAW = 15
_HIGHEST_RAW = 65520
_LOWEST_UV = 10000
# A burst is over when nothing comes for this long (drivers/gnss.py, IDLE_MS).
SILENCE_MS = 100
# esp32 has four hardware timers (0 may be the UART driver's own), other ports have virtual ones.
_SILENCE_TIMER = 2 if sys.platform == "esp32" else -1
# From MicroPython's names to the wire's; a port has only some of them.
_RESET_CAUSES = {
    "PWRON_RESET": constants.RESET_POWER_ON,
    "HARD_RESET": constants.RESET_HARD,
    "WDT_RESET": constants.RESET_WATCHDOG,
    "DEEPSLEEP_RESET": constants.RESET_DEEP_SLEEP,
    "SOFT_RESET": constants.RESET_SOFT,
    "BROWNOUT_RESET": constants.RESET_BROWNOUT,
}


class Clock:
    """Monotonic milliseconds since this boot; MicroPython's own wrap after 12 days or more."""

    def __init__(self):
        self._last = time.ticks_ms()
        self._passed = 0

    def ticks_ms(self):
        # Right as long as somebody asks every six days: the battery is looked at every few minutes.
        now = time.ticks_ms()
        self._passed += time.ticks_diff(now, self._last)
        self._last = now
        return self._passed


class Uart:
    """Byte stream of one UART."""

    def __init__(self, number, baud_rate, **keywords):
        """keywords: what the port's machine.UART takes, as a rule tx, rx, rxbuf and txbuf."""
        self._uart = machine.UART(number, baud_rate, **keywords)
        self._reader = asyncio.StreamReader(self._uart)
        self.on_use = None  # called at every byte or burst either way
        self._silent = None
        self._timer = None
        self._after = None
        self._waiting = 0

    def write(self, data):
        self._use()
        at = 0
        while at < len(data):
            written = self._uart.write(data[at:])
            if not written:
                raise OSError(5)  # EIO: the line does not take bytes
            at += written

    def _use(self):
        if self.on_use is not None:
            self.on_use()

    def discard(self):
        for _ in range(DISCARDED_READS):
            if not self._uart.read(READ_BYTES):
                return

    async def read(self, after_ms=0):
        # machine.UART, "UART.irq": IRQ_RXIDLE on esp32 and rp2, not on Zephyr; there every piece wakes us.
        if after_ms and hasattr(self._uart, "IRQ_RXIDLE"):
            await self._silence(after_ms)
            return self._uart.read(self._uart.any())
        while True:
            data = await self._reader.read(READ_BYTES)
            if data:
                self._use()
                return data

    async def _silence(self, after_ms):
        if self._silent is None:
            self._silent = asyncio.ThreadSafeFlag()
            self._timer = machine.Timer(_SILENCE_TIMER)
            self._uart.irq(self._on_idle, self._uart.IRQ_RXIDLE)
        self._silent.clear()
        self._after = time.ticks_add(time.ticks_ms(), after_ms)
        await self._silent.wait()

    # The port says that the line is idle after two characters or so; a receiver pauses longer between sentences.
    def _on_idle(self, uart):
        self._use()
        if self._after is not None:
            self._waiting = uart.any()
            self._timer.init(mode=machine.Timer.ONE_SHOT, period=SILENCE_MS, callback=self._on_silence)

    def _on_silence(self, timer):
        if self._after is None or self._uart.any() != self._waiting:
            return  # more has come: its end is told as well
        if time.ticks_diff(time.ticks_ms(), self._after) >= 0:
            self._after = None
            self._silent.set()


class Adc:
    """Counts in the unit the driver expects: microvolts at the pin * numerator // denominator + offset.

    An input at an end, open or shorted, reads 0 or 65535, whatever the scaling makes of it. rail_uv: from where it is
    at the upper one, where the converter reaches beyond the supply.
    """

    def __init__(self, pin, numerator, denominator, offset, rail_uv=0):
        self._adc = machine.ADC(Pin(pin) if isinstance(pin, int) else pin)
        self._numerator = numerator
        self._denominator = denominator
        self._offset = offset
        self._rail_uv = rail_uv

    def read_u16(self):
        adc = self._adc
        raw = adc.read_u16()
        # Calibrated where the port can; else full scale is the supply.
        microvolts = adc.read_uv() if hasattr(adc, "read_uv") else raw * 3300000 // 65535
        if raw <= _LOWEST_RAW or microvolts < _LOWEST_UV:
            return 0
        if raw >= _HIGHEST_RAW or 0 < self._rail_uv <= microvolts:
            return 65535
        return max(0, min(65535, microvolts * self._numerator // self._denominator + self._offset))


class PinIn:
    """A level, 1 as the driver means it."""

    def __init__(self, pin, pull_up, inverted):
        self.pin = Pin(pin, Pin.IN, Pin.PULL_UP if pull_up else None)
        self._pull = Pin.PULL_UP if pull_up else None
        self._inverted = inverted
        self._told = None
        self._callback = None
        self._flag = None
        self._edges = 0

    def value(self):
        return 1 - self.pin.value() if self._inverted else self.pin.value()

    def on_change(self, callback):
        """callback(level) in the asyncio thread; two edges too fast to be seen apart arrive as both levels."""
        self._callback = callback
        if self._flag is None:
            self._flag = asyncio.ThreadSafeFlag()
            asyncio.create_task(self._watch())
            self._told = self.value()
            self.pin.irq(self._on_edge, Pin.IRQ_RISING | Pin.IRQ_FALLING)

    def look(self, again=False):
        """After a sleep, in which edges were lost. again: the port used the pin for its own wake-up meanwhile."""
        if again:
            self.pin.init(Pin.IN, self._pull)
        if self._flag is not None and self.value() != self._told:
            self._on_edge(self.pin)

    def _on_edge(self, pin):
        self._edges += 1
        self._flag.set()

    async def _watch(self):
        while True:
            await self._flag.wait()
            edges, self._edges = self._edges, 0
            level = self._told = self.value()
            if edges > 1:
                self._callback(1 - level)
            self._callback(level)


class PinOut:
    """A level, 1 = on; off until told otherwise."""

    def __init__(self, pin, inverted):
        self.level = 0
        self._inverted = inverted
        self._pin = Pin(pin, Pin.OUT, value=1 if inverted else 0)

    def value(self, level):
        self.level = 1 if level else 0
        self._pin.value(1 if bool(level) != self._inverted else 0)


class LongWatchdog:
    """For hardware whose own limit is shorter: a timer's interrupt feeds it as long as the firmware feeds this."""

    def __init__(self, hardware, limit_ms, timeout_ms):
        self._hardware = hardware
        self._turns = timeout_ms * 2 // limit_ms
        self._left = self._turns
        # The firmware sleeps for minutes; an interrupt that wakes the processor for microseconds costs next to nothing.
        self._timer = machine.Timer(-1)
        self._timer.init(mode=machine.Timer.PERIODIC, period=limit_ms // 2, callback=self._tick)

    def feed(self):
        self._left = self._turns

    def _tick(self, timer):
        if self._left > 0:
            self._left -= 1
            self._hardware.feed()


class MachineBoard:
    """Made from a module of pin tables; a board overrides what its hardware does otherwise."""

    def __init__(self, pins, storage_path):
        self.pins = pins
        self.name = pins.NAME
        self.storage_path = storage_path
        with open(storage_path + "/identity.json") as file:
            self.identity = json.load(file)
        self.clock = Clock()
        self.reset_cause = self._reset_cause()
        self._parts = {}
        self._inputs = []
        self._uarts = []
        self._radio = None
        self._sleep = None

    def random_bytes(self, count):
        return os.urandom(count)

    def uart(self, name):
        uart = self._part(_uart, self.pins.UART, name)
        if uart not in self._uarts:
            self._uarts.append(uart)
            uart.on_use = self._line_used
        return uart

    def _line_used(self):
        if self._sleep is not None:
            self._sleep.used()

    def adc(self, name):
        return self._part(Adc, self.pins.ADC, name)

    def pin_in(self, name):
        pin = self._part(PinIn, self.pins.PIN_IN, name)
        if pin not in self._inputs:
            self._inputs.append(pin)
        return pin

    def pin_out(self, name):
        return self._part(PinOut, self.pins.PIN_OUT, name)

    def ble(self):
        import bluetooth

        self._radio = bluetooth.BLE()
        return self._radio

    def sleep_lightly(self):
        """From here on the processor sleeps while every task waits; the board says when it may, and what wakes it."""
        from boards import light_sleep, sliced_wait

        def make(queue):
            self._sleep = light_sleep.LightSleep(queue, self)
            return self._sleep

        sliced_wait.take(make)

    def watchdog(self, timeout_ms):
        limit_ms = self.pins.WATCHDOG_LIMIT_MS
        if timeout_ms <= limit_ms:
            return machine.WDT(timeout=timeout_ms)
        return LongWatchdog(machine.WDT(timeout=limit_ms), limit_ms, timeout_ms)

    def restart(self):
        machine.reset()

    def reset(self):
        machine.reset()

    def log(self, text):
        # The console is nobody's data line on these boards.
        sys.stdout.write(text + "\n")

    def _reset_cause(self):
        cause = machine.reset_cause()
        for name, meaning in _RESET_CAUSES.items():
            if getattr(machine, name, None) == cause:
                return meaning
        return constants.RESET_UNKNOWN

    def _part(self, kind, table, name):
        if name not in self._parts:
            if name not in table:
                raise ValueError("board " + self.name + " has no " + name + ": see its pins.py")
            self._parts[name] = kind(*table[name])
        return self._parts[name]


def _uart(number, baud_rate, keywords):
    return Uart(number, baud_rate, **keywords)
