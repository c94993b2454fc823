# Positions that nobody can have reached in time: marked by an event, kept in the trail, left out of zones. Sans-IO.
from tags import geometry

# Metres in a hundred microdegrees of a great circle, rounded up: what is near by this bound needs no exact distance.
_METRES_PER_100_MICRODEGREES = 12


class Teleport:
    """Compares each position with the last believed one; of two that agree, the place is believed."""

    def __init__(self):
        self._believed = None  # (time_s, latitude, longitude, precision_m)
        self._doubted = None
        self.count = 0

    def judge(self, time_s: int, latitude: int, longitude: int, precision_m: int, limit_kph: int):
        """None, or (implied speed in km/h, metres beyond both confidence circles, seconds) of a doubted position."""
        place = time_s, latitude, longitude, max(precision_m, 0)
        if self._believed is None or time_s < self._believed[0]:
            # Where time goes back it was wrong before.
            self._believed = place
            self._doubted = None
            return None
        if time_s == self._believed[0]:
            return None
        implied = _implied(self._believed, place)
        if implied[0] <= limit_kph:
            self._believed = place
            self._doubted = None
            return None
        if self._doubted is not None and _implied(self._doubted, place)[0] <= limit_kph:
            # Two agree with each other and not with the one before: that was the wrong one, or a flight.
            self._believed = place
            self._doubted = None
            return None
        self._doubted = place
        self.count += 1
        return implied


def _implied(one, other):
    seconds = max(1, other[0] - one[0])
    north, east = abs(other[1] - one[1]), abs(geometry.east(other[2], one[2]))
    metres = (north + east + 99) // 100 * _METRES_PER_100_MICRODEGREES
    if metres // seconds > 20:  # else slow by the rough bound already
        metres = geometry.distance_m(one[1], one[2], other[1], other[2])
    metres = max(0, metres - one[3] - other[3])
    return metres * 18 // (5 * seconds), metres, seconds
