"""Reads pcap and pcapng files packet by packet, and writes pcap. Formats: draft-ietf-opsawg-pcap, -pcapng.

Only what a capture of frames needs is read; of a block that is not known the length is believed. Files are read in
order and hold one packet in memory. What a file says wrongly is a CaptureError with the place in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Largest packet that tcpdump and Wireshark write (libpcap MAXIMUM_SNAPLEN); a longer one is a damaged length.
MAXIMUM_PACKET = 262144
# Blocks that carry no packet (name resolution, decryption secrets) are read over, but not without end.
MAXIMUM_BLOCK = 16 << 20

NULL = 0
ETHERNET = 1
RAW_BSD = 12
RAW_OPENBSD = 14
RAW = 101
LOOP = 108
LINUX_SLL = 113
USER0 = 147
USER1 = 148
USER2 = 149
IPV4 = 228
IPV6 = 229
LINUX_SLL2 = 276

# Magic number as the four bytes of the file: byte order and fractions of a second.
_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000),
    b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}
_SECTION = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6
_TIME_RESOLUTION = 9  # option if_tsresol


class CaptureError(Exception):
    """What cannot be read: reason in one word, byte offset in `layer` (the file, a TCP or an MQTT stream)."""

    def __init__(self, reason: str, offset: int, layer: str) -> None:
        super().__init__(f"{layer}: {reason} at byte {offset}")
        self.reason = reason
        self.offset = offset
        self.layer = layer


class Packet(NamedTuple):
    """One captured packet. `cut`: it was longer on the wire than what the file holds."""

    time_us: int  # unix
    link_type: int
    data: bytes
    offset: int  # of its header, in the file
    cut: bool


def read_packets(file: BinaryIO) -> Iterator[Packet]:
    """All packets of a pcap or pcapng file; CaptureError where it is damaged, after the packets before."""
    magic = file.read(4)
    if magic in _PCAP_MAGICS:
        yield from _read_pcap(file, *_PCAP_MAGICS[magic])
    elif magic == _SECTION:
        yield from _read_pcapng(file)
    else:
        raise CaptureError("magic" if len(magic) == 4 else "truncated", 0 if len(magic) == 4 else len(magic), "pcap")


def _read(file: BinaryIO, size: int, offset: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise CaptureError("truncated", offset + len(data), "pcap")
    return data


def _read_pcap(file: BinaryIO, order: str, fractions: int) -> Iterator[Packet]:
    head = _read(file, 20, 4)
    (major, _minor), (link_type,) = struct.unpack(order + "HH", head[:4]), struct.unpack(order + "I", head[16:])
    if major != 2:
        raise CaptureError("version", 4, "pcap")
    link_type &= 0xFFFF  # above: the length of the frame check sequence
    offset = 24
    while head := file.read(16):
        if len(head) < 16:
            raise CaptureError("truncated", offset + len(head), "pcap")
        seconds, fraction, size, whole = struct.unpack(order + "IIII", head)
        if size > MAXIMUM_PACKET:
            raise CaptureError("length", offset + 8, "pcap")
        data = _read(file, size, offset + 16)
        time_us = seconds * 1_000_000 + fraction * 1_000_000 // fractions
        yield Packet(time_us, link_type, data, offset, whole > size)
        offset += 16 + size


def _read_pcapng(file: BinaryIO) -> Iterator[Packet]:
    order = "<"
    interfaces: list[tuple[int, int]] = []  # link type, units of time in a second
    offset = 0
    kind_bytes = _SECTION
    while kind_bytes:
        if len(kind_bytes) < 4:
            raise CaptureError("truncated", offset + len(kind_bytes), "pcap")
        length_bytes = _read(file, 4, offset + 4)
        if kind_bytes == _SECTION:
            magic = _read(file, 4, offset + 8)
            if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
                raise CaptureError("magic", offset + 8, "pcap")
            order = ">" if magic[0] == 0x1A else "<"
            interfaces = []
        else:
            magic = b""
        (kind,), (length,) = struct.unpack(order + "I", kind_bytes), struct.unpack(order + "I", length_bytes)
        if length % 4 or not 12 + len(magic) <= length <= MAXIMUM_BLOCK:
            raise CaptureError("length", offset + 4, "pcap")
        body = _read(file, length - 12 - len(magic), offset + 8 + len(magic))
        if _read(file, 4, offset + length - 4) != length_bytes:
            raise CaptureError("length", offset + length - 4, "pcap")
        if kind == _INTERFACE:
            interfaces.append(_interface(body, order, offset))
        elif kind == _ENHANCED:
            yield _enhanced(body, order, interfaces, offset)
        elif kind == _SIMPLE:
            yield _simple(body, order, interfaces, offset)
        offset += length
        kind_bytes = file.read(4)


def _interface(body: bytes, order: str, offset: int) -> tuple[int, int]:
    if len(body) < 8:
        raise CaptureError("truncated", offset + 8 + len(body), "pcap")
    (link_type,) = struct.unpack(order + "H", body[:2])
    units, index = 1_000_000, 8
    while index + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, index)
        if code == _TIME_RESOLUTION and size >= 1 and index + 4 < len(body):
            resolution = body[index + 4]
            units = 1 << (resolution & 0x7F) if resolution & 0x80 else 10 ** min(resolution, 38)
        if code == 0:
            break
        index += 4 + (size + 3) // 4 * 4
    return link_type, units


def _enhanced(body: bytes, order: str, interfaces: list[tuple[int, int]], offset: int) -> Packet:
    if len(body) < 20:
        raise CaptureError("truncated", offset + 8 + len(body), "pcap")
    number, high, low, size, whole = struct.unpack_from(order + "IIIII", body)
    if number >= len(interfaces):
        raise CaptureError("interface", offset + 8, "pcap")
    if size > len(body) - 20:
        raise CaptureError("length", offset + 20, "pcap")
    link_type, units = interfaces[number]
    return Packet((high << 32 | low) * 1_000_000 // units, link_type, body[20 : 20 + size], offset, whole > size)


def _simple(body: bytes, order: str, interfaces: list[tuple[int, int]], offset: int) -> Packet:
    if len(body) < 4:
        raise CaptureError("truncated", offset + 8 + len(body), "pcap")
    if not interfaces:
        raise CaptureError("interface", offset, "pcap")
    (whole,) = struct.unpack_from(order + "I", body)
    data = body[4 : 4 + whole]
    return Packet(0, interfaces[0][0], data, offset, whole > len(data))


class PcapWriter:
    """Writes packets of one link type to a pcap file with microseconds."""

    def __init__(self, file: BinaryIO, link_type: int) -> None:
        self._file = file
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, MAXIMUM_PACKET, link_type))

    def write(self, time_us: int, data: bytes) -> None:
        """Add a packet."""
        seconds, fraction = divmod(time_us, 1_000_000)
        # Seconds are a u32 until 2106; a damaged capture may say anything.
        self._file.write(struct.pack("<IIII", seconds & 0xFFFFFFFF, fraction, len(data), len(data)) + data)
