# Position on demand: the command waits here while the trail looks for satellites.
import asyncio
import struct

from emwire import constants

# In the answer's detail: time u32, latitude and longitude i32, precision m u16 (65535 unknown), mechanism u8 of the
# newest position there is. The position is in the trail too, which goes out with the answer.
DETAIL_FORMAT = "<IiiHB"
LONGEST_S = 180


class Locate:
    """command() is the handler; the trail asks remaining_ms() and gives the answer()."""

    def __init__(self, hasten):
        self._hasten = hasten
        self._limit_s = 0
        self._deadline_ms = None
        self._waiting = []  # [event, result] of each command
        self.wanted = False

    async def command(self, argument: int):
        """Outcome DONE with the age of the position in s (0), or FAILED with that of the last known (-1: none)."""
        if not 0 <= argument <= LONGEST_S:
            return constants.OUTCOME_REFUSED, 0, b"seconds 0 to 180"
        entry = [asyncio.Event(), None]
        self._waiting.append(entry)
        # Who asks while one is under way gets its answer.
        self._limit_s = max(self._limit_s, argument)
        self.wanted = True
        self._hasten()
        await entry[0].wait()
        return entry[1]

    def remaining_ms(self, now_ms: int, default_s: int):
        """Time left to try, or None if no position is wanted. The first call starts the time."""
        if not self.wanted:
            return None
        if self._deadline_ms is None:
            self._deadline_ms = now_ms + (self._limit_s or default_s) * 1000
        return max(0, self._deadline_ms - now_ms)

    def answer(self, found: bool, position, now_s: int):
        """position: the newest there is; found: satellites gave it now."""
        detail = b""
        age = -1
        if position is not None:
            precision_m = position[5] if 0 <= position[5] < 65535 else 65535
            detail = struct.pack(DETAIL_FORMAT, position[0], position[1], position[2], precision_m, position[8])
            age = max(0, now_s - position[0]) if now_s else 0
        outcome = constants.OUTCOME_DONE if found else constants.OUTCOME_FAILED
        waiting, self._waiting = self._waiting, []
        self.wanted = False
        self._deadline_ms = None
        self._limit_s = 0
        for entry in waiting:
            entry[1] = outcome, age, detail
            entry[0].set()
