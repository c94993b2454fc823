# One lithium cell: voltage to percent, and the two warnings with hysteresis.

# Resting voltage of a lithium-ion cell by charge (percent, mV); straight lines between. Typical shape of an NMC cell
# at 25 °C between the ends that the charger and the undervoltage cut-off set; a product measures its own cell.
CURVE = ((0, 3500), (5, 3600), (10, 3650), (20, 3700), (40, 3770), (60, 3870), (80, 4000), (100, 4150))
LOW_PERCENT = 20
CRITICAL_PERCENT = 10
# A cell recovers when the load falls: warn again only after it has clearly been charged.
HYSTERESIS_PERCENT = 5

LOW = 1
CRITICAL = 2


def percent_of(millivolts: int) -> int:
    below = CURVE[0]
    if millivolts <= below[1]:
        return 0
    for point in CURVE[1:]:
        if millivolts < point[1]:
            return below[0] + (point[0] - below[0]) * (millivolts - below[1]) // (point[1] - below[1])
        below = point
    return 100


class Battery:
    """Reads the cell through an ADC channel of 0.1 mV a count."""

    def __init__(self, adc):
        self._adc = adc
        self.millivolts = 0
        self.percent = 255
        self._warned = 0

    def measure(self) -> int:
        """Read; LOW or CRITICAL when that is newly reached, else 0."""
        self.millivolts = self._adc.read_u16() // 10
        self.percent = percent_of(self.millivolts)
        level = CRITICAL if self.percent <= CRITICAL_PERCENT else LOW if self.percent <= LOW_PERCENT else 0
        if level > self._warned:
            self._warned = level
            return level
        if self._warned == CRITICAL and self.percent > CRITICAL_PERCENT + HYSTERESIS_PERCENT:
            self._warned = LOW
        if self._warned == LOW and self.percent > LOW_PERCENT + HYSTERESIS_PERCENT:
            self._warned = 0
        return 0
