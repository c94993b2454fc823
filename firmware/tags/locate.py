# Position on demand: the command waits here while the trail looks for satellites, then asks the network.
import struct

from common.wait import Signal
from emwire import constants

# In the answer's detail: time u32, latitude and longitude i32, precision m u16 (65535 unknown), mechanism u8 of the
# newest position there is. The position is in the trail too, which goes out with the answer.
DETAIL_FORMAT = "<IiiHB"
LONGEST_S = 180
# Of the time given, at most half of it: a network's answer takes up to 30 s (drivers/modem.py).
NETWORK_MS = 30000
# What is known by then is the answer, so that it is sent in time.
SENDING_MS = 3000


class Locate:
    """command() is the handler; the trail searches until_ms() and gives the answer()."""

    def __init__(self, device, hasten, known):
        """known(): puts the trail on record; the newest position, or None."""
        self._device = device
        self._hasten = hasten
        self._known = known
        self._waiting = []  # [satellites until, Signal, found, asked at] of each command

    @property
    def wanted(self) -> bool:
        return bool(self._waiting)

    async def command(self, argument: int):
        """Outcome DONE with the age of the position in s (0), or FAILED with that of the last known (-1: none)."""
        if not 0 <= argument <= LONGEST_S:
            return constants.OUTCOME_REFUSED, 0, b"seconds 0 to 180"
        device = self._device
        limit_ms = 1000 * (argument or device.settings.locate_limit_s)
        now = device.ticks_ms()
        entry = [now + limit_ms - min(NETWORK_MS, limit_ms // 2), Signal(), False, now]
        self._waiting.append(entry)
        self._hasten()
        if not await entry[1].wait(max(limit_ms - SENDING_MS, limit_ms // 2)):
            self._waiting.remove(entry)
        position = self._known()
        detail = b""
        age = -1
        if position is not None:
            precision_m = position[5] if 0 <= position[5] < 65535 else 65535
            detail = struct.pack(DETAIL_FORMAT, position[0], position[1], position[2], precision_m, position[8])
            now_s = device.clock.time_s()
            age = max(0, now_s - position[0]) if now_s else 0
        return constants.OUTCOME_DONE if entry[2] else constants.OUTCOME_FAILED, age, detail

    def until_ms(self) -> "int | None":
        """Satellites are searched until then, or None if no position is wanted."""
        return min([entry[0] for entry in self._waiting]) if self._waiting else None

    def answer(self, found_ms: "int | None", now_ms: int):
        """found_ms: when satellites gave a position, else None: then those whose time was up at now_ms are told."""
        for entry in list(self._waiting):
            found = found_ms is not None and found_ms >= entry[3]
            if found or entry[0] <= now_ms:
                entry[2] = found
                self._waiting.remove(entry)
                entry[1].set()
