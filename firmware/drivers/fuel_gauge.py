# The fuel gauge MAX17048 (Maxim data sheet 19-6171, rev. 7): cell voltage and state of charge over I2C.

ADDRESS = 0x36
_VCELL = 0x02  # 78.125 µV a bit
_SOC = 0x04  # 1/256 percent a bit
# One word and a second try: a gauge that is asleep or being reset does not acknowledge the first.
_TRIES = 2
# A lithium cell outside these is not what is connected.
_LOWEST_MV = 2000
_HIGHEST_MV = 5000
_EIO = 5


class FuelGauge:
    """bus: machine.I2C's interface, readfrom_mem(address, register, count). OSError where it gives no sense."""

    def __init__(self, bus):
        self._bus = bus

    def read(self) -> tuple:
        """(mV, percent)."""
        millivolts = self._word(_VCELL) * 5 // 64
        # The gauge may show a little above 100 until it has learned the cell.
        percent = min(100, (self._word(_SOC) + 128) >> 8)
        if not _LOWEST_MV <= millivolts <= _HIGHEST_MV:
            raise OSError(_EIO)
        return millivolts, percent

    def _word(self, register):
        for left in range(_TRIES - 1, -1, -1):
            try:
                data = self._bus.readfrom_mem(ADDRESS, register, 2)
                if len(data) == 2:
                    return data[0] << 8 | data[1]
            except OSError:
                if not left:
                    raise
        raise OSError(_EIO)
