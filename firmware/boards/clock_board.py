# A board with a real-time clock that goes on over a reset; MicroPython's Zephyr port has none, nor time.gmtime.
import time

import machine
from emwire import constants

from boards.machine_board import MachineBoard

# A real-time clock that nobody set begins in 2000 or 2021.
EARLIEST_YEAR = 2025
# Of a real-time clock over a reset: whole seconds, and 20 ppm over the weeks since it may have been set.
RETAINED_UNCERTAINTY_MS = 60000
# MicroPython counts from 2000 on some ports and from 1970 on others.
_EPOCH_UNIX_S = 946684800 if time.gmtime(0)[0] == 2000 else 0


class ClockBoard(MachineBoard):
    """As MachineBoard; offers retain_time() and retained_time(), see boards/__init__.py."""

    def retain_time(self, utc_ms, uncertainty_ms):
        moment = time.gmtime(utc_ms // 1000 + constants.TIME_EPOCH_UNIX_S - _EPOCH_UNIX_S)
        machine.RTC().datetime(moment[:3] + (moment[6],) + moment[3:6] + (0,))

    def retained_time(self):
        if self.reset_cause in (constants.RESET_POWER_ON, constants.RESET_BROWNOUT):
            return None
        year, month, day, _, hour, minute, second, _ = machine.RTC().datetime()
        if year < EARLIEST_YEAR:
            return None
        seconds = time.mktime((year, month, day, hour, minute, second, 0, 0)) + _EPOCH_UNIX_S
        return (seconds - constants.TIME_EPOCH_UNIX_S) * 1000, RETAINED_UNCERTAINTY_MS
