"""Datagrams over BLE: fragments of what fits one notification or write. Runs on CPython and MicroPython.

A fragment is one header byte (bit 7 first, bit 6 last, bits 5-0 number) and a part of datagram + CRC-16. Numbers run
modulo 64 from the low six bits of the CRC: fragments of two datagrams seldom continue each other, and no state is kept.
"""

import struct

from emwire.errors import WireError
from emwire.framing import CRC_SIZE, MAXIMUM_DATAGRAM, crc16

FIRST = 0x80
LAST = 0x40
NUMBER = 0x3F
# The ATT default MTU of 23 less 3 bytes of ATT header: the least a connection carries (Bluetooth Core, Vol 3 Part F).
LEAST_PAYLOAD = 20


def fragment(datagram: bytes, mtu_payload: int) -> "list[bytes]":
    """The fragments of a datagram, none longer than `mtu_payload` (MTU - 3) bytes."""
    if mtu_payload < LEAST_PAYLOAD:
        raise WireError("range", 0)
    if not datagram:
        raise WireError("short", 0)
    if len(datagram) > MAXIMUM_DATAGRAM:
        raise WireError("oversize", MAXIMUM_DATAGRAM)
    crc = crc16(datagram)
    data = bytes(datagram) + struct.pack("<H", crc)
    number = crc & NUMBER
    fragments = []
    for start in range(0, len(data), mtu_payload - 1):
        end = start + mtu_payload - 1
        header = number | (0 if start else FIRST) | (LAST if end >= len(data) else 0)
        fragments.append(bytes([header]) + data[start:end])
        number = number + 1 & NUMBER
    return fragments


class Reassembler:
    """Puts fragments together; what does not fit is dropped and counted, never raised."""

    def __init__(self, max_datagram: int = MAXIMUM_DATAGRAM) -> None:
        self._limit = max_datagram + CRC_SIZE
        self._data = bytearray()
        self._number = -1  # of the fragment received last; -1 while no datagram is open
        self._first = 0  # number the datagram began with
        self.received = 0
        self.duplicated = 0  # fragments that repeat the one before
        self.stray = 0  # fragments of no datagram that is open
        self.interrupted = 0  # datagrams given up for a lost or misplaced fragment
        self.damaged = 0  # empty fragments, and datagrams whose CRC is wrong
        self.oversize = 0  # datagrams longer than allowed

    def feed(self, fragment: bytes) -> "bytes | None":
        """The datagram that this fragment completes, if any."""
        if len(fragment) < 2:
            self.damaged += 1
            return None
        header = fragment[0]
        number = header & NUMBER
        part = bytes(fragment[1:])
        if header & FIRST:
            if self._number >= 0:
                self._close()
                self.interrupted += 1
            self._first = number
        elif self._number < 0:
            self.stray += 1
            return None
        elif number == self._number and self._data[-len(part) :] == part:
            self.duplicated += 1
            return None
        elif number != self._number + 1 & NUMBER:
            self._close()
            self.interrupted += 1
            return None
        if len(self._data) + len(part) > self._limit:
            self._close()
            self.oversize += 1
            return None
        self._data += part
        self._number = number
        return self._finish() if header & LAST else None

    def reset(self) -> None:
        """Forget a datagram begun; for a connection that was opened anew."""
        self._close()

    def _close(self) -> None:
        self._data = bytearray()
        self._number = -1

    def _finish(self) -> "bytes | None":
        size = len(self._data) - CRC_SIZE
        data = bytes(self._data)
        self._close()
        if size < 1:
            self.damaged += 1
            return None
        crc = data[size] | data[size + 1] << 8
        if crc & NUMBER != self._first or crc16(data[:size]) != crc:
            self.damaged += 1
            return None
        self.received += 1
        return data[:size]
