"""The coder's first estimates are what docs/positions.md derives, and no byte of the format changes unnoticed."""

from math import sqrt

from emwire import positions
from emwire.positions import ALL, DIRECTION, SATELLITES, decode_block, encode_block
from position_fixes import received_walk


def beyond(x: float) -> float:
    """P(|X| >= x) of Student's t with two degrees of freedom."""
    return 1 - x / sqrt(2 + x * x)


def bound(q: int) -> float:
    """Upper bound of a class, q quarter octaves above the expected size, in units of the distribution's scale."""
    return 2 ** (q / 4) / 0.9


def test_first_estimates_follow_from_the_distribution() -> None:
    middle = [beyond(bound(q) if q <= 0 else bound(q) / 2) for q in range(-3, 17)]
    up = [beyond(bound(q)) / beyond(bound(q - 4)) for q in range(1, 37)]
    down = [(1 - beyond(bound(-q - 4))) / (1 - beyond(bound(-q))) for q in range(32)]
    first = [
        (beyond(1.5 * bound(q - 4)) - beyond(bound(q))) / (beyond(bound(q - 4)) - beyond(bound(q)))
        for q in range(-11, 33)
    ]
    estimates = [min(250, max(6, round(256 * (1 - p)))) for p in [*middle, *up, *down, *first, 0.5]]
    assert bytes(estimates) == positions._TABLE


GOLDEN = [
    ([(0, 0, 0)], 0, "40010000000055d45230b4f4ab80"),
    ([(4294967295, 90000000, -180000000)], 0, "4001fffeffffaba9a456b0"),
    (
        [
            (100, 51500000, -127000),
            (105, 51500040, -127060),
            (110, 51500080, -127120),
            (113, 51500080, -127120),
            (115, 51500101, -127150),
        ],
        0,
        "400500000064868d5f1375fcaef472f4d53709041d80",
    ),
    (
        [(9, 1, 179999999, -1, 359, -1, -1, -1, -1), (8, 2, -180000000, -1, 1, -1, -1, -1, -1)],
        DIRECTION,
        "42020000000955cb524611d956afff618131052614b980",
    ),
    (
        [
            (0, 0, 0, -1, -1, -1, -1, -1, -1),
            (60, 0, 0, -1, -1, -1, 0, -1, -1),
            (120, 0, 0, -1, -1, -1, 1, -1, -1),
            (180, 0, 0, -1, -1, -1, -1, -1, -1),
        ],
        SATELLITES,
        "48040000000055d45230b4f4ab8efd7754ac33",
    ),
]


def test_golden_blocks() -> None:
    for fixes, columns, block in GOLDEN:
        assert encode_block(fixes, columns).hex() == block
        assert decode_block(bytes.fromhex(block)) == fixes


def test_golden_walk() -> None:
    walk = received_walk(7, 12)
    block = encode_block(walk, ALL).hex()
    assert block == WALK


WALK = (
    "7f0c08f0c894b5c0fb6ed94c9875d17641960c0eb031460fece11c5598743a4d76b863a431596bf6"
    "fccb1529876adea98cc304ad0b5deef98190445d1ab868d83060"
)
