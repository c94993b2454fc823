"""What a bench gives a board on it: every part answers in good health, and time passes when the board waits.

It serves the wire of an emulated Pico where no rig does: for the self-test that flashing ends with.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from emrig.micropython import ble_wire
from emrig.micropython import rig_wire as w

_HEADER = struct.Struct(w.HEADER_FORMAT)
_TIME = struct.Struct(w.TIME_FORMAT)
# Counts as the drivers read them (boards/__init__.py): 3.9 V, no alcohol, contact at 1 V, 33 degrees of skin, a new
# fibre.
COUNTS = {
    "battery": 39000,
    "alcohol_cell": 1000,
    "contact_infrared": 10000,
    "skin_temperature": 13300,
    "fibre_light": 40000,
}
# Of the cell's test current (drivers/alcohol_cell.py).
CHECK_COUNTS = 20000
LEVELS = {"strap": 1, "fibre": 1, "mains": 1}
SENTENCE = b"$GPRMC,120000.00,V,,,,,,,211126,,,N*79\r\n"
ADDRESS = bytes((ble_wire.ADDRESS_RANDOM,)) + b"\xc0\x01\x02\x03\x04\x05"


class Bench(threading.Thread):
    """Serves `wire` until it closes."""

    def __init__(self, wire: socket.socket, on_advertising: Callable[[bytes], None] = lambda data: None) -> None:
        """on_advertising: told of the data, each time that the board begins to advertise some."""
        super().__init__(name="bench", daemon=True)
        self._wire = wire
        self._on_advertising = on_advertising
        self._now_ms = 0
        self._levels = dict(LEVELS)
        self._inbox: list[bytes] = []
        self.calls = 0

    def run(self) -> None:
        """Answer until the wire ends."""
        try:
            while True:
                length, kind, number = _HEADER.unpack(self._read(_HEADER.size))
                self._answer(kind, w.CHANNELS[number], number, self._read(length))
        except (EOFError, OSError):
            pass

    def _answer(self, kind: int, channel: str, number: int, payload: bytes) -> None:
        if kind == w.WAIT:
            deadline_ms = _TIME.unpack(payload)[0]
            self._now_ms = max(self._now_ms, deadline_ms)
            batch, self._inbox = b"".join(self._inbox), []
            self._wire.sendall(batch + _HEADER.pack(_TIME.size, w.NOW, 0) + _TIME.pack(self._now_ms))
        elif kind == w.CALL:
            self.calls += 1
            answer = self._read_of(channel, payload[0], payload[1:])
            self._wire.sendall(_HEADER.pack(len(answer), w.REPLY, number) + answer)
        elif kind == w.PIN and channel == "alcohol_sample":
            self._levels["alcohol_ready"] = payload[0]
        elif kind == w.PIN and channel == "cell_check":
            self._levels[channel] = payload[0]
        elif kind == w.PIN and channel == "gnss_power" and payload[0]:
            self._feed("gnss", w.DATA, SENTENCE)
        elif kind == w.DATA and channel == "modem" and b"AT" in payload:
            self._feed("modem", w.DATA, b"\r\nOK\r\n")

    def _read_of(self, channel: str, operation: int, argument: bytes) -> bytes:
        if channel == "ble":
            if operation == ble_wire.CALL_ADVERTISE:
                self._on_advertising(ble_wire.unpack_advertise(argument)[2])
            if operation == ble_wire.CALL_SCAN:
                self._feed(channel, w.NOTIFY, bytes((ble_wire.IRQ_SCAN_DONE,)))
            return b"\0" + (ADDRESS if operation in (ble_wire.CALL_ACTIVE, ble_wire.CALL_ADDRESS_MODE) else b"")
        if channel in COUNTS:
            checked = CHECK_COUNTS if channel == "alcohol_cell" and self._levels.get("cell_check") else 0
            return (COUNTS[channel] + checked).to_bytes(2, "little")
        return bytes((self._levels.get(channel, 0),))

    def _feed(self, channel: str, kind: int, data: bytes) -> None:
        self._inbox.append(_HEADER.pack(len(data), kind, w.CHANNELS.index(channel)) + data)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._wire.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data
