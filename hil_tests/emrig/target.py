"""A simulated device: one MicroPython process with the firmware, stepped in lock-step by the rig.

What is wired to the device is a Part per channel: it gets the bytes and levels that the device puts out, and answers
its reads; input goes the other way through Device.feed().
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from emwire.constants import RESET_SOFT, RESET_WATCHDOG

from emrig.clock import VirtualClock
from emrig.interpreter import Spawner
from emrig.micropython import rig_wire as w
from emrig.models.line import Line

# A step is microseconds to milliseconds of work; a device that computes for longer than this hangs.
STEP_LIMIT_S = 60.0
UARTS = ("gnss", "modem", "host")
_TIME = struct.Struct(w.TIME_FORMAT)
_HEADER = struct.Struct(w.HEADER_FORMAT)
_NUMBERS = {name: number for number, name in enumerate(w.CHANNELS)}


class Part(Protocol):
    """What is wired to one channel of a device."""

    def output(self, kind: int, payload: bytes) -> None:
        """The device wrote bytes (DATA) or set a level (PIN)."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """The device asks, and waits for the answer."""
        ...


class DeviceDead(Exception):
    """The device's process ended or stopped answering; `reason` says how."""


class Device:
    """One device: its folder (flash), its process, its parts."""

    def __init__(
        self,
        name: str,
        folder: Path,
        spawner: Spawner,
        module_path: list[Path],
        start_script: Path,
        on_log: Callable[[str, str], None] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.parts: dict[str, Part] = {}
        self.deadline_ms: int | None = None
        self.boots = 0
        self.steps = 0
        self.bytes_out = 0
        """Of all boots, on its wire: what it wrote that was not a file."""
        self.inbox: list[bytes] = []
        self._spawner = spawner
        self._module_path = module_path
        self._start_script = start_script
        self._on_log = on_log
        self._socket: socket.socket | None = None
        self._pid = 0
        self.wake: Callable[[], None] = lambda: None
        """Called when input arrives; the rig sets it."""
        self.clock: VirtualClock | None = None
        """The rig's, for lines that hold what they receive."""
        self._lines: dict[str, Line] = {}

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process is up, as far as the rig knows."""
        return self._socket is not None

    def start(self) -> None:
        """Power on: a new process over the same folder."""
        ours, theirs = socket.socketpair()
        log = os.open(self.folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._pid = self._spawner.start(self._start_script, [str(self.folder)], self._module_path, theirs, log)
        finally:
            theirs.close()
            os.close(log)
        ours.settimeout(self._spawner.step_limit_s or STEP_LIMIT_S)
        self._socket = ours
        self.boots += 1
        self.inbox.clear()
        self.deadline_ms = 0  # the device first asks for the time
        self._read_until_wait()

    def kill(self) -> None:
        """Power off without warning: SIGKILL. Its folder stays."""
        if self._socket is not None:
            self._spawner.kill(self._pid)
            self._socket.close()
            self._socket = None
        self.deadline_ms = None
        self.inbox.clear()
        for line in self._lines.values():
            line.release()
        self._lines.clear()

    @property
    def restarts_itself(self) -> bool:
        """Whether it ended because its firmware asked for a restart; firmware/boards/sim/reset_cause.py."""
        register = self.folder / "reset_cause"
        return register.exists() and register.read_text() == str(RESET_SOFT)

    def feed(self, channel: str, kind: int, payload: bytes) -> None:
        """Input for the device, handed over at its next step."""
        if self._socket is None:
            return
        if channel in self._lines and kind == w.DATA:
            self._lines[channel].receive(payload)
        else:
            self._deliver(channel, kind, payload)

    def _deliver(self, channel: str, kind: int, payload: bytes) -> None:
        number = _NUMBERS[channel]
        for start in range(0, max(len(payload), 1), w.MAXIMUM_PAYLOAD):
            part = payload[start : start + w.MAXIMUM_PAYLOAD]
            self.inbox.append(_HEADER.pack(len(part), kind, number) + part)
        self.wake()

    def step(self, now_ms: int) -> None:
        """Hand over the input and the time; returns when the device waits again. Raises DeviceDead."""
        assert self._socket is not None
        self.steps += 1
        batch = b"".join(self.inbox)
        self.inbox.clear()
        try:
            self._socket.sendall(batch + _HEADER.pack(_TIME.size, w.NOW, 0) + _TIME.pack(now_ms))
        except OSError as error:
            raise self._died(f"its wire broke: {error}") from None
        self._read_until_wait()

    def _read_until_wait(self) -> None:
        while True:
            length, kind, number = _HEADER.unpack(self._receive(_HEADER.size))
            payload = self._receive(length) if length else b""
            if kind == w.WAIT:
                deadline = _TIME.unpack(payload)[0]
                self.deadline_ms = None if deadline < 0 else deadline
                return
            channel = w.CHANNELS[number]
            if kind == w.LOG:
                if self._on_log:
                    self._on_log(self.name, payload.decode(errors="replace"))
                continue
            part = self.parts.get(channel)
            if kind == w.CALL and channel in UARTS and payload[0] == w.HOLD:
                answer = self._hold(channel, payload[1:])
            elif kind == w.CALL:
                answer = part.call(payload[0], payload[1:]) if part else b"\0\0"
            if kind == w.CALL:
                assert self._socket is not None
                try:
                    self._socket.sendall(_HEADER.pack(len(answer), w.REPLY, number) + answer)
                except OSError as error:
                    raise self._died(f"its wire broke: {error}") from None
            elif part:
                part.output(kind, payload)

    def _hold(self, channel: str, argument: bytes) -> bytes:
        assert self.clock is not None
        line = self._lines.get(channel)
        if not argument:
            if line is not None:
                line.release()
            return b""
        (after_ms,) = struct.unpack(w.HOLD_FORMAT, argument)
        if not after_ms:
            if line is not None:
                del self._lines[channel]
                kept = line.release()
                if kept:
                    self._deliver(channel, w.DATA, kept)
            return b""
        if line is None:
            line = Line(self.clock, lambda data: self._deliver(channel, w.DATA, data))
            self._lines[channel] = line
        line.hold(after_ms)
        return b""

    def _receive(self, count: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < count:
            try:
                part = self._socket.recv(count - len(data))
            except TimeoutError:
                # A busy loop: on a board the watchdog ends it.
                (self.folder / "reset_cause").write_text(str(RESET_WATCHDOG))
                raise self._died(f"it did not answer for {self._spawner.step_limit_s or STEP_LIMIT_S:.0f} s") from None
            except OSError as error:
                raise self._died(f"its wire broke: {error}") from None
            if not part:
                raise self._died(f"its process ended; see {self.folder / 'console.log'}")
            data += part
        self.bytes_out += count
        return bytes(data)

    def _died(self, reason: str) -> DeviceDead:
        self.kill()
        return DeviceDead(f"{self.name}: {reason}")
