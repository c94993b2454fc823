"""What stands in the evidence of an event GATEWAY_RECORDS_LOST, for the gateway that makes it and whoever reads it."""

from typing import NamedTuple

BYTES = 9


class LostRange(NamedTuple):
    """Sequences of one boot epoch of a device; `cause` as a gap record has it."""

    epoch: int
    first: int
    last: int
    cause: int

    def encode(self) -> bytes:
        """Epoch u16, first and last u24, cause u8, little-endian as everywhere."""
        return b"".join(number.to_bytes(size, "little") for number, size in zip(self, (2, 3, 3, 1), strict=True))


def decode(evidence: bytes) -> LostRange | None:
    """None where it is no range."""
    if len(evidence) != BYTES:
        return None
    found = LostRange(*(int.from_bytes(evidence[a:b], "little") for a, b in ((0, 2), (2, 5), (5, 8), (8, 9))))
    return found if found.first <= found.last else None
