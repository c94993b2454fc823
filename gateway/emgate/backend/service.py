"""The backend as a process: takes batches from a broker, ingests them, and acknowledges each after its commit."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiomqtt
import structlog
from emwire import topics

from emgate.backend.ingest import Backend
from emgate.clock import Clock
from emgate.config import Broker
from emgate.mqtt_client import make_client
from emgate.supervisor import Supervisor

log = structlog.get_logger(__name__)

BATCH_FILTER = "emtag/v1/backend/+/batch"  # emwire.topics.backend_batch for every gateway
EVALUATE_S = 1.0
"""How often conditions are judged against the clock when no batch comes."""


class BackendService:
    """Runs under a Supervisor as a link does. Sessions are clean: gateways repeat what was not acknowledged."""

    def __init__(self, backend: Backend, broker: Broker, clock: Clock) -> None:
        self.name = f"backend:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._backend = backend
        self._broker = broker
        self._clock = clock
        # One thread: the backend has one writer, and a batch is ingested before the next is looked at.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backend")

    async def run(self) -> None:
        """Until cancelled; OSError when the broker is lost."""
        try:
            async with make_client(self._broker, f"emtag-backend-{os.getpid()}", persistent=False) as client:
                await client.subscribe(BATCH_FILTER, qos=1)
                self.up.set()
                async for message in client.messages:
                    await self._batch(client, message)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        finally:
            self.up.clear()

    async def _batch(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        self.counters["batches"] += 1
        gateway_id = str(message.topic).split("/")[3]  # of BATCH_FILTER's shape, or the broker would not have sent it
        try:
            batch = json.loads(message.payload)
            batch_id = batch["batchId"]
        except (ValueError, TypeError, KeyError):
            self.counters["unreadable"] += 1
            log.error("a batch is not readable", topic=str(message.topic), bytes=len(message.payload))
            return
        if batch.get("gatewayId") != gateway_id:
            self.counters["wrong_gateway"] += 1
            log.error("a batch came on another gateway's topic", topic=str(message.topic))
            return
        answer: dict[str, Any] = {"batchId": batch_id}
        try:
            loop = asyncio.get_running_loop()
            self.counters["records"] += await loop.run_in_executor(self._worker, self._backend.ingest, batch)
        except Exception as error:  # the gateway keeps the batch and hears why
            self.counters["ingest_failed"] += 1
            log.exception("ingest failed", batch=batch_id)
            answer["refused"] = repr(error)
        await client.publish(topics.backend_ack(gateway_id), json.dumps(answer), qos=1)

    async def evaluate(self) -> None:
        """Judge conditions as time passes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(self._worker, self._backend.evaluate, self._clock.now_ms())
            except Exception:
                self.counters["evaluate_failed"] += 1
                log.exception("evaluation failed")
            await asyncio.sleep(EVALUATE_S)

    def close(self) -> None:
        """After run() and evaluate() have ended."""
        self._worker.shutdown(wait=True)


async def run_service(database: Path, broker: Broker, clock: Clock, ready: Callable[[dict[str, Any]], None]) -> None:
    """Until SIGTERM or SIGINT; the broker may come and go."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database.parent.mkdir(parents=True, exist_ok=True)
    backend = await asyncio.to_thread(Backend, database, clock)
    service = BackendService(backend, broker, clock)
    supervisor = Supervisor(service)
    tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(service.evaluate())]
    try:
        await supervisor.tried.wait()
        ready({"ready": True, "pid": os.getpid(), "database": str(database), "up": service.up.is_set()})
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.5)
        service.close()
        backend.close()
