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

            self._sensor = zsensor.Sensor(_THERMOMETER)
            self._channel = zsensor.DIE_TEMP
        except (ImportError, ValueError):
            self._sensor = None

    def temperature(self):
        if self._sensor is None:
            raise OSError("the image has no thermometer")
        self._sensor.measure()
        return self._sensor.get_millis(self._channel) // 10
