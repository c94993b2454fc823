# Where a confidence circle lies against a circle or polygon zone. Integers only; nothing is kept, little is allocated.
#
# Sides of a polygon are straight in longitude and latitude (RFC 7946 §3.1.1), each the short way round, so that a zone
# may cross the date line or surround a pole. Distances are on a sphere: exact for circles; for polygons in the plane
# that touches it at the position, good to 0.1 % of the distance to the side between 85° south and north.

INSIDE = 2  # wholly
POSSIBLE = 1  # the confidence circle overlaps the zone
OUTSIDE = 0  # wholly

# Taken for a position that states no radius: NIJ 1004.00 §5.3.2's bound indoors, as the backend does.
UNKNOWN_PRECISION_M = 30

_CIRCLE_MICRODEGREES = 360000000
_HALF = 180000000
_RIGHT_ANGLE = 90000000
# Microdegrees of a great circle in 10 km, on the sphere of the IUGG mean radius, 6,371,008.8 m.
_MICRODEGREES_PER_10_KM = 89932
# Radians of a microdegree in 2**-46, and 1.0 of the sines below.
_RADIAN = 1228166
_ONE_BITS = 30


def sine(microdegrees: int) -> int:
    """Sine in 2**-30 of -90 to 90 degrees; off by at most 2e-7."""
    x = microdegrees * _RADIAN >> 16
    square = x * x >> 30
    # Taylor's series up to x**11, from its end: 2*3, 4*5, 6*7, 8*9, 10*11.
    term = (1 << 30) - square // 110
    term = (1 << 30) - (square * term >> 30) // 72
    term = (1 << 30) - (square * term >> 30) // 42
    term = (1 << 30) - (square * term >> 30) // 20
    term = (1 << 30) - (square * term >> 30) // 6
    return x * term >> 30


def cosine(microdegrees: int) -> int:
    """Cosine in 2**-30 of -90 to 90 degrees."""
    return sine(_RIGHT_ANGLE - abs(microdegrees))


def east(longitude: int, of: int) -> int:
    """The short way from one longitude to another, -180 to under 180 degrees."""
    return (longitude - of + _HALF) % _CIRCLE_MICRODEGREES - _HALF


def microdegrees(metres: int) -> int:
    """Of a great circle, rounded up."""
    return (metres * _MICRODEGREES_PER_10_KM + 9999) // 10000


def haversine(latitude_a: int, longitude_a: int, latitude_b: int, longitude_b: int) -> int:
    """Square of the sine of half the angle between two places, in 2**-60."""
    north = sine((latitude_b - latitude_a) // 2)
    across = sine(east(longitude_b, longitude_a) // 2)
    return north * north + ((cosine(latitude_a) * cosine(latitude_b) >> 30) * (across * across) >> 30)


def haversine_of(metres: int) -> int:
    """The same of a distance."""
    half = sine(microdegrees(metres) // 2)
    return half * half


def distance_m(latitude_a: int, longitude_a: int, latitude_b: int, longitude_b: int) -> int:
    """Great-circle distance, to a few millionths of it."""
    found = haversine(latitude_a, longitude_a, latitude_b, longitude_b)
    low, high = 0, 20037508
    while low < high:
        middle = (low + high) // 2
        if haversine_of(middle) < found:
            low = middle + 1
        else:
            high = middle
    return low


def in_circle(latitude: int, longitude: int, precision_m: int, centre, radius_m: int) -> int:
    """INSIDE, POSSIBLE or OUTSIDE of a circle round (latitude, longitude)."""
    if abs(latitude - centre[0]) > microdegrees(radius_m + precision_m):
        return OUTSIDE
    found = haversine(latitude, longitude, centre[0], centre[1])
    if radius_m > precision_m and found <= haversine_of(radius_m - precision_m):
        return INSIDE
    return POSSIBLE if found < haversine_of(radius_m + precision_m) else OUTSIDE


def in_polygon(latitude: int, longitude: int, precision_m: int, vertices) -> int:
    """INSIDE, POSSIBLE or OUTSIDE of a polygon: latitude, longitude, latitude … of its vertices, closed by itself."""
    # At least a microdegree (11 cm): a position on a side is neither inside nor outside.
    radius = max(1, microdegrees(precision_m))
    scale = cosine(latitude) >> 16  # in 2**-14
    reach = (radius << 14) // scale + 1 if scale else _CIRCLE_MICRODEGREES
    count = len(vertices)
    from_longitude = vertices[count - 1]
    ay = vertices[count - 2] - latitude
    winding = 0
    lowest = highest = ay
    north = south = 0  # sides that cross the position's meridian on either hand
    for index in range(0, count, 2):
        by = vertices[index] - latitude
        ax = east(from_longitude, longitude)
        way = east(vertices[index + 1], from_longitude)
        bx = ax + way
        from_longitude = vertices[index + 1]
        winding += way
        lowest, highest = min(lowest, by), max(highest, by)
        if not ((ay > radius and by > radius) or (ay < -radius and by < -radius)):
            if not ((ax > reach and bx > reach) or (ax < -reach and bx < -reach)):
                if _near(ax * scale >> 14, ay, bx * scale >> 14, by, radius):
                    return POSSIBLE
        if (ax > 0) != (bx > 0):
            if ay >= 0 and by >= 0:
                north += 1
            elif ay <= 0 and by <= 0:
                south += 1
            elif (ay * bx - ax * by > 0) == (bx > ax):
                north += 1
            else:
                south += 1
        ay = by
    # No side is near: the crossings on one hand tell. Round a pole they do on the other hand, away from that pole.
    crossings = south if winding and highest + latitude > -(lowest + latitude) else north
    return INSIDE if crossings & 1 else OUTSIDE


def _near(ax, ay, bx, by, radius):
    """Whether the side from a to b passes within the radius of the origin."""
    dx, dy = bx - ax, by - ay
    length = dx * dx + dy * dy
    along = -(ax * dx + ay * dy)
    if along <= 0:
        return ax * ax + ay * ay < radius * radius
    if along >= length:
        return bx * bx + by * by < radius * radius
    across = ax * by - ay * bx
    return across * across < radius * radius * length
