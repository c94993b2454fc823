"""The gateway's end of the link: a row of authentic frames with any content."""

from emwire import envelope
from emwire.errors import WireError
from emwire.link import GatewayLink

from .open_aead import OpenAead


def check(data: bytes) -> None:
    """Frames behind their length as one byte each."""
    counters = [0]

    def reserve(epoch: int, count: int) -> int:
        counters[0] += count
        return counters[0] - count

    link = GatewayLink(0xA0B0C0D0, OpenAead(), reserve)
    refused = at = 0
    while at < len(data):
        end = at + 1 + data[at]
        try:
            received = link.received(data[at + 1 : end])
        except WireError:
            refused += 1
        else:
            if received.kind == envelope.RECORD:
                link.stored(received.epoch, received.sequence, received.payload)
                if data[at] & 1:
                    link.delivered(received.epoch, received.sequence, received.payload)
            for frame in link.acknowledgements():
                assert len(frame) <= envelope.MAXIMUM_FRAME
        link.changed_watermarks()
        at = end
    assert link.refused == refused
