# The nRF52840 DK: nothing beyond its table of pins.
from boards.machine_board import MachineBoard
from boards.nrf52840 import pins


class Board(MachineBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
