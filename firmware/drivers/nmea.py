# NMEA 0183 sentences as observations: strict about shape, integers only, no state.
# Fields after NMEA 0183 4.11 as gpsd documents them (https://gpsd.gitlab.io/gpsd/NMEA.html).

# What a sentence says about the position.
SILENT = 0  # nothing
VALID = 1
VOID = 2  # the receiver says that it has no fix
ESTIMATED = 3  # dead reckoning, manual input or simulator: not measured

# Kinds are bits so that an epoch can note which it has seen.
GGA = 1
RMC = 2
GNS = 4
GLL = 8
GSA = 16
VTG = 32
ZDA = 64
GST = 128

_KINDS = {
    b"GGA": GGA,
    b"RMC": RMC,
    b"GNS": GNS,
    b"GLL": GLL,
    b"GSA": GSA,
    b"VTG": VTG,
    b"ZDA": ZDA,
    b"GST": GST,
}

DAY_MS = 86400000
# Days from 1970-01-01 to 2010-01-01, where the wire's time begins.
_DAYS_TO_2010 = 14610
# Two-digit years of RMC: 80-99 are 1980-1999 (GPS time begins in 1980), the rest 2000-2079.
_YEAR_PIVOT = 80
# DOP that receivers write for "unknown" is 99.9 or 99.99; nothing above 50 is a usable geometry.
_DOP_UNKNOWN_HUNDREDTHS = 5000
# 515 m/s (1000 knots) is where receivers must stop working; more is not a speed.
SPEED_LIMIT_MM_PER_S = 515000


class Malformed(ValueError):
    """The sentence's checksum is right and its fields are not."""


class Observation:
    """What one sentence contributes to an epoch; None = it does not say."""

    def __init__(self, kind: int):
        self.kind = kind
        self.time_ms = None  # of the UTC day
        self.day = None  # since 2010-01-01
        self.date_bad = False  # a date was given and is not one
        self.status = SILENT
        self.latitude = None  # microdegrees
        self.longitude = None
        self.decimals = None  # of a minute, of both
        self.speed = None  # mm/s
        self.direction = None  # hundredths of a degree
        self.satellites: "int | None" = None
        self.hdop = None  # hundredths
        self.mode: "int | None" = None  # 1 none, 2 2D, 3 3D
        self.precision = None  # m, 95 %


def day_number(year: int, month: int, day: int) -> "int | None":
    """Days since 2010-01-01 (negative before), or None if there is no such date."""
    if not (1980 <= year <= 2107 and 1 <= month <= 12 and 1 <= day <= 31):
        return None
    if day > 30 and month in (4, 6, 9, 11):
        return None
    if month == 2 and day > (29 if year % 4 == 0 and year != 2100 else 28):
        return None
    # Howard Hinnant's days_from_civil, http://howardhinnant.github.io/date_algorithms.html
    if month <= 2:
        year -= 1
    era_year = year % 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = era_year * 365 + era_year // 4 - era_year // 100 + day_of_year
    return year // 400 * 146097 + day_of_era - 719468 - _DAYS_TO_2010


def civil(day: int) -> tuple:
    """(year, month, day) of a day number."""
    day += _DAYS_TO_2010 + 719468
    era, day_of_era = divmod(day, 146097)
    era_year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * era_year + era_year // 4 - era_year // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = era_year + era * 400 + (1 if month <= 2 else 0)
    return year, month, day_of_year - (153 * shifted + 2) // 5 + 1


def square_root(value: int) -> int:
    """Integer square root, rounded up."""
    if value <= 0:
        return 0
    guess = value
    better = (guess + 1) // 2
    while better < guess:
        guess = better
        better = (guess + value // guess) // 2
    return guess if guess * guess == value else guess + 1


def kind_of(body: bytes) -> int:
    """The kind of a sentence (text between $ and *), 0 if it is none that we use."""
    # Proprietary sentences begin with P: $PGRMC is Garmin's, not an RMC of talker PG.
    if len(body) < 6 or body[5] != 44 or body[0] == 80:
        return 0
    return _KINDS.get(body[2:5], 0)


def parse(body: bytes) -> "Observation | None":
    """Observation of a sentence whose checksum is right (text between $ and *); None if its kind is not used."""
    kind = kind_of(body)
    if not kind:
        return None
    fields = body.split(b",")
    seen = Observation(kind)
    _PARSERS[kind](seen, fields)
    return seen


def _gga(seen, fields):
    _count(fields, 15, 15)
    seen.time_ms = _time(fields[1])
    quality = fields[6]
    if quality == b"0" or not quality:
        seen.status = VOID
        return
    if quality in (b"6", b"7", b"8"):
        seen.status = ESTIMATED
        return
    if quality not in (b"1", b"2", b"3", b"4", b"5"):
        raise Malformed("quality")
    _position(seen, fields, 2)
    _satellites(seen, fields[7], fields[8], fields[9])


def _gns(seen, fields):
    _count(fields, 13, 14)
    seen.time_ms = _time(fields[1])
    seen.status = VOID
    for system in fields[6]:
        system_status = _mode_indicator(system)
        if system_status == VALID:
            seen.status = VALID
            break
        if system_status == ESTIMATED:
            seen.status = ESTIMATED
    if seen.status == VALID:
        _position(seen, fields, 2)
        _satellites(seen, fields[7], fields[8], fields[9])


def _rmc(seen, fields):
    _count(fields, 12, 14)
    seen.time_ms = _time(fields[1])
    seen.status = _status(fields[2], fields[12] if len(fields) > 12 else b"")
    # A receiver without a fix may still know the date, but nothing vouches for it.
    if seen.status != VALID:
        return
    _position(seen, fields, 3)
    seen.speed = _knots(fields[7])
    seen.direction = _direction(fields[8])
    date = fields[9]
    if len(date) == 6 and date.isdigit():
        year = int(date[4:])
        seen.day = day_number(year + (1900 if year >= _YEAR_PIVOT else 2000), int(date[2:4]), int(date[:2]))
    seen.date_bad = seen.day is None


def _gll(seen, fields):
    _count(fields, 7, 8)
    seen.time_ms = _time(fields[5])
    seen.status = _status(fields[6], fields[7] if len(fields) > 7 else b"")
    if seen.status == VALID:
        _position(seen, fields, 1)


def _gsa(seen, fields):
    _count(fields, 18, 19)
    if fields[2] not in (b"1", b"2", b"3"):
        raise Malformed("mode")
    seen.mode = int(fields[2])
    if seen.mode > 1:
        seen.hdop = _dop(fields[16])


def _vtg(seen, fields):
    _count(fields, 9, 10)
    if len(fields) > 9 and fields[9] and _mode_indicator(fields[9][0]) != VALID:
        return
    seen.direction = _direction(fields[1])
    seen.speed = _knots(fields[5])
    if seen.speed is None and fields[7]:
        seen.speed = _limited(_scaled(fields[7], 3) * 5 // 18)  # m/h to mm/s


def _zda(seen, fields):
    _count(fields, 7, 7)
    seen.time_ms = _time(fields[1])
    if not fields[2] and not fields[3] and not fields[4]:
        return
    day, month, year = fields[2:5]
    if len(day) == 2 and len(month) == 2 and len(year) == 4 and (day + month + year).isdigit():
        seen.day = day_number(int(year), int(month), int(day))
    seen.date_bad = seen.day is None


def _gst(seen, fields):
    _count(fields, 9, 9)
    seen.time_ms = _time(fields[1])
    if fields[6] and fields[7]:
        # 2DRMS, 95.5 to 98.2 % (National Research Council, The Global Positioning System, 1995): twice the root of
        # the summed variances.
        north = min(_scaled(fields[6], 1), 9999)
        east = min(_scaled(fields[7], 1), 9999)
        seen.precision = (2 * square_root(north * north + east * east) + 9) // 10


_PARSERS = {GGA: _gga, GNS: _gns, RMC: _rmc, GLL: _gll, GSA: _gsa, VTG: _vtg, ZDA: _zda, GST: _gst}


def _count(fields, least, most):
    if not least <= len(fields) <= most:
        raise Malformed("field count")


def _time(text):
    """hhmmss[.s…] as milliseconds of the day, None if empty."""
    if not text:
        return None
    if len(text) < 6 or not text[:6].isdigit():
        raise Malformed("time")
    hour, minute, second = int(text[:2]), int(text[2:4]), int(text[4:6])
    # A leap second has no place in a day of 86,400 s: its fixes are left out.
    if hour > 23 or minute > 59 or second > 59:
        raise Malformed("time")
    milliseconds = 0
    if len(text) > 6:
        digits = text[7:]
        if text[6] != 46 or not 1 <= len(digits) <= 9 or not digits.isdigit():
            raise Malformed("time")
        milliseconds = int((digits + b"00")[:3])
    return (hour * 3600 + minute * 60 + second) * 1000 + milliseconds


def _status(status, indicator):
    if status == b"V":
        return VOID
    if status != b"A" or len(indicator) > 1:
        raise Malformed("status")
    return _mode_indicator(indicator[0]) if indicator else VALID


def _mode_indicator(letter):
    """Of RMC, GLL, VTG, GNS: autonomous, differential, float, RTK and precise are measured."""
    if letter in b"ADFRP":
        return VALID
    if letter == 78:  # N
        return VOID
    if letter in b"EMS":
        return ESTIMATED
    raise Malformed("mode indicator")


def _position(seen, fields, at):
    if seen.time_ms is None:
        raise Malformed("position without time")
    seen.latitude = _angle(fields[at], 2, 90)
    seen.longitude = _angle(fields[at + 2], 3, 180)
    seen.decimals = len(fields[at]) - 5
    # Losing two equal characters leaves the checksum right: 4829.0005 less two zeros is 4829.05.
    if len(fields[at + 2]) - 6 != seen.decimals:
        raise Malformed("decimals")
    if fields[at + 1] == b"S":
        seen.latitude = -seen.latitude
    elif fields[at + 1] != b"N":
        raise Malformed("hemisphere")
    if fields[at + 3] == b"W":
        seen.longitude = -seen.longitude
    elif fields[at + 3] != b"E":
        raise Malformed("hemisphere")
    seen.status = VALID


def _angle(text, degree_digits, limit):
    """d…dmm.m… as microdegrees, rounded; no step exceeds 31 bits."""
    whole = degree_digits + 2
    fraction = text[whole + 1 :]
    if len(text) < whole + 2 or len(fraction) > 9 or text[whole] != 46:
        raise Malformed("angle")
    if not text[:whole].isdigit() or not fraction.isdigit():
        raise Malformed("angle")
    degrees = int(text[:degree_digits])
    minutes = int(text[degree_digits:whole])
    if minutes > 59:
        raise Malformed("angle")
    # Ten-millionths of a minute: at most 599,999,999 < 2^30. A microdegree is 600 of them.
    microdegrees = degrees * 1000000 + (minutes * 10000000 + int((fraction + b"000000")[:7]) + 300) // 600
    if microdegrees > limit * 1000000:
        raise Malformed("angle")
    return microdegrees


def _scaled(text, decimals):
    """An unsigned decimal number times 10^decimals, further decimals cut off."""
    point = text.find(b".")
    if point < 0:
        point = len(text)
    whole, fraction = text[:point] or b"0", text[point + 1 :]
    if not whole.isdigit() or len(whole) > 5 or (fraction and not fraction.isdigit()):
        raise Malformed("number")
    return int(whole + (fraction + b"000000")[:decimals])


def _limited(speed):
    if speed > SPEED_LIMIT_MM_PER_S:
        raise Malformed("speed")
    return speed


def _knots(text):
    """Knots as mm/s: 1852 m an hour."""
    if not text:
        return None
    thousandths = _scaled(text, 3)
    if thousandths > 1001080:  # the limit in knots; keeps the product below 2^30
        raise Malformed("speed")
    return _limited((thousandths * 463 + 450) // 900)


def _direction(text):
    if not text:
        return None
    hundredths = _scaled(text, 2)
    if hundredths > 36000:
        raise Malformed("direction")
    return hundredths % 36000


def _dop(text):
    if not text:
        return None
    hundredths = _scaled(text, 2)
    return hundredths if 0 < hundredths <= _DOP_UNKNOWN_HUNDREDTHS else None


def _satellites(seen, count, hdop, altitude):
    if count:
        if len(count) > 2 or not count.isdigit():
            raise Malformed("satellites")
        seen.satellites = int(count)
    seen.hdop = _dop(hdop)
    # Four unknowns need four satellites; only GSA says for sure which kind of fix it is.
    seen.mode = 3 if altitude and seen.satellites is not None and seen.satellites >= 4 else 2
