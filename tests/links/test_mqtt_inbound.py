"""Messages out of a broker's bytes, in whatever pieces these come; what is no message is left for others."""

import pytest
from emgate.links.mqtt_inbound import Inbound, Message
from hypothesis import given
from hypothesis import strategies as st

PINGRESP = b"\xd0\x00"

messages = st.builds(
    Message,
    topic=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    payload=st.binary(max_size=300),
    retain=st.booleans(),
    mid=st.integers(1, 65535),
    qos=st.sampled_from([0, 1]),
).map(lambda message: message if message.qos else message._replace(mid=0))


def varying(value: int) -> bytes:
    made = bytearray()
    while True:
        value, digit = divmod(value, 128)
        made.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(made)


def packet(message: Message, version5: bool, properties: bytes = b"") -> bytes:
    topic = message.topic.encode()
    body = len(topic).to_bytes(2, "big") + topic
    if message.qos:
        body += message.mid.to_bytes(2, "big")
    if version5:
        body += varying(len(properties)) + properties
    body += message.payload
    return bytes([0x30 | message.qos << 1 | message.retain]) + varying(len(body)) + body


def all_of(inbound: Inbound, pieces: list[bytes]) -> list[Message | bytes]:
    """What is in the pieces; of what is no message two bytes at a time, as those in these tests have."""
    found: list[Message | bytes] = []
    for piece in pieces:
        inbound.put(piece)
        while True:
            if inbound.at_message:
                message = inbound.message()
                if message is None:
                    break
                found.append(message)
            elif inbound.ready:
                found.append(inbound.take(1))
            else:
                break
    return found


@given(
    st.lists(messages, max_size=5), st.booleans(), st.binary(max_size=200), st.lists(st.integers(1, 400), max_size=9)
)
def test_pieces_do_not_matter(sent: list[Message], version5: bool, properties: bytes, cuts: list[int]) -> None:
    stream = b"".join(packet(message, version5, properties) + PINGRESP for message in sent)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(stream[at : at + cut])
        at += cut
    pieces = [piece for piece in [*pieces, stream[at:]] if piece]
    expected: list[Message | bytes] = []
    for message in sent:
        expected += [message, b"\xd0", b"\x00"]
    assert all_of(Inbound(version5), pieces) == expected


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5), st.booleans())
def test_rubbish_is_an_error_or_waits(pieces: list[bytes], version5: bool) -> None:
    try:
        all_of(Inbound(version5), pieces)
    except (OSError, UnicodeDecodeError):
        pass


@pytest.mark.parametrize(
    ("version5", "data"),
    [
        (False, b"\x32\xff\xff\xff\xff\x01"),  # a length of five bytes
        (False, b"\x30\x04\x00\x09ab"),  # a topic longer than the packet
        (False, b"\x32\x03\x00\x01a" + PINGRESP),  # no room for the number: the next packet is not taken for it
        (False, b"\x32\x05\x00\x01a\x00\x00"),  # number 0
        (True, b"\x30\x03\x00\x01a" + PINGRESP),  # no properties
        (True, b"\x30\x05\x00\x01a\x09b"),  # properties longer than the packet
    ],
)
def test_malformed(version5: bool, data: bytes) -> None:
    inbound = Inbound(version5)
    inbound.put(data)
    with pytest.raises(OSError, match=r"packet without a length|malformed"):
        inbound.message()


def test_the_end() -> None:
    inbound = Inbound(False)
    with pytest.raises(BlockingIOError):
        inbound.take(1)
    inbound.put(PINGRESP)
    inbound.put(b"")
    assert inbound.take(5) == PINGRESP
    assert inbound.ready and inbound.take(1) == b""
    inbound.broken(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        inbound.take(1)


@pytest.mark.parametrize("data", [b"\x30", b"\x30\x09\x00"])
def test_the_end_within_a_message(data: bytes) -> None:
    inbound = Inbound(False)
    inbound.put(data)
    assert inbound.message() is None
    inbound.put(b"")
    with pytest.raises(OSError, match="closed the connection within a packet"):
        inbound.message()


def test_a_length_is_known_before_its_packet() -> None:
    inbound = Inbound(False)
    inbound.put(b"\x30")
    assert inbound.announced() == 0
    inbound.put(b"\xff\xff\x7f")
    assert inbound.announced() == 2_097_151
