"""The local uplink: the backend in this process, in one worker thread, with a database of its own.

An alarm batch is taken before the rest of a routine one, as in a backend of its own (emgate.backend.worker).
A backend deletes nothing that it was given. When its database is as large as it may be it takes no more: what comes
then stays in the store, and when that is full on the devices, until somebody makes room."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import structlog

from emgate.backend.ingest import Backend
from emgate.backend.intake import Intake, is_urgent
from emgate.backend.order_dispatch import OrderDispatch
from emgate.backend.worker import Worker
from emgate.clock import Clock
from emgate.uplinks import TakeDown, is_alarm

log = structlog.get_logger(__name__)

EVALUATE_S = 0.5
"""How often conditions are judged against the clock when no record comes; little beside the minutes NIJ allows."""
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0
ALARM_SHARE = 8
"""Alarms are taken up to an eighth above the limit, as in the store."""


class LocalUplink:
    """An Uplink (see emgate.uplinks) into a Backend of this process."""

    def __init__(
        self,
        database: Path,
        clock: Clock,
        take_down: TakeDown = lambda asked: None,
        *,
        maximum_bytes: int = 4_000_000_000,
    ) -> None:
        self.name = f"local:{database}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.full: str | None = None
        """What keeps records from being taken, with its remedy."""
        self.database_bytes = 0
        self._maximum_bytes = maximum_bytes
        self._database = database
        self._clock = clock
        self._take_down = take_down
        self._worker = Worker()
        self._backend: Backend | None = None

    async def run(self) -> None:
        """Open the backend, then let it judge time passing until cancelled."""
        work = self._worker.work
        try:
            if self._backend is None:
                self._backend = await work(self._open)
            self.up.set()
            judged_ms = 0
            while True:
                now_ms = self._clock.now_ms()
                if now_ms != judged_ms:  # a shared clock may stand still
                    judged_ms = now_ms
                    await work(self._backend.evaluate, now_ms)
                for _, asked in await work(self._look_after):
                    self._take_down(asked)
                await asyncio.sleep(EVALUATE_S)
        finally:
            self.up.clear()

    @property
    def last_problem(self) -> str | None:
        """For the status."""
        return self.full

    def _open(self) -> Backend:
        self._database.parent.mkdir(parents=True, exist_ok=True)
        backend = Backend(self._database, self._clock)
        self._intake = Intake(backend, self._clock, self._worker)
        self._orders = OrderDispatch(backend, self._clock)
        self._weigh(backend)
        return backend

    def _weigh(self, backend: Backend) -> None:
        self.database_bytes = backend.bytes_in_use()
        full = None
        if self.database_bytes > self._maximum_bytes:
            full = (
                f"{self._database} has {self.database_bytes} bytes, maximum_bytes is {self._maximum_bytes}: records"
                " stay in the store; raise it, or move the database away (docs/operations.md)"
            )
        if full is not None and self.full is None:
            log.error("the backend takes no more", reason=full)
        self.full = full

    def _take(self, backend: Backend, batch: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None when there is no room for it."""
        self._weigh(backend)
        more = self._maximum_bytes // ALARM_SHARE if is_alarm(batch) else 0
        if self.database_bytes > self._maximum_bytes + more:
            return None
        return self._intake.take(batch["gatewayId"], batch)

    def _look_after(self) -> list[tuple[str, dict[str, Any]]]:
        assert self._backend is not None
        self._weigh(self._backend)
        self._intake.look_after()
        self._orders.look_after()
        return self._intake.due()

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Ingest; an error is logged and the batch tried again, because it must not be lost."""
        delay_s = RETRY_FIRST_S
        work = self._worker.work_first if is_urgent(batch) else self._worker.work
        while True:
            await self.up.wait()
            assert self._backend is not None
            answer = await work(self._take, self._backend, batch)
            if answer is None:
                self.counters["no_room"] += 1
            elif answer.get("refused") is None:
                return
            else:
                self.counters["ingest_failed"] += 1
                reason = answer["refused"]
                log.error("ingest failed; trying again", batch=batch["batchId"], reason=reason, retry_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(RETRY_LAST_S, delay_s * 2)

    def close(self) -> None:
        """Wait for the worker's last ingest; then close."""
        self._worker.close()
        if self._backend is not None:
            self._backend.close()
