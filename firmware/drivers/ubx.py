# u-blox binary messages: checksum, UBX-NAV-PVT and NAV-DOP as observations, MON-HW and MON-RF as interference.
# Fields after u-blox 8/M8 Receiver Description R28 and the M10 interface description (protocol 18 to 34).
import struct

from drivers import nmea

SYNC = b"\xb5\x62"
HEADER_SIZE = 6  # sync 2, class, id, length u16
OVERHEAD = 8  # header and checksum
NAV_PVT = 0x0107
NAV_DOP = 0x0104
MON_HW = 0x0A09
MON_RF = 0x0A38
ACK_ACK = 0x0501
ACK_NAK = 0x0500
# The kinds above this bit are UBX, those below it NMEA.
PVT = 256

# u-blox 7 sends 84 bytes, later generations 92.
_PVT_SIZES = (84, 92)
_DOP_SIZE = 18
# Date and time valid and without an unknown number of leap seconds.
_VALID_DATE = 1
_VALID_TIME_RESOLVED = 6
_FIX_OK = 1
_INVALID_POSITION = 1
_FIX_DEAD_RECKONING = 1
# Where the indicator is in MON-HW, by its length: u-blox 6 and 7, M8.
_HW_INDICATOR = {68: 53, 60: 45}
_RF_BLOCK = 24
# Bands of a receiver: two in those that have any.
_MAXIMUM_RF_BLOCKS = 8

# What the receiver makes of the interference that it sees.
JAMMING_UNKNOWN = 0  # or its monitor is off
JAMMING_NONE = 1
JAMMING_WARNING = 2  # interference, yet a fix
JAMMING_CRITICAL = 3  # interference and no fix


def checksum(data: bytes, start: int, end: int) -> bytes:
    """8-bit Fletcher over class, id, length and payload (RFC 1145, as UBX uses it)."""
    first = second = 0
    for index in range(start, end):
        first += data[index]
        second += first
    return bytes((first & 255, second & 255))


def message(class_id: int, payload: bytes) -> bytes:
    """A whole message; class_id is class * 256 + id."""
    body = bytes((class_id >> 8, class_id & 255)) + struct.pack("<H", len(payload)) + payload
    return SYNC + body + checksum(body, 0, len(body))


def plausible_length(class_id: int, length: int) -> bool:
    """False where the length cannot belong to the message, so that a damaged header is not waited for."""
    if class_id == NAV_PVT:
        return length in _PVT_SIZES
    if class_id == NAV_DOP:
        return length == _DOP_SIZE
    if class_id == MON_HW:
        return length in _HW_INDICATOR
    if class_id == MON_RF:
        return length >= 4 and (length - 4) % _RF_BLOCK == 0 and length <= 4 + _RF_BLOCK * _MAXIMUM_RF_BLOCKS
    return True


def interference(class_id: int, payload: bytes) -> tuple:
    """(JAMMING_…, indicator 0 weak to 255 strong, noise, gain control) of MON-HW or, its worst band, MON-RF."""
    if class_id == MON_HW:
        noise, gain = struct.unpack_from("<HH", payload, 16)
        return payload[22] >> 2 & 3, payload[_HW_INDICATOR[len(payload)]], noise, gain
    worst = JAMMING_UNKNOWN, 0, 0, 0
    if payload[1] != (len(payload) - 4) // _RF_BLOCK:
        raise nmea.Malformed("blocks")
    for at in range(4, len(payload), _RF_BLOCK):
        noise, gain = struct.unpack_from("<HH", payload, at + 12)
        worst = max(worst, (payload[at + 1] & 3, payload[at + 16], noise, gain))
    return worst


def nav_dop(payload: bytes) -> tuple:
    """(time of week ms, horizontal dilution in hundredths or None)."""
    hdop = struct.unpack_from("<H", payload, 12)[0]
    return struct.unpack_from("<I", payload, 0)[0], hdop if 0 < hdop <= 5000 else None


def nav_pvt(payload: bytes) -> tuple:
    """(time of week ms, Observation); time_ms and day are None unless the receiver vouches for them."""
    seen = nmea.Observation(PVT)
    time_of_week = struct.unpack_from("<I", payload, 0)[0]
    _time(seen, payload)
    fix_type, flags = payload[20], payload[21]
    if fix_type == _FIX_DEAD_RECKONING:
        seen.status = nmea.ESTIMATED
        return time_of_week, seen
    # 2 = 2D, 3 = 3D, 4 = satellites and dead reckoning combined; 5 = time only.
    if fix_type not in (2, 3, 4) or not flags & _FIX_OK or payload[78] & _INVALID_POSITION:
        seen.status = nmea.VOID
        return time_of_week, seen
    longitude, latitude = struct.unpack_from("<ii", payload, 24)
    speed, heading = struct.unpack_from("<ii", payload, 60)
    if not (-900000000 <= latitude <= 900000000 and -1800000000 <= longitude <= 1800000000):
        raise nmea.Malformed("position")
    if not 0 <= speed <= nmea.SPEED_LIMIT_MM_PER_S:
        raise nmea.Malformed("speed")
    seen.status = nmea.VALID
    seen.mode = 2 if fix_type == 2 else 3
    seen.latitude = _rounded(latitude)
    seen.longitude = _rounded(longitude)
    seen.speed = speed
    seen.direction = (heading + 500) // 1000 % 36000
    seen.satellites = payload[23]
    # hAcc is one standard deviation in mm; twice that is the 95 % radius.
    seen.precision = (struct.unpack_from("<I", payload, 40)[0] + 499) // 500
    return time_of_week, seen


def _time(seen, payload):
    year, month, day, hour, minute, second, valid = struct.unpack_from("<HBBBBBB", payload, 4)
    if valid & _VALID_TIME_RESOLVED != _VALID_TIME_RESOLVED:
        return
    if hour > 23 or minute > 59 or second > 59:
        return
    # The fraction is signed and the seconds are already rounded: .999 may be -1 ms.
    fraction = (struct.unpack_from("<i", payload, 16)[0] + 500000) // 1000000
    time_ms = (hour * 3600 + minute * 60 + second) * 1000 + fraction
    carry = time_ms // nmea.DAY_MS
    seen.time_ms = time_ms % nmea.DAY_MS
    if valid & _VALID_DATE:
        day = nmea.day_number(year, month, day)
        if day is None:
            seen.date_bad = True
        else:
            seen.day = day + carry


def _rounded(tenths):
    """Ten-millionths of a degree to millionths, halves away from zero."""
    return (tenths + 5) // 10 if tenths >= 0 else -((5 - tenths) // 10)
