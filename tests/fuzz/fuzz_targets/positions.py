"""Position blocks: what decodes is encodable and comes back the same."""

from emwire.errors import WireError
from emwire.positions import ALL, MAXIMUM_FIXES, decode_block, encode_block


def check(data: bytes) -> None:
    """The block; its number of fixes, which costs time and finds little, made small unless it is the largest."""
    if len(data) > 1 and 16 < data[1] < MAXIMUM_FIXES:
        data = data[:1] + bytes([1 + data[1] % 16]) + data[2:]
    try:
        fixes = decode_block(data)
    except WireError as error:
        assert 0 <= error.offset <= len(data)
        return
    assert 1 <= len(fixes) <= MAXIMUM_FIXES
    assert decode_block(encode_block(fixes, data[0] & ALL)) == fixes
