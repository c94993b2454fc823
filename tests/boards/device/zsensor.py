"""MicroPython's `zsensor` of the Zephyr port: the thermometer on the chip."""

DIE_TEMP = 12


class Sensor:
    def __init__(self, name):
        if name != "temp":
            raise ValueError("device not found")
        self.measured = False

    def measure(self):
        self.measured = True

    def get_millis(self, channel):
        assert self.measured and channel == DIE_TEMP
        return 24750
