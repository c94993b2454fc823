"""Shielding, jamming, motion without positions and doubted positions, fed by hand."""

from __future__ import annotations

import struct
from types import SimpleNamespace

from common.settings import TABLE
from emgate.backend.conditions.geometry import distance_m
from hypothesis import given, settings
from hypothesis import strategies as st
from tags.motion import Motion, MotionWithoutFix
from tags.shielding import EVIDENCE_FORMAT, Shielding, Suspicion, cell_jammed, jammed
from tags.teleport import Teleport

SETTINGS = SimpleNamespace(**{row[0]: row[1] for row in TABLE})
MINUTE = 60_000
LIMIT, WINDOW, GRACE = 10 * MINUTE, 60 * MINUTE, 10 * MINUTE


def _lost(sky_ms: int | None, cell_ms: int | None, dbm: int = -71, kph: int = 4) -> Shielding:
    """Fixes until 10 min, then what is lost when."""
    shielding = Shielding()
    shielding.cell(0, True, dbm)
    shielding.fixed(10 * MINUTE, kph, 9)
    for now, what in sorted((when, name) for when, name in ((sky_ms, "sky"), (cell_ms, "cell")) if when is not None):
        if what == "sky":
            shielding.failed(now, 2)
        else:
            shielding.cell(now, False)
    return shielding


def test_both_lost_together_for_two_minutes() -> None:
    shielding = _lost(10 * MINUTE + 40_000, 10 * MINUTE + 5_000)
    assert shielding.due_ms(SETTINGS) == 12 * MINUTE + 40_000
    assert shielding.check(12 * MINUTE + 39_999, SETTINGS) is None
    begins, seconds, evidence = shielding.check(12 * MINUTE + 40_000, SETTINGS)
    assert begins and seconds == 120
    assert struct.unpack(EVIDENCE_FORMAT, evidence) == (120, 155, -71, 4, 9, 2)
    assert shielding.check(30 * MINUTE, SETTINGS) is None, "once"
    shielding.cell(31 * MINUTE, None)
    assert shielding.check(31 * MINUTE, SETTINGS) is None, "the modem is restarted meanwhile"
    shielding.cell(40 * MINUTE, True)
    assert shielding.check(40 * MINUTE, SETTINGS) == (False, (40 * 60 - 10 * 60 - 40), b"")
    assert shielding.check(41 * MINUTE, SETTINGS) is None


def test_ordinary_loss_is_never_told() -> None:
    late = 10 * MINUTE + 40_000
    hour = 70 * MINUTE
    for shielding in (
        _lost(late, None),  # a house
        _lost(None, late),  # the country
        _lost(late, 20 * MINUTE),  # a house, then its cellar
        _lost(14 * MINUTE, 10 * MINUTE - 100_000),  # the cell was gone before
        _lost(late, late, dbm=-103),  # a weak cell
        _lost(late, late, dbm=-128),  # nothing was known of the cell: it slept
    ):
        assert shielding.due_ms(SETTINGS) is None and shielding.check(hour, SETTINGS) is None
    tunnel = _lost(late, late, kph=90)
    assert tunnel.check(late + 15 * MINUTE, SETTINGS) is None, "a tunnel takes its time"
    assert tunnel.check(late + 20 * MINUTE, SETTINGS) is not None
    faulty = _lost(late, late)
    faulty.faulty()
    assert faulty.check(hour, SETTINGS) is None, "a faulty receiver is a fault"
    asleep = _lost(late, late)
    asleep.cell(late + 1000, None)
    assert asleep.check(hour, SETTINGS) is None


@given(st.lists(st.tuples(st.integers(1, 200), st.sampled_from(["fix", "fail", "cell", "no cell", "asleep", "fault"])),
                max_size=60))  # fmt: skip
def test_shielding_begins_and_ends_in_turn(steps: list[tuple[int, str]]) -> None:
    shielding, now, begun = Shielding(), 0, False
    for seconds, what in steps:
        now += seconds * 1000
        {
            "fix": lambda: shielding.fixed(now, 3, 8),  # noqa: B023
            "fail": lambda: shielding.failed(now, 2),  # noqa: B023
            "cell": lambda: shielding.cell(now, True, -70),  # noqa: B023
            "no cell": lambda: shielding.cell(now, False),  # noqa: B023
            "asleep": lambda: shielding.cell(now, None),  # noqa: B023
            "fault": shielding.faulty,
        }[what]()
        change = shielding.check(now, SETTINGS)
        if change is not None:
            assert change[0] != begun and change[1] >= 0
            begun = change[0]


def test_jamming_needs_two_reports_and_ends_with_two() -> None:
    suspicion = Suspicion(2)
    seen = [(1, 12), (3, 40), (1, 12), (2, 200), (3, 255), (3, 255), (1, 10), (3, 255), (1, 10), (1, 10), (1, 10)]
    told = [suspicion.judge(60_000 * n, jammed((*report, 90, 4000), 150)) for n, report in enumerate(seen)]
    assert [change for change in told if change] == [(True, 60), (False, 360)]
    assert told[4] == (True, 60) and told[9] == (False, 360)


def test_cellular_jamming_is_a_strong_signal_without_a_cell() -> None:
    assert cell_jammed(False, -60, -75)
    assert not cell_jammed(False, -100, -75) and not cell_jammed(True, -60, -75) and not cell_jammed(None, -60, -75)
    suspicion = Suspicion(1)
    assert suspicion.judge(0, True, 120_000) is None and suspicion.judge(60_000, True, 120_000) is None
    assert suspicion.judge(120_000, True, 120_000) == (True, 120)
    assert suspicion.judge(300_000, False) == (False, 300)


def test_a_sensor_is_believed_once_it_has_spoken() -> None:
    motion = Motion()
    motion.changed(0, 0)
    assert not motion.still(10 * MINUTE, MINUTE)
    motion.changed(1, 10 * MINUTE)
    motion.changed(0, 11 * MINUTE)
    assert not motion.still(11 * MINUTE + 59_999, MINUTE) and motion.still(12 * MINUTE, MINUTE)
    motion.contradicted()
    assert not motion.still(30 * MINUTE, MINUTE)


def test_motion_without_a_fix_is_told_after_its_grace_and_ended_by_a_fix() -> None:
    rule = MotionWithoutFix()
    rule.fixed(0)
    assert rule.advance(10 * MINUTE, True, LIMIT, WINDOW, GRACE) == 0
    assert rule.advance(19 * MINUTE, False, LIMIT, WINDOW, GRACE) == 0
    assert rule.advance(20 * MINUTE, False, LIMIT, WINDOW, GRACE) == 600
    assert rule.advance(30 * MINUTE, True, LIMIT, WINDOW, GRACE) == 0, "once"
    assert rule.fixed(35 * MINUTE) == 15 * 60
    assert rule.fixed(36 * MINUTE) == 0


def test_a_fix_in_the_grace_or_motion_spread_over_hours_is_no_event() -> None:
    rule = MotionWithoutFix()
    assert rule.advance(11 * MINUTE, True, LIMIT, WINDOW, GRACE) == 0
    assert rule.fixed(15 * MINUTE) == 0
    assert rule.advance(60 * MINUTE, False, LIMIT, WINDOW, GRACE) == 0
    rule = MotionWithoutFix()
    for hour in range(10):
        start = hour * 60 * MINUTE
        assert rule.advance(start + 52 * MINUTE, False, LIMIT, WINDOW, GRACE) == 0
        assert rule.advance(start + 60 * MINUTE, True, LIMIT, WINDOW, GRACE) == 0, "8 min an hour"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 4_000), st.booleans()), max_size=80))
def test_motion_is_never_told_with_less_of_it(steps: list[tuple[int, bool]]) -> None:
    rule, now, moved = MotionWithoutFix(), 0, 0
    for seconds, moving in steps:
        now += seconds * 1000
        moved += seconds if moving else 0
        told = rule.advance(now, moving, LIMIT, WINDOW, GRACE)
        assert not told or (moved >= 600 and now >= 20 * MINUTE)


KM = 8993


def test_a_lone_wild_position_is_doubted_and_the_next_is_not() -> None:
    teleport = Teleport()
    assert teleport.judge(0, 51_500_000, 0, 10, 300) is None
    kph, metres, seconds = teleport.judge(60, 51_500_000 + 40 * KM, 0, 10, 300) or (0, 0, 0)
    assert 2390 < kph < 2410 and 39_900 < metres < 40_050 and seconds == 60
    assert teleport.judge(120, 51_500_000 + KM, 0, 10, 300) is None and teleport.count == 1


def test_two_that_agree_are_believed() -> None:
    teleport = Teleport()
    teleport.judge(0, 51_500_000, 0, 10, 300)
    assert teleport.judge(60, 52_500_000, 0, 10, 300) is not None
    assert teleport.judge(120, 52_500_000, 10, 10, 300) is None
    assert teleport.judge(180, 52_500_000, 20, 10, 300) is None
    assert teleport.judge(240, 51_500_000, 0, 10, 300) is not None


def test_wide_circles_and_a_train_are_not_doubted() -> None:
    teleport = Teleport()
    teleport.judge(0, 51_500_000, 0, 550, 300)
    assert teleport.judge(10, 51_500_000 + KM, 0, 400, 300) is None
    for second in range(60, 1200, 60):
        assert teleport.judge(second, 51_500_000 + KM + (second - 10) * 83 * KM // 1000, 0, 10, 300) is None, "298 km/h"


def test_a_time_that_goes_back_begins_anew() -> None:
    teleport = Teleport()
    assert teleport.judge(86400, 51_500_000, 0, 10, 300) is None
    assert teleport.judge(60, 0, 0, 10, 300) is None, "nobody can say how long it took"
    assert teleport.judge(120, 51_500_000, 0, 10, 300) is not None
    assert teleport.judge(120, 0, 0, 10, 300) is None


@given(st.integers(-80_000_000, 80_000_000), st.integers(-180_000_000, 180_000_000), st.integers(-9_000_000, 9_000_000),
       st.integers(1, 7200))  # fmt: skip
def test_the_speed_is_that_of_the_great_circle(latitude: int, longitude: int, north: int, seconds: int) -> None:
    teleport = Teleport()
    teleport.judge(1, latitude, longitude, 0, 300)
    found = teleport.judge(1 + seconds, latitude + north, longitude, 0, 300)
    kph = distance_m(latitude / 1e6, longitude / 1e6, (latitude + north) / 1e6, longitude / 1e6) / seconds * 3.6
    if found is None:
        assert kph <= 301 + 5 / seconds
    else:
        assert abs(found[0] - kph) <= 2 + 5 / seconds + kph * 1e-4, "to a metre"
