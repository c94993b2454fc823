"""Parts that are wired to a device and need no protocol: pins, ADC channels, the serial cable."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable
from pathlib import Path

from emrig.micropython import rig_wire as w
from emrig.rig import Rig
from emrig.target import Device


class InputPin:
    """A level that the device reads and whose edges it hears."""

    def __init__(self, device: Device, channel: str, level: int) -> None:
        self._device, self._channel, self.level = device, channel, level
        device.parts[channel] = self

    def set(self, level: int) -> None:
        """Change the level; the device hears the edge."""
        if level != self.level:
            self.level = level
            self._device.feed(self._channel, w.PIN, bytes((level,)))

    def output(self, kind: int, payload: bytes) -> None:
        """Nothing: the device only reads this pin."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """The present level."""
        return bytes((self.level,))


class OutputPin:
    """A level that the device sets."""

    def __init__(self, device: Device, channel: str, on_change: Callable[[int], None] | None = None) -> None:
        self.level = 0
        self._on_change = on_change
        device.parts[channel] = self

    def output(self, kind: int, payload: bytes) -> None:
        """The device set the level."""
        level = payload[0]
        if level != self.level:
            self.level = level
            if self._on_change:
                self._on_change(level)

    def call(self, operation: int, argument: bytes) -> bytes:
        """The present level."""
        return bytes((self.level,))


class AdcChannel:
    """An analogue input: counts, 0 to 65535, from a function of the moment."""

    def __init__(self, device: Device, channel: str, counts: Callable[[], float]) -> None:
        self._counts = counts
        device.parts[channel] = self

    def output(self, kind: int, payload: bytes) -> None:
        """Nothing: an ADC channel has no output."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """The count, clipped to the converter's range."""
        return max(0, min(65535, round(self._counts()))).to_bytes(2, "little")


class FibreStrap:
    """A strap with a conductor and an optical fibre; set() cuts or joins both, as a blade does.

    `light` is the share of a new strap's light that arrives while the fibre is whole: dirt and an old lamp lower it,
    and the comparator opens below COMPARATOR.
    """

    FULL_COUNTS = 40_000
    COMPARATOR = 0.5

    def __init__(self, device: Device, conductor: InputPin) -> None:
        self.conductor = conductor
        self.fibre = InputPin(device, "fibre", 1)
        self.light = 1.0
        self.whole = True
        AdcChannel(device, "fibre_light", lambda: self.FULL_COUNTS * self.light if self.whole else 0)

    def set(self, level: int) -> None:
        """1 joins both parts, 0 cuts them."""
        self.conductor.set(level)
        self.set_fibre(level)

    def set_fibre(self, level: int) -> None:
        """The fibre alone: a wearer who bridges the conductor first."""
        self.whole = level == 1
        self.fibre.set(1 if self.whole and self.light >= self.COMPARATOR else 0)

    def fade(self, light: float) -> None:
        """The light grows weaker, or stronger again."""
        self.light = light
        self.set_fibre(1 if self.whole else 0)


class SerialCable:
    """A UART of the device as a pty; `path` is what the host opens. cut() drops every byte both ways."""

    def __init__(self, rig: Rig, device: Device, channel: str, path: Path) -> None:
        self.path = path
        self.connected = True
        self.bytes_cut = 0
        self._rig, self._device, self._channel = rig, device, channel
        self._master, self._slave = os.openpty()
        # Raw before anybody writes: changing it later would flush what is under way. The slave end stays open here
        # too, so that the host may come and go without an end-of-file.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(self._slave))
        device.parts[channel] = self
        asyncio.get_running_loop().add_reader(self._master, self._from_host)

    def output(self, kind: int, payload: bytes) -> None:
        """Bytes from the device to the host; a full pty loses them, as an unread wire does."""
        if not self.connected:
            self.bytes_cut += len(payload)
            return
        try:
            written = os.write(self._master, payload)
        except BlockingIOError:
            written = 0
        self.bytes_cut += len(payload) - written
        self._rig.hold(self._key)

    def call(self, operation: int, argument: bytes) -> bytes:
        """A UART has no calls."""
        return b""

    def cut(self) -> None:
        """Pull the cable."""
        self.connected = False

    def restore(self) -> None:
        """Plug it in again."""
        self.connected = True

    def close(self) -> None:
        """Give the pty back."""
        asyncio.get_running_loop().remove_reader(self._master)
        self.path.unlink(missing_ok=True)  # first: the pty's number may at once be another's
        os.close(self._master)
        os.close(self._slave)

    @property
    def _key(self) -> str:
        return f"{self._device.name}/{self._channel}"

    def _from_host(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except (BlockingIOError, OSError):
            return
        if self.connected:
            self._device.feed(self._channel, w.DATA, data)
            self._rig.release(self._key)
        else:
            self.bytes_cut += len(data)
