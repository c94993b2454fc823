"""Moves committed records from the store to the backend: one batch under way in each of the two lanes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from emgate.clock import Clock
from emgate.store import Record, Store
from emgate.uplinks import Uplink

BATCH_BYTES = 256 * 1024
"""Of payload in a batch; about 600 kB of JSON, well inside every broker's limit."""
RETRY_S = 1.0  # after a store that could not be read, or a cursor that could not be committed

Marks = Iterable[tuple[int, int, int, int]]


class Drain:
    """Runs the two lanes of one uplink."""

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
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._store = store
        self._consumer = consumer
        self._uplink = uplink
        self._clock = clock
        self._gateway_id = gateway_id
        self._batch_records = batch_records
        self._delivered = delivered
        self._marks = marks

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lane(True))
            group.create_task(self._lane(False))

    async def _lane(self, alarm: bool) -> None:
        appended = self._store.appended(self._consumer, alarm)
        while True:
            appended.clear()
            records = await self._store.undelivered(self._consumer, alarm, self._batch_records, BATCH_BYTES)
            if not records:
                await appended.wait()
                continue
            await self._uplink.deliver(self.batch(records))
            # The watermarks that go along are those of earlier batches; they only serve pruning.
            while True:
                moved = await self._store.advance(self._consumer, alarm, records[-1].row_id, self._marks())
                if moved is not None:
                    break
                self.counters["cursor_not_committed"] += 1
                await asyncio.sleep(RETRY_S)
            self.counters["batches"] += 1
            self.counters["records"] += len(records)
            self._delivered([record for record in records if moved[0] < record.row_id <= moved[1]])

    def batch(self, records: list[Record]) -> dict[str, Any]:
        """The batch as the backend takes it. Its id names a range of one lane, so a repeated batch has the same."""
        lane = "alarm" if records[0].alarm else "routine"
        return {
            "batchId": f"{self._gateway_id}-{lane}-{records[0].row_id}-{records[-1].row_id}",
            "gatewayId": self._gateway_id,
            "uploadedDateMs": self._clock.now_ms(),
            "records": [
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
            ],
        }
