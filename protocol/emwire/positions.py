"""Position blocks: up to 255 fixes in one self-contained block, integers only, both Pythons.

A fix is `(time_s, latitude_microdegrees, longitude_microdegrees)` or that followed by
`(speed_decikph, direction_degrees, precision_m, satellites, hdop_tenths, mechanism)`, -1 where unknown.
docs/positions.md describes the format bit by bit. Ordinary products stay below 2**30, MicroPython's small integers;
larger ones only cost an allocation.
"""

from array import array

from emwire.errors import WireError
from emwire.range_coder import Coder, Decoder, Encoder

try:
    from collections.abc import Sequence
except ImportError:  # MicroPython
    pass

VERSION = 1
MAXIMUM_FIXES = 255

CORE = 0
SPEED = 1
DIRECTION = 2
PRECISION = 4
SATELLITES = 8
HDOP = 16
MECHANISM = 32
ALL = 63

LATITUDE_LIMIT = 90000000
LONGITUDE_LIMIT = 180000000
# -180 and +180 degrees are values of their own, hence the odd number; crossing them costs one microdegree.
_LONGITUDE_CIRCLE = 360000001

# Of each optional column, in the order of its bit: largest value and how many bits that takes.
_COLUMN_LIMITS = (65534, 359, 65534, 63, 65534, 254)
_COLUMN_WIDTHS = (16, 9, 16, 6, 16, 8)
_DIRECTION_COLUMN = 1

# Weights of the last velocity in the prediction, in sixteenths: wandering on the spot … steady driving.
_WEIGHTS = (4, 8, 12, 15)

# Layout of the probabilities of one kind of number (see _number); q is a size against the expected size, in
# quarter octaves.
_MIDDLE = 3  # q = -3 … 16
_UP = 19  # q = 1 … 36
_DOWN = 56  # -q = 0 … 31
_FIRST = 99  # q = -11 … 32
_SIGN = 132
_NUMBER = 133
# First estimates of P(bit = 0) in 1/256, from Student's t distribution with two degrees of freedom around 0.9 of
# the mean magnitude; derivation in docs/positions.md, recomputed by tests/positions/test_position_table.py.
_TABLE = bytes.fromhex(
    "6c7c8d9e6c7c8d9eafbeccd8e2e9eff4f7fafafa73808c97"
    "a1a8aeb3b6b9bbbcbdbebfbfbfc0c0c0c0c0c0c0c0c0c0c0"
    "c0c0c0c0c0c0c0c0686e7376797b7c7d7e7f7f7f80808080"
    "808080808080808080808080808080808081818182838485"
    "87898c90959a9fa4a9adb1b4b7b9babbbcbcbdbdbdbdbdbd"
    "bebebebebebebebebebebebe80"
)

# Flags: first estimates of P(bit = 0) in 1/64, measured on recorded trails.
_TIME_FLAG = 0  # + 0 after a regular fix, 1 where the rest of a split interval is due, 2 after any other
_HOLD_FLAG = 3  # + 2 if the interval was irregular, + 1 if the last fix repeated the position
_UNKNOWN_FLAG = 7  # + 1 if the value before was unknown too
_FLAGS = 9
_FLAG_START = b"\x3a\x34\x23\x3f\x2f\x23\x23\x3c\x10"

_POSITION = _FLAGS
_TIME = _POSITION + _NUMBER
_COLUMN = _TIME + _NUMBER
_MODELS = _COLUMN + _NUMBER


def _models() -> "array[int]":
    models = array("H", bytes(2 * _MODELS))
    for index in range(_FLAGS):
        models[index] = _FLAG_START[index] << 8
    _restart(models, _POSITION)
    _restart(models, _TIME)
    return models


def _restart(models: "array[int]", base: int) -> None:
    """Put one kind of number (back) to its first estimates."""
    for index in range(_NUMBER):
        models[base + index] = _TABLE[index] << 6


def _wrap(value: int, circle: int) -> int:
    """`value` on a circle, as its representative in [-circle // 2, circle - circle // 2)."""
    half = circle >> 1
    if -half <= value < circle - half:
        return value
    return (value + half) % circle - half


def _length(value: int) -> int:
    """Bits of a number that is not negative (MicroPython's integers cannot tell)."""
    bits = 0
    while value > 255:
        value >>= 8
        bits += 8
    while value:
        value >>= 1
        bits += 1
    return bits


def _number(coder: Coder, base: int, scale: int, value: int) -> int:
    """Code a signed number of at most 32 bits whose magnitude is expected near `scale` / 16.

    Its class is the bit length of the magnitude. First whether it is above the expected class, then step by step
    up or down from there, then the sign, the bit after the leading one, and the others as they are.
    """
    bit = coder.bit
    length = _length(scale)
    # Quarter octaves by which the scale exceeds one unit (16), from -16; linear between octaves.
    level = 4 * length - 20 + ((scale << 2 >> (length - 1)) & 3)
    expected = level >> 2 if level > 0 else 0
    magnitude = -value if value < 0 else value
    size = _length(magnitude)
    current = expected
    q = 4 * current - level
    if bit(base + _MIDDLE + q, 1 if size > current else 0):
        current += 1
        q += 4
        while current < 32 and bit(base + _UP + (q if q < 36 else 36), 1 if size > current else 0):
            current += 1
            q += 4
    else:
        while current and bit(base + _DOWN + (-q if q > -31 else 31), 1 if size < current else 0):
            current -= 1
            q -= 4
    if not current:
        return 0
    negative = bit(base + _SIGN, 1 if value < 0 else 0)
    if current == 1:
        magnitude = 1
    else:
        rest = current - 2
        q = -11 if q < -11 else 32 if q > 32 else q
        first = bit(base + _FIRST + q, magnitude >> rest & 1 if size == current else 0)
        magnitude = (2 | first) << rest | coder.raw(rest, magnitude & ((1 << rest) - 1))
    return -magnitude if negative else magnitude


def _speed_ratio(step_s: int, last_step_s: int) -> int:
    """Sixteenths of the last movement to expect in this interval; never more than all of it."""
    if step_s == last_step_s:
        return 16
    if step_s <= 0 or last_step_s <= 0:
        return 0
    return step_s * 16 // last_step_s if step_s < last_step_s else 16


def _plan(fixes: "Sequence[Sequence[int]]") -> "tuple[int, int, int]":
    """The encoder's choice for a block: (usual interval in seconds, index of the weight, exponent of the scale)."""
    count = len(fixes) - 1
    steps = sorted([(fixes[at + 1][0] - fixes[at][0]) & 0xFFFFFFFF for at in range(count)])
    # The most frequent interval if a quarter of all have it, else the median.
    usual_s = steps[count >> 1]
    best = run = 0
    for at in range(count):
        run = run + 1 if at and steps[at] == steps[at - 1] else 1
        if run > best:
            best = run
            if 4 * run >= count:
                usual_s = steps[at]
    if usual_s > 32767:
        usual_s = 32767

    moved = 0
    for at in range(count):
        moved += abs(fixes[at + 1][1] - fixes[at][1])
        moved += abs(_wrap(fixes[at + 1][2] - fixes[at][2], _LONGITUDE_CIRCLE))
    # One jump must not decide: a residual counts for at most twice the mean movement.
    clip = moved // count
    sums = [0] * len(_WEIGHTS)
    last_s = latitude_step = longitude_step = 0
    for at in range(count):
        last = fixes[at]
        fix = fixes[at + 1]
        step_s = _wrap(fix[0] - last[0], 1 << 32)
        ratio = _speed_ratio(step_s, last_s)
        last_latitude_step = latitude_step
        last_longitude_step = longitude_step
        latitude_step = fix[1] - last[1]
        longitude_step = _wrap(fix[2] - last[2], _LONGITUDE_CIRCLE)
        for index in range(len(_WEIGHTS)):
            weight = _WEIGHTS[index] * ratio >> 4
            miss = abs(latitude_step - (last_latitude_step * weight >> 4))
            sums[index] += miss if miss < clip else clip
            miss = abs(longitude_step - (last_longitude_step * weight >> 4))
            sums[index] += miss if miss < clip else clip
        last_s = step_s
    choice = 0
    for index in range(1, len(_WEIGHTS)):
        if sums[index] < sums[choice]:
            choice = index
    # Nearest power of two of the mean residual, which the scale then starts at (8 << exponent sixteenths).
    mean = sums[choice] * 8 // count
    exponent = _length(mean * 3 >> 5)
    return usual_s, choice, exponent if exponent < 15 else 15


def _beyond(latitude: int, longitude: int) -> str:
    """What is wrong with a place, empty if nothing."""
    if not -LATITUDE_LIMIT <= latitude <= LATITUDE_LIMIT:
        return "latitude out of range"
    if not -LONGITUDE_LIMIT <= longitude <= LONGITUDE_LIMIT:
        return "longitude out of range"
    return ""


def _on_circle(coder: Coder, value: int, circle: int) -> int:
    """`value`, refused where a decoder was given another representative than the encoder's."""
    if value != _wrap(value, circle):
        raise coder.error("position block not canonical")
    return value


def _small(value: int) -> int:
    """Magnitude, held below 2**20."""
    if value < 0:
        value = -value
    return value if value < 0x100000 else 0x100000


def _spread(error: int, scale: int) -> int:
    """Magnitude in sixteenths, held to about six times the scale so that one outlier is soon forgotten."""
    if error < 0:
        error = -error
    limit = 6 * scale + 320
    return error << 4 if error <= limit >> 4 else limit


def _mean(scale: int, spread: int) -> int:
    """Moving mean of the last few magnitudes, 1 … 2**24."""
    scale += (spread - scale) >> 2
    return 1 if scale < 1 else scale if scale < 0x1000000 else 0x1000000


def _core(coder: Coder, fixes: "Sequence[Sequence[int]]", count: int) -> "list[list[int]]":
    """Code time and place of `count` fixes; the decoder ignores `fixes` and returns the rows."""
    decoding = coder.decoding
    rows: list[list[int]] = []
    first = (0, 0, 0) if decoding else fixes[0]
    time_s = coder.raw(32, first[0])
    latitude = coder.raw(28, first[1] + LATITUDE_LIMIT) - LATITUDE_LIMIT
    longitude = coder.raw(29, first[2] + LONGITUDE_LIMIT) - LONGITUDE_LIMIT
    if decoding:
        wrong = _beyond(latitude, longitude)
        if wrong:
            raise coder.error(wrong)
        rows.append([time_s, latitude, longitude])
    if count == 1:
        return rows

    usual_s, choice, exponent = (0, 0, 0) if decoding else _plan(fixes)
    length = coder.raw(4, _length(usual_s))
    if length > 1:
        length -= 1
        usual_s = 1 << length | coder.raw(length, usual_s & ((1 << length) - 1))
    else:
        usual_s = length
    weight = _WEIGHTS[coder.raw(2, choice)]
    exponent = coder.raw(4, exponent)
    latitude_scale = longitude_scale = 8 << exponent
    time_scale = usual_s * 16 or 16

    step_s = latitude_step = longitude_step = 0
    latitude_error = longitude_error = 0
    hold = 0
    time_context = _TIME_FLAG
    for at in range(1, count):
        # Time: the usual interval, or after an unexpected one of less than three quarters of it what is missing.
        expected_s = usual_s
        if time_context and 0 < 4 * step_s < 3 * usual_s:
            expected_s -= step_s
            time_context = _TIME_FLAG + 1
        last_step_s = step_s
        if not decoding:
            step_s = _wrap(fixes[at][0] - time_s, 1 << 32)
        irregular = coder.bit(time_context, 0 if step_s == expected_s else 1)
        if irregular:
            error = _number(coder, _TIME, time_scale, _wrap(step_s - usual_s, 1 << 32))
            error = _on_circle(coder, error, 1 << 32)
            if decoding:
                step_s = _wrap(usual_s + error, 1 << 32)
                if step_s == expected_s:
                    raise coder.error("position block not canonical")
            time_scale = _mean(time_scale, _spread(error, time_scale))
            time_context = _TIME_FLAG + 2
        else:
            step_s = expected_s
            time_context = _TIME_FLAG
        time_s = (time_s + step_s) & 0xFFFFFFFF

        if not decoding:
            latitude_error = fixes[at][1] - latitude
            longitude_error = _wrap(fixes[at][2] - longitude, _LONGITUDE_CIRCLE)
        moved = 1 if latitude_error or longitude_error else 0
        hold = coder.bit(_HOLD_FLAG + 2 * irregular + hold, 1 - moved)
        if hold:
            latitude_step = longitude_step = 0
        else:
            ratio = weight * _speed_ratio(step_s, last_step_s) >> 4
            latitude_step = latitude_step * ratio >> 4
            longitude_step = longitude_step * ratio >> 4
            # The scale of each axis borrows from the other and grows with the speed; longitude, coded second,
            # also leans on how far latitude just missed.
            scale = ((14 * latitude_scale + 2 * longitude_scale) >> 4) + (_small(latitude_step) * 13 >> 3)
            other = ((14 * longitude_scale + 2 * latitude_scale) >> 4) + (_small(longitude_step) * 13 >> 3)
            error = _number(coder, _POSITION, scale, latitude_error - latitude_step)
            latitude_step += error
            error = _spread(error, latitude_scale)
            latitude_scale = _mean(latitude_scale, error)
            other = (other * 12 + error * 6) >> 4
            error = _wrap(longitude_error - longitude_step, _LONGITUDE_CIRCLE)
            error = _on_circle(coder, _number(coder, _POSITION, other or 1, error), _LONGITUDE_CIRCLE)
            longitude_step = _wrap(longitude_step + error, _LONGITUDE_CIRCLE)
            longitude_scale = _mean(longitude_scale, _spread(error, longitude_scale))
            if decoding and not latitude_step and not longitude_step:
                raise coder.error("position block not canonical")
        latitude += latitude_step
        longitude = _wrap(longitude + longitude_step, _LONGITUDE_CIRCLE)
        if decoding:
            wrong = _beyond(latitude, longitude)
            if wrong:
                raise coder.error(wrong)
            rows.append([time_s, latitude, longitude])
    return rows


def _column(coder: Coder, fixes: "Sequence[Sequence[int]]", rows: "list[list[int]]", column: int) -> None:
    """Code one optional column: constant, or differences from the last known value."""
    decoding = coder.decoding
    at_column = 3 + column
    limit = _COLUMN_LIMITS[column]
    circular = column == _DIRECTION_COLUMN
    count = len(rows) if decoding else len(fixes)
    value = -1
    constant = 0
    exponent = 0
    if not decoding:
        constant, value, exponent = _plan_column(fixes, at_column, circular)
    if coder.raw(1, constant):
        value = -coder.raw(1, 1 if value < 0 else 0) or coder.raw(_COLUMN_WIDTHS[column], value)
        if value > limit:
            raise coder.error("position column out of range")
        if decoding:
            for row in rows:
                row[at_column] = value
        return
    scale = 2 << coder.raw(4, exponent)
    _restart(coder.models, _COLUMN)
    known = -1
    unknown = 0
    for at in range(count):
        if not decoding:
            value = fixes[at][at_column]
        unknown = coder.bit(_UNKNOWN_FLAG + unknown, 1 if value < 0 else 0)
        if unknown:
            value = -1
        elif known < 0:
            known = value = coder.raw(_COLUMN_WIDTHS[column], value)
        else:
            error = value - known
            if circular:
                error = _wrap(error, 360)
            error = _number(coder, _COLUMN, scale, error)
            value = known + error
            if circular:
                _on_circle(coder, error, 360)
                value %= 360
            scale = _mean(scale, _spread(error, scale))
            known = value
        if decoding:
            if not -1 <= value <= limit or (value < 0 and not unknown):
                raise coder.error("position column out of range")
            rows[at][at_column] = value


def _plan_column(fixes: "Sequence[Sequence[int]]", at_column: int, circular: bool) -> "tuple[int, int, int]":
    """The encoder's choice for a column: (1 if constant, its value, exponent of the first scale)."""
    first = known = fixes[0][at_column]
    constant = 1
    total = changes = 0
    for fix in fixes:
        value = fix[at_column]
        if value != first:
            constant = 0
        if value >= 0:
            if known >= 0:
                error = value - known
                total += abs(_wrap(error, 360) if circular else error)
                changes += 1
            known = value
    exponent = _length(total * 16 // changes * 3 >> 3) if changes else 0
    return constant, first, exponent if exponent < 15 else 15


def encode_block(fixes: "Sequence[Sequence[int]]", columns: int = CORE) -> bytes:
    """Encode 1..255 fixes; WireError where a value is out of range or missing (offset = which fix)."""
    count = len(fixes)
    if not 1 <= count <= MAXIMUM_FIXES:
        raise WireError("a position block holds 1 to 255 fixes", 0)
    if not 0 <= columns <= ALL:
        raise WireError("unknown position column", 0)
    for at in range(count):
        fix = fixes[at]
        if len(fix) < (9 if columns else 3):
            raise WireError("fix without all its columns", at)
        if not 0 <= fix[0] <= 0xFFFFFFFF:
            raise WireError("time out of range", at)
        wrong = _beyond(fix[1], fix[2])
        if wrong:
            raise WireError(wrong, at)
        for column in range(6):
            if columns >> column & 1 and not -1 <= fix[3 + column] <= _COLUMN_LIMITS[column]:
                raise WireError("position column out of range", at)
    coder = Encoder(bytes((VERSION << 6 | columns, count)), _models(), _FLAGS)
    _core(coder, fixes, count)
    for column in range(6):
        if columns >> column & 1:
            _column(coder, fixes, [], column)
    return coder.finish()


def decode_block(data: bytes) -> "list[tuple[int, ...]]":
    """The fixes of one block, as tuples of 3 values (CORE) or 9; WireError on anything malformed."""
    if len(data) < 2:
        raise WireError("position block too short", len(data))
    if data[0] >> 6 != VERSION:
        raise WireError("unknown position block version", 0)
    count = data[1]
    if not count:
        raise WireError("position block without fixes", 1)
    columns = data[0] & ALL
    coder = Decoder(data, 2, _models(), _FLAGS)
    rows = _core(coder, (), count)
    if columns:
        for row in rows:
            row.extend((-1, -1, -1, -1, -1, -1))
        for column in range(6):
            if columns >> column & 1:
                _column(coder, (), rows, column)
    coder.finish()
    return [tuple(row) for row in rows]
