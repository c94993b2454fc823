# The nRF52840 DK: nothing beyond its table of pins.
from boards import sliced_wait
from boards.machine_board import MachineBoard
from boards.nrf52840 import pins


class Board(MachineBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
        sliced_wait.install(pins.WAIT_SLICE_MS)
