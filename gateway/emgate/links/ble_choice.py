"""Whom the BLE link connects to next, and who makes room. No radio in here, and nothing waits: it is asked.

Anybody can offer the service, under as many addresses as he likes, and answer or not. So an address counts as *known*
only when a frame came from it that its device alone can have made (Link.proven). Known ones come first and find half of
the slots theirs. The others, a new tag among them, share the rest in order of discovery, those who failed least before
the others; and what radio time one of them has wasted is listened for before the next is tried.
"""

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

from emgate.clock import Clock
from emgate.links.ble_timing import Timing

# Of strangers. More than a city block of tags at once is a flood, and each costs seconds of radio time.
MAXIMUM_CANDIDATES = 256
# Strangers whose failures are remembered.
MAXIMUM_REMEMBERED = 1024
QUICK_ATTEMPTS = 2

T = TypeVar("T")


class _Waiting(Generic[T]):
    __slots__ = ("heard_ms", "what")

    def __init__(self, what: T, heard_ms: int) -> None:
        self.what = what
        self.heard_ms = heard_ms


class Choice(Generic[T]):
    """Who waits, who is connected, who is known. `T`: whatever the link needs to connect to somebody."""

    def __init__(
        self,
        clock: Clock,
        timing: Timing,
        slots: int,
        counters: "Counter[str]",
        statistics: "Counter[str]",
        known: "dict[int, str] | None" = None,
    ) -> None:
        """`known`: addresses by device, from before."""
        self._clock = clock
        self._timing = timing
        self._slots = slots
        self._stranger_slots = max(1, slots // 2)
        self._counters = counters
        self._statistics = statistics
        self._waiting: OrderedDict[str, _Waiting[T]] = OrderedDict()
        self._connected: dict[str, bool] = {}  # address -> whether it has shown who it is
        # address -> device, and back: one address a device, so that none gets more by having many
        self.addresses = known or {}
        self._known = {address: device_id for device_id, address in self.addresses.items()}
        # address -> (not before, failures in a row); a flood of strangers must not push out what is known of a tag
        self._tags: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._strangers: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._strangers_after_ms = 0
        self._known_in_a_row = 0

    # -- who is there -----------------------------------------------------------------------------------------

    def heard(self, address: str, what: T) -> bool:
        """It offers the service. True: and did not wait before."""
        if address in self._connected:
            return False
        now_ms = self._clock.elapsed_ms()
        waiting = self._waiting.get(address)
        if waiting is not None:
            waiting.what, waiting.heard_ms = what, now_ms
            return False
        if address in self._known or len(self._waiting) < MAXIMUM_CANDIDATES + len(self._known):
            self._waiting[address] = _Waiting(what, now_ms)
            return True
        self._counters["too_many_candidates"] += 1
        return False

    def knows(self, address: str) -> bool:
        """Whether it is a tag's, as far as is known."""
        return address in self._known

    def timeout_s(self, address: str) -> float:
        """How long to try to connect. Who failed twice may be a tag behind a slow stack, when its turn comes again."""
        slow = self._strangers.get(address, (0, 0))[1] >= QUICK_ATTEMPTS
        known = address in self._known
        return self._timing.connect_timeout_s if known or slow else self._timing.stranger_timeout_s

    @property
    def knows_nobody(self) -> bool:
        """Since the start no tag has shown itself."""
        return not self._known

    @property
    def somebody_waits(self) -> bool:
        """Time alone may make a difference to `next`."""
        return bool(self._waiting)

    # -- who is next ------------------------------------------------------------------------------------------

    def next(self) -> "tuple[str, T] | None":
        """Whom to connect to now; None: nobody, or there is no slot."""
        self._forget_who_has_left()
        if len(self._connected) >= self._slots:
            return None
        tag, stranger = self._first()
        if stranger is not None and self._unproven() >= self._stranger_slots:
            stranger = None
        if tag is not None and (stranger is None or self._known_in_a_row < self._slots):
            self._known_in_a_row += 1
            address = tag
        elif stranger is not None:
            self._known_in_a_row = 0
            address = stranger
        else:
            return None
        return address, self._waiting.pop(address).what

    def in_the_way(self, address: str) -> bool:
        """Whether somebody waits for this connection's slot."""
        if not self._waiting or address not in self._connected:
            return False
        tag, stranger = self._first()
        full, unproven = len(self._connected) >= self._slots, self._unproven()
        if not full and (stranger is None or unproven < self._stranger_slots):
            return False  # there is a slot
        if tag is None and stranger is None:
            return False
        # Whoever has shown nothing makes room for everybody, a tag only where there is nobody else.
        crowded = unproven >= self._stranger_slots or (tag is not None and unproven > 0)
        return not self._connected[address] if crowded else True

    def _first(self) -> "tuple[str | None, str | None]":
        """The tag that has waited longest, and the stranger who failed least."""
        now_ms = self._clock.elapsed_ms()
        tag = stranger = None
        least = 0
        for address in self._waiting:
            known = address in self._known
            not_before_ms, failures = (self._tags if known else self._strangers).get(address, (0, 0))
            if now_ms < not_before_ms:
                continue
            if known:
                tag = tag or address
            elif now_ms >= self._strangers_after_ms and (stranger is None or failures < least):
                stranger, least = address, failures
        return tag, stranger

    def _forget_who_has_left(self) -> None:
        long_ago_ms = self._clock.elapsed_ms() - self._timing.heard_ms
        for address in [each for each, waiting in self._waiting.items() if waiting.heard_ms < long_ago_ms]:
            del self._waiting[address]
            self._statistics["candidates_left"] += 1

    def _unproven(self) -> int:
        return sum(not proven for proven in self._connected.values())

    # -- what became of it ------------------------------------------------------------------------------------

    def connected(self, address: str) -> None:
        """It has a slot now."""
        self._connected[address] = False

    def proven(self, address: str, device_id: int) -> None:
        """A device has shown that it is the one at this address."""
        if address in self._connected:
            self._connected[address] = True
        before = self.addresses.get(device_id)
        if before == address:
            return
        self._statistics["addresses_learnt"] += 1
        if before is not None and self._known.get(before) == device_id:
            del self._known[before]
            self._tags.pop(before, None)
        self.addresses[device_id] = address
        self._known[address] = device_id
        self._strangers.pop(address, None)

    def failed(self, address: str, took_ms: int) -> None:
        """It could not be connected to, which took so long."""
        self._left(address, False, took_ms)

    def ended(self, address: str, carried: bool, took_ms: int) -> None:
        """Its slot is free. `carried`: it behaved as a tag does."""
        self._connected.pop(address, None)
        self._left(address, carried, min(took_ms, self._timing.prove_ms))

    def _left(self, address: str, carried: bool, took_ms: int) -> None:
        timing, now_ms = self._timing, self._clock.elapsed_ms()
        known = address in self._known
        book = self._tags if known else self._strangers
        _, failures = book.pop(address, (0, 0))
        if carried:
            book[address] = (now_ms + timing.pause_ms, 0)
        else:
            most_ms = timing.known_back_off_ms if known else timing.maximum_back_off_ms
            book[address] = (now_ms + min(timing.back_off_ms << min(failures, 16), most_ms), failures + 1)
            if not known:
                self._strangers_after_ms = now_ms + took_ms
        if len(self._strangers) > MAXIMUM_REMEMBERED:
            self._strangers.popitem(last=False)

    def nobody_is_there(self) -> None:
        """The adapter is gone, and with it everybody who waited or was connected. Who is known stays known."""
        self._waiting.clear()
        self._connected.clear()
