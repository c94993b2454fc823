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
        os.close(self._master)
        os.close(self._slave)
        self.path.unlink(missing_ok=True)

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
