# One lithium cell: voltage to percent, or a fuel gauge's word for it, and the two warnings with hysteresis.

# Resting voltage of a lithium-ion cell by charge (percent, mV); straight lines between. Typical shape of an NMC cell
# at 25 °C between the ends that the charger and the undervoltage cut-off set; a product measures its own cell.
CURVE = ((0, 3500), (5, 3600), (10, 3650), (20, 3700), (40, 3770), (60, 3870), (80, 4000), (100, 4150))
# A lithium manganese dioxide coin cell under a beacon's load (shape of the CR2477's discharge curve, Renata data
# sheet): flat for most of its life, so that below half its word is coarse.
COIN_CURVE = ((0, 2000), (10, 2400), (20, 2600), (40, 2800), (100, 3000))
# A cell recovers when the load falls: warn again only after it has clearly been charged.
HYSTERESIS_PERCENT = 5
UNKNOWN_PERCENT = 255

LOW = 1
CRITICAL = 2


def percent_of(millivolts: int, curve=CURVE) -> int:
    below = curve[0]
    if millivolts <= below[1]:
        return 0
    for point in curve[1:]:
        if millivolts < point[1]:
            return below[0] + (point[0] - below[0]) * (millivolts - below[1]) // (point[1] - below[1])
        below = point
    return 100


class Battery:
    """Reads the cell through an ADC channel of 0.1 mV a count; `level` is 0, LOW or CRITICAL."""

    def __init__(self, adc, settings, gauge=None, curve=CURVE):
        """settings: battery_low_percent, battery_critical_percent; gauge: drivers.fuel_gauge."""
        self._adc = adc
        self._settings = settings
        self._gauge = gauge
        self._curve = curve
        self.millivolts = 0
        self.percent = UNKNOWN_PERCENT
        self.gauge_failures = 0
        self.level = 0

    def measure(self) -> int:
        """Read; LOW or CRITICAL when that is newly reached, else 0."""
        self._read()
        settings = self._settings
        level = 0
        if self.percent <= settings.battery_critical_percent:
            level = CRITICAL
        elif self.percent <= settings.battery_low_percent:
            level = LOW
        if level > self.level:
            self.level = level
            return level
        if self.level == CRITICAL and self.percent > settings.battery_critical_percent + HYSTERESIS_PERCENT:
            self.level = LOW
        if self.level == LOW and self.percent > settings.battery_low_percent + HYSTERESIS_PERCENT:
            self.level = 0
        return 0

    def _read(self):
        if self._gauge is not None:
            try:
                self.millivolts, self.percent = self._gauge.read()
                return
            except OSError:
                self.gauge_failures += 1
        self.millivolts = self._adc.read_u16() // 10
        self.percent = percent_of(self.millivolts, self._curve)
