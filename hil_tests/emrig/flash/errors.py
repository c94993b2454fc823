"""What can go wrong while flashing, told with what to do next."""


class FlashError(Exception):
    """Flashing stopped. The message ends with the remedy; the board can be flashed again."""


class NoAnswerError(FlashError):
    """Nothing on the port, or no MicroPython."""
