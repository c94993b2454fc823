"""Sealed frames: 6-byte header, encrypted message, 8-byte tag. Runs on CPython and MicroPython.

A frame is `control u8 | epoch u16 | counter u24 | ciphertext | tag`, little endian. The header is
authenticated, not encrypted; `device_id` is not in the frame (the transport says whose it is) but is in the
nonce and in the associated data, so a frame moved to another device's topic does not open.
"""

import struct

from emwire.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Aead(Protocol):
        """AES-128-CCM with one device's key: 13-byte nonce, 8-byte tag."""

        def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
            """Ciphertext followed by the tag."""

        def open(self, nonce: bytes, ciphertext_and_tag: bytes, associated: bytes) -> bytes:
            """The plaintext, or WireError("authentication", 6)."""


VERSION = 1
HEADER_SIZE = 6
TAG_SIZE = 8
OVERHEAD = HEADER_SIZE + TAG_SIZE
# A datagram (device_id and frame) is at most 1024 bytes on every transport.
MAXIMUM_FRAME = 1020
MAXIMUM_PLAINTEXT = MAXIMUM_FRAME - OVERHEAD
# u24, the width of sequences and link counters in the header and in every message that names them.
MAXIMUM_COUNTER = 0xFFFFFF

UP = 0
DOWN = 1
RECORD = 0
LINK = 1


def control_byte(direction: int, kind: int, alarm: bool = False) -> int:
    """Version 1, the direction (UP/DOWN), the kind (RECORD/LINK), the lane, key slot 0."""
    return (VERSION << 5) | (direction << 4) | (kind << 3) | (4 if alarm else 0)


def header(control: int, epoch: int, counter: int) -> bytes:
    """The six bytes in front; WireError if a value does not fit."""
    if not 0 <= control <= 0xFF or not 0 <= epoch <= 0xFFFF or not 0 <= counter <= MAXIMUM_COUNTER:
        raise WireError("range", 0)
    return struct.pack("<BHBH", control, epoch, counter & 0xFF, counter >> 8)


def parse_header(frame: bytes) -> "tuple[int, int, int]":
    """(control, epoch, counter) of a frame of our version and bounded size; not authenticated yet."""
    if not frame:
        raise WireError("truncated", 0)
    if frame[0] >> 5 != VERSION:
        raise WireError("version", 0)
    if len(frame) < OVERHEAD:
        raise WireError("truncated", len(frame))
    if len(frame) > MAXIMUM_FRAME:
        raise WireError("oversize", MAXIMUM_FRAME)
    if frame[0] & 3:
        raise WireError("key", 0)
    control, epoch, low, high = struct.unpack("<BHBH", frame[:HEADER_SIZE])
    return control, epoch, low | (high << 8)


def nonce(device_id: int, head: bytes) -> bytes:
    """13 bytes: the device, the whole header, three zeros. Unique per key as long as the header is."""
    return struct.pack("<I", device_id) + head + b"\0\0\0"


def seal(aead: "Aead", device_id: int, control: int, epoch: int, counter: int, plaintext: bytes) -> bytes:
    """A sealed frame. The caller answers for never giving one (control, epoch, counter) two plaintexts."""
    if len(plaintext) > MAXIMUM_PLAINTEXT:
        raise WireError("oversize", MAXIMUM_PLAINTEXT)
    head = header(control, epoch, counter)
    return head + aead.seal(nonce(device_id, head), plaintext, head + struct.pack("<I", device_id))


def open_frame(aead: "Aead", device_id: int, frame: bytes) -> "tuple[int, int, int, bytes]":
    """(control, epoch, counter, plaintext) of an authentic frame; WireError for anything else."""
    control, epoch, counter = parse_header(frame)
    head = bytes(frame[:HEADER_SIZE])
    associated = head + struct.pack("<I", device_id)
    plaintext = aead.open(nonce(device_id, head), bytes(frame[HEADER_SIZE:]), associated)
    return control, epoch, counter, plaintext


def is_alarm(control: int) -> bool:
    """Lane of a record's control byte."""
    return bool(control & 4)


def is_down(control: int) -> bool:
    """Direction of a control byte."""
    return bool(control & 16)


def is_link(control: int) -> bool:
    """Kind of a control byte."""
    return bool(control & 8)
