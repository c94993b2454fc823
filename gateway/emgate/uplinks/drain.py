"""Moves committed records from the store to one target: one batch under way in each of the two lanes.

A backlog is read some batches ahead, and while a batch is under way the cursor behind the one before is committed and
the next one is made ready.

A third lane carries what became of the requests that came down from the target, in batches without records.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from emgate.clock import Clock
from emgate.store.store import Record, Store, last_row, newly_delivered
from emgate.uplinks import BatchTooLargeError, BatchTooSlowError, Uplink
from emgate.uplinks.asked import AskedDown

log = structlog.get_logger(__name__)

BATCH_BYTES = 256 * 1024
"""Of payload in a batch; about 600 kB of JSON, packed up to 320 kB. Brokers and servers that take less get less."""
FIRST_BATCH_BYTES = 64 * 1024
"""Where nothing is known of the line yet: 500 usual records, 2 s at 10 kB/s as they are sent."""
SMALLEST_BATCH_BYTES = 4 * 1024
"""Below this the overhead of a batch outweighs what it carries."""
SLOW_S, QUICK_S = 2.0, 0.5
"""A batch that took longer than this halves the next, so that an alarm is not long behind it; one that took less
doubles it."""
RETRY_S = 1.0  # after a store that could not be read, or a cursor that could not be committed
TOO_LARGE_RETRY_S = 300.0  # a single record that the target does not take: somebody has to mend the target


GIVE_WAY_S = 0.02
"""How long a routine batch waits for alarms under way, so that they meet as little work as can be: they take 5 ms to a
backend nearby. Where they take longer, what a batch adds to that is little."""
CATCHING_UP, CATCHING_UP_RECORDS = 100_000, 250
"""Rows behind from which a lane catches up after an outage, and the most of a batch then: an alarm waits while one is
committed. Behind each quick batch the lane rests for as long as that took: half of this machine, and of a backend to
which others return at the same time, is left to what is new."""
READ_AHEAD = 4
"""Batches at once from the store: reading one takes as long as reading four, which hold 1 MB at most."""

Marks = Iterable[tuple[int, int, int, int]]
Prepare = Callable[[dict[str, Any]], Awaitable[None]]


class Drain:
    """Runs the lanes of one target."""

    def __init__(
        self,
        store: Store,
        consumer: str,
        uplink: Uplink,
        clock: Clock,
        gateway_id: str,
        batch_records: int,
        delivered: Callable[[list[Record]], None],
        marks: Callable[[], Marks],
        *,
        batch_bytes: int | None = None,
        asked: AskedDown | None = None,
    ) -> None:
        """`batch_bytes`: at most so many of payload in a batch, where the target is metered."""
        self.counters: Counter[str] = Counter()
        self._store = store
        self._consumer = consumer
        self._uplink = uplink
        self._prepare: Prepare | None = getattr(uplink, "prepare", None)
        self._clock = clock
        self._gateway_id = gateway_id
        self._batch_records = batch_records
        self._batch_bytes = min(BATCH_BYTES, batch_bytes or BATCH_BYTES)
        self._delivered = delivered
        self._marks = marks
        self._asked = asked
        self._no_alarms = asyncio.Event()  # under way
        self._no_alarms.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lane(True))
            group.create_task(self._lane(False))
            if self._asked is not None:
                group.create_task(self._states(self._asked))

    async def _lane(self, alarm: bool) -> None:
        appended = self._store.appended(self._consumer, alarm)
        loop = asyncio.get_running_loop()
        most_records, most_bytes = self._batch_records, self._batch_bytes
        least_bytes = min(SMALLEST_BATCH_BYTES, most_bytes)
        limit_bytes = min(most_bytes, FIRST_BATCH_BYTES)
        ahead = READ_AHEAD
        while True:
            appended.clear()
            found = await self._store.undelivered(self._consumer, alarm, most_records * ahead, limit_bytes * ahead)
            if not found:
                if alarm:
                    self._no_alarms.set()
                await appended.wait()
                continue
            if alarm:
                self._no_alarms.clear()
            catching_up = self._store.behind(self._consumer, alarm) > CATCHING_UP
            batches = split(found, min(most_records, CATCHING_UP_RECORDS) if catching_up else most_records, limit_bytes)
            if batches is None and ahead > 1:
                ahead = 1  # then they fill one batch at most
                continue
            ahead = READ_AHEAD
            batches = batches or [found]
            settling: asyncio.Task[None] | None = None
            preparing: asyncio.Task[dict[str, Any]] | None = None
            try:
                for number, records in enumerate(batches):
                    started = loop.time()
                    batch = self.batch(records) if preparing is None else await preparing
                    preparing = None
                    if not alarm:
                        await self._give_way()
                    if number + 1 < len(batches) and self._prepare is not None:
                        preparing = asyncio.create_task(self._prepared(batches[number + 1]))
                    try:
                        await self._uplink.deliver(batch)
                    except BatchTooSlowError:
                        self.counters["batch_too_slow"] += 1
                        bytes_here = sum(len(record.payload) for record in records)
                        limit_bytes = max(least_bytes, min(limit_bytes, bytes_here) // 2)
                        break
                    except BatchTooLargeError as error:
                        self.counters["batch_too_large"] += 1
                        if len(records) == 1:
                            log.error(
                                "the target does not take even one record", target=self._consumer, reason=str(error)
                            )
                            await asyncio.sleep(TOO_LARGE_RETRY_S)
                        else:
                            log.warning("smaller batches from now on", target=self._consumer, reason=str(error))
                        most_records = max(1, len(records) // 2)  # until the next start
                        break
                    took_s = loop.time() - started
                    if settling is not None:
                        await settling
                    settling = asyncio.create_task(self._delivered_to(alarm, records))
                    if took_s > SLOW_S:
                        limit_bytes = max(least_bytes, limit_bytes // 2)
                        break
                    if took_s < QUICK_S:
                        limit_bytes = min(most_bytes, limit_bytes * 2)
                        if catching_up:
                            self.counters["rests"] += 1
                            await asyncio.sleep(took_s)
                if settling is not None:
                    await settling
            finally:
                for task in (settling, preparing):
                    if task is not None:
                        task.cancel()

    async def _give_way(self) -> None:
        if not self._no_alarms.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_WAY_S):
                    await self._no_alarms.wait()

    async def _prepared(self, records: list[Record]) -> dict[str, Any]:
        batch = self.batch(records)
        assert self._prepare is not None, "only then it is called"
        await self._prepare(batch)
        return batch

    async def _delivered_to(self, alarm: bool, records: list[Record]) -> None:
        # The watermarks that go along are those of earlier batches; they only serve pruning.
        while True:
            moved = await self._store.advance(self._consumer, alarm, last_row(records), self._marks())
            if moved is not None:
                break
            self.counters["cursor_not_committed"] += 1
            await asyncio.sleep(RETRY_S)
        self.counters["batches"] += 1
        self.counters["records"] += sum(record.row_id > 0 for record in records)
        self._delivered(newly_delivered(records, moved))

    async def _states(self, asked: AskedDown) -> None:
        for number in itertools.count():
            states = await asked.next_states()
            batch = self._envelope(f"{self._gateway_id}-states-{self._clock.now_ms()}-{number}")
            await self._uplink.deliver({**batch, "requests": states})
            asked.told(states)
            self.counters["states"] += len(states)

    def _envelope(self, batch_id: str) -> dict[str, Any]:
        return {
            "batchId": batch_id,
            "gatewayId": self._gateway_id,
            "uploadedDateMs": self._clock.now_ms(),
            "records": [],
        }

    def batch(self, records: list[Record]) -> dict[str, Any]:
        """The batch as the backend takes it. Its id names a range of one lane, so a repeated batch has the same."""
        lane = "alarm" if records[0].alarm else "routine"
        first = min((record.row_id for record in records if record.row_id), default=0)
        batch = self._envelope(f"{self._gateway_id}-{lane}-{first}-{last_row(records)}")
        batch["records"] = [
            {
                "deviceId": record.device_id,
                "epoch": record.epoch,
                "sequence": record.sequence,
                "alarm": record.alarm,
                "receivedTimeMs": record.received_time_ms,
                "link": record.link,
                "payload": record.payload.hex(),
            }
            for record in records
        ]
        return batch


def split(records: list[Record], most_records: int, most_bytes: int) -> list[list[Record]] | None:
    """Batches of at most so much; None when there are records from behind among them, which only go along together."""
    batches: list[list[Record]] = []
    total, before = 0, 0
    for record in records:
        if record.row_id <= before:
            return None
        before = record.row_id
        total += len(record.payload)
        if not batches or total > most_bytes or len(batches[-1]) >= most_records:
            batches.append([])
            total = len(record.payload)
        batches[-1].append(record)
    return batches
