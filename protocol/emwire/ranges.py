"""Sets of sequence numbers kept as ranges: memory grows with the holes, not the numbers. Both Pythons."""


class RangeSet:
    """Non-negative integers: all below `through`, and sorted inclusive ranges [first, last] above it."""

    __slots__ = ("_ranges", "through")

    def __init__(self, through: int = 0) -> None:
        """Start with every number below `through`."""
        self.through = through
        self._ranges: list[tuple[int, int]] = []

    def __contains__(self, number: int) -> bool:
        return number < self.through or bool(self._ranges and self.range_of(number) is not None)

    def __len__(self) -> int:
        """How many ranges lie above `through`."""
        return len(self._ranges)

    def ranges(self) -> "list[tuple[int, int]]":
        """The ranges above `through`, lowest first."""
        return list(self._ranges)

    def range_of(self, number: int) -> "tuple[int, int] | None":
        """The range above `through` that holds the number."""
        index = self._index(number)
        if index < len(self._ranges) and self._ranges[index][0] <= number:
            return self._ranges[index]
        return None

    def add(self, first: int, last: int) -> bool:
        """Take in first…last (inclusive); True if that was news."""
        if first < self.through:
            first = self.through
        if last < first:
            return False
        ranges = self._ranges
        if not ranges and first == self.through:  # nearly always
            self.through = last + 1
            return True
        index = self._index(first - 1)  # a range that ends just before is joined
        if index < len(ranges) and ranges[index][0] <= first and last <= ranges[index][1]:
            return False
        end = index
        while end < len(ranges) and ranges[end][0] <= last + 1:
            first = min(first, ranges[end][0])
            last = max(last, ranges[end][1])
            end += 1
        if first <= self.through:
            self.through = last + 1
            ranges[:end] = []
        else:
            ranges[index:end] = [(first, last)]
        return True

    def discard(self, first: int, last: int) -> None:
        """Take first…last (inclusive) out."""
        through = self.through
        kept: list[tuple[int, int]] = []
        if first < through:
            self.through = first
            if last + 1 < through:
                kept.append((last + 1, through - 1))
        for low, high in self._ranges:
            if low < first:
                kept.append((low, min(high, first - 1)))
            if high > last:
                kept.append((max(low, last + 1), high))
        self._ranges = kept

    def _index(self, number: int) -> int:
        # First range that ends at or after the number. By hand: MicroPython has no bisect.
        low, high = 0, len(self._ranges)
        while low < high:
            middle = (low + high) // 2
            if self._ranges[middle][1] < number:
                low = middle + 1
            else:
                high = middle
        return low
