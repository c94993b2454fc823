"""Integration of currents over time, against examples reckoned by hand."""

import pytest
from emrig.power.charge import HOUR_MS, Charges, Level
from hypothesis import given
from hypothesis import strategies as st

MIDNIGHT = 1_780_000_000_000 // 86_400_000 * 86_400_000


def test_a_span_is_divided_at_full_hours() -> None:
    charges = Charges(MIDNIGHT + HOUR_MS // 2)
    # 10 mA from 00:30 to 02:15: half an hour, an hour, a quarter.
    charges.span("receiver", 10.0, 0, HOUR_MS * 7 // 4)
    assert charges.by_hour()["receiver"][:4] == pytest.approx([5.0, 10.0, 2.5, 0.0])
    assert charges.totals() == pytest.approx({"receiver": 17.5})


def test_hours_go_round_at_midnight() -> None:
    charges = Charges(MIDNIGHT + 23 * HOUR_MS)
    charges.span("modem", 3.0, 0, 2 * HOUR_MS)
    hours = charges.by_hour()["modem"]
    assert (hours[23], hours[0], sum(hours)) == pytest.approx((3.0, 3.0, 6.0))


def test_pulses_are_charge() -> None:
    charges = Charges(MIDNIGHT)
    # An hour of a milliampere is 3.6 coulombs.
    charges.pulse("bluetooth", 3_600_000.0, HOUR_MS * 5)
    assert charges.by_hour()["bluetooth"][5] == pytest.approx(1.0)


def test_a_level_changes_and_counts_at_the_battery() -> None:
    charges = Charges(MIDNIGHT)
    level = Level(charges, "modem idle", 0, factor=1.25)
    level.set(8.0, HOUR_MS)  # nothing in the first hour
    level.set(0.0, HOUR_MS * 3 // 2)  # 8 mA for half an hour
    level.set(2.0, HOUR_MS * 2)
    level.settle(HOUR_MS * 3)  # 2 mA for an hour
    level.settle(HOUR_MS * 3)
    assert charges.totals()["modem idle"] == pytest.approx((4.0 + 2.0) * 1.25)


@given(
    st.lists(st.tuples(st.integers(0, 5 * HOUR_MS), st.floats(0, 1000)), max_size=30), st.integers(0, 86_400_000 - 1)
)
def test_looking_more_often_changes_nothing(changes: list[tuple[int, float]], start: int) -> None:
    once, often = Charges(MIDNIGHT + start), Charges(MIDNIGHT + start)
    levels = [Level(once, "x", 0), Level(often, "x", 0)]
    now = 0
    for wait_ms, milliamperes in changes:
        for step in range(1, 4):
            levels[1].settle(now + wait_ms * step // 4)
        now += wait_ms
        for level in levels:
            level.set(milliamperes, now)
    for level in levels:
        level.settle(now + 1000)
    assert often.totals()["x"] == pytest.approx(once.totals()["x"])
    assert often.by_hour()["x"] == pytest.approx(once.by_hour()["x"], abs=1e-9)
