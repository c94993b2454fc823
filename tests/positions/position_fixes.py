"""Fixes for the tests of position blocks: hypothesis strategies, recorded-looking walks, recorded trails."""

import random

from emwire.positions import ALL, CORE
from hypothesis import strategies as st

COLUMN_LIMITS = (65534, 359, 65534, 63, 65534, 254)

# Values where coders break: both ends, around zero, and the ordinary.
TIMES = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1]))
LATITUDES = st.one_of(st.integers(-90000000, 90000000), st.sampled_from([-90000000, 0, 90000000]))
LONGITUDES = st.one_of(
    st.integers(-180000000, 180000000), st.sampled_from([-180000000, -179999999, 0, 179999999, 180000000])
)
SMALL = st.integers(-40, 40)


def _values(columns: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(
        *(
            st.one_of(st.just(-1), st.integers(-1, limit), st.integers(0, min(limit, 12)))
            if columns >> column & 1
            else st.just(-1)
            for column, limit in enumerate(COLUMN_LIMITS)
        )
    )


@st.composite
def blocks(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], int]:
    """(fixes, columns): jumps anywhere and small steps mixed, times in any order, repeats."""
    columns = draw(st.one_of(st.sampled_from([CORE, ALL]), st.integers(0, ALL)))
    fixes: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, 30))):
        kind = draw(st.sampled_from(["jump", "step", "step", "step", "repeat"])) if fixes else "jump"
        if kind == "jump":
            place = (draw(TIMES), draw(LATITUDES), draw(LONGITUDES))
        else:
            step = (0, 0, 0) if kind == "repeat" else (draw(SMALL), draw(SMALL), draw(SMALL))
            last = fixes[-1]
            place = (
                (last[0] + step[0]) % 2**32,
                max(-90000000, min(90000000, last[1] + step[1])),
                max(-180000000, min(180000000, last[2] + step[2])),
            )
        fixes.append(place + (draw(_values(columns)) if columns else ()))
    return fixes, columns


def received_walk(seed: int, count: int, interval_s: int = 5) -> list[tuple[int, ...]]:
    """A walk with all columns as a receiver gives them: noisy speed and course, slowly changing quality."""
    chance = random.Random(seed)
    time_s, latitude, longitude = 150000000, 51507000 + chance.randrange(1000000), -127000
    course, speed, precision, satellites, hdop, mechanism = 90.0, 1.3, 6.0, 9, 11, 1
    fixes = []
    for _ in range(count):
        course += chance.gauss(0, 12)
        speed = max(0.0, speed + chance.gauss(0, 0.2))
        precision = min(40.0, max(3.0, precision + chance.gauss(0, 0.7)))
        if chance.random() < 0.15:
            satellites = min(14, max(4, satellites + chance.choice([-1, 1])))
            hdop = max(6, round(100 / satellites + chance.gauss(0, 1)))
        if chance.random() < 0.02:
            mechanism = 6 if mechanism == 1 else 1
        metres = speed * interval_s
        latitude += round(metres * 9 * (1 - abs(course % 360 - 180) / 90) + chance.gauss(0, 6))
        longitude += round(metres * 9 * (1 - abs((course - 90) % 360 - 180) / 90) + chance.gauss(0, 9))
        time_s += interval_s
        fixes.append(
            (
                time_s,
                latitude,
                longitude,
                round(speed * 36),
                round(course) % 360,
                round(precision),
                satellites,
                hdop,
                mechanism,
            )
        )
    return fixes
