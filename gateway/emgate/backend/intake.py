"""One way in for every transport: a batch from a gateway is ingested, and what it says of requests is noted.

Everything here runs in one worker thread, because the backend has one writer.
"""

from collections import Counter
from typing import Any

import structlog

from emgate.backend import requests
from emgate.backend.batch import BatchError
from emgate.backend.ingest import Backend, Pause
from emgate.clock import Clock

log = structlog.get_logger(__name__)


def is_urgent(batch: dict[str, Any]) -> bool:
    """Whether a batch, which nobody has looked at yet, says that it carries alarms."""
    records = batch.get("records")
    first = records[0] if isinstance(records, list) and records else None
    return isinstance(first, dict) and bool(first.get("alarm"))


class Intake:
    """A backend, as the transports see it."""

    def __init__(self, backend: Backend, clock: Clock, pause: Pause | None = None) -> None:
        """`pause`: what may come between the parts of a routine batch."""
        self._pause = pause
        self.counters: Counter[str] = Counter()
        self._backend = backend
        self._clock = clock
        backend.within(requests.prepare)

    def take(self, gateway_id: str, batch: dict[str, Any]) -> dict[str, Any]:
        """Ingest a batch of this gateway's; the answer: {"batchId"}, with "refused" when nothing of it was stored."""
        self.counters["batches"] += 1
        batch_id = batch.get("batchId")
        if not isinstance(batch_id, str) or len(batch_id) > 256:
            self.counters["unreadable"] += 1
            return {"batchId": None, "refused": "batchId must be text of at most 256 characters"}
        if batch.get("gatewayId") != gateway_id:
            self.counters["wrong_gateway"] += 1
            log.error("a batch came under another gateway's name", gateway=gateway_id)
            return {"batchId": batch_id, "refused": "gatewayId is not that of the gateway that sent it"}
        try:
            self.counters["records"] += self._backend.ingest(batch, None if is_urgent(batch) else self._pause)
            if batch.get("requests"):
                now_ms = self._clock.now_ms()
                self._backend.within(lambda database: requests.report(database, now_ms, gateway_id, batch["requests"]))
        except BatchError as error:
            self.counters["refused"] += 1
            log.error("batch refused", batch=batch_id, gateway=gateway_id, reason=str(error))
            return {"batchId": batch_id, "refused": str(error)}
        except Exception as error:  # the gateway keeps the batch and hears why
            self.counters["ingest_failed"] += 1
            log.exception("ingest failed", batch=batch_id)
            return {"batchId": batch_id, "refused": repr(error)}
        return {"batchId": batch_id}

    def due(self, gateway_id: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(gateway, request) to be handed out now."""
        now_ms = self._clock.now_ms()
        return self._backend.within(lambda database: requests.due(database, now_ms, gateway_id))

    def look_after(self) -> None:
        """What time and new records change in the requests; cheap when nothing does."""
        now_ms = self._clock.now_ms()

        def work(database: Any) -> int:
            requests.expire(database, now_ms)
            return requests.read_answers(database, now_ms)

        while self._backend.within(work) >= 5000:
            pass
