"""The local uplink: the backend in this process, in one worker thread, with a database of its own."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from emgate.backend.ingest import Backend
from emgate.clock import Clock

log = structlog.get_logger(__name__)

EVALUATE_S = 0.5
"""How often conditions are judged against the clock when no record comes; little beside the minutes NIJ allows."""
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0


class LocalUplink:
    """An Uplink (see emgate.uplinks) into a Backend of this process."""

    def __init__(self, database: Path, clock: Clock) -> None:
        self.name = f"local:{database}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._database = database
        self._clock = clock
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backend")
        self._backend: Backend | None = None

    async def run(self) -> None:
        """Open the backend, then let it judge time passing until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            if self._backend is None:
                self._backend = await loop.run_in_executor(self._worker, self._open)
            backend = self._backend
            self.up.set()
            judged_ms = 0
            while True:
                now_ms = self._clock.now_ms()
                if now_ms != judged_ms:  # a shared clock may stand still
                    judged_ms = now_ms
                    await loop.run_in_executor(self._worker, backend.evaluate, now_ms)
                await asyncio.sleep(EVALUATE_S)
        finally:
            self.up.clear()

    def _open(self) -> Backend:
        self._database.parent.mkdir(parents=True, exist_ok=True)
        return Backend(self._database, self._clock)

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Ingest; an error is logged and the batch tried again, because it must not be lost."""
        delay_s = RETRY_FIRST_S
        while True:
            await self.up.wait()
            backend = self._backend
            assert backend is not None, "set whenever up is"
            try:
                await asyncio.get_running_loop().run_in_executor(self._worker, backend.ingest, batch)
                return
            except Exception as error:  # whatever it is, the records stay in the store
                self.counters["ingest_failed"] += 1
                log.error("ingest failed; trying again", batch=batch["batchId"], error=repr(error), retry_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_LAST_S, delay_s * 2)

    def close(self) -> None:
        """Wait for the worker's last ingest; then close."""
        self._worker.shutdown(wait=True)
        if self._backend is not None:
            self._backend.close()
