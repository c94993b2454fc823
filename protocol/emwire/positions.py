"""Position blocks: up to 255 fixes in one self-contained block, integer arithmetic, both Pythons.

A fix is `(time_s, latitude_microdegrees, longitude_microdegrees)` or that followed by
`(speed_decikph, direction_degrees, precision_m, satellites, hdop_tenths, mechanism)`, -1 where unknown.
The format is described in docs/positions.md.
"""

from array import array

from emwire.errors import WireError

try:
    from collections.abc import Sequence
except ImportError:
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

_LATITUDE_LIMIT = 90000000
_LONGITUDE_LIMIT = 180000000
# Both -180 and +180 degrees are values of their own, hence the odd circle; crossing it costs one microdegree.
_LONGITUDE_CIRCLE = 360000001
# Largest value of each optional column, in the order of its bit.
_COLUMN_LIMITS = (65534, 359, 65534, 63, 65534, 254)
_DIRECTION_COLUMN = 1

_CLASSES = 33  # bit lengths 0..32 of a magnitude
_HALF = 8192  # probabilities are 14 bits


class _Encoder:
    """Binary range coder, 24-bit state, so that every product stays below 2**30."""

    def __init__(self, out: bytearray) -> None:
        self.out = out
        self.start = len(out)
        self.low = 0
        self.range = 0xFFFFFF

    def bit(self, model: "array[int]", index: int, bit: int) -> int:
        probability = model[index]
        bound = (self.range >> 8) * probability >> 6
        if bit:
            self.low += bound
            self.range -= bound
            model[index] = probability - (probability >> 4)
        else:
            self.range = bound
            model[index] = probability + ((16383 - probability) >> 4)
        if self.range < 0x10000 or self.low > 0xFFFFFF:
            self._normalise()
        return bit

    def raw(self, width: int, value: int) -> int:
        while width > 8:
            width -= 8
            self._raw(8, (value >> width) & 0xFF)
        self._raw(width, value & ((1 << width) - 1))
        return value

    def _raw(self, width: int, value: int) -> None:
        self.range >>= width
        self.low += self.range * value
        self._normalise()

    def _normalise(self) -> None:
        out = self.out
        if self.low > 0xFFFFFF:
            self.low &= 0xFFFFFF
            at = len(out) - 1
            while out[at] == 0xFF:
                out[at] = 0
                at -= 1
            out[at] += 1
        while self.range < 0x10000:
            out.append(self.low >> 16)
            self.low = (self.low & 0xFFFF) << 8
            self.range <<= 8

    def finish(self) -> bytes:
        """All bytes with the shortest tail that identifies the interval; zero bytes at the end are implied."""
        self.low += _tail(self.low, self.range)
        self.range = 0x100
        self._normalise()
        self.range = 0x100
        self._normalise()
        self.range = 0x100
        self._normalise()
        end = len(self.out)
        while end > self.start and self.out[end - 1] == 0:
            end -= 1
        return bytes(self.out[:end])


def _tail(low: int, width: int) -> int:
    """Distance from `low` to the number in [low, low + width) that ends in the most zero bits."""
    zeros = 23
    while True:
        mask = (1 << zeros) - 1
        distance = ((low + mask) & ~mask) - low
        if distance < width:
            return distance
        zeros -= 1


class _Decoder:
    """The inverse of `_Encoder`; reads zeros after the end and checks the tail in `finish`."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.at = start
        self.low = 0
        self.range = 0xFFFFFF
        self.code = 0
        for _ in range(3):
            self.code = self.code << 8 | self._byte()

    def _byte(self) -> int:
        at = self.at
        self.at = at + 1
        return self.data[at] if at < len(self.data) else 0

    def bit(self, model: "array[int]", index: int, bit: int) -> int:
        probability = model[index]
        bound = (self.range >> 8) * probability >> 6
        if self.code < bound:
            self.range = bound
            model[index] = probability + ((16383 - probability) >> 4)
            bit = 0
        else:
            self.low += bound
            self.code -= bound
            self.range -= bound
            model[index] = probability - (probability >> 4)
            bit = 1
        if self.range < 0x10000:
            self._normalise()
        return bit

    def raw(self, width: int, value: int) -> int:
        value = 0
        while width > 8:
            width -= 8
            value = value << 8 | self._raw(8)
        return value << width | self._raw(width)

    def _raw(self, width: int) -> int:
        self.range >>= width
        value = self.code // self.range
        if value >> width:
            raise WireError("position code out of range", self.at)
        self.code -= value * self.range
        self.low += value * self.range
        self._normalise()
        return value

    def _normalise(self) -> None:
        while self.range < 0x10000:
            self.low = (self.low & 0xFFFF) << 8
            self.code = self.code << 8 | self._byte()
            self.range <<= 8

    def finish(self) -> None:
        if self.code != _tail(self.low & 0xFFFFFF, self.range):
            raise WireError("position block not canonical", self.at)
        if self.at < len(self.data):
            raise WireError("trailing bytes after position block", self.at)


def _model(size: int) -> "array[int]":
    return array("H", [_HALF] * size)


def _number(coder: "_Encoder | _Decoder", model: "array[int]", value: int) -> int:
    """Code a signed number: unary bit length of its magnitude, sign, the bits below the first."""
    magnitude = -value if value < 0 else value
    bits = 0
    size = 0
    while magnitude >> size:
        size += 1
    while bits < 32 and coder.bit(model, bits, 0 if bits == size else 1):
        bits += 1
    if bits == 0:
        return 0
    negative = coder.bit(model, 33, 1 if value < 0 else 0)
    if bits > 1:
        magnitude = 1 << (bits - 1) | coder.raw(bits - 1, magnitude & ((1 << (bits - 1)) - 1))
    else:
        magnitude = 1
    return -magnitude if negative else magnitude


def _core(coder: "_Encoder | _Decoder", fixes: "list[list[int]]", count: int, decoding: bool) -> None:
    time_model = _model(_CLASSES + 1)
    latitude_model = _model(_CLASSES + 1)
    longitude_model = _model(_CLASSES + 1)
    time_s = coder.raw(32, 0 if decoding else fixes[0][0])
    latitude = coder.raw(28, 0 if decoding else fixes[0][1] + _LATITUDE_LIMIT) - _LATITUDE_LIMIT
    longitude = coder.raw(29, 0 if decoding else fixes[0][2] + _LONGITUDE_LIMIT) - _LONGITUDE_LIMIT
    _check(latitude, longitude)
    if decoding:
        fixes.append([time_s, latitude, longitude])
    step_s = 0
    latitude_step = longitude_step = 0
    for position in range(1, count):
        if decoding:
            fix = [0, 0, 0]
            fixes.append(fix)
        else:
            fix = fixes[position]
        residual = _wrap(fix[0] - time_s - step_s, 1 << 32)
        residual = _number(coder, time_model, residual)
        previous_step_s = step_s
        step_s = _wrap(step_s + residual, 1 << 32)
        time_s = (time_s + step_s) & 0xFFFFFFFF
        if 0 < step_s < 3 * previous_step_s:
            latitude_step = latitude_step * step_s // previous_step_s
            longitude_step = longitude_step * step_s // previous_step_s
        elif step_s <= 0:
            latitude_step = longitude_step = 0
        residual = _number(coder, latitude_model, fix[1] - latitude - latitude_step)
        latitude_step += residual
        residual = _number(coder, longitude_model, _wrap(fix[2] - longitude - longitude_step, _LONGITUDE_CIRCLE))
        longitude_step = _wrap(longitude_step + residual, _LONGITUDE_CIRCLE)
        latitude += latitude_step
        longitude = _wrap(longitude + longitude_step, _LONGITUDE_CIRCLE)
        _check(latitude, longitude)
        fix[0], fix[1], fix[2] = time_s, latitude, longitude


def _check(latitude: int, longitude: int) -> None:
    if not -_LATITUDE_LIMIT <= latitude <= _LATITUDE_LIMIT:
        raise WireError("latitude out of range", 0)
    if not -_LONGITUDE_LIMIT <= longitude <= _LONGITUDE_LIMIT:
        raise WireError("longitude out of range", 0)


def _wrap(value: int, circle: int) -> int:
    """`value` on a circle, as the representative nearest zero (the lower half includes -circle / 2)."""
    half = circle >> 1
    if -half <= value < half:
        return value
    return (value + half) % circle - half


def _column(
    coder: "_Encoder | _Decoder", fixes: "list[list[int]]", column: int, decoding: bool
) -> None:
    model = _model(_CLASSES + 1)
    repeat = _model(1)
    limit = _COLUMN_LIMITS[column]
    value = -1
    for fix in fixes:
        wanted = fix[3 + column]
        if coder.bit(repeat, 0, 1 if wanted != value else 0):
            difference = wanted - value
            if column == _DIRECTION_COLUMN and wanted >= 0 and value >= 0:
                difference = _wrap(difference, 360)
            difference = _number(coder, model, difference)
            if column == _DIRECTION_COLUMN and value >= 0 and value + difference != -1:
                value = (value + difference) % 360
            else:
                value += difference
        if not -1 <= value <= limit:
            raise WireError("position column out of range", 0)
        fix[3 + column] = value


def encode_block(fixes: "Sequence[Sequence[int]]", columns: int = CORE) -> bytes:
    """Encode 1..255 fixes; WireError where a value does not fit or a column is missing."""
    count = len(fixes)
    if not 1 <= count <= MAXIMUM_FIXES:
        raise WireError("1 to 255 fixes in a block", 0)
    if not 0 <= columns <= ALL:
        raise WireError("unknown position column", 0)
    rows = [list(fix) for fix in fixes]
    for row in rows:
        if len(row) < (9 if columns else 3) or not 0 <= row[0] <= 0xFFFFFFFF:
            raise WireError("fix incomplete or time out of range", 0)
        _check(row[1], row[2])
    out = bytearray((VERSION << 6 | columns, count))
    coder = _Encoder(out)
    _core(coder, rows, count, False)
    for column in range(6):
        if columns >> column & 1:
            for row in rows:
                if not -1 <= row[3 + column] <= _COLUMN_LIMITS[column]:
                    raise WireError("position column out of range", 0)
            _column(coder, rows, column, False)
    return coder.finish()


def decode_block(data: bytes) -> "list[tuple[int, ...]]":
    """Fixes of one block: tuples of 3 values (CORE) or 9; WireError on anything malformed."""
    if len(data) < 2:
        raise WireError("position block too short", len(data))
    if data[0] >> 6 != VERSION:
        raise WireError("unknown position block version", 0)
    count = data[1]
    if count == 0:
        raise WireError("position block without fixes", 1)
    columns = data[0] & ALL
    coder = _Decoder(data, 2)
    rows: "list[list[int]]" = []
    _core(coder, rows, count, True)
    if columns:
        for row in rows:
            row.extend((-1, -1, -1, -1, -1, -1))
        for column in range(6):
            if columns >> column & 1:
                _column(coder, rows, column, True)
    coder.finish()
    return [tuple(row) for row in rows]
