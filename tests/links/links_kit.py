"""What the tests of links share: something that takes events, and a supervised link."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from emgate.supervisor import Supervisor

PATIENCE_S = 20.0


class Heard:
    """Takes events as OwnRecords does."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, bytes]] = []
        self.records: list[Any] = []
        self.alarms: list[bool] = []
        self.more = asyncio.Event()

    def event(self, event_type, *, subject_id=0, value=0, evidence=b"", alarm=False) -> None:
        self.events.append((event_type, value, evidence))
        self.alarms.append(alarm)
        self.more.set()

    def add(self, make, *, alarm=False) -> None:
        self.records.append(make(1, 1, 1, 1))
        self.more.set()

    def of(self, event_type: int) -> list[tuple[int, bytes]]:
        return [(value, evidence) for kind, value, evidence in self.events if kind == event_type]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events) + len(self.records) < count:
                self.more.clear()
                await self.more.wait()


@contextlib.asynccontextmanager
async def supervised(what: Any, *, maximum_s: float = 0.05, events: Any = None) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(what, maximum_s=maximum_s, events=events)
    task = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await supervisor.tried.wait()
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait([task])


async def up(what: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await what.up.wait()


async def until(condition, every_s: float = 0.005) -> None:
    """For counters of the code under test, which have no event."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(every_s)
