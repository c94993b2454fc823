# The simulated board: every peripheral is a channel to the rig, which models what is wired to it.
import asyncio
import json
import os
import struct
from binascii import hexlify

from emwire import constants
from rig_wire import DATA, HOLD, HOLD_FORMAT, LOG, PIN, READ

from boards.sim import reset_cause, virtual_clock, wire

# A receive buffer of a UART that nobody reads; bytes beyond it are lost, as in hardware.
UART_BUFFER = 4096


class Clock:
    """Monotonic milliseconds since this boot."""

    def __init__(self, boot_ms):
        self._boot_ms = boot_ms

    def ticks_ms(self):
        return virtual_clock.now_ms() - self._boot_ms


class Uart:
    """Byte stream to what the rig wired here."""

    def __init__(self, name):
        self._name = name
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._held = 0
        self.overruns = 0
        wire.on(name, self._on_input)

    def _on_input(self, operation, payload):
        space = UART_BUFFER - len(self._buffer)
        if len(payload) > space:
            self.overruns += 1
            payload = payload[:space]
        self._buffer.extend(payload)
        self._arrived.set()

    def write(self, data):
        wire.send(DATA, self._name, bytes(data))

    def discard(self):
        self._buffer = bytearray()
        if self._held:
            wire.call(self._name, HOLD, b"")

    async def read(self, after_ms=0):
        if after_ms or self._held:
            self._held = after_ms
            wire.call(self._name, HOLD, struct.pack(HOLD_FORMAT, after_ms))
        while after_ms or not self._buffer:
            self._arrived.clear()
            await self._arrived.wait()
            after_ms = 0
        data = bytes(self._buffer)
        self._buffer = bytearray()
        return data


class Adc:
    def __init__(self, name):
        self._name = name

    def read_u16(self):
        return int.from_bytes(wire.call(self._name, READ), "little")


class PinIn:
    def __init__(self, name):
        self._name = name
        self._callback = None
        wire.on(name, self._on_input)

    def value(self):
        return wire.call(self._name, READ)[0]

    def on_change(self, callback):
        """callback(level) on every edge, in the asyncio thread."""
        self._callback = callback

    def _on_input(self, operation, payload):
        if self._callback:
            self._callback(payload[0])


class PinOut:
    def __init__(self, name):
        self._name = name

    def value(self, level):
        wire.send(PIN, self._name, bytes((1 if level else 0,)))


class Board:
    """The hardware boundary; see firmware/boards/__init__.py for what every board offers."""

    name = "sim"

    def __init__(self, storage_path):
        self.storage_path = storage_path
        with open(storage_path + "/identity.json") as file:
            self.identity = json.load(file)
        virtual_clock.install()
        self.clock = Clock(virtual_clock.now_ms())
        self.reset_cause = reset_cause.take(storage_path) or self.identity.get("reset_cause", constants.RESET_POWER_ON)
        self._parts = {}

    def watchdog(self, timeout_ms):
        return virtual_clock.Watchdog(timeout_ms, lambda: self._reset(constants.RESET_WATCHDOG))

    def restart(self):
        self._reset(constants.RESET_SOFT)

    def retain_time(self, utc_ms, uncertainty_ms):
        reset_cause.write_clock(self.storage_path, virtual_clock.now_ms(), utc_ms, uncertainty_ms)

    def retained_time(self):
        # The real-time clock's supply goes with the device's.
        if self.reset_cause in (constants.RESET_POWER_ON, constants.RESET_BROWNOUT):
            return None
        return reset_cause.read_clock(self.storage_path, virtual_clock.now_ms())

    def _reset(self, cause):
        # The rig powers a device whose process has ended on again.
        reset_cause.keep(self.storage_path, cause)
        raise SystemExit

    def _part(self, kind, name):
        if name not in self._parts:
            self._parts[name] = kind(name)
        return self._parts[name]

    def random_bytes(self, count):
        return os.urandom(count)

    def uart(self, name):
        return self._part(Uart, name)

    def adc(self, name):
        return self._part(Adc, name)

    def pin_in(self, name):
        return self._part(PinIn, name)

    def pin_out(self, name):
        return self._part(PinOut, name)

    def ble(self):
        # The rig's stand-in for MicroPython's module of this name; a board has the real one.
        import bluetooth

        return bluetooth.BLE()

    def record_made(self, epoch, sequence, alarm, payload):
        # The rig's own book of what exists, to compare with what arrives. The journal has completed its write.
        line = b"%d %d %d %s\n" % (epoch, sequence, 1 if alarm else 0, hexlify(payload))
        with open(self.storage_path + "/made.log", "ab") as file:
            file.write(line)

    def log(self, text):
        wire.send(LOG, "control", text.encode())
