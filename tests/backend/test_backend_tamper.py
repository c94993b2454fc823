"""Tamper: strap, flicker, case, home unit moved, beacon copied; faults that are no tamper."""

import pytest
from backend_kit import at, minutes
from emgate.backend.conditions.finding import Finding, Identity
from emgate.backend.conditions.tamper import Observation, judge
from emwire import constants

T = at("2026-03-02T10:00:00")
DEVICE = (11, "A-ankle")
CUT, CLOSED, FAULT = constants.EVENT_STRAP_CUT, constants.EVENT_STRAP_RESTORED, constants.EVENT_STRAP_FAULT
HOUR = 60


def run(events: list[tuple[float, int]], now: float = 1) -> list[Finding]:
    """Events as (minutes after T, type)."""
    seen = [Observation(T + minutes(when), Identity(11, 1, n), kind) for n, (when, kind) in enumerate(events)]
    return judge(reversed(seen), T + minutes(now), DEVICE)


def names(found: list[Finding]) -> list[tuple[str, str | None]]:
    return [(finding.category.value, str(finding.alert_code) if finding.alert_code else None) for finding in found]


def test_a_cut_opens_at_once_and_closes_at_restore() -> None:
    (found,) = run([(0, CUT)], now=0)
    assert (found.category.value, found.end_ms, found.raised) == ("Strap cut", None, True)
    (found,) = run([(0, CUT), (90, CLOSED)], now=91)
    assert found.end_ms == T + minutes(90)
    assert found.cause == "Strap opened, closed again after 90 min."


def test_an_open_strap_is_raised_again_every_day_in_the_same_alert() -> None:
    (found,) = run([(0, CUT)], now=50 * HOUR)
    assert found.raised_ms == (T, T + minutes(24 * HOUR), T + minutes(48 * HOUR))
    assert found.due_ms == T + minutes(72 * HOUR)
    (again,) = run([(0, CUT), (0, CUT), (0, CUT), (60 * HOUR, CLOSED)], now=100 * HOUR)
    assert again.raised_ms == found.raised_ms, "the device's own repeats are the same cut"
    assert again.end_ms is not None and again.due_ms is None


def test_a_flickering_strap_is_one_fault_and_not_a_tamper() -> None:
    flicker = [(n * 2 + half, CLOSED if half else CUT) for n in range(40) for half in (0, 0.3)]
    (found,) = run(flicker, now=100)
    assert names([found]) == [("Device fault", "AL24")]
    assert found.evidence["openings"] == 40 and found.evidence["recordCount"] == 80


@pytest.mark.parametrize("extra", [[], [(0.1, CUT), (0.2, CLOSED)]])
def test_a_strap_fault_is_a_fault_never_a_tamper(extra: list[tuple[float, int]]) -> None:
    assert names(run([(0, FAULT), *extra], now=5)) == [("Device fault", "AL24")]


def test_a_real_cut_after_a_flicker_is_a_cut() -> None:
    events = [(0, FAULT), (0.1, CUT), (0.2, CLOSED), (3, CUT)]
    assert names(run(events, now=3.5)) == [("Device fault", "AL24")]
    assert run(events, now=3.5)[0].due_ms == T + minutes(4)
    assert names(run(events, now=4)) == [("Strap cut", None)]


def test_cuts_hours_apart_are_two() -> None:
    assert names(run([(0, CUT), (5, CLOSED), (120, CUT)], now=121)) == [("Strap cut", None)] * 2


def test_a_restore_without_a_cut_is_nothing() -> None:
    assert run([(0, CLOSED)]) == []


def test_a_move_is_one_alert_and_says_what_corroborates_it() -> None:
    moved, mains = constants.EVENT_HOME_UNIT_MOVED, constants.EVENT_MAINS_LOST
    (alone,) = run([(0, moved), (3, moved)])
    assert names([alone]) == [("HMU moved", "AL05")]
    assert alone.evidence["corroboratedBy"] == []
    (found,) = run([(0, moved), (1.5, mains)])
    assert found.evidence["corroboratedBy"] == ["HMU mains to battery power"]
    (late,) = run([(0, moved), (2.5, mains)])
    assert late.evidence["corroboratedBy"] == []


def test_case_copy_and_self_test() -> None:
    found = run(
        [
            (0, constants.EVENT_CASE_OPEN),
            (1, constants.EVENT_BEACON_COPIED),
            (2, constants.EVENT_BEACON_COPIED),
            (3, constants.EVENT_SELF_TEST_FAILED),
        ]
    )
    assert names(found) == [("Case open", None), ("Beacon copied", None), ("Device fault", "AL24")]
    assert found[1].evidence["times"] == 2
