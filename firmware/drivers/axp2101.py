# The AXP2101 power manager: rails, battery voltage, supply. Registers: X-Powers AXP2101 data sheet V1.0, §6.
try:
    from typing import Callable
except ImportError:
    pass

import asyncio

ADDRESS = 0x34
_STATUS = 0x00  # bit 5: supply good; bit 3: battery present
_GAUGE = 0x18  # bit 3: fuel gauge on
_PERCENT = 0xA4  # 0 to 100
_ADC_CHANNELS = 0x30  # bit 0: battery voltage
_BATTERY_VOLTAGE = 0x34  # two bytes, 14 bits, mV
_INTERRUPTS = 0x40  # three bytes of enables; second byte: bit 7 supply came, bit 6 supply went
_INTERRUPTED = 0x48  # three bytes; writing a 1 clears it
# Bit 4: the pin is for external use: no thermistor is fitted, and charging must not wait for one.
_TEMPERATURE_PIN = 0x50
_CONVERTERS = 0x80  # bit 2: DC3
_CONVERTER_3_VOLTAGE = 0x84  # 88 = 1.6 V, 100 mV a step above
_REGULATORS = 0x90  # bit 4: BLDO1
_REGULATOR_B1_VOLTAGE = 0x96  # 0 = 0.5 V, 100 mV a step
# The SIM7080G takes 2.7 to 4.8 V; the maker's examples give it 3.0 V, and its level shifter 3.3 V.
_MODEM_VOLTAGE = 88 + (3000 - 1600) // 100
_SHIFTER_VOLTAGE = (3300 - 500) // 100
_EIO = 5
# After a bus that did not answer. Supply that comes and goes is debounced by whoever watches it.
AGAIN_MS = 1000


class Axp2101:
    """On a machine.I2C; interrupt: the pin that it pulls low. OSError where it does not answer."""

    def __init__(self, bus, interrupt):
        self._bus = bus
        self._interrupt = interrupt
        self._flag = None
        self._callbacks: "list[Callable[[], None]]" = []
        self.refused = 0  # times that it did not answer and nobody could be told
        self._set_up = False
        try:
            self._prepare()
        except OSError:
            self.refused += 1  # with the first reading, whose task tells of it: a board has to start, and report

    def _prepare(self):
        if not self._set_up:
            self._change(_ADC_CHANNELS, 1, 1)
            self._change(_GAUGE, 0x08, 0x08)
            self._change(_TEMPERATURE_PIN, 0x10, 0x10)
            self._set_up = True

    def battery_mv(self) -> int:
        """0 without a battery."""
        self._prepare()
        high, low = self._read(_BATTERY_VOLTAGE, 2)
        return (high & 0x3F) << 8 | low

    def read(self) -> tuple:
        """(mV, percent), as drivers.fuel_gauge; OSError without a battery, or while the gauge has no word for it."""
        self._prepare()
        percent = self._read(_PERCENT)[0]
        if not self._read(_STATUS)[0] & 0x08 or percent > 100:
            raise OSError(_EIO)
        return self.battery_mv(), percent

    def supplied(self) -> bool:
        """Whether 5 V are there."""
        return self._read(_STATUS)[0] & 0x20 != 0

    def modem_rail(self, on: bool) -> None:
        """Power for the modem and for the shifter between its UART and ours."""
        if on:
            self._bus.writeto_mem(ADDRESS, _REGULATOR_B1_VOLTAGE, bytes((_SHIFTER_VOLTAGE,)))
            self._bus.writeto_mem(ADDRESS, _CONVERTER_3_VOLTAGE, bytes((_MODEM_VOLTAGE,)))
            self._change(_REGULATORS, 0x10, 0x10)
        self._change(_CONVERTERS, 0x04, 0x04 if on else 0)

    def on_supply(self, callback: "Callable[[], None]") -> None:
        """callback() in the asyncio thread when the supply came or went. OSError: ask again, nothing was begun."""
        if self._flag is None:
            self._bus.writeto_mem(ADDRESS, _INTERRUPTED, b"\xff\xff\xff")
            self._bus.writeto_mem(ADDRESS, _INTERRUPTS, b"\x00\xc0\x00")
            self._flag = asyncio.ThreadSafeFlag()
            asyncio.create_task(self._watch())
            self._interrupt.irq(lambda pin: self._flag.set(), self._interrupt.IRQ_FALLING)
        self._callbacks.append(callback)

    def look(self) -> None:
        """After a sleep, in which an edge was lost: it holds its line low until it is answered."""
        if self._flag is not None and not self._interrupt.value():
            self._flag.set()

    async def _watch(self):
        while True:
            await self._flag.wait()
            try:
                self._bus.writeto_mem(ADDRESS, _INTERRUPTED, b"\xff\xff\xff")
                for callback in self._callbacks:
                    callback()
            except OSError:
                # It holds its line until it is answered.
                self.refused += 1
                await asyncio.sleep_ms(AGAIN_MS)
                self.look()

    def _read(self, register, count=1):
        data = self._bus.readfrom_mem(ADDRESS, register, count)
        if len(data) != count:
            raise OSError(_EIO)
        return data

    def _change(self, register, mask, bits):
        present = self._read(register)[0]
        if present & mask != bits:
            self._bus.writeto_mem(ADDRESS, register, bytes((present & ~mask | bits,)))
