"""Exclusion zones: N of M, confidence circles, cell points, dwell and transit, drift, errors of miles."""

from collections.abc import Sequence
from math import cos, radians
from typing import Any

import pytest
from backend_kit import at, minutes
from emgate.backend.conditions.exclusion_zone import Point, Rules, judge
from emgate.backend.conditions.finding import Finding, Identity
from emgate.backend.conditions.geometry import depth_m, distance_m
from emgate.backend.orders import Circle, EnforcementZone, Polygon
from hypothesis import given
from hypothesis import strategies as st

T = at("2026-03-02T10:00:00")
WEARER = (11, "A-ankle")
METRE = 1 / 111_194.93  # degrees of latitude, on the sphere of geometry.py


def zone(longitude: float = -0.1, **extra: Any) -> EnforcementZone:
    geometry = {"type": "Circle", "center": [longitude, 51.5], "radiusMetres": 300}
    return EnforcementZone.model_validate(
        {"zoneId": "Z", "zoneType": "EXCLUSION", "name": "High Street", "geometry": geometry} | extra
    )


def point(
    number: float, north_m: float, precision: int | None = 5, mechanism: int | None = 1, speed: float = 4.0
) -> Point:
    """A point `number` minutes after T, so many metres north of the centre."""
    identity = Identity(11, 1, int(number * 100), 0)
    return Point(T + minutes(number), 51.5 + north_m * METRE, -0.1, precision, mechanism, speed, identity)


def run(distances: Sequence[float | tuple[Any, ...]], rules: Rules | None = None) -> list[Finding]:
    points = [point(number, *(d if isinstance(d, tuple) else (d,))) for number, d in enumerate(distances)]
    return judge(zone(), points, rules or Rules(), WEARER)


def summary(found: list[Finding]) -> list[tuple[str, int]]:
    return [(finding.certainty.value, finding.evidence["pointsInside"]) for finding in found]


def test_a_walk_through_is_one_violation_with_its_points_and_span() -> None:
    (found,) = run([900, 600, 100, 0, 100, 200, 600, 900])
    assert summary([found]) == [("VIOLATION", 4)]
    assert (found.start_ms, found.end_ms) == (T + minutes(2), T + minutes(5))
    assert (found.evidence["spanSeconds"], found.evidence["rule"], found.extra["passage"]) == (180, "2 of 3", "DWELL")
    assert found.cause == "Stayed in exclusion zone High Street: 4 points inside over 3 min."


def test_one_point_inside_is_nothing_by_default_and_a_violation_if_the_zone_says_so() -> None:
    plan = [900, 900, 100, 900, 900]
    assert run(plan) == []
    assert summary(run(plan, Rules(1, 1))) == [("VIOLATION", 1)]


@pytest.mark.parametrize("needed", [1, 2, 3, 4, 5])
def test_the_nth_point_inside_is_the_violation(needed: int) -> None:
    rules = Rules(needed, needed)
    assert run([900] + [0] * (needed - 1), rules) == []
    assert summary(run([900] + [0] * needed, rules)) == [("VIOLATION", needed)]


def test_still_inside_stays_open() -> None:
    (found,) = run([900, 0, 0, 0])
    assert found.end_ms is None
    assert "no later position outside" in found.cause


def test_an_overlapping_circle_is_possible_and_not_raised() -> None:
    (found,) = run([900, (310, 30), (305, 30), (290, 30), 900, 900])
    assert (found.certainty.value, found.raised, found.evidence["pointsOverlapping"]) == ("POSSIBLE", False, 3)


def test_drift_of_a_home_beside_the_zone_raises_nothing() -> None:
    drift = [360, 330, (310, 60), 350, (280, 90), 340, (320, 45), 380, (250, 120), 345]
    assert [finding for finding in run(drift * 20) if finding.raised] == []


def test_tall_buildings_without_a_fix_raise_nothing() -> None:
    points = [point(0, 500), point(1, 450), point(18, 460), point(19, 500)]
    assert judge(zone(), points, Rules(), WEARER) == []


def test_cell_points_never_alone_make_a_violation() -> None:
    assert run([(0, 5, 5)] * 10) == []
    (found,) = run([900, 0, (0, 500, 5), 0, 900, 900])
    assert (found.evidence["pointsInside"], found.evidence["cellPointsIgnored"]) == (2, 1)


def test_driving_past_is_called_a_transit_with_its_speed() -> None:
    points = [point(number / 4, 1000 - 130 * number, 5, 1, 31.0) for number in range(16)]
    (found,) = judge(zone(), points, Rules(), WEARER)
    assert (found.extra["passage"], found.evidence["meanSpeedKph"]) == ("TRANSIT", 31.0)
    assert found.cause.startswith("Passed through")
    assert run([900, 600, 200, 600, 900]) == [], "at a point a minute a car leaves one point: not a violation"


def test_an_error_of_miles_is_left_out() -> None:
    away = [5000, 5000, 0, 5000, 5000, 0, 5000, 5000]
    points = [point(number / 4, metres) for number, metres in enumerate(away)]
    assert judge(zone(), points, Rules(1, 1), WEARER) == []
    inside = [point(number / 4, metres) for number, metres in enumerate([0, 0, 9000, 0, 0])]
    (found,) = judge(zone(), inside, Rules(), WEARER)
    assert (found.evidence["pointsInside"], found.evidence["implausiblePointsIgnored"]) == (4, 1)


def test_multipath_of_a_hundred_metres_does_not_split_a_visit() -> None:
    (found,) = run([0, 0, (420, 20), 0, 0, 900, 900])
    assert found.evidence["pointsInside"] == 4


def test_visits_hours_apart_are_two() -> None:
    points = [point(0, 0), point(1, 0), point(200, 0), point(201, 0)]
    first, second = judge(zone(), points, Rules(), WEARER)
    assert first.end_ms == T + minutes(1) and second.end_ms is None


def test_a_point_without_a_stated_precision_counts_as_a_wide_one() -> None:
    assert [finding for finding in run([900, (290, None), (290, None), 900, 900]) if finding.raised] == []
    assert summary(run([900, (200, None), (200, None), 900, 900])) == [("VIOLATION", 2)]


def box(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon(*rings: list[list[float]]) -> Polygon:
    return Polygon.model_validate({"type": "Polygon", "coordinates": rings})


def test_polygon_with_a_hole() -> None:
    ring = polygon(box(-0.1, 51.5, 0.1, 51.6), box(-0.05, 51.52, 0.05, 51.58))
    assert depth_m(ring, 51.51, 0.0) == pytest.approx(0.01 / METRE, rel=0.01)
    assert depth_m(ring, 51.55, 0.0) < 0, "in the hole"
    assert depth_m(ring, 51.65, 0.0) == pytest.approx(-0.05 / METRE, rel=0.01)


def test_zones_across_the_antimeridian() -> None:
    fiji = polygon(box(179.9, -17.1, 180.0, -17.0), box(-180.0, -17.1, -179.9, -17.0))
    assert depth_m(fiji, -17.05, 179.95) > 0
    assert depth_m(fiji, -17.05, -179.95) > 0
    assert depth_m(fiji, -17.05, 0.0) < 0
    circle = Circle.model_validate({"type": "Circle", "center": [180.0, 0.0], "radiusMetres": 1000})
    assert depth_m(circle, 0.0, -179.995) == pytest.approx(1000 - 0.005 / METRE, abs=1)


@given(st.floats(-80, 80), st.floats(-180, 180), st.floats(-3000, 3000), st.floats(-3000, 3000), st.floats(200, 2000))
def test_a_square_agrees_with_its_own_arithmetic(
    latitude: float, longitude: float, east: float, north: float, half: float
) -> None:
    """Depth in a square of known size, at most 3 km away: within 1 % and a metre."""
    degrees = half * METRE
    wide = degrees / cos(radians(latitude))
    west, right = longitude - wide, longitude + wide
    if west < -180 or right > 180:
        return
    square = polygon(box(west, latitude - degrees, right, latitude + degrees))
    at_latitude = latitude + north * METRE
    at_longitude = longitude + east * METRE / cos(radians(latitude))
    at_longitude = (at_longitude + 540) % 360 - 180
    dx, dy = abs(east) - half, abs(north) - half
    outside = (max(dx, 0) ** 2 + max(dy, 0) ** 2) ** 0.5
    expected = -outside if outside > 0 else -max(dx, dy)
    # East is measured at the zone's latitude here and half way there: 3 km at 80 degrees makes 0.3 % of it.
    assert depth_m(square, at_latitude, at_longitude) == pytest.approx(expected, rel=0.01, abs=12)


def test_distance_over_a_known_line() -> None:
    # Equator, one degree of the mean sphere: 111.195 km.
    assert distance_m(0, 0, 0, 1) == pytest.approx(111_195, abs=1)
