"""Sealed frames: 6-byte header, encrypted message, 8-byte tag. Runs on CPython and MicroPython.

A frame up is `control u8 | epoch u16 | counter u24 | ciphertext | tag`, one down `control u8 | counter u40 |
ciphertext | tag`, little endian. The header is authenticated, not encrypted. Not in the frame, but in the nonce and
in the associated data, are `device_id` (the transport says whose it is) and, down, the boot epoch (the device accepts
its present one only): a frame moved to another device or another boot does not open. See docs/envelope.md.
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
# u40, the width of a down frame's counter: it starts at the time in 1/256 s (gateway_link.first_counter).
MAXIMUM_DOWN_COUNTER = 0xFFFFFFFFFF
# Key slots, 0…3.
SLOTS = 4
NO_EPOCH = -1

UP = 0
DOWN = 1
RECORD = 0
LINK = 1


def control_byte(direction: int, kind: int, alarm: bool = False, slot: int = 0) -> int:
    """Version 1, the direction (UP/DOWN), the kind (RECORD/LINK), the lane, the key's slot 0…3."""
    return (VERSION << 5) | (direction << 4) | (kind << 3) | (4 if alarm else 0) | slot


def header(control: int, epoch: int, counter: int) -> bytes:
    """The six bytes in front; WireError if a value does not fit. A down frame's has no room for the epoch."""
    down = control & 16
    limit = MAXIMUM_DOWN_COUNTER if down else MAXIMUM_COUNTER
    if not 0 <= control <= 0xFF or not 0 <= epoch <= 0xFFFF or not 0 <= counter <= limit:
        raise WireError("range", 0)
    if down:
        return struct.pack("<BIB", control, counter & 0xFFFFFFFF, counter >> 32)
    return struct.pack("<BHBH", control, epoch, counter & 0xFF, counter >> 8)


def parse_header(frame: bytes) -> "tuple[int, int, int]":
    """(control, epoch, counter) of a frame of our version and bounded size; not authenticated yet.

    The epoch of a down frame is NO_EPOCH: the device knows which boot it is in."""
    if not frame:
        raise WireError("truncated", 0)
    if frame[0] >> 5 != VERSION:
        raise WireError("version", 0)
    if len(frame) < OVERHEAD:
        raise WireError("truncated", len(frame))
    if len(frame) > MAXIMUM_FRAME:
        raise WireError("oversize", MAXIMUM_FRAME)
    if frame[0] & 16:
        control, low, high = struct.unpack_from("<BIB", frame)
        return control, NO_EPOCH, low | (high << 32)
    control, epoch, low, high = struct.unpack_from("<BHBH", frame)
    return control, epoch, low | (high << 8)


def nonce_and_associated(device_id: int, head: bytes, epoch: int) -> "tuple[bytes, bytes]":
    """13 bytes of nonce (device, header, three more) and the associated data.

    The three are zero for a frame up, and the epoch and a zero for one down, whose header lacks it. The header's
    direction bit keeps the two apart, so the nonce is unique per key as long as (header, epoch) is."""
    device = struct.pack("<I", device_id)
    if head[0] & 16:
        boot = struct.pack("<H", epoch)
        return device + head + boot + b"\0", head + device + boot
    return device + head + b"\0\0\0", head + device


def seal(aead: "Aead", device_id: int, control: int, epoch: int, counter: int, plaintext: bytes) -> bytes:
    """A sealed frame. The caller answers for never giving one (key, control, epoch, counter) two plaintexts."""
    if len(plaintext) > MAXIMUM_PLAINTEXT:
        raise WireError("oversize", MAXIMUM_PLAINTEXT)
    head = header(control, epoch, counter)
    nonce, associated = nonce_and_associated(device_id, head, epoch)
    return head + aead.seal(nonce, plaintext, associated)


def open_frame(
    aead: "Aead", device_id: int, frame: bytes, down_epoch: "int | None" = None
) -> "tuple[int, int, int, bytes]":
    """(control, epoch, counter, plaintext) of an authentic frame; WireError for anything else.

    `down_epoch` is the boot a down frame must be bound to; without it only frames up open."""
    control, epoch, counter = parse_header(frame)
    if epoch == NO_EPOCH:
        if down_epoch is None:
            raise WireError("direction", 0)
        epoch = down_epoch
    return control, epoch, counter, open_parsed(aead, device_id, frame, epoch)


def open_parsed(aead: "Aead", device_id: int, frame: bytes, epoch: int) -> bytes:
    """The plaintext of a frame whose header was parsed already."""
    head = bytes(frame[:HEADER_SIZE])
    nonce, associated = nonce_and_associated(device_id, head, epoch)
    return aead.open(nonce, bytes(frame[HEADER_SIZE:]), associated)


def key_slot(control: int) -> int:
    """Which key seals a frame, of its control byte."""
    return control & 3


def is_alarm(control: int) -> bool:
    """Lane of a record's control byte."""
    return bool(control & 4)


def is_down(control: int) -> bool:
    """Direction of a control byte."""
    return bool(control & 16)


def is_link(control: int) -> bool:
    """Kind of a control byte."""
    return bool(control & 8)
