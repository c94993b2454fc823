# The Pico W: nothing beyond its table of pins.
from boards.machine_board import MachineBoard
from boards.pico_w import pins


class Board(MachineBoard):
    """The hardware boundary; see boards/__init__.py."""

    def __init__(self, storage_path):
        super().__init__(pins, storage_path)
