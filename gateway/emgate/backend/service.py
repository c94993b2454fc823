"""The backend as a process: takes batches from a broker and over HTTPS, acknowledges each after its commit, and hands
gateways what devices are asked."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from emwire import topics

from emgate.backend.ingest import Backend
from emgate.backend.intake import Intake, is_urgent
from emgate.backend.order_dispatch import OrderDispatch
from emgate.backend.worker import Worker
from emgate.brokers.connection import Connection, connected
from emgate.clock import Clock
from emgate.config import Broker, ReceiveSection
from emgate.supervisor import Runnable, Supervisor, first_of
from emgate.threads import collect_seldom, share_quickly
from emgate.uplinks import batch_bytes

log = structlog.get_logger(__name__)

BATCH_FILTER = "emtag/v1/backend/+/batch"  # emwire.topics.backend_batch for every gateway
EVALUATE_S = 1.0
"""How often conditions are judged against the clock, and requests looked after, when no batch comes."""
PUBLISH_S = 30.0
STOP_S = 1.5
SMALL_BYTES = 2048
"""A batch of this size is unpacked at once, to see whether it carries alarms: 2 MB at most, in some 5 ms. An alarm
alone is 250 bytes."""
ROUTINE_WAITING = 100
"""Batches that wait for the worker. Each gateway has one under way, besides what it repeats."""


class BackendService:
    """Runs under a Supervisor as a link does. Sessions are clean: gateways repeat what was not acknowledged."""

    def __init__(self, backend: Backend, broker: Broker, clock: Clock, house: "Housekeeping | None" = None) -> None:
        """`house`: whose worker and intake are shared, where batches come in several ways."""
        self.name = f"backend:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self._broker = broker
        self._house = house or Housekeeping(backend, clock)
        self.counters: Counter[str] = self._house.counters
        self._connection: Connection | None = None
        self._house.hand_down.append(self._hand_down)

    async def run(self) -> None:
        """Until cancelled; OSError when the broker is lost."""
        try:
            async with connected(self._broker, f"emtag-backend-{os.getpid()}", (BATCH_FILTER,)) as connection:
                self._connection = connection
                self.up.set()
                routine: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(ROUTINE_WAITING)
                urgent: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(ROUTINE_WAITING)
                async with asyncio.TaskGroup() as lanes:
                    lanes.create_task(self._sort(connection, routine, urgent))
                    lanes.create_task(self._routine(connection, routine))
                    lanes.create_task(self._urgent(connection, urgent))
        except BaseExceptionGroup as errors:
            if (lost := first_of(errors, OSError)) is None:
                raise
            raise lost from None
        finally:
            self.up.clear()
            self._connection = None

    async def _sort(
        self,
        connection: Connection,
        routine: "asyncio.Queue[tuple[str, bytes]]",
        urgent: "asyncio.Queue[tuple[str, dict[str, Any]]]",
    ) -> None:
        """Alarms wait for no routine batch; each lane keeps its order."""
        async for topic, payload in connection.messages():
            if len(payload) <= SMALL_BYTES:
                try:
                    batch = batch_bytes.decode(payload)
                except batch_bytes.BatchBytesError as error:
                    self._unreadable(topic, payload, error)
                    continue
                if is_urgent(batch):
                    await urgent.put((topic, batch))
                    continue
            await routine.put((topic, payload))
        raise OSError("the broker sends no more")

    async def _routine(self, connection: Connection, waiting: "asyncio.Queue[tuple[str, bytes]]") -> None:
        while True:
            topic, payload = await waiting.get()
            try:
                batch = await self._house.work(batch_bytes.decode, payload)
            except batch_bytes.BatchBytesError as error:
                self._unreadable(topic, payload, error)
                continue
            await self._take(connection, topic, batch, self._house.work)

    async def _urgent(self, connection: Connection, waiting: "asyncio.Queue[tuple[str, dict[str, Any]]]") -> None:
        while True:
            topic, batch = await waiting.get()
            await self._take(connection, topic, batch, self._house.work_first)

    def _unreadable(self, topic: str, payload: bytes, error: Exception) -> None:
        self.counters["unreadable"] += 1
        log.error("a batch is not readable", topic=topic, bytes=len(payload), reason=str(error))

    async def _take(
        self, connection: Connection, topic: str, batch: dict[str, Any], work: Callable[..., Awaitable[Any]]
    ) -> None:
        gateway_id = topic.split("/")[3]  # of BATCH_FILTER's shape, or the broker would not have sent it
        answer = await work(self._house.intake.take, gateway_id, batch)
        if answer["batchId"] is not None:
            await connection.publish(topics.backend_ack(gateway_id), json.dumps(answer).encode(), PUBLISH_S)

    async def _hand_down(self) -> None:
        """Give every gateway what it is to send; one that is not connected is given it again."""
        connection = self._connection
        if connection is None:
            return
        for gateway_id, asked in await self._house.work(self._house.intake.due):
            self.counters["requests_handed"] += 1
            await connection.publish(topics.backend_down(gateway_id), batch_bytes.encode(asked)[0], PUBLISH_S)

    async def evaluate(self) -> None:
        """See Housekeeping.run."""
        await self._house.run()

    def close(self) -> None:
        """After run() and evaluate() have ended."""
        self._house.close()


class Housekeeping(Worker):
    """The worker, and what is due by the clock: judging conditions, orders and requests."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        super().__init__()
        self._backend = backend
        self._clock = clock
        self.intake = Intake(backend, clock, self)
        self.counters = self.intake.counters
        self._orders = OrderDispatch(backend, clock)
        self.hand_down: list[Callable[[], Any]] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.work(self._backend.evaluate, self._clock.now_ms())
                await self.work(self.intake.look_after)
                await self.work(self._orders.look_after)
                for hand_down in self.hand_down:
                    await hand_down()
            except OSError:
                self.counters["requests_not_handed"] += 1  # the broker is lost: run() says so
            except Exception:
                self.counters["evaluate_failed"] += 1
                log.exception("evaluation failed")
            await asyncio.sleep(EVALUATE_S)


async def run_service(
    database: Path,
    broker: Broker | None,
    clock: Clock,
    ready: Callable[[dict[str, Any]], None],
    https: ReceiveSection | None = None,
) -> None:
    """Until SIGTERM or SIGINT; the broker may come and go."""
    share_quickly()
    collect_seldom()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database.parent.mkdir(parents=True, exist_ok=True)
    backend = await asyncio.to_thread(Backend, database, clock)
    house = Housekeeping(backend, clock)
    ways: list[Runnable] = []
    if broker is not None:
        ways.append(BackendService(backend, broker, clock, house))
    if https is not None:
        from emgate.backend.receive_https import HttpsReceiver  # only where it is wanted: aiohttp takes some 10 MB

        ways.append(HttpsReceiver(https, house))
    supervisors = [Supervisor(way) for way in ways]
    tasks = [asyncio.create_task(each.run()) for each in supervisors] + [asyncio.create_task(house.run())]
    try:
        for supervisor in supervisors:
            await supervisor.tried.wait()
        up = {way.name: way.up.is_set() for way in ways}
        ready({"ready": True, "pid": os.getpid(), "database": str(database), "up": all(up.values()), "ways": up})
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_S)
        house.close()
        backend.close()
