# The strap's optical fibre: a pulsed lamp, a comparator that wakes the processor when light fails, and an analogue
# look at the light now and then. Light that has faded is dirt or an ageing lamp; light that is gone at once was cut.

# The board scales the channel so that the comparator opens here.
COMPARATOR_COUNTS = 20000


class Fibre:
    """Light of one strap in counts of its ADC channel; the pin "fibre" is 1 while light arrives."""

    def __init__(self, adc, settings):
        """settings: strap_light_percent."""
        self._adc = adc
        self._settings = settings
        self.light = None  # the better of the last two looks at a closed strap; None = not yet
        self._last = None

    def look(self):
        """Take note of the light of a closed strap."""
        counts = self._adc.read_u16()
        # Two: the last one may be of a strap that is being cut, before its edge is known.
        self.light = counts if self._last is None else max(counts, self._last)
        self._last = counts

    @property
    def faded(self) -> bool:
        """Whether the light was near the comparator's level before: then its failing is a fault, not a cut."""
        return self.light is not None and self.light * 100 < COMPARATOR_COUNTS * self._settings.strap_light_percent

    def now(self) -> int:
        """Counts at this moment, for evidence."""
        return self._adc.read_u16()
