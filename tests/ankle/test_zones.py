"""Zones judged on the tag, against exact rational arithmetic, sampled great circles and the backend's own judgement."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import pytest
from common.settings import TABLE
from emgate.backend.conditions.geometry import distance_m
from emwire import constants
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tags import geometry
from tags.zones import CAUSE_ORDER, CAUSE_TIME, EVIDENCE_FORMAT, Zones

M = 1_000_000
MICRODEGREES_A_METRE = 8.9932
latitudes = st.integers(-90 * M, 90 * M)
longitudes = st.integers(-180 * M, 180 * M)


@dataclass
class Zone:
    """As an order gives it."""

    number: int = 0
    zone_type: int = constants.ZONE_EXCLUSION
    zone_shape: int = constants.SHAPE_CIRCLE
    starts_s: int = 0
    ends_s: int = 0
    points_inside: int = 2
    radius_m: int = 200
    vertices: array[int] = field(default_factory=lambda: array("i", [51_500_000, -120_000]))


@given(st.integers(-90 * M, 90 * M))
def test_sine(angle: int) -> None:
    assert abs(geometry.sine(angle) / 2**30 - math.sin(math.radians(angle / M))) < 2e-7
    assert abs(geometry.cosine(angle) / 2**30 - math.cos(math.radians(angle / M))) < 2e-7


@given(latitudes, longitudes, latitudes, longitudes)
@example(90 * M, 0, 90 * M, 179 * M)
@example(-17 * M, 180 * M, -17 * M, -180 * M)
@example(51_500_000, -120_000, 51_500_000, -120_010)
def test_distance_is_the_great_circles(lat_a: int, lon_a: int, lat_b: int, lon_b: int) -> None:
    exact = distance_m(lat_a / M, lon_a / M, lat_b / M, lon_b / M)
    assume(exact < 15_000_000)  # towards the antipode the square of the sine is flat
    assert abs(geometry.distance_m(lat_a, lon_a, lat_b, lon_b) - exact) < 1.5 + exact * 2e-6


@given(latitudes, longitudes, st.integers(-900_000, 900_000), st.floats(0.7, 1.3), st.integers(1, 65535),
       st.integers(0, 3000))  # fmt: skip
@example(89_999_000, 0, 179_000_000, 1.0, 200, 20)
@example(-16_800_000, 179_999_990, 2000, 0.9, 300, 20)
def test_circles(latitude: int, longitude: int, east: int, share: float, radius_m: int, precision_m: int) -> None:
    """Positions about as far from the centre as it matters, everywhere on earth."""
    centre_latitude = max(-90 * M, min(90 * M, latitude + round(radius_m * share * MICRODEGREES_A_METRE)))
    centre = centre_latitude, (longitude + east + 180 * M) % (360 * M) - 180 * M
    depth = radius_m - distance_m(latitude / M, longitude / M, centre[0] / M, centre[1] / M)
    assume(min(abs(depth - precision_m), abs(depth + precision_m), abs(depth)) > 1)
    found = geometry.in_circle(latitude, longitude, precision_m, centre, radius_m)
    assert found == (2 if depth >= precision_m else 1 if depth > -precision_m else 0)


def flat(vertices: list[tuple[int, int]]) -> array[int]:
    """As an order keeps them."""
    return array("i", [value for vertex in vertices for value in vertex])


def _shift(vertices: list[tuple[int, int]], latitude: int, longitude: int) -> list[tuple[int, int]]:
    return [(latitude + y, (longitude + x + 180 * M) % (360 * M) - 180 * M) for y, x in vertices]


def _on_side_or_inside(point: tuple[int, int], vertices: list[tuple[int, int]]) -> tuple[bool, bool]:
    """Exact, in a plane without edges: (on a side, inside) by where each side cuts the parallel of the point."""
    inside = False
    for (ay, ax), (by, bx) in pairwise([*vertices, vertices[0]]):
        cross = (ax - point[1]) * (by - point[0]) - (bx - point[1]) * (ay - point[0])
        if cross == 0 and min(ay, by) <= point[0] <= max(ay, by) and min(ax, bx) <= point[1] <= max(ax, bx):
            return True, False
        if (ay > point[0]) != (by > point[0]):
            cut = ax + Fraction(point[0] - ay, by - ay) * (bx - ax)
            inside ^= cut > point[1]
    return False, inside


small = st.integers(-20, 20)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(small, small), min_size=3, max_size=9),
    st.tuples(small, small),
    st.sampled_from([1, 37, 4000]),
    st.sampled_from([(51_500_000, -120_000), (0, 180 * M), (-16_800_000, -179_999_999), (84 * M, 0), (0, 0)]),
)
def test_polygons_without_a_radius(
    vertices: list[tuple[int, int]], point: tuple[int, int], scale: int, place: tuple[int, int]
) -> None:
    """Corners, sides and self-crossings of any polygon, exactly; also across the date line."""
    vertices = [(y * scale, x * scale) for y, x in vertices]
    point = point[0] * scale, point[1] * scale
    on_side, inside = _on_side_or_inside(point, vertices)
    (latitude, longitude), *shifted = _shift([point, *vertices], *place)
    found = geometry.in_polygon(latitude, longitude, 0, flat(shifted))
    if on_side:
        assert found == geometry.POSSIBLE
    elif scale > 1000:  # else a side may be within 11 cm
        edge = _depth_m((latitude, longitude), place, point, vertices)
        assert found == (2 if inside else 0) or edge < 0.3
    else:
        assert found in (geometry.POSSIBLE, geometry.INSIDE if inside else geometry.OUTSIDE)


def _depth_m(
    position: tuple[int, int], place: tuple[int, int], point: tuple[int, int], vertices: list[tuple[int, int]]
) -> float:
    """Distance to the nearest side, in a plane scaled for the position's latitude."""
    shrink = math.cos(math.radians(position[0] / M))
    nearest = math.inf
    for (ay, ax), (by, bx) in pairwise([*vertices, vertices[0]]):
        ay, by = (ay - point[0]) / MICRODEGREES_A_METRE, (by - point[0]) / MICRODEGREES_A_METRE
        ax, bx = (ax - point[1]) * shrink / MICRODEGREES_A_METRE, (bx - point[1]) * shrink / MICRODEGREES_A_METRE
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = 0.0 if not length else max(0.0, min(1.0, -(ax * (bx - ax) + ay * (by - ay)) / length))
        nearest = min(nearest, math.hypot(ax + along * (bx - ax), ay + along * (by - ay)))
    return nearest


@settings(max_examples=300)
@given(
    st.lists(st.tuples(small, small), min_size=3, max_size=9),
    st.tuples(small, small),
    st.integers(0, 1500),
    st.sampled_from([(51_500_000, -120_000), (0, 180 * M), (-16_800_000, -179_999_999), (75 * M, 0)]),
)
def test_polygons_with_a_radius(
    vertices: list[tuple[int, int]], point: tuple[int, int], precision_m: int, place: tuple[int, int]
) -> None:
    vertices = [(y * 900, x * 900) for y, x in vertices]
    point = point[0] * 900, point[1] * 900
    on_side, inside = _on_side_or_inside(point, vertices)
    (latitude, longitude), *shifted = _shift([point, *vertices], *place)
    nearest = _depth_m((latitude, longitude), place, point, vertices)
    assume(not on_side and abs(nearest - max(precision_m, 0.12)) > 0.5 + nearest * 0.001)
    found = geometry.in_polygon(latitude, longitude, precision_m, flat(shifted))
    assert found == (1 if nearest < precision_m else 2 if inside else 0)


def test_polygons_round_a_pole() -> None:
    corners = [-180, -90, 0, 90]
    north = [(80 * M, degrees * M) for degrees in corners]
    drawn_to_the_pole = [*[(80 * M, d * M) for d in (-180, -90, 0, 90, 180)], (90 * M, 180 * M), (90 * M, -180 * M)]
    for cap in (north, north[::-1], drawn_to_the_pole):
        south = [(-latitude, longitude) for latitude, longitude in cap]
        for longitude in range(-175, 180, 25):
            for polygon, sign in ((cap, 1), (south, -1)):
                assert geometry.in_polygon(sign * 85 * M, longitude * M, 10, flat(polygon)) == geometry.INSIDE
                assert geometry.in_polygon(sign * 75 * M, longitude * M, 10, flat(polygon)) == geometry.OUTSIDE
                assert geometry.in_polygon(-sign * 85 * M, longitude * M, 10, flat(polygon)) == geometry.OUTSIDE
    assert geometry.in_polygon(90 * M, 17 * M, 10, flat(north)) == geometry.INSIDE
    assert geometry.in_circle(90 * M, 17 * M, 10, (89_999_900, -90 * M), 100) == geometry.INSIDE


def _run(zones: Zones, *positions: tuple[int, int], precision_m: int = 10, longitude: int = -120_000) -> list[tuple]:
    """Positions as (time, metres north of the circle's centre)."""
    events = []
    for time_s, metres in positions:
        events += zones.judge(time_s, 51_500_000 + round(metres * MICRODEGREES_A_METRE), longitude, precision_m)
    return [(kind, number, when) for kind, number, when, _ in events]


def _zones(*zones: Zone, **options: int) -> Zones:
    judged = Zones(SimpleNamespace(**({row[0]: row[1] for row in TABLE} | options)))
    assert judged.take(7, list(zones), 0) == []
    return judged


ENTERED, LEFT = constants.EVENT_ZONE_ENTERED, constants.EVENT_ZONE_LEFT


def test_violation_on_the_nth_position_wholly_inside_and_end_on_the_nth_outside() -> None:
    zones = _zones(Zone())
    assert _run(zones, (60, 500), (120, 195), (180, 100)) == [] and not zones.violated
    assert _run(zones, (240, 100)) == [(ENTERED, 0, 180)] and zones.violated
    assert _run(zones, (255, 0), (270, 195), (285, 300)) == [] and zones.violated, "one outside ends nothing"
    assert _run(zones, (300, 400)) == [(LEFT, 0, 285)] and not zones.violated
    assert _run(zones, (360, 0), (420, 300), (480, 300), (540, 0)) == [], "two of three, not two of four"
    assert _run(zones, (600, 300), (660, 0)) == [(ENTERED, 0, 540)]


@pytest.mark.parametrize("needed", [1, 2, 3, 4, 5])
def test_n_of_m_and_dwell(needed: int) -> None:
    inside = [(60 * number, 0) for number in range(1, 9)]
    assert _run(_zones(Zone(points_inside=needed)), *inside) == [(ENTERED, 0, 60)]
    late = _zones(Zone(points_inside=needed), zone_dwell_s=360, zone_window_points=8)
    assert _run(late, *inside[:6]) == []
    assert _run(late, *inside[6:]) == [(ENTERED, 0, 60)]


def test_a_dwell_is_counted_while_n_of_m_hold() -> None:
    paces = [*range(60, 340, 15)]
    dwelling = _zones(Zone(), zone_dwell_s=240)
    assert _run(dwelling, *[(time_s, 0) for time_s in paces[:16]]) == [] and dwelling.suspected
    assert _run(dwelling, (300, 0)) == [(ENTERED, 0, 60)]
    strays = _zones(Zone(), zone_dwell_s=240)
    assert _run(strays, *[(time_s, 0 if time_s % 45 else 300) for time_s in paces]) == [(ENTERED, 0, 60)]
    left = _zones(Zone(), zone_dwell_s=240)
    assert _run(left, *[(time_s, 300 if time_s in (195, 210) else 0) for time_s in paces]) == [], "out between"
    assert _run(left, *[(time_s, 0) for time_s in range(345, 480, 15)]) == [(ENTERED, 0, 225)]


def test_driving_past_is_no_violation_and_cell_sized_circles_are_only_possible() -> None:
    assert _run(_zones(Zone()), (0, -400), (60, 0), (120, 400), (180, 800)) == []
    assert _run(_zones(Zone()), (0, 0), (60, 0), (120, 0), precision_m=550) == []
    assert len(_run(_zones(Zone()), (0, 0), (60, 0), precision_m=-1)) == 1, "an unknown radius is taken as 30 m"


def test_evidence_says_where_how_many_and_over_what_span() -> None:
    zones = _zones(Zone(number=3))
    zones.judge(60, 51_500_000, -120_000, 12)
    ((kind, number, when, evidence),) = zones.judge(95, 51_500_100, -120_100, 12)
    assert (kind, number, when) == (ENTERED, 3, 60)
    assert struct.unpack(EVIDENCE_FORMAT, evidence) == (7, 1, 0, 2, 2, 35, 12, 51_500_100, -120_100)
    assert len(evidence) <= 64


def test_inclusion_is_the_reverse_and_restriction_is_told_without_being_a_violation() -> None:
    zones = _zones(Zone(zone_type=constants.ZONE_INCLUSION))
    assert _run(zones, (60, 0), (120, 300)) == []
    assert _run(zones, (180, 300)) == [(LEFT, 0, 120)] and zones.violated
    assert _run(zones, (240, 0), (300, 0)) == [(ENTERED, 0, 240)] and not zones.violated
    zones = _zones(Zone(zone_type=constants.ZONE_RESTRICTION))
    assert _run(zones, (60, 0), (120, 0)) == [(ENTERED, 0, 60)] and not zones.violated


def test_a_zone_has_its_time() -> None:
    zones = _zones(Zone(starts_s=100, ends_s=1000))
    assert _run(zones, (0, 0), (50, 0), (99, 0)) == []
    assert _run(zones, (100, 0), (160, 0)) == [(ENTERED, 0, 100)]
    ((kind, _, when, evidence),) = zones.judge(1030, 51_500_000, -120_000, 10)
    assert (kind, when, evidence[3]) == (LEFT, 1000, CAUSE_TIME) and not zones.violated
    assert _run(zones, (1060, 0), (1120, 0)) == []


def test_another_order_ends_what_it_no_longer_has_and_keeps_what_it_has() -> None:
    zones = _zones(Zone(number=0), Zone(number=1, radius_m=300))
    assert len(_run(zones, (60, 0), (120, 0))) == 2
    ((kind, number, when, evidence),) = zones.take(8, [Zone(number=0)], 130)
    assert (kind, number, when, evidence[3]) == (LEFT, 1, 130, CAUSE_ORDER)
    assert zones.violated and _run(zones, (180, 0)) == [], "not raised twice"
    assert len(zones.take(9, [], 200)) == 1 and not zones.violated


def test_positions_an_hour_apart_do_not_count_together_and_a_time_that_goes_back_begins_anew() -> None:
    zones = _zones(Zone())
    assert _run(zones, (60, 0), (3720, 0)) == []
    assert _run(zones, (3600, 0)) == []
    assert _run(zones, (3660, 0)) == [(ENTERED, 0, 3600)]
    assert _run(zones, (60, 500)) == [] and zones.violated
    assert _run(zones, (120, 500)) == [(LEFT, 0, 60)]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 400), st.sampled_from([0, 100, 195, 300, 500])), max_size=60),
       st.integers(1, 5), st.sampled_from([1, 2, 3]))  # fmt: skip
def test_events_always_alternate(steps: list[tuple[int, int]], needed: int, kind: int) -> None:
    zones = _zones(Zone(points_inside=needed, zone_type=kind))
    time_s, positions = 0, []
    for step, metres in steps:
        time_s += step
        positions.append((time_s, metres))
    events = _run(zones, *positions)
    begins = LEFT if kind == constants.ZONE_INCLUSION else ENTERED
    assert [event[0] == begins for event in events] == [index % 2 == 0 for index in range(len(events))]
    assert [event[2] for event in events] == sorted(event[2] for event in events)
