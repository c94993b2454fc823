# The emulated Pico: the simulated board on a real processor and real flash, its wire to the rig over UART 0.
# The USB port stays the REPL's.
from binascii import hexlify

import machine
from rig_wire import DATA

from boards.sim import board as sim
from boards.sim import reset_cause, virtual_clock, wire

# A batch of the rig's input is a second of a receiver at most; what does not fit waits in the emulator.
RECEIVE_BUFFER = 1024
# Only how often a wait for the rig looks up.
WAIT_MS = 10000
# asyncio's ticks have 30 bits on this processor, and those of MicroPython's C code go on in real time: virtual time has
# to stay ahead of them by less than half of the range. This leaves three days to each boot.
CLOCK_BASE = 1 << 28


class Line:
    """UART 0, for boards.sim.wire."""

    def __init__(self):
        self._uart = machine.UART(0, 115200, rxbuf=RECEIVE_BUFFER, timeout=WAIT_MS, timeout_char=WAIT_MS)

    def read(self, count):
        data = self._uart.read(count) or b""
        while len(data) < count:
            data += self._uart.read(count - len(data)) or b""
        return data

    def write(self, data):
        at = self._uart.write(data) or 0
        while at < len(data):
            at += self._uart.write(data[at:]) or 0


class Board(sim.Board):
    """The hardware boundary; see boards/__init__.py."""

    name = "pico_emulated"

    def __init__(self, *storage_path):
        wire.connect(Line())
        virtual_clock.BASE = CLOCK_BASE
        super().__init__(*storage_path)

    def _reset(self, cause):
        reset_cause.keep(self.storage_path, cause)
        machine.reset()

    def record_made(self, epoch, sequence, alarm, payload):
        # The rig keeps the book: writes to this flash are those of the firmware alone.
        line = b"%d %d %d %s\n" % (epoch, sequence, 1 if alarm else 0, hexlify(payload))
        wire.send(DATA, "control", line)
