"""Alcohol: runs, interferents, wet sensors, contact; and the recorded bracelets."""

import csv
from datetime import datetime
from pathlib import Path

import pytest
from backend_kit import at, minutes
from emgate.backend.conditions.alcohol import THRESHOLD_UG_PER_L, Reading, judge, judge_contact
from emgate.backend.conditions.finding import Finding, Identity
from emwire import constants

T = at("2026-03-02T10:00:00")
WEARER = (13, "A-alcohol")


def readings(levels: list[float], qualities: dict[int, int] | None = None, every: float = 30) -> list[Reading]:
    """Levels in g/dL."""
    qualities = qualities or {}
    return [
        Reading(T + minutes(every * n), round(level * 1e7), 1000, qualities.get(n, 0), Identity(13, 1, n))
        for n, level in enumerate(levels)
    ]


def run(levels: list[float], qualities: dict[int, int] | None = None, every: float = 30) -> list[Finding]:
    return judge(readings(levels, qualities, every), THRESHOLD_UG_PER_L, WEARER)


def names(found: list[Finding]) -> list[str]:
    return [finding.category.value for finding in found if finding.raised]


def test_an_evening_is_one_event_with_peak_and_rates() -> None:
    (found,) = run([0, 0.01, 0.03, 0.06, 0.05, 0.03, 0.01, 0])
    assert (found.start_ms, found.end_ms) == (T + minutes(60), T + minutes(150))
    assert found.evidence["peakMicrogramsPerLitre"] == 600_000
    assert (found.evidence["absorptionRate"], found.evidence["eliminationRate"]) == (0.05, 0.0333)
    assert found.evidence["readings"] == 4


def test_the_third_reading_makes_it_and_it_is_open_until_below() -> None:
    assert run([0, 0.02, 0.02]) == []
    (found,) = run([0, 0.02, 0.02, 0.02])
    assert found.end_ms is None and found.raised


def test_just_below_the_threshold_is_not_drinking() -> None:
    assert run([0, 0.0199999, 0.0199999, 0.0199999, 0.0199999, 0]) == []


def test_rates_never_hide_an_event() -> None:
    assert names(run([0, 0.3, 0.3, 0.3, 0])) == ["Alcohol"]


@pytest.mark.parametrize(("levels", "fast"), [([0, 0.08, 0, 0], True), ([0.015, 0.022, 0.021, 0.01], False)])
def test_one_or_two_readings_are_an_interferent_flag(levels: list[float], fast: bool) -> None:
    (found,) = run(levels)
    assert (found.raised, found.category.value, found.evidence["fast"]) == (False, "Alcohol interferent", fast)


def test_a_wet_sensor_is_no_drinking_but_is_shown() -> None:
    wet = dict.fromkeys(range(1, 6), constants.QUALITY_WET_SENSOR)
    found = run([0, 0.05, 0.2, 0.01, 0.3, 0.1, 0, 0], wet)
    assert names(found) == []
    assert [finding.evidence["peakMicrogramsPerLitre"] for finding in found] == [2_000_000, 3_000_000]
    assert all("wet" in finding.cause for finding in found)


def test_a_wet_reading_does_not_break_a_run() -> None:
    found = run([0, 0.03, 0.05, 0.001, 0.05, 0.03, 0], {3: constants.QUALITY_WET_SENSOR})
    assert names(found) == ["Alcohol"]
    assert found[0].evidence["readings"] == 4


def test_readings_hours_apart_are_not_in_a_row() -> None:
    assert names(run([0, 0.05, 0.05, 0.05, 0], every=150)) == []
    assert names(run([0, 0.05, 0.05, 0.05, 0], every=60)) == ["Alcohol"]


def contact(millivolts: list[int], every: float = 30) -> list[Finding]:
    return judge_contact(
        [Reading(T + minutes(every * n), 0, level, 0, Identity(13, 1, n)) for n, level in enumerate(millivolts)], WEARER
    )


def test_contact_off_for_more_than_ten_hours_is_a_tamper() -> None:
    assert contact([1000] * 20 + [1600] * 21 + [1000] * 4) == [], "ten hours exactly"
    (found,) = contact([1000] * 20 + [1600] * 22 + [1000] * 4)
    assert (found.start_ms, found.end_ms) == (T + minutes(600), T + minutes(1230))
    (still,) = contact([1000] * 20 + [400] * 40)
    assert still.end_ms is None
    assert contact([1000] * 20 + [1500] * 60) == [], "0.5 V exactly"


def test_a_tamper_never_becomes_the_baseline() -> None:
    (found,) = contact([1000] * 20 + [2000] * 48 * 20)
    assert found.end_ms is None


def test_slow_drift_is_no_tamper() -> None:
    assert contact([1000 + n for n in range(48 * 30)]) == []


def recording(path: Path) -> list[Reading]:
    with path.open() as file:
        return [
            Reading(
                int(datetime.fromisoformat(f"{row['local_time']}+00:00").timestamp() * 1000),
                round(float(row["tac_g_per_dl"]) * 1e7),
                round(float(row["ir_volts"]) * 1000),
                0,
                Identity(13, 1, number),
            )
            for number, row in enumerate(csv.DictReader(file))
        ]


def test_recorded_bracelets_drink_where_they_have_a_run_and_never_tamper(shared_data: Path) -> None:
    files = sorted((shared_data / "alcohol").glob("*.csv"))
    assert len(files) == 6
    for path in files:
        recorded = recording(path)
        above = "".join("x" if reading.tac_ug_per_l >= 200_000 else "." for reading in recorded)
        runs = [part for part in above.split(".") if len(part) >= 3]
        drinking = [finding for finding in judge(recorded, THRESHOLD_UG_PER_L, WEARER) if finding.raised]
        assert [finding.evidence["readings"] for finding in drinking] == [len(part) for part in runs], path.name
        assert runs, f"{path.name}: every one of the six has a run"
        assert judge_contact(recorded, WEARER) == [], path.name
