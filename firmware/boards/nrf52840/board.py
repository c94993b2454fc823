# The nRF52840 DK: its table of pins, and the thermometer on its chip where the image has one.
import machine
from emwire import constants

from boards import sliced_wait
from boards.machine_board import MachineBoard
from boards.nrf52840 import pins

# The chip's own thermometer in Zephyr's device tree (nrf52840.dtsi, label "temp").
_THERMOMETER = "temp"
# Why the chip was reset: nRF52840 product specification, POWER, RESETREAS. Its bits stay until they are written; none
# is set after power came, or had been too low.
_RESET_REASON = 0x40000400
_RESET_REASONS = (
    (1 << 1, constants.RESET_WATCHDOG),
    (1 << 2, constants.RESET_SOFT),
    (1 << 0, constants.RESET_HARD),
)


class Board(MachineBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
        sliced_wait.install(pins.WAIT_SLICE_MS)
        try:
            # MicroPython, "zephyr.zsensor"; ValueError: the image was built without CONFIG_TEMP_NRF5.
            import zsensor

            sensor = zsensor.Sensor(_THERMOMETER)
            self.temperature = lambda: _centidegrees(sensor, zsensor.DIE_TEMP)
        except (ImportError, ValueError):
            pass  # none, as for a board without the part

    def _reset_cause(self):
        # The port's machine.reset_cause() does not know.
        reason = machine.mem32[_RESET_REASON]
        machine.mem32[_RESET_REASON] = reason
        for bit, meaning in _RESET_REASONS:
            if reason & bit:
                return meaning
        return constants.RESET_UNKNOWN if reason else constants.RESET_POWER_ON


def _centidegrees(sensor, channel):
    sensor.measure()
    return sensor.get_millis(channel) // 10
