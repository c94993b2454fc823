# The nRF52840 DK: its table of pins, and the thermometer on its chip where the image has one.
from boards import sliced_wait
from boards.machine_board import MachineBoard
from boards.nrf52840 import pins

# The chip's own thermometer in Zephyr's device tree (nrf52840.dtsi, label "temp").
_THERMOMETER = "temp"


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


def _centidegrees(sensor, channel):
    sensor.measure()
    return sensor.get_millis(channel) // 10
