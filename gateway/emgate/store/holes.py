"""How long a record that came over a hole waits for what fills it, so that each lane is delivered in its order."""

import math
import time
from typing import NamedTuple

HOLD_S = {False: 5.0, True: 1.0}
"""How long what came over a hole waits for it, per lane (alarm: True). A device sends what was lost again as soon as
it hears that something later is stored: within a round trip. An alarm before a backlog is over a hole too."""
REFUSED_S = 20.0
"""So much longer waits a routine record whose hole the store itself kept open, because the disk did not take the rest:
a full one is tried every 5 s, and then the device has to send again. Not so alarms, all over holes on a full disk."""
INHERITED_S = {False: 65.0, True: 25.0}
"""How long from its start a gateway waits for what fills a hole that an earlier run has left. What was on its way was
lost with that run, and the device need not notice before it repeats by its own clock: after 20 s, and 40 s more
(emwire.device_link.RETRANSMIT_MS). Alarms wait for the first of these alone, well within the 3 min that NIJ 1004.00
§5.4.1 gives them."""
TOGETHER_S = 0.02
"""Commits within this are told apart no further."""


class Holes:
    """Of one opening of a store. `committed` in the event loop, `view` on any thread."""

    def __init__(self, last_row: int) -> None:
        """`last_row` is the last one that an earlier run has left."""
        self._inherited_row = last_row
        self._opened_s = time.monotonic()
        # When what was the last row, for as long as it matters. The inherited ones have their own clock.
        self._commits: tuple[tuple[float, int], ...] = ((-math.inf, last_row),)
        self._settled_row = 0
        self._last_commit_s = self._opened_s
        self._last_row = last_row

    def committed(self, last_row: int) -> None:
        """The rows up to this one are there."""
        now = self._last_commit_s = time.monotonic()
        self._last_row = last_row
        if now > self._commits[-1][0] + TOGETHER_S:
            oldest = now - max(HOLD_S.values()) - REFUSED_S
            old = [row_id for committed_s, row_id in self._commits if committed_s < oldest]
            self._settled_row = max(old, default=self._settled_row)
            self._commits = (*self._commits[len(old) :], (now, last_row))

    def view(self, alarm: bool, hindered_s: float) -> "View":
        """Of a lane as it is this moment; `hindered_s`: when the disk last did not take something (monotonic)."""
        now = time.monotonic()
        hold_s = HOLD_S[alarm]
        if not alarm and now - hindered_s < REFUSED_S:
            hold_s += REFUSED_S
        settled = self._settled_row
        for committed_s, row_id in self._commits:
            if committed_s > now - hold_s:
                break
            settled = row_id
        last_row = self._last_row  # before the time, which is written first
        if self._last_commit_s <= now - hold_s:
            settled = max(settled, last_row)  # what was committed this moment is not noted yet
        inherited = now < self._opened_s + INHERITED_S[alarm]
        return View(settled, self._inherited_row if inherited else 0)


class View(NamedTuple):
    """Which rows wait if they are over a hole."""

    settled_row: int
    inherited_row: int

    def waits(self, row_id: int) -> bool:
        """Whether this one does."""
        return row_id > self.settled_row or row_id <= self.inherited_row
