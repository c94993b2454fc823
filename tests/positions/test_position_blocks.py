"""Position blocks round-trip whatever a receiver can give, cost little, and refuse what does not fit."""

import pytest
from emwire.errors import WireError
from emwire.positions import ALL, CORE, DIRECTION, MECHANISM, decode_block, encode_block
from hypothesis import given, settings
from position_fixes import blocks, received_walk


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_round_trip(case: tuple[list[tuple[int, ...]], int]) -> None:
    fixes, columns = case
    assert decode_block(encode_block(fixes, columns)) == fixes


@pytest.mark.parametrize(
    "fixes",
    [
        pytest.param([(0, 0, 0)], id="one fix"),
        pytest.param([(2**32 - 1, 90000000, 180000000)], id="one fix, highest"),
        pytest.param([(7, -90000000, -180000000)] * 255, id="255 times the same, time included"),
        pytest.param([(5 * n, 90000000 - n, 0) for n in range(60)], id="away from the pole"),
        pytest.param([(n, 90000000 * (-1) ** n, 180000000 * (-1) ** n) for n in range(255)], id="corner to corner"),
        pytest.param([(1000 - 3 * n, 10 * n, 0) for n in range(60)], id="time going backwards"),
        pytest.param([(5 * n - 1024 * 604800 * (n // 9 % 2) + 2**30, n, n) for n in range(60)], id="week rollover"),
        pytest.param([((2**32 - 20 + n) % 2**32, n, n) for n in range(60)], id="time wraps around"),
    ],
)
def test_extremes(fixes: list[tuple[int, ...]]) -> None:
    assert decode_block(encode_block(fixes)) == fixes


def _across(longitude: int) -> list[tuple[int, ...]]:
    walk = [(5 * n, 100 + n, longitude + 40 * n) for n in range(60)]
    return [(t, a, o if o <= 180000000 else o - 360000000) for t, a, o in walk]


def test_crossing_the_antimeridian_costs_no_more_than_a_jump_of_one_microdegree() -> None:
    crossing = _across(179999000)
    assert crossing[0][2] > 0 > crossing[-1][2]
    assert decode_block(encode_block(crossing)) == crossing
    assert len(encode_block(crossing)) <= len(encode_block(_across(1000))) + 3


def test_split_and_repeated_fixes_round_trip() -> None:
    fixes: list[tuple[int, ...]] = []
    time_s = 0
    for n in range(60):
        time_s += (5, 5, 3, 2)[n % 4]
        fixes.append((time_s, 37 * (n - (n % 4 == 3)), -53 * (n - (n % 4 == 3))))
    assert decode_block(encode_block(fixes)) == fixes


def test_constant_columns_cost_next_to_nothing() -> None:
    walk = received_walk(1, 60)
    core = len(encode_block([fix[:3] for fix in walk]))
    unknown = len(encode_block([(*fix[:3], -1, -1, -1, -1, -1, -1) for fix in walk], ALL))
    constant = len(encode_block([(*fix[:3], 10, 90, 5, 9, 11, 1) for fix in walk], ALL))
    assert unknown - core <= 2
    assert constant - core <= 11  # the six values themselves take 71 bits


def test_course_turning_through_north_is_cheap() -> None:
    walk = received_walk(1, 60)

    def size(course: int) -> int:
        turned = [(*fix[:4], (course + n % 7) % 360, *fix[5:]) for n, fix in enumerate(walk)]
        return len(encode_block(turned, DIRECTION))

    assert size(357) <= size(90) + 2


def test_all_columns_of_a_receiver_take_at_most_seven_bytes_a_fix() -> None:
    for interval_s in (5, 60):
        sizes = [len(encode_block(received_walk(seed, 60, interval_s), ALL)) for seed in range(20)]
        assert sum(sizes) / len(sizes) / 60 <= 7


def test_columns_left_out_come_back_unknown() -> None:
    walk = received_walk(2, 10)
    assert decode_block(encode_block(walk, CORE)) == [fix[:3] for fix in walk]
    assert decode_block(encode_block(walk, MECHANISM)) == [(*fix[:3], -1, -1, -1, -1, -1, fix[8]) for fix in walk]


def test_fixes_may_be_lists_and_are_left_alone() -> None:
    fixes = [list(fix) for fix in received_walk(3, 9)]
    before = [fix[:] for fix in fixes]
    encode_block(fixes, ALL)
    assert fixes == before


@pytest.mark.parametrize(
    ("fixes", "columns", "reason"),
    [
        ([], CORE, "1 to 255"),
        ([(0, 0, 0)] * 256, CORE, "1 to 255"),
        ([(0, 0, 0)], 64, "column"),
        ([(0, 0, 0)], ALL, "all its columns"),
        ([(0, 0)], CORE, "all its columns"),
        ([(-1, 0, 0)], CORE, "time"),
        ([(2**32, 0, 0)], CORE, "time"),
        ([(0, 90000001, 0)], CORE, "latitude"),
        ([(0, 0, -180000001)], CORE, "longitude"),
        ([(0, 0, 0, 0, 360, 0, 0, 0, 0)], ALL, "column"),
        ([(0, 0, 0, 0, 0, -2, 0, 0, 0)], ALL, "column"),
        ([(0, 0, 0, 0, 0, 0, 64, 0, 0)], ALL, "column"),
    ],
)
def test_values_that_do_not_fit_are_refused(fixes: list[tuple[int, ...]], columns: int, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        encode_block(fixes, columns)
