"""Which down counters a gateway may use, where several share a fleet.

A device takes no down counter from behind the highest that it has seen in its boot, and no two frames may have one. So
each member of a fleet takes those that leave its own remainder, and none below the time (emwire.gateway_link): whoever
takes a device over begins above what the last one used. A member whose clock is or was ahead has used counters that the
others' clocks do not reach: so members tell each other the highest, and all keep above it.
"""

from emwire.link import first_counter

STEP = first_counter(8)
"""What is used beyond the highest that was told before it is told again: two blocks."""
AHEAD = first_counter(60)
"""Above the time by less, it is a block (4 s) and what clocks differ by: whoever takes a device over waits it out."""
FARTHEST = first_counter(100 * 366 * 86_400)
"""Nobody is believed who says more: of 136 years that would leave too few."""


class CounterShare:
    """The counters of one gateway. Alone it has all of them."""

    def __init__(self, place: int = 0, places: int = 1) -> None:
        """The remainder of ours, and by what to divide."""
        self.place = place
        self.places = places
        self._used = 0
        self._told = 0

    def at_least(self, time_s: int, ms: int) -> int:
        """The lowest counter for a frame of this moment (s and ms since 2010)."""
        if self.places == 1:
            return first_counter(time_s)
        now = first_counter(time_s, ms)
        return self._told + STEP if self._told > now + AHEAD else now

    def used(self, counter: int) -> None:
        """By this gateway, or as good as."""
        self._used = max(self._used, counter)

    def heard(self, counter: int) -> None:
        """All members have been told of this one."""
        if counter <= FARTHEST:
            self._told = max(self._told, counter)

    def to_tell(self) -> int | None:
        """What the others are to be told now."""
        return self._used if self._used > self._told + STEP else None
