"""Uplinks drain the store into a backend, in batches, with a cursor of their own."""

import asyncio
from collections import Counter
from typing import Any, Protocol


class Uplink(Protocol):
    """One way out. The store is the only retry authority: an uplink keeps nothing over a restart."""

    name: str
    up: asyncio.Event
    counters: "Counter[str]"

    async def run(self) -> None:
        """Keep the way open until cancelled. OSError = lost; the daemon restarts it, with back-off."""

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Return once the backend has committed the batch, however long that takes."""
