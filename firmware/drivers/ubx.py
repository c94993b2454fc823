# u-blox binary messages: checksum, UBX-NAV-PVT and NAV-DOP as observations, and the messages that switch NAV-PVT on.
# Fields after u-blox 8/M8 Receiver Description R28 and the M10 interface description (protocol 18 to 34).
import struct

from drivers import nmea

SYNC = b"\xb5\x62"
HEADER_SIZE = 6  # sync 2, class, id, length u16
OVERHEAD = 8  # header and checksum
NAV_PVT = 0x0107
NAV_DOP = 0x0104
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


def enable_nav_pvt() -> bytes:
    """NAV-PVT once per solution on the port this is sent to: the old way (to M8) and the new (UART1, from M9)."""
    old = message(0x0601, bytes((0x01, 0x07, 1)))  # CFG-MSG, rate on the current port
    # CFG-VALSET, layer RAM, CFG-MSGOUT-UBX_NAV_PVT_UART1 = 1
    new = message(0x068A, bytes((0, 1, 0, 0)) + struct.pack("<I", 0x20910007) + bytes((1,)))
    return old + new


def plausible_length(class_id: int, length: int) -> bool:
    """False where the length cannot belong to the message, so that a damaged header is not waited for."""
    if class_id == NAV_PVT:
        return length in _PVT_SIZES
    if class_id == NAV_DOP:
        return length == _DOP_SIZE
    return True


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
