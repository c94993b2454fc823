"""Any bytes decode to valid fixes or raise WireError, in time and memory bounded by the 255 fixes of a block."""

import pytest
from emwire.errors import WireError
from emwire.positions import ALL, decode_block, encode_block
from hypothesis import given, settings
from hypothesis import strategies as st
from position_fixes import blocks, received_walk


def decode_or_refuse(data: bytes) -> bool:
    """Whether `data` decoded; what came out must itself be encodable, so every value is in its range."""
    try:
        fixes = decode_block(data)
    except WireError as error:
        assert error.reason
        assert 0 <= error.offset <= len(data)
        return False
    assert len(fixes) == data[1]
    assert decode_block(encode_block(fixes, data[0] & ALL)) == fixes
    return True


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    decode_or_refuse(data)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, ALL), st.integers(0, 255), st.binary(max_size=400))
def test_any_bytes_after_a_good_header(columns: int, count: int, body: bytes) -> None:
    decode_or_refuse(bytes((64 | columns, count)) + body)


@settings(max_examples=100, deadline=None)
@given(blocks(), st.data())
def test_damaged_blocks(case: tuple[list[tuple[int, ...]], int], data: st.DataObject) -> None:
    block = bytearray(encode_block(*case))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    decode_or_refuse(bytes(block))
    decode_or_refuse(bytes(block[:at]))


def test_no_byte_may_follow() -> None:
    block = encode_block(received_walk(4, 60), ALL)
    for more in (b"\0", b"\1", b"\xff", b"\0\0\0\0\0", b"\0\0\0\0\1", bytes(1000)):
        with pytest.raises(WireError):
            decode_block(block + more)


def test_most_damage_is_noticed() -> None:
    """Not a checksum (frames have their own), but the canonical tail catches about nine in ten."""
    block = encode_block(received_walk(4, 20), ALL)
    damaged = [block[:at] for at in range(len(block))]
    damaged += [
        block[:at] + bytes((block[at] ^ 1 << bit,)) + block[at + 1 :] for at in range(len(block)) for bit in range(8)
    ]
    assert sum(map(decode_or_refuse, damaged)) <= len(damaged) // 5


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"", "too short", 0),
        (b"\x40", "too short", 1),
        (b"\x00\x01", "version", 0),
        (b"\xc0\x01", "version", 0),
        (b"\x40\x00", "without fixes", 1),
        (b"\x40\x01\xff\xff\xff", "out of range", 2),
        (b"\x40\x01\x01\x00", "canonical", 3),
    ],
)
def test_headers(data: bytes, reason: str, offset: int) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        decode_block(data)
    assert caught.value.offset == offset
