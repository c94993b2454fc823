# The newest counter heard of each beacon, over a reset: what somebody recorded before it is not believed again.
import struct

from common.slots import Slots

_PAIR = "<II"  # beacon, counter
_PAIR_SIZE = 8


class Counters:
    """save() now and then; newest() after a reset."""

    def __init__(self, path: str, every: int):
        """every: what is written down again only after so much progress of one of them."""
        self._slots = Slots(path)
        self._every = every
        self._saved = {}
        value = self._slots.value or b""
        for at in range(0, len(value), _PAIR_SIZE):
            beacon_id, counter = struct.unpack(_PAIR, value[at : at + _PAIR_SIZE])
            self._saved[beacon_id] = counter

    def newest(self, beacon_id: int) -> int:
        """-1 if nothing is known."""
        return self._saved.get(beacon_id, -1)

    def save(self, watches):
        """emwire.beacon.BeaconWatch of each: written down if one is new or far enough ahead."""
        newest = {}
        ahead = False
        for watch in watches:
            number, counter = watch.device_id, watch.newest_counter
            if counter >= 0:
                newest[number] = counter
                ahead = ahead or number not in self._saved or counter - self._saved[number] >= self._every
        if ahead:
            try:
                self._slots.write(b"".join([struct.pack(_PAIR, *item) for item in newest.items()]))
            except OSError:
                return  # tried again the next time
            self._saved = newest
