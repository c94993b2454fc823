"""Serial framing: the one-shot decoder, and the incremental one fed in pieces of any size."""

from emwire.errors import WireError
from emwire.framing import MAXIMUM_DATAGRAM, StreamDecoder, decode_stream, encode_stream


def check(data: bytes) -> None:
    """Byte 0 is the size of the pieces, the rest the stream."""
    stream = data[1:]
    step = data[0] + 1 if data else 1
    try:
        datagram = decode_stream(stream)
    except WireError:
        pass
    else:
        assert encode_stream(datagram) == stream, "a second encoding of one datagram"
    whole, pieces = StreamDecoder(), StreamDecoder()
    expected = whole.feed(stream)
    found = [datagram for at in range(0, len(stream), step) for datagram in pieces.feed(stream[at : at + step])]
    assert found == expected, "the cut of the stream shows"
    assert all(0 < len(datagram) <= MAXIMUM_DATAGRAM for datagram in found)
    assert pieces.received == len(found)
    # Whatever came before, a frame behind a zero byte is found.
    pieces.feed(b"\0")
    assert pieces.feed(encode_stream(b"after")) == [b"after"]
