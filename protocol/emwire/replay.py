"""Which counters of link frames were seen: a sliding window as in RFC 4303 §3.4.3. Both Pythons."""

# Frames on one link overtake each other by a few at most; 30 bits stay a small integer on the boards.
WINDOW = 30


class ReplayWindow:
    """Takes each counter once; those more than WINDOW behind the highest are taken as seen."""

    __slots__ = ("_seen", "next_counter")

    def __init__(self, next_counter: int = 0) -> None:
        """Everything below next_counter counts as seen."""
        self.next_counter = next_counter
        self._seen = (1 << WINDOW) - 1  # bit n: next_counter - 1 - n

    def take(self, counter: int) -> bool:
        """Note a counter; False if it was seen before or is too old to tell."""
        if counter >= self.next_counter:
            ahead = counter + 1 - self.next_counter
            if ahead < WINDOW:
                self._seen = ((self._seen << ahead) | 1) & ((1 << WINDOW) - 1)
            else:
                self._seen = 1
            self.next_counter = counter + 1
            return True
        behind = self.next_counter - 1 - counter
        if behind >= WINDOW or self._seen & (1 << behind):
            return False
        self._seen |= 1 << behind
        return True
