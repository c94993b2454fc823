"""Datagrams on a byte stream: COBS(datagram + CRC-16) and a zero byte. Runs on CPython and MicroPython.

The CRC finds noise; forgery is the envelope's business. A frame has one encoding only, so that a changed byte is
refused even where plain COBS would decode to the same data.
"""

import struct

from emwire.errors import WireError

MAXIMUM_DATAGRAM = 1024
CRC_SIZE = 2

# CRC-16/CCITT-FALSE (polynomial 0x1021, initial 0xFFFF, check value 0x29B1), four bits a step: 16 entries cost a
# board 64 bytes where a table of 256 costs a kilobyte.
_CRC_NIBBLES = (
    0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50A5, 0x60C6, 0x70E7,
    0x8108, 0x9129, 0xA14A, 0xB16B, 0xC18C, 0xD1AD, 0xE1CE, 0xF1EF,
)  # fmt: skip


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """CRC-16/CCITT-FALSE of the data, or of the data after what `crc` is of."""
    table = _CRC_NIBBLES
    for byte in data:
        crc = (crc << 4 & 0xFFFF) ^ table[crc >> 12 ^ byte >> 4]
        crc = (crc << 4 & 0xFFFF) ^ table[crc >> 12 ^ byte & 15]
    return crc


def encode_stream(datagram: bytes, maximum: int = MAXIMUM_DATAGRAM) -> bytes:
    """The datagram as it goes on the stream, with the zero byte at the end."""
    if not datagram:
        raise WireError("short", 0)
    if len(datagram) > maximum:
        raise WireError("oversize", maximum)
    data = bytes(datagram) + struct.pack("<H", crc16(datagram))
    out = bytearray()
    groups = data.split(b"\0")
    last = len(groups) - 1
    for index, group in enumerate(groups):
        full = False
        while len(group) > 253:
            # Code 255: 254 bytes and no zero behind them.
            out.append(255)
            out += group[:254]
            group = group[254:]
            full = True
        # The zero behind a full block needs an empty block to carry it; the end of the data does not.
        if group or not full or index < last:
            out.append(len(group) + 1)
            out += group
    out.append(0)
    return bytes(out)


def decode_stream(frame: bytes, maximum: int = MAXIMUM_DATAGRAM) -> bytes:
    """The datagram of one whole frame with its zero byte; WireError for anything else."""
    frame = bytes(frame)
    end = len(frame) - 1
    zero = frame.find(b"\0")
    if zero < 0:
        raise WireError("unterminated", len(frame))
    if zero < end:
        raise WireError("delimiter", zero)
    if end > encoded_limit(maximum):
        raise WireError("oversize", encoded_limit(maximum))
    out = bytearray()
    index = 0
    code = 0
    while index < end:
        previous = code
        code = frame[index]
        following = index + code
        if following > end:
            raise WireError("truncated", index)
        if code == 1 and previous == 255 and following == end:
            raise WireError("excess", index)
        out += frame[index + 1 : following]
        if code < 255 and following < end:
            out.append(0)
        index = following
    size = len(out) - CRC_SIZE
    if size < 1:
        raise WireError("short", end)
    if size > maximum:
        raise WireError("oversize", end)
    datagram = bytes(out[:size])
    if crc16(datagram) != out[size] | out[size + 1] << 8:
        raise WireError("checksum", end)
    return datagram


def encoded_limit(maximum: int) -> int:
    """Most bytes a frame can have before its zero byte: one code byte for every 254 bytes begun."""
    size = maximum + CRC_SIZE
    return size + (size + 253) // 254


class StreamDecoder:
    """Finds datagrams in a stream given in pieces of any size. Holds at most one frame."""

    def __init__(self, max_datagram: int = MAXIMUM_DATAGRAM) -> None:
        self._maximum = max_datagram
        self._limit = encoded_limit(max_datagram)
        self._frame = bytearray()
        self._skipping = False  # until the next zero: the frame has become too long
        self._lost = False  # the last frame was refused
        self.received = 0
        self.damaged = 0  # frames refused
        self.oversize = 0  # frames longer than any datagram; not counted as damaged
        self.resynchronised = 0  # good frames found after refused ones

    def feed(self, data: bytes) -> "list[bytes]":
        """The datagrams that became complete, in order."""
        datagrams: list[bytes] = []
        data = bytes(data)
        start = 0
        while True:
            zero = data.find(b"\0", start)
            end = len(data) if zero < 0 else zero
            if not self._skipping:
                room = self._limit - len(self._frame)
                if end - start > room:
                    self._skipping = True
                    self._lost = True
                    self.oversize += 1
                    self._frame = bytearray()
                else:
                    self._frame += data[start:end]
            if zero < 0:
                return datagrams
            if self._skipping:
                self._skipping = False
            elif self._frame:
                self._finish(datagrams)
            start = zero + 1

    def reset(self) -> None:
        """Forget a frame begun; for a stream that was opened anew."""
        self._frame = bytearray()
        self._skipping = False

    def _finish(self, datagrams: "list[bytes]") -> None:
        self._frame.append(0)
        frame = bytes(self._frame)
        self._frame = bytearray()
        try:
            datagrams.append(decode_stream(frame, self._maximum))
        except WireError:
            self.damaged += 1
            self._lost = True
            return
        self.received += 1
        if self._lost:
            self._lost = False
            self.resynchronised += 1
