"""The GNSS receiver's stream (NMEA and UBX), in pieces of any size."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "firmware"))

from drivers.gnss import Receiver
from emwire.positions import LATITUDE_LIMIT, LONGITUDE_LIMIT


def _fixes(stream: bytes, step: int) -> list:
    receiver = Receiver()
    fixes = []
    for at in range(0, len(stream), step):
        fixes += receiver.feed(stream[at : at + step])
    return fixes + receiver.flush()


def check(data: bytes) -> None:
    """Byte 0 is the size of the pieces, the rest the stream."""
    if not data:
        return
    fixes = _fixes(data[1:], data[0] + 1)
    for fix in fixes:
        assert abs(fix.latitude_microdegrees) <= LATITUDE_LIMIT
        assert abs(fix.longitude_microdegrees) <= LONGITUDE_LIMIT
    whole = _fixes(data[1:], max(1, len(data)))
    assert whole == fixes, "the cut of the stream shows"
