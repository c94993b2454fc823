# The accelerometer's word "moves": when the receiver may sleep longer, and motion without positions. Sans-IO.

# The window of the rule is counted in so many parts.
_PARTS = 12


class Motion:
    """`level` 1 = moves. A sensor that has never said so since the boot is not believed to say "still"."""

    def __init__(self):
        self.level = 0
        self._believed = False
        self._changed_ms = 0

    def changed(self, level: int, now_ms: int):
        """The pin's level, at the start and on every edge."""
        if level or self.level:
            self._believed = True
            self._changed_ms = now_ms
        self.level = level

    def contradicted(self):
        """Positions show a move that the sensor did not: not believed until it speaks again."""
        if not self.level:
            self._believed = False

    def still(self, now_ms: int, after_ms: int) -> bool:
        return self._believed and not self.level and now_ms - self._changed_ms >= after_ms


class MotionWithoutFix:
    """So much motion within the window since the last fix, and no fix in the grace after it."""

    def __init__(self, now_ms: int = 0):
        self.counted_ms = now_ms
        self._parts = [0] * _PARTS
        self._part = 0
        self._due_ms: "int | None" = None
        self._told_ms: "int | None" = None

    @property
    def told(self) -> bool:
        return self._told_ms is not None

    def advance(self, now_ms: int, moving: bool, limit_ms: int, window_ms: int, grace_ms: int) -> int:
        """`moving`: since the last call, so call it on every edge too. Seconds of motion when it is an event now."""
        length = window_ms // _PARTS
        if now_ms - self.counted_ms > window_ms:
            self.counted_ms = now_ms - window_ms
            self._parts = [0] * _PARTS
        while self.counted_ms < now_ms:
            end = min(now_ms, (self.counted_ms // length + 1) * length)
            part = self.counted_ms // length % _PARTS
            if part != self._part:
                self._part = part
                self._parts[part] = 0
            if moving:
                self._parts[part] += end - self.counted_ms
            self.counted_ms = end
        total = sum(self._parts)
        if self._due_ms is None and total >= limit_ms:
            self._due_ms = now_ms + grace_ms
        if self.told or self._due_ms is None or now_ms < self._due_ms:
            return 0
        self._told_ms = now_ms
        return max(total // 1000, 1)

    def forget(self, now_ms: int):
        """What moved until now does not count."""
        self._due_ms = None
        self.counted_ms = now_ms
        for index in range(_PARTS):
            self._parts[index] = 0

    def fixed(self, now_ms: int) -> int:
        """There is a position: seconds since the event was told, which it ends, else 0."""
        told_ms, self._told_ms = self._told_ms, None
        self.forget(now_ms)
        return 0 if told_ms is None else max(1, (now_ms - told_ms) // 1000)
