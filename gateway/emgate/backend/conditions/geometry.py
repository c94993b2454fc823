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
    reference = geometry.coordinates[0][0][0]
    # The zone as a whole lies the short way round from the position, and its corners the short way from its first.
    east_of_position = _wrapped(reference - longitude)
    for ring in geometry.coordinates:
        points = [_plane(latitude, east_of_position + _wrapped(point[0] - reference), point[1]) for point in ring]
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


def _wrapped(degrees: float) -> float:
    """A difference of longitudes as -180 ... 180."""
    return (degrees + 540.0) % 360.0 - 180.0


def _plane(latitude: float, east_degrees: float, corner_latitude: float) -> tuple[float, float]:
    """A corner as metres east and north of the position."""
    scale = radians(1) * EARTH_RADIUS_M
    return east_degrees * scale * cos(radians((latitude + corner_latitude) / 2)), (corner_latitude - latitude) * scale


def _to_segment(ax: float, ay: float, bx: float, by: float) -> float:
    """Distance from the origin to a segment."""
    dx, dy = bx - ax, by - ay
    length = dx * dx + dy * dy
    along = 0.0 if length == 0 else max(0.0, min(1.0, -(ax * dx + ay * dy) / length))
    return hypot(ax + along * dx, ay + along * dy)
