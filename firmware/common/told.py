# What a device has told to be open or lost, and not yet to be closed or back: kept over a reset, so that the end of it
# is told too. Without, an alert about it would stay open for ever.
from common.slots import Slots


class Told:
    """`mask` of the caller's bits, kept in the file."""

    def __init__(self, path):
        self._slots = Slots(path)
        value = self._slots.value
        self.mask = value[0] if value else 0

    def note(self, bits: int, told: int) -> None:
        """Of these bits, `told` are. After the event is on record: a reset between the two tells it twice."""
        mask = self.mask & ~bits | told
        if mask == self.mask:
            return
        self.mask = mask
        try:
            self._slots.write(bytes((mask,)))
        except OSError:
            pass  # after a reset it is told once more, or its end is not
