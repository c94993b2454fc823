"""The listening ledger of a radio link: every second since it was made is listened, or deaf for a cause.

Silence is judged by it: a tag that was not heard while nobody listened is not absent. Kept on the gateway's clock, told
to the backend as `listening` records of the gateway's own, and to status as milliseconds.
"""

from collections import Counter

from emwire import codec, constants

from emgate.clock import Clock
from emgate.links import Events
from emgate.links.silence import Ears

PERIOD_S = 900
"""As the home unit's own ledger; four records an hour."""
NAMES = {
    constants.DEAF_NONE: "listened_ms",
    constants.DEAF_ASLEEP: "deaf_asleep_ms",
    constants.DEAF_BUSY: "deaf_busy_ms",
    constants.DEAF_FAULT: "deaf_fault_ms",
    constants.DEAF_RESET: "deaf_reset_ms",
    constants.DEAF_NOTHING_HEARD: "deaf_nothing_heard_ms",
}
"""What each state is called in status. ASLEEP: BlueZ pauses a long discovery by itself. BUSY: connecting to a tag.
NOTHING_HEARD: it says that it listens, and what it hears says otherwise."""
BELIEVED_MS = 86_400_000
"""The books are brought up to date every second while the link runs; an outage of days needs no ledger to be known."""
STEP_MS = 500
"""As clock_watch.py's: what both clocks may differ by between two looks, and a thousandth of the time between them."""


class Ledger:
    """Begins deaf (FAULT): nothing is open yet. `ears`: what was heard while it listened."""

    def __init__(
        self, clock: Clock, statistics: "Counter[str]", events: Events | None, receiver: int, ears: Ears | None = None
    ) -> None:
        self.state = constants.DEAF_FAULT
        self.unheard_ms = 0
        """Since anything was heard, listened or not."""
        self._ears = ears
        self._clock = clock
        self._statistics = statistics
        self._events = events
        self._receiver = receiver
        self._since_ms = self._began_ms = clock.now_ms()
        self._since_elapsed_ms = clock.elapsed_ms()
        self._spent_ms: Counter[int] = Counter()

    def now(self, state: int) -> None:
        """From now on listening (constants.DEAF_NONE) or deaf for this cause."""
        self._account()
        self.state = state

    def told(self) -> None:
        """Bring the books up to date; periods that are over are told. At least every PERIOD_S, or it is told late."""
        self._account()

    def _account(self) -> None:
        now_ms, elapsed_ms = self._clock.now_ms(), self._clock.elapsed_ms()
        spent_ms, passed_ms = now_ms - self._since_ms, elapsed_ms - self._since_elapsed_ms
        self._since_elapsed_ms = elapsed_ms
        if not 0 <= spent_ms <= BELIEVED_MS or abs(spent_ms - passed_ms) >= STEP_MS + passed_ms // 1000:
            # The clock was set. What was before is told; the time between is left out: nothing is known of it.
            self._tell()
            self._since_ms = self._began_ms = now_ms
            return
        state = self._believed(spent_ms)
        self._statistics[NAMES[state]] += spent_ms
        while spent_ms > 0:
            part_ms = min(spent_ms, self._began_ms + PERIOD_S * 1000 - self._since_ms)
            self._spent_ms[state] += part_ms
            self._since_ms += part_ms
            spent_ms -= part_ms
            if self._since_ms - self._began_ms >= PERIOD_S * 1000:
                self._tell()

    def _believed(self, spent_ms: int) -> int:
        """What the time just spent counts as."""
        ears = self._ears
        if ears is None:
            return self.state
        self.unheard_ms += spent_ms
        if self.state != constants.DEAF_NONE:
            return self.state
        was_silent = ears.silent
        ears.listened(spent_ms)
        if not ears.silent_ms:
            self.unheard_ms = 0
        if not ears.silent:
            return constants.DEAF_NONE
        if not was_silent:
            # It began with the last thing heard. What of it belongs to periods already told, only the event says.
            silent_ms = min(ears.silent_ms - spent_ms, self._spent_ms[constants.DEAF_NONE])
            self._spent_ms[constants.DEAF_NONE] -= silent_ms
            self._spent_ms[constants.DEAF_NOTHING_HEARD] += silent_ms
        return constants.DEAF_NOTHING_HEARD

    def _tell(self) -> None:
        began_s = self._began_ms // 1000 - constants.TIME_EPOCH_UNIX_S
        duration_s = (self._since_ms - self._began_ms) // 1000
        spent_ms, self._spent_ms = self._spent_ms, Counter()
        self._began_ms = self._since_ms
        if self._events is None or not duration_s:
            return
        # Whole seconds that add up to the period: each cause is cut down, and listening never claims what is left.
        deaf = {state: min(duration_s, -(-ms // 1000)) for state, ms in spent_ms.items() if state and ms}
        left_s = duration_s
        for state in sorted(deaf, key=lambda state: -deaf[state]):
            deaf[state] = min(deaf[state], left_s)
            left_s -= deaf[state]
        causes = [(state, seconds) for state, seconds in deaf.items() if seconds] or [(constants.DEAF_NONE, 0)]
        receivers = [
            codec.ReceiverTime(self._receiver, 0 if place else left_s, seconds, state)
            for place, (state, seconds) in enumerate(causes)
        ]
        self._events.add(
            lambda source, uncertainty_ms, now_s, uptime_s: codec.Listening(
                source, uncertainty_ms, now_s, uptime_s, max(0, began_s), duration_s, receivers
            )
        )
