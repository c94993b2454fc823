"""Whether a radio that says it listens can hear at all: where somebody is always heard, nobody is not to be believed.

Foil, jamming and a receiver that died without a word look alike from here: nothing comes. What is usual is learnt from
everybody who sends, tags or not; only how many they are is kept. Pure: no clock, told how long was listened.
"""

import math
from collections import deque

CARRIED = 4
"""Senders that may fall silent together because one person walked out with them: tag, telephone, watch, earphones."""
IMPROBABLE = 1e-6
"""The others taken as independent, r a minute, silence of T minutes comes about with exp(-r T): it is found at
T = 13.8 / r. Three minutes come 175,000 times a year, so that such a place is called deaf by chance once in 6 years."""
LEAST_SILENCE_MS = 180_000
"""However lively: others go together too (a bus drives off). Longer than Timing.refresh_s, so that scanning was begun
anew in between; shorter than the 5 min of silence that make an absence (backend, ABSENCE_GRACE_MS)."""
LEAST_HOURS = 24
"""Each hour of a day: the quietest counts, or every night would be a finding."""
MOST_HOURS = 168
"""A week, for the same reason; what was longer ago is another place."""
MINUTE_MS = 60_000
MINUTES = 60
MOST_SENDERS = 64
"""Counted in a minute; a street has fewer, and more makes no difference."""
LONGEST_STEP_MS = 10_000
"""Told every second; a process that stood still for longer heard nobody for that reason."""


class Ears:
    """`heard` for each advertisement, `listened` for each stretch of listening; then see `silent`."""

    def __init__(self) -> None:
        self.silent = False
        """Nothing is heard, and that is not usual here."""
        self.silent_ms = 0
        """Of listening, since something was heard."""
        self._heard = False
        self._senders: set[str] = set()
        self._minute_ms = 0
        self._minutes: list[int] = []
        self._hours: deque[float] = deque(maxlen=MOST_HOURS)

    @property
    def usual(self) -> float:
        """Senders a minute in the quietest hour; 0 before a day has been learnt."""
        return min(self._hours) if len(self._hours) >= LEAST_HOURS else 0.0

    @property
    def bound_ms(self) -> int | None:
        """Silence so long is a finding; None where nothing can be told: not learnt yet, or not lively."""
        independent = self.usual - CARRIED
        if independent <= 0:
            return None
        return max(LEAST_SILENCE_MS, math.ceil(-math.log(IMPROBABLE) / independent * MINUTE_MS))

    def heard(self, sender: str) -> None:
        """Anybody at all."""
        self._heard = True
        if len(self._senders) < MOST_SENDERS:
            self._senders.add(sender)

    def listened(self, step_ms: int) -> None:
        """So long the radio said that it listened, up to now."""
        if self._heard:
            self._heard = self.silent = False
            self.silent_ms = 0
        elif step_ms <= LONGEST_STEP_MS:
            self.silent_ms += step_ms
        if step_ms > LONGEST_STEP_MS:
            self._minute_ms = 0
            self._senders.clear()
            return
        if self.silent:
            return
        self._learn(step_ms)
        bound_ms = self.bound_ms
        if bound_ms is not None and self.silent_ms >= bound_ms:
            self.silent = True
            self._minutes.clear()  # what is not usual must not become so

    def _learn(self, step_ms: int) -> None:
        self._minute_ms += step_ms
        if self._minute_ms < MINUTE_MS:
            return
        self._minutes.append(len(self._senders))
        self._minute_ms = 0
        self._senders.clear()
        if len(self._minutes) == MINUTES:
            self._hours.append(sum(self._minutes) / MINUTES)
            self._minutes.clear()
