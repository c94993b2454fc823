"""What MicroPython's Zephyr port has otherwise than the others, as its sources say (ports/zephyr, 2026)."""

import sys
import time

import machine

# extmod/modmachine.c has them only with MICROPY_PY_MACHINE_BARE_METAL_FUNCS, other ports by their own tables.
_NOT_IN_MACHINE = (
    "unique_id",
    "lightsleep",
    "wake_reason",
    "RTC",
    "PWRON_RESET",
    "HARD_RESET",
    "WDT_RESET",
    "DEEPSLEEP_RESET",
    "SOFT_RESET",
)
# extmod/modtime.c: MICROPY_PY_TIME_GMTIME_LOCALTIME_MKTIME is off.
_NOT_IN_TIME = ("gmtime", "localtime", "mktime")


# nRF52840: POWER, RESETREAS.
RESET_REASON = 0x40000400


class _Time:
    pass


class _Memory:
    """Registers; a bit that is written to the reset's reason is taken away there."""

    def __init__(self):
        self.registers = {RESET_REASON: 0}

    def __getitem__(self, address):
        return self.registers[address]

    def __setitem__(self, address, value):
        self.registers[address] &= ~value


class _Uart(machine.UART):
    """Of what comes, no more waits than has room."""

    def __init__(self, name, baud_rate, rxbuf=128, txbuf=128):
        assert isinstance(name, str)
        super().__init__(name, baud_rate)
        self._room = rxbuf

    def receive(self, data):
        self.waiting += data[: self._room - len(self.waiting)]


class _Timer(machine.Timer):
    def __init__(self, number):
        if number != -1:
            raise ValueError("only virtual timers are supported")
        super().__init__(number)


def install():
    """In place of the others' `machine` and `time`, before a board is imported."""
    if hasattr(machine, "mem32"):
        return
    for name in _NOT_IN_MACHINE:
        delattr(machine, name)
    del machine.UART.IRQ_RXIDLE
    machine.reset_cause = lambda: 42
    machine.mem32 = _Memory()
    machine.UART = _Uart
    machine.Timer = _Timer
    for name in dir(time):
        if name not in _NOT_IN_TIME:
            setattr(_Time, name, getattr(time, name))
    sys.modules["time"] = _Time
