"""Uplinks drain the store into backends, in batches, each target with cursors of its own."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

TakeDown = Callable[[object], None]
"""What an uplink calls with a request that came down from its backend (as JSON); never raises."""


LARGE_BYTES = 8 * 1024
"""A batch that is no larger as it is sent fails for another reason: any broker, server or line takes so much."""


class BatchTooLargeError(Exception):
    """The target does not take batches of this size: deliver the records in smaller ones."""


class BatchTooSlowError(BatchTooLargeError):
    """It was not there in time, which may be the line of this hour: smaller ones until they go quickly again."""


class Uplink(Protocol):
    """One way out. The store is the only retry authority: an uplink keeps nothing over a restart.

    It may have `async def prepare(self, batch)`, called with what `deliver` will be given next in a lane: for work that
    can be done while another batch is under way."""

    name: str
    up: asyncio.Event
    counters: "Counter[str]"

    async def run(self) -> None:
        """Keep the way open until cancelled. OSError = lost; the daemon restarts it, with back-off."""

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Return once the backend has committed the batch, however long that takes; or BatchTooLargeError."""


def is_alarm(batch: dict[str, Any]) -> bool:
    """Whether a batch overtakes and is exempt from limits: it carries alarms, or what became of requests."""
    return not batch["records"] or bool(batch["records"][0]["alarm"])
