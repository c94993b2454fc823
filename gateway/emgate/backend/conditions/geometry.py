"""Signed distance from a point to a zone's boundary, in metres.

Zones are some hundred metres to some tens of kilometres across, so a plane tangent at the point itself is exact to
well under a metre near the boundary, where it matters; forty lines need no geometry library with a compiled core.
"""

from itertools import pairwise
from math import asin, cos, hypot, inf, radians, sin, sqrt

from emgate.backend.orders import Circle, Polygon

EARTH_RADIUS_M = 6_371_008.8  # IUGG mean radius


def depth_m(geometry: Polygon | Circle, latitude: float, longitude: float) -> float:
    """How far inside the zone a point is, in metres; negative = outside by so much."""
    if isinstance(geometry, Circle):
        return geometry.radiusMetres - distance_m(latitude, longitude, geometry.center[1], geometry.center[0])
    nearest, inside = inf, False
    for ring in geometry.coordinates:
        points = [_plane(latitude, longitude, point) for point in ring]
        for (ax, ay), (bx, by) in pairwise(points):
            nearest = min(nearest, _to_segment(ax, ay, bx, by))
            if (ay > 0) != (by > 0) and ax + (0 - ay) / (by - ay) * (bx - ax) > 0:
                inside = not inside  # even-odd over all rings, so that holes are outside
    return nearest if inside else -nearest


def distance_m(latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float) -> float:
    """Great-circle distance (haversine)."""
    a, b = radians(latitude_a), radians(latitude_b)
    half = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(radians(longitude_b - longitude_a) / 2) ** 2
    return 2 * EARTH_RADIUS_M * asin(min(1.0, sqrt(half)))


def _plane(latitude: float, longitude: float, point: tuple[float, float]) -> tuple[float, float]:
    """A corner (longitude, latitude) as metres east and north of the position; the short way round the antimeridian."""
    east = (point[0] - longitude + 540.0) % 360.0 - 180.0
    scale = radians(1) * EARTH_RADIUS_M
    return east * scale * cos(radians((latitude + point[1]) / 2)), (point[1] - latitude) * scale


def _to_segment(ax: float, ay: float, bx: float, by: float) -> float:
    """Distance from the origin to a segment."""
    dx, dy = bx - ax, by - ay
    length = dx * dx + dy * dy
    along = 0.0 if length == 0 else max(0.0, min(1.0, -(ax * dx + ay * dy) / length))
    return hypot(ax + along * dx, ay + along * dy)
