"""Exclusion zone: N of the last M points inside, with their confidence circles.

No fix is no evidence; a cell-based point alone is none either. An alert says how many points lay inside over what
span, and whether that looks like staying or passing.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emwire import constants

from emgate.backend.conditions.finding import Finding, Identity, identities, minutes_text
from emgate.backend.conditions.geometry import depth_m, distance_m
from emgate.backend.orders import EnforcementZone
from emgate.backend.vocabulary import Category, Certainty

POINTS_INSIDE, POINTS_OF = 2, 3
"""Field notes §2: violation on the Nth point inside, N = 1 ... 5. At a point a minute the second one keeps the alert
inside NIJ's 4 min and a single multipath fix out of it; one in three may be lost or wrong."""
UNKNOWN_PRECISION_M = 30
"""Radius taken for a point that states none: NIJ §5.3.2's bound indoors, three times the one outdoors."""
SEPARATION_MS = 3_600_000
"""Points an hour apart do not count together: visits are told apart, and late data re-opens at most an hour around."""
TELEPORT_KPH = 300.0
"""Faster than any land vehicle a wearer rides: a point so far from both neighbours is an error (errors of miles)."""
DWELL_MS = 120_000
"""Inside for two minutes is a stay: crossing a 1 km zone at 30 km/h takes as long. Evidence only, never a filter."""

INSIDE, POSSIBLE, OUTSIDE = "INSIDE", "POSSIBLE", "OUTSIDE"


@dataclass(frozen=True, slots=True)
class Point:
    """One position: unix ms, degrees, precision in m or None."""

    time_ms: int
    latitude: float
    longitude: float
    precision_m: int | None
    mechanism: int | None
    speed_kph: float | None
    identity: Identity


@dataclass(frozen=True, slots=True)
class Rules:
    """What the zone may set."""

    points_inside: int = POINTS_INSIDE
    points_of: int = POINTS_OF

    @classmethod
    def of(cls, zone: EnforcementZone) -> "Rules":
        """The zone's own N of M, else the default; M grows with a larger N."""
        inside = zone.pointsInside or POINTS_INSIDE
        return cls(inside, zone.pointsOf or max(POINTS_OF, inside))


def place(zone: EnforcementZone, point: Point) -> str:
    """INSIDE wholly, POSSIBLE where the confidence circle overlaps the zone, else OUTSIDE."""
    depth = depth_m(zone.geometry, point.latitude, point.longitude)
    radius = UNKNOWN_PRECISION_M if point.precision_m is None else point.precision_m
    if depth >= radius and depth > 0:
        return INSIDE
    return POSSIBLE if depth > -radius else OUTSIDE


def counts(point: Point) -> bool:
    """Whether a point takes part: cell-based ones are hundreds of metres wide and never make a violation."""
    return point.mechanism != constants.MECHANISM_LBS


@dataclass(slots=True)
class _Visit:
    """Points from the first touching the zone on."""

    touching: list[tuple[Point, str]]
    certain: bool
    left: bool = False
    outside_between: int = 0


def judge(zone: EnforcementZone, points: Sequence[Point], rules: Rules, wearer: tuple[int, str]) -> list[Finding]:
    """Visits to one zone by one device, from points in any order. `wearer` is (deviceId, deviceActivationId)."""
    ordered = sorted(points, key=lambda point: (point.time_ms, point.identity))
    usable = [point for point in ordered if counts(point)]
    cell = [point for point in ordered if not counts(point) and place(zone, point) != OUTSIDE]
    teleported = _teleported(usable)
    visits: list[_Visit] = []
    window: deque[tuple[Point, str]] = deque(maxlen=rules.points_of)
    visit: _Visit | None = None
    for number, point in enumerate(usable):
        if number in teleported:
            continue
        while window and point.time_ms - window[0][0].time_ms > SEPARATION_MS:
            window.popleft()
        if visit is not None and point.time_ms - visit.touching[-1][0].time_ms > SEPARATION_MS:
            visit.left, visit = True, None
            window.clear()
        where = place(zone, point)
        window.append((point, where))
        inside = sum(place_ == INSIDE for _, place_ in window)
        touching = [item for item in window if item[1] != OUTSIDE]
        if visit is None:
            if where != OUTSIDE and len(touching) >= rules.points_inside:
                visit = _Visit(touching, inside >= rules.points_inside)
                visits.append(visit)
        elif where != OUTSIDE:
            visit.touching.append((point, where))
            visit.certain = visit.certain or inside >= rules.points_inside
            visit.outside_between = 0
        else:
            visit.outside_between += 1
            # Leaving takes as many points as entering, so that one stray point does not split a visit in two.
            if visit.outside_between >= rules.points_inside:
                visit.left, visit = True, None
                window.clear()
    excluded = [usable[number] for number in sorted(teleported)]
    return [_finding(zone, visit, rules, wearer, cell, excluded) for visit in visits]


def _teleported(points: Sequence[Point]) -> set[int]:
    """Points that no wearer can have reached and left in time, while its neighbours agree with each other."""
    found = set()
    for number in range(1, len(points) - 1):
        before, point, after = points[number - 1 : number + 2]
        if after.time_ms - before.time_ms > SEPARATION_MS:
            continue
        if (
            _kph(before, point) > TELEPORT_KPH
            and _kph(point, after) > TELEPORT_KPH
            and _kph(before, after) <= TELEPORT_KPH
        ):
            found.add(number)
    return found


def _kph(a: Point, b: Point) -> float:
    """Speed between two points, less what their confidence circles explain."""
    slack = (a.precision_m or UNKNOWN_PRECISION_M) + (b.precision_m or UNKNOWN_PRECISION_M)
    metres = max(0.0, distance_m(a.latitude, a.longitude, b.latitude, b.longitude) - slack)
    return metres * 3600 / max(1000, b.time_ms - a.time_ms)


def _finding(
    zone: EnforcementZone,
    visit: _Visit,
    rules: Rules,
    wearer: tuple[int, str],
    cell: Sequence[Point],
    excluded: Sequence[Point],
) -> Finding:
    first, last = visit.touching[0][0], visit.touching[-1][0]
    span_ms = last.time_ms - first.time_ms
    inside = [point for point, where in visit.touching if where == INSIDE]
    speeds = [point.speed_kph for point, _ in visit.touching if point.speed_kph is not None]
    during = (first.time_ms, last.time_ms)
    evidence: dict[str, Any] = identities([point.identity for point, _ in visit.touching]) | {
        "pointsInside": len(inside),
        "pointsOverlapping": len(visit.touching) - len(inside),
        "spanSeconds": span_ms // 1000,
        "rule": f"{rules.points_inside} of {rules.points_of}",
        "firstInsideMs": inside[0].time_ms if inside else None,
        "lastInsideMs": inside[-1].time_ms if inside else None,
        "meanSpeedKph": round(sum(speeds) / len(speeds), 1) if speeds else None,
        "cellPointsIgnored": sum(during[0] <= point.time_ms <= during[1] for point in cell),
        "implausiblePointsIgnored": sum(during[0] <= point.time_ms <= during[1] for point in excluded),
    }
    passage = "DWELL" if span_ms >= DWELL_MS else "TRANSIT"
    name = zone.name or zone.zoneId
    if visit.certain:
        verb = "Stayed in" if passage == "DWELL" else "Passed through"
        cause = f"{verb} exclusion zone {name}: {len(inside)} points inside over {minutes_text(span_ms)}"
    else:
        cause = (
            f"Possibly in exclusion zone {name}: {len(visit.touching)} points over {minutes_text(span_ms)} are not"
            f" certain enough to say on which side of the boundary"
        )
    if not visit.left:
        cause += "; no later position outside it"
    return Finding(
        key=f"{zone.zoneId}/{first.time_ms}",
        category=Category.EXCLUSION_ZONE,
        start_ms=first.time_ms,
        end_ms=last.time_ms if visit.left else None,
        cause=cause + ".",
        evidence=evidence,
        device_id=wearer[0],
        device_activation_id=wearer[1],
        certainty=Certainty.VIOLATION if visit.certain else Certainty.POSSIBLE,
        extra={"zoneId": zone.zoneId, "zoneName": zone.name, "passage": passage},
    )
