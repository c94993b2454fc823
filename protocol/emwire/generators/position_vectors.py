"""Writes the vectors of position blocks: fixes with their block, and blocks that are refused; docs/positions.md."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any

from emwire import positions
from emwire.errors import WireError
from emwire.range_coder import Encoder

_UNKNOWN = (-1, -1, -1, -1, -1, -1)
# A wearer who walks, stands, rides and is under a roof; every column changes, vanishes and comes back.
_TRIP = (
    (500_000_000, 51_461_200, -115_600, 45, 271, 8, 9, 11, 1),
    (500_000_060, 51_461_840, -116_730, 52, 279, 7, 9, 11, 1),
    (500_000_120, 51_462_475, -117_905, 49, 284, 7, 10, 10, 1),
    (500_000_180, 51_462_475, -117_905, 0, 284, 7, 10, 10, 1),
    (500_000_240, 51_462_475, -117_905, 0, -1, 12, 6, 24, 1),
    (500_000_301, 51_464_090, -128_410, 412, 312, 19, 5, 31, 1),
    (500_000_316, 51_466_630, -131_020, 655, 322, 14, 6, 25, 1),
    (500_000_361, 51_474_220, -137_915, 640, 5, 9, 8, 13, 1),
    (500_003_961, 51_503_100, -119_300, -1, -1, 420, -1, -1, 5),
    (500_003_976, 51_503_180, -119_255, -1, -1, 35, 4, 88, 6),
    (500_004_036, 51_503_201, -119_248, 12, 88, 9, 8, 14, 1),
)
# Both ends of every range in turn, so that each difference is the largest that there is.
_ENDS = (
    (0, -90_000_000, -180_000_000, 0, 0, 0, 0, 0, 0),
    (0xFFFFFFFF, 90_000_000, 180_000_000, 65534, 359, 65534, 63, 65534, 254),
    (1, -90_000_000, 0, 65534, 180, 0, 63, 0, 254),
    (0x80000000, 0, -180_000_000, 0, 181, 65534, 0, 65534, 0),
    (0x7FFFFFFF, 1, 180_000_000, *_UNKNOWN),
)
_CASES: dict[str, tuple[int, tuple[tuple[int, ...], ...]]] = {
    "one fix": (positions.CORE, ((500_000_000, 51_461_200, -115_600),)),
    "largest first fix": (positions.CORE, ((0xFFFFFFFF, 90_000_000, 180_000_000),)),
    "lowest first fix": (positions.CORE, ((0, -90_000_000, -180_000_000),)),
    "at rest, once a minute": (
        positions.CORE,
        tuple((500_000_000 + 60 * minute, 51_461_200, -115_600) for minute in range(4)),
    ),
    "straight on": (
        positions.CORE,
        tuple((500_000_000 + 15 * step, 51_461_200 + 700 * step, -115_600 - 1100 * step) for step in range(4)),
    ),
    "a trip, core": (positions.CORE, tuple(fix[:3] for fix in _TRIP[4:8])),
    "a trip, every column": (positions.ALL, _TRIP),
    "across the date line and back": (
        positions.CORE,
        ((9, 1, 179_999_999), (69, 2, -179_999_999), (129, 3, -180_000_000), (189, 2, 180_000_000), (249, 2, 0)),
    ),
    "time runs over and back": (
        positions.CORE,
        ((0xFFFFFFF0, 5, 5), (0x1C, 6, 6), (0x58, 7, 7), (0xFFFFFFFF, 7, 7), (0, 7, 7)),
    ),
    "both ends of every range": (positions.ALL, _ENDS),
    "nothing known beside the place": (positions.ALL, ((7, 8, 9, *_UNKNOWN), (8, 8, 9, *_UNKNOWN))),
    **{
        f"column {bit} alone": (
            1 << bit,
            tuple(
                (*fix[:3], *(fix[3 + column] if column == bit else -1 for column in range(6)))
                for fix in (_TRIP[3], _TRIP[8], _TRIP[10])
            ),
        )
        for bit in range(6)
    },
}


def write() -> str:
    """The file's text."""
    blocks = [
        {"case": case, "columns": columns, "fixes": fixes, "hex": _block(fixes, columns).hex()}
        for case, (columns, fixes) in _CASES.items()
    ]
    return f'{{\n"blocks": {_lines(blocks)},\n"refused": {_lines(list(_refused()))}\n}}\n'


def _block(fixes: tuple[tuple[int, ...], ...], columns: int) -> bytes:
    block = positions.encode_block(fixes, columns)
    assert tuple(positions.decode_block(block)) == fixes
    return block


def _refused() -> Iterator[dict[str, Any]]:
    columns, fixes = _CASES["a trip, every column"]
    good = _block(fixes, columns)
    place = _block(_CASES["one fix"][1], positions.CORE)
    for case, block in {
        "empty": b"",
        "one byte": good[:1],
        "version 0": bytes([good[0] & 0x3F]) + good[1:],
        "version 3": bytes([good[0] | 0xC0]) + good[1:],
        "no fix": bytes([good[0], 0]) + good[2:],
        "one fix more": bytes([good[0], good[1] + 1]) + good[2:],
        "one fix less": bytes([good[0], good[1] - 1]) + good[2:],
        "one byte more": good + b"\0",
        "beyond the pole": _place(positions.LATITUDE_LIMIT * 2 + 1, 0),
        "beyond the date line": _place(0, positions.LONGITUDE_LIMIT * 2 + 1),
        "beyond what the range code gives": place[:2] + b"\xff" * (len(place) - 2),
    }.items():
        try:
            positions.decode_block(block)
        except WireError as error:
            yield {"case": case, "hex": block.hex(), "reason": error.reason, "offset": error.offset}
        else:
            raise AssertionError(f"{case}: not refused")


def _place(latitude: int, longitude: int) -> bytes:
    """A block of one fix, counted from the south pole and the date line; no encoder's, which would refuse it."""
    coder = Encoder(bytes((positions.VERSION << 6, 1)), array("H"), 0)
    for bits, value in ((32, 500_000_000), (28, latitude), (29, longitude)):
        coder.raw(bits, value)
    return coder.finish()


def _lines(entries: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]"
