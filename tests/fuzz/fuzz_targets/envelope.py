"""Sealed frames: header and opening, with a cipher that lets everything through and with the real one."""

from emgate.keys.sealing import Ccm
from emwire import envelope
from emwire.errors import WireError

from .open_aead import OpenAead

DEVICE_ID = 0xA0B0C0D0
REAL = Ccm(bytes(range(16)))


def check(data: bytes) -> None:
    """The frame."""
    try:
        control, epoch, counter = envelope.parse_header(data)
    except WireError:
        return
    assert len(data) <= envelope.MAXIMUM_FRAME
    plaintext = envelope.open_frame(OpenAead(), DEVICE_ID, data, 7)[3]
    if not envelope.is_down(control):
        again = envelope.seal(OpenAead(), DEVICE_ID, control, epoch, counter, plaintext)
        assert again[: -envelope.TAG_SIZE] == data[: -envelope.TAG_SIZE], "a second header for the same frame"
    try:
        envelope.open_frame(REAL, DEVICE_ID, data, 7)
    except WireError:
        return
    # The fuzzer does not guess 64 bits; only frames sealed with the key get here.
