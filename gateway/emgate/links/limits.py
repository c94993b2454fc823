"""Rate limits between links and sessions: per link, per device, and one for everybody who is not registered.

What is above a limit is dropped before anything is paid for it but a look-up, counted with its cause at the link, and
told to the backend when it begins and when it is over. A real device repeats what was dropped. Limits are kept per
link: who floods under a device's number on one link does not silence that device on another.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from emwire import constants

from emgate.config import LimitsSection
from emgate.links import Events, Link, Received
from emgate.own_records import evidence_of

BURST_S = 4.0
"""What may come at once: a gateway that was away finds a queue at the broker."""
STRANGERS_PER_S, STRANGERS_BURST = 50.0, 500.0
"""Frames of numbers that nobody registered, together on one link: evidence, of which 10 a second are kept."""
MAXIMUM_BUCKETS = 20_000
"""A bucket is 100 B; registered devices on three links, so many times what one gateway has."""
QUIET_S = 60.0
"""So long without a drop, and a flood is over."""


class _Bucket:
    __slots__ = ("filled_s", "tokens")

    def __init__(self, tokens: float, now_s: float) -> None:
        self.tokens = tokens
        self.filled_s = now_s

    def take(self, now_s: float, per_s: float, burst: float) -> bool:
        tokens = self.tokens + (now_s - self.filled_s) * per_s
        if tokens > burst:
            tokens = burst
        self.filled_s = now_s
        if tokens < 1:
            self.tokens = tokens
            return False
        self.tokens = tokens - 1
        return True


class Gate:
    """A `Received` (see emgate.links) in front of another."""

    def __init__(
        self, received: Received, known: Callable[[int], bool], limits: LimitsSection, events: Events | None
    ) -> None:
        self.limits = limits  # may be replaced by a reload
        self._received = received
        self._known = known
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._now_s = self._loop.time
        self._links: dict[str, _Bucket] = {}
        self._buckets: OrderedDict[tuple[str, int], _Bucket] = OrderedDict()
        self._strangers: dict[str, _Bucket] = {}
        self._floods: dict[tuple[str, str], int] = {}  # (link, cause): dropped since it began

    def __call__(self, link: Link, device_id: int, frame: bytes) -> "asyncio.Future[bool]":
        """Pass the frame on, or drop it: then False, and the device must send it again."""
        now_s = self._now_s()
        limits, name = self.limits, link.name
        if not self._known(device_id):
            bucket = self._strangers.get(name)
            if bucket is None:
                bucket = self._strangers[name] = _Bucket(STRANGERS_BURST, now_s)
            if not bucket.take(now_s, STRANGERS_PER_S, STRANGERS_BURST):
                return self._drop(link, "limited_strangers")
            return self._received(link, device_id, frame)
        # The link's own limit comes last: what is dropped before takes nothing from it.
        key = (name, device_id)
        per_s = limits.device_frames_per_s
        if not (self._buckets.get(key) or self._bucket(key, now_s, per_s)).take(now_s, per_s, per_s * BURST_S):
            return self._drop(link, "limited_device")
        whole = self._links.get(name)
        per_s = limits.link_frames_per_s
        if whole is None:
            whole = self._links[name] = _Bucket(per_s * BURST_S, now_s)
        if not whole.take(now_s, per_s, per_s * BURST_S):
            return self._drop(link, "limited_link")
        return self._received(link, device_id, frame)

    def _bucket(self, key: tuple[str, int], now_s: float, per_s: float) -> _Bucket:
        if len(self._buckets) >= MAXIMUM_BUCKETS:
            self._buckets.popitem(last=False)
        bucket = self._buckets[key] = _Bucket(per_s * BURST_S, now_s)
        return bucket

    def _drop(self, link: Link, cause: str) -> "asyncio.Future[bool]":
        link.counters[cause] += 1
        key = (link.name, cause)
        dropped = self._floods.get(key, 0)
        self._floods[key] = dropped + 1
        if not dropped:
            self._tell(key)
            self._loop.call_later(QUIET_S, self._look, key, 1)
        future: asyncio.Future[bool] = self._loop.create_future()
        future.set_result(False)
        return future

    def _look(self, key: tuple[str, str], before: int) -> None:
        """After a while: is it over?"""
        dropped = self._floods[key]
        if dropped != before:
            self._loop.call_later(QUIET_S, self._look, key, dropped)
            return
        self._tell(key)
        del self._floods[key]

    def _tell(self, key: tuple[str, str]) -> None:
        if self._events is not None:
            self._events.event(constants.EVENT_GATEWAY_FLOOD, value=self._floods[key], evidence=evidence_of(*key))
