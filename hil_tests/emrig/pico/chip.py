"""The RP2040 with its flash in a file, and power that can be cut in the middle of a write to it.

What rp2040py 0.3.6 does otherwise than the hardware is mended from outside. The UART's transmit interrupt is an edge
that software clears by UARTICR; there it comes again at once, so that `machine.UART` never gets out of its handler. A
USB host that has nothing to send lets the device wait; there it sends empty packets without a pause, and the firmware
spends most of its time on them. The ring oscillator, where `os.urandom` comes from, gives no random bits. And flash is
memory only: here every erased sector and programmed page goes to the file too, as it happens.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rp2040py.clock.simulation_clock import SimulationClock
from rp2040py.device.bootrom import BOOTROM_B1
from rp2040py.device.load_flash import load_uf2
from rp2040py.execute_batch import execute_batch
from rp2040py.memory_map import FLASH_START_ADDRESS
from rp2040py.peripherals import ssi as flash_chip
from rp2040py.peripherals import uart as pl011
from rp2040py.peripherals.peripheral import UnimplementedPeripheral
from rp2040py.peripherals.usb import RPUSBController
from rp2040py.rp2040 import RP2040
from rp2040py.usb.cdc import USBCDC
from rp2040py.utils.logging import ConsoleLogger, LogLevel

FLASH_BYTES = 2 * 1024 * 1024  # the Pico's W25Q16JV
# Instructions between two looks at the emulated timers; they are thousands apart, so this only saves time.
CLOCK_BATCH = 64
# RP2040 data sheet, 2.17.8. The emulator's table of peripherals has addresses without their last three digits.
RING_OSCILLATOR = 0x40060
RANDOM_BIT = 0x1C
_ERASED = b"\xff"


class PowerCut(Exception):
    """The power went during a flash operation."""


class WatchdogReset(Exception):
    """The firmware, or its watchdog, has reset the chip."""


def blank_flash(image: Path) -> bytes:
    """What the flash of a new board holds after `image` (UF2) was copied to it."""
    chip = RP2040(SimulationClock())
    chip.flash[:FLASH_BYTES] = _ERASED * FLASH_BYTES
    load_uf2(image, chip)
    return bytes(chip.flash[:FLASH_BYTES])


class _Uart:
    """One UART of the chip, mended; bytes for the chip wait here until its FIFO has room."""

    def __init__(self, uart: pl011.RPUART, on_bytes: Callable[[int], None]) -> None:
        self._uart = uart
        self._waiting: deque[int] = deque()
        self._read = uart.read_uint32
        self._write = uart.write_uint32
        uart.on_byte = on_bytes
        uart.check_interrupts = self._check  # type: ignore[method-assign]
        uart.read_uint32 = self.read  # type: ignore[method-assign]
        uart.write_uint32 = self.write  # type: ignore[method-assign]

    def feed(self, data: bytes) -> None:
        """Bytes on the chip's receive line."""
        self._waiting.extend(data)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and not self._uart.rx_fifo.full:
            self._uart.feed_byte(self._waiting.popleft())

    def _check(self) -> None:
        pending = self._uart._interrupt_status & self._uart._interrupt_mask
        self._uart.rp2040.set_interrupt(self._uart.irq, bool(pending))

    def read(self, offset: int) -> int:
        value = self._read(offset)
        if offset == pl011.UARTDR:
            self._fill()
        return value

    def write(self, offset: int, value: int) -> None:
        self._write(offset, value)
        if offset == pl011.UARTDR:
            # The byte is out at once: the FIFO is empty again.
            self._uart._interrupt_status |= pl011.UARTTXINTR
            self._check()


class _Usb:
    """The host's end of the USB serial port, mended; bytes for the chip wait here until it takes them."""

    def __init__(self, controller: RPUSBController, on_bytes: Callable[[bytes], None]) -> None:
        self._cdc = USBCDC(controller)
        self._cdc.on_serial_data = lambda data: on_bytes(bytes(data))
        self._controller = controller
        self._waiting = bytearray()
        self._wanted: int | None = None
        self._control_read = controller.on_endpoint_read
        controller.on_endpoint_read = self._on_read

    @property
    def waiting(self) -> int:
        """Bytes that the chip has not taken yet."""
        return len(self._waiting)

    def feed(self, data: bytes) -> None:
        """Bytes to the chip."""
        self._waiting += data
        if self._wanted is not None:
            self._hand_over(self._wanted)

    def _on_read(self, endpoint: int, size: int) -> None:
        if endpoint != self._cdc._out_endpoint:
            assert self._control_read
            self._control_read(endpoint, size)
        elif self._waiting:
            self._hand_over(size)
        else:
            self._wanted = size

    def _hand_over(self, size: int) -> None:
        self._wanted = None
        part = self._waiting[:size]
        del self._waiting[:size]
        self._controller.endpoint_read_done(self._cdc._out_endpoint, part)


class _RingOscillator(UnimplementedPeripheral):
    """Only its random bit."""

    def read_uint32(self, offset: int) -> int:
        return secrets.randbits(1) if offset == RANDOM_BIT else int(super().read_uint32(offset))


class Chip:
    """One power-on of the chip over a flash file; run() until it is cut or no longer wanted."""

    def __init__(self, flash: Path, on_usb: Callable[[bytes], None], on_uart: Callable[[int], None]) -> None:
        self.stopped = False  # what execute_batch looks at after each instruction
        self.clock = SimulationClock()
        self.rp2040 = RP2040(self.clock)
        self.rp2040.logger = ConsoleLogger(LogLevel.ERROR)
        self.rp2040.load_bootrom(BOOTROM_B1)
        self.flash_operations = 0
        self._file: BinaryIO = flash.open("r+b", buffering=0)
        content = self._file.read()
        if len(content) != FLASH_BYTES:
            raise ValueError(f"{flash} has {len(content)} bytes; a Pico's flash has {FLASH_BYTES}")
        self.rp2040.flash[:FLASH_BYTES] = content
        self._cut_at: int | None = None
        self._cut_share = 0.0
        self._chance = random.Random(0)
        # The emulator looks at both PIO blocks after every instruction, at half of its time; nothing uses them.
        self.rp2040.pio = []
        self.rp2040.peripherals[RING_OSCILLATOR] = _RingOscillator(self.rp2040, "ROSC")
        self.rp2040.ssi._apply_command = self._flash_command  # type: ignore[method-assign]
        self.usb = _Usb(self.rp2040.usb_ctrl, on_usb)
        self.uart = _Uart(self.rp2040.uart[0], on_uart)
        self.rp2040.watchdog.on_watchdog_trigger = self._on_watchdog
        self._reset = False
        self.rp2040.core.pc = FLASH_START_ADDRESS

    def after_watchdog(self, before: Chip) -> None:
        """This is `before`, reset: what outlives that in the watchdog block is taken over."""
        self.rp2040.watchdog._reason = before.rp2040.watchdog._reason
        self.rp2040.watchdog.scratch_data = list(before.rp2040.watchdog.scratch_data)

    def close(self) -> None:
        """Power off."""
        self._file.close()

    def cut_after(self, operations: int, share: float, seed: int) -> None:
        """Cut the power in a flash operation (sector erase, page program), after so many more.

        `share` of it is done then. The byte under way comes out anyhow: `seed` chooses which of its bits.
        """
        self._cut_at = self.flash_operations + operations
        self._cut_share = share
        self._chance = random.Random(seed)

    def run(self) -> None:
        """Some milliseconds of real time, or until `stopped` is set. Raises PowerCut, WatchdogReset."""
        execute_batch(self, CLOCK_BATCH)  # type: ignore[arg-type]  # rp2040, clock and stopped are all it takes
        if self._cut_at is not None and self.flash_operations > self._cut_at:
            raise PowerCut
        if self._reset:
            raise WatchdogReset

    @property
    def idle(self) -> bool:
        """Whether the core waits for an interrupt."""
        return bool(self.rp2040.core.waiting)

    def _on_watchdog(self) -> None:
        self._reset = self.stopped = True

    def _flash_command(self) -> None:
        chip = self.rp2040.ssi
        command = bytes(chip._tx_buffer)
        chip._tx_buffer = bytearray()
        if not command:
            return
        enabled = chip._write_enabled
        if command[0] not in (flash_chip.CMD_WRITE_ENABLE, flash_chip.CMD_READ_STATUS_1):
            chip._write_enabled = False
        if not enabled or len(command) < 4:
            return
        address = int.from_bytes(command[1:4], "big")
        if command[0] in (flash_chip.CMD_SECTOR_ERASE, flash_chip.CMD_BLOCK_ERASE):
            sector = command[0] == flash_chip.CMD_SECTOR_ERASE
            size = flash_chip.FLASH_SECTOR_SIZE if sector else flash_chip.FLASH_BLOCK_SIZE
            address &= -size
            self._change(address, _ERASED * size, erase=True)
        elif command[0] == flash_chip.CMD_PAGE_PROGRAM:
            data = command[4 : 4 + flash_chip.FLASH_PAGE_SIZE]
            before = self.rp2040.flash[address : address + len(data)]
            # Programming can only clear bits.
            self._change(address, bytes(a & b for a, b in zip(before, data, strict=True)), erase=False)

    def _change(self, address: int, after: bytes, erase: bool) -> None:
        self.flash_operations += 1
        if self._cut_at is not None and self.flash_operations > self._cut_at:
            done = int(len(after) * self._cut_share)
            before = bytes(self.rp2040.flash[address : address + len(after)])
            mask = self._chance.randrange(256)
            torn = bytes([before[done] & (after[done] | mask) if not erase else before[done] | mask])
            after = after[:done] + torn + before[done + 1 :]
            self.stopped = True
        self.rp2040.flash[address : address + len(after)] = after
        self._file.seek(address)
        self._file.write(after)
