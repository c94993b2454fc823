"""Adaptive binary range coder over bytes, integers only, both Pythons; the caller keeps what its bits mean.

The state is 24 bits and probabilities have 14, so that every product stays below 2**30, inside MicroPython's small
integers. `models` is an array("H") of P(bit = 0) in 1/16384; each learns from its own bits, those below `quick` by a
sixteenth of the error at a time, the others by a sixty-fourth.
"""

from emwire.errors import WireError

try:
    from array import array
except ImportError:
    pass

_STATE = 0xFFFFFF
_SMALLEST = 0x10000  # the state is widened by a byte whenever it gets narrower than this


class Coder:
    """The state that encoder and decoder share."""

    decoding = False

    def __init__(self, models: "array[int]", quick: int, at: int) -> None:
        self.models = models
        self.quick = quick
        self.at = at
        self.low = 0
        self.range = _STATE

    def bit(self, index: int, bit: int) -> int:
        """Code one bit under the probability at `index`, which learns from it; returns the bit."""
        raise NotImplementedError

    def raw(self, width: int, value: int) -> int:
        """Code `width` bits as they are; returns the value."""
        raise NotImplementedError

    def error(self, reason: str) -> WireError:
        """The error to raise for what was just read, at the byte reached."""
        return WireError(reason, self.at)

    def tail(self) -> int:
        """Distance from `low` to the number in [low, low + range) that ends in the most zero bits."""
        low = self.low & _STATE
        zeros = 24
        while True:
            mask = (1 << zeros) - 1
            distance = ((low + mask) & ~mask) - low
            if distance < self.range:
                return distance
            zeros -= 1


class Encoder(Coder):
    """Writes after `header`; `bit` and `raw` hand back what they were given."""

    def __init__(self, header: bytes, models: "array[int]", quick: int) -> None:
        super().__init__(models, quick, len(header))
        self.out = bytearray(header)

    def bit(self, index: int, bit: int) -> int:
        """Code one bit under the probability at `index`, which learns from it."""
        models = self.models
        probability = models[index]
        rate = 6 if index >= self.quick else 4
        bound = (self.range >> 8) * probability >> 6
        if bit:
            self.low += bound
            width = self.range - bound
            models[index] = probability - (probability >> rate)
        else:
            width = bound
            models[index] = probability + ((16384 - probability) >> rate)
        self.range = width
        if width < _SMALLEST:
            self._shift()
        return bit

    def raw(self, width: int, value: int) -> int:
        """Code `width` bits as they are, 8 at a time."""
        rest = width
        while rest > 0:
            step = rest if rest < 8 else 8
            rest -= step
            self.range >>= step
            self.low += self.range * (value >> rest & ((1 << step) - 1))
            if self.range < _SMALLEST:
                self._shift()
        return value

    def _shift(self) -> None:
        out = self.out
        if self.low > _STATE:
            self.low &= _STATE
            at = len(out) - 1
            while out[at] == 0xFF:
                out[at] = 0
                at -= 1
            out[at] += 1
        while self.range < _SMALLEST:
            out.append(self.low >> 16)
            self.low = (self.low & 0xFFFF) << 8
            self.range <<= 8

    def finish(self) -> bytes:
        """Header and code, with the shortest tail that says it all; zero bytes at the end are implied."""
        self.low += self.tail()
        for _ in range(3):
            self.range = 0x100
            self._shift()
        end = len(self.out)
        while end > self.at and self.out[end - 1] == 0:
            end -= 1
        return bytes(self.out[:end])


class Decoder(Coder):
    """Reads from byte `at` on; the values given to `bit` and `raw` are ignored. Zeros follow the end of the data."""

    decoding = True

    def __init__(self, data: bytes, at: int, models: "array[int]", quick: int) -> None:
        super().__init__(models, quick, at)
        if len(data) > at and data[-1] == 0:
            raise WireError("range code not canonical", len(data) - 1)
        self.data = data
        self.code = 0
        for _ in range(3):
            self.code = self.code << 8 | self._byte()
        if self.code >= _STATE:
            raise WireError("range code out of range", at)

    def error(self, reason: str) -> WireError:
        """The error to raise for what was just read, at the byte reached (not beyond the end)."""
        return WireError(reason, min(self.at, len(self.data)))

    def _byte(self) -> int:
        at = self.at
        self.at = at + 1
        return self.data[at] if at < len(self.data) else 0

    def bit(self, index: int, bit: int) -> int:
        """The next bit, under the probability at `index`, which learns from it."""
        models = self.models
        probability = models[index]
        rate = 6 if index >= self.quick else 4
        bound = (self.range >> 8) * probability >> 6
        if self.code < bound:
            self.range = bound
            models[index] = probability + ((16384 - probability) >> rate)
            bit = 0
        else:
            self.low += bound
            self.code -= bound
            self.range -= bound
            models[index] = probability - (probability >> rate)
            bit = 1
        if self.range < _SMALLEST:
            self._shift()
        return bit

    def raw(self, width: int, value: int) -> int:
        """The next `width` bits as they are."""
        value = 0
        while width > 0:
            step = width if width < 8 else 8
            width -= step
            self.range >>= step
            part = self.code // self.range
            if part >> step:
                raise self.error("range code out of range")
            self.code -= part * self.range
            self.low += part * self.range
            value = value << step | part
            if self.range < _SMALLEST:
                self._shift()
        return value

    def _shift(self) -> None:
        while self.range < _SMALLEST:
            self.low = (self.low & 0xFFFF) << 8
            self.code = self.code << 8 | self._byte()
            self.range <<= 8

    def finish(self) -> None:
        """Refuse a tail that the encoder would not have written, and anything after it."""
        if self.code != self.tail():
            raise self.error("range code not canonical")
        if self.at < len(self.data):
            raise self.error("bytes after the range code")
