"""BLE fragments: any fragments in any order, and what was fragmented whole."""

from emwire.fragments import LEAST_PAYLOAD, Reassembler, fragment
from emwire.framing import MAXIMUM_DATAGRAM


def check(data: bytes) -> None:
    """Fragments behind their length as one byte each, what is left as the last."""
    reassembler = Reassembler()
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        datagram = reassembler.feed(data[at + 1 : end])
        assert datagram is None or 0 < len(datagram) <= MAXIMUM_DATAGRAM
        at = end
    assert len(reassembler._data) <= MAXIMUM_DATAGRAM + 2
    reassembler.reset()
    datagram = data[1 : MAXIMUM_DATAGRAM + 1]
    if datagram:
        parts = fragment(datagram, LEAST_PAYLOAD + data[0])
        assert [reassembler.feed(part) for part in parts] == [None] * (len(parts) - 1) + [datagram]
