"""Virtual time and an in-memory board, for checks of the firmware that run on MicroPython."""

import asyncio
import asyncio.core as core
import os
import sys

from bluetooth import BLE

# MicroPython's C code stamps "run now" with real ticks; a clock far ahead of them keeps such tasks always due.
BASE = 1 << 50
_now = BASE
wakes = 0  # how often the processor woke from a sleep


class _Queue:
    def wait_io_event(self, timeout_ms):
        global _now, wakes
        if timeout_ms > 0:
            wakes += 1
        if timeout_ms < 0:
            raise RuntimeError("every task waits for ever")
        _now += timeout_ms

    def remove(self, task):
        pass


core.ticks = lambda: _now
core._io_queue = _Queue()


def now_ms():
    return _now - BASE


class Clock:
    def __init__(self):
        self._boot = now_ms()

    def ticks_ms(self):
        return now_ms() - self._boot


class Uart:
    """What the firmware wrote goes to on_write(data); feed() is what it will read."""

    def __init__(self):
        self.on_write = lambda data: None
        self._buffer = bytearray()
        self._arrived = asyncio.Event()

    def write(self, data):
        self.on_write(bytes(data))

    def feed(self, data):
        self._buffer.extend(data)
        self._arrived.set()

    def discard(self):
        self._buffer = bytearray()

    async def read(self, after_ms=0):
        if after_ms:
            # What has come by the first silence of 100 ms that ends so much later.
            end_ms = now_ms() + after_ms
            while True:
                self._arrived.clear()
                try:
                    await asyncio.wait_for_ms(self._arrived.wait(), 100)
                except asyncio.TimeoutError:
                    if self._buffer and now_ms() >= end_ms:
                        break
                    await self._arrived.wait()
        while not self._buffer:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer = bytearray()
        return data


class Adc:
    def __init__(self, counts):
        self.counts = counts

    def read_u16(self):
        return self.counts


class PinIn:
    def __init__(self, level):
        self.level = level
        self._callback = None

    def value(self):
        return self.level

    def on_change(self, callback):
        self._callback = callback

    def set(self, level):
        if level != self.level:
            self.level = level
            if self._callback:
                self._callback(level)


class PinOut:
    def __init__(self):
        self.level = 0
        self.on_level = None

    def value(self, level):
        changed = level != self.level
        self.level = level
        if changed and self.on_level:
            self.on_level(level)


class Watchdog:
    """As machine.WDT: `expired` once it was not fed in time."""

    def __init__(self, timeout_ms):
        self.timeout_ms = timeout_ms
        self.feed()

    def feed(self):
        self._due = now_ms() + self.timeout_ms

    @property
    def expired(self):
        return now_ms() >= self._due


_OUTPUTS = ("gnss_power", "modem_power", "modem_doze", "alcohol_sample", "vibration", "cell_check")


class Board:
    """Levels of a healthy, worn, half charged device."""

    name = "memory"

    def __init__(self, storage_path, identity):
        self.storage_path = storage_path
        self.identity = identity
        self.clock = Clock()
        self.reset_cause = 1
        self.uarts = {name: Uart() for name in ("gnss", "modem", "host")}
        self.adcs = {
            "battery": Adc(39000),
            "alcohol_cell": Adc(1000),
            "contact_infrared": Adc(10000),
            "skin_temperature": Adc(13000),
            "fibre_light": Adc(40000),
        }
        self.inputs = {
            "strap": PinIn(1),
            "fibre": PinIn(1),
            "case": PinIn(0),
            "mains": PinIn(1),
            "charger": PinIn(0),
            "alcohol_ready": PinIn(0),
            "motion": PinIn(0),
        }
        self.outputs = {name: PinOut() for name in _OUTPUTS}
        self.outputs["cell_check"].on_level = self._on_cell_check
        self.radio = BLE()
        self.logged = []
        self.hardware_watchdog = None
        self.restarts = 0

    def _on_cell_check(self, level):
        # A sound cell shows the whole test current.
        self.adcs["alcohol_cell"].counts += 20000 if level else -20000

    def random_bytes(self, count):
        return os.urandom(count)

    def uart(self, name):
        return self.uarts[name]

    def adc(self, name):
        return self.adcs[name]

    def pin_in(self, name):
        return self.inputs[name]

    def pin_out(self, name):
        return self.outputs[name]

    def ble(self):
        return self.radio

    def watchdog(self, timeout_ms):
        self.hardware_watchdog = Watchdog(timeout_ms)
        return self.hardware_watchdog

    def restart(self):
        self.restarts += 1

    def log(self, text):
        self.logged.append(text)
        print(now_ms(), text, file=sys.stderr)
