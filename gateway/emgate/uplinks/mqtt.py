"""The MQTT uplink: batches to the backend's broker; a batch counts once the backend's own acknowledgement came.

MQTT's QoS 1 ends at the broker, which may drop what a slow subscriber leaves queued; so the batch is published
again until the acknowledgement with its id arrives. While nobody answers, a small empty batch asks first. Nothing is
kept in the client over a reconnect.
"""

import asyncio
import json
from collections import Counter
from typing import Any

import structlog
from emwire import topics

from emgate.brokers.connection import Connection, connected
from emgate.config import Broker
from emgate.uplinks import TakeDown, batch_bytes, is_alarm
from emgate.uplinks.meter import HANDSHAKE_BYTES, Meter

log = structlog.get_logger(__name__)

ACKNOWLEDGEMENT_FIRST_S, ACKNOWLEDGEMENT_LAST_S = 2.0, 120.0
"""When to publish a batch again: an ingest of 500 records takes well under 1 s; doubled up to what a backend that is
gone for a week may cost: an empty batch every two minutes."""
ROUND_TRIPS = 4
"""A slow link is given so many times what it took last."""
REFUSED_LAST_S = 300.0
"""A batch that the backend refuses is tried again so often: somebody has to mend something first."""
ASK_AFTER = 2
"""Unanswered attempts after which the whole batch is not sent again before an empty one is answered."""
FEW = 8
"""Records that are packed at once: some 0.1 ms, less than a thread takes to start on them while others compute."""
OVERHEAD_BYTES = 250
"""Of one batch besides its payload: topic 40, packets with TLS 100, TCP and IP headers of two segments each way."""
CONNECTION_BYTES = 600
"""CONNECT, two SUBSCRIBEs and their answers 200, TCP and IP headers of eight segments."""
PING_BYTES = 204
"""PINGREQ and PINGRESP (2 B) in TLS records of 24, TCP and IP headers of 52 in three segments."""


class MqttUplink:
    """An Uplink (see emgate.uplinks) over one broker."""

    def __init__(
        self,
        broker: Broker,
        gateway_id: str,
        *,
        target: str = "uplink",
        meter: Meter | None = None,
        take_down: TakeDown = lambda asked: None,
    ) -> None:
        self.name = f"mqtt:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._gateway_id = gateway_id
        self._client_id = f"emtag-uplink-{gateway_id}" + ("" if target == "uplink" else f"-{target}")
        self._meter = meter or Meter(target, {}, None, None)
        self._take_down = take_down
        self._connection: Connection | None = None
        # Batch id: True = acknowledged, False = refused, None = connection lost.
        self._waiting: dict[str, asyncio.Future[bool | None]] = {}
        self._round_trip_s = 0.0
        # Per lane the batch that comes next, and its bytes.
        self._packed: dict[bool, tuple[dict[str, Any], tuple[bytes, int]]] = {}

    async def run(self) -> None:
        """Connect and take acknowledgements and requests until the connection is lost (OSError)."""
        down = topics.backend_down(self._gateway_id)
        keeping: asyncio.Task[None] | None = None
        try:
            async with connected(
                self._broker, self._client_id, (topics.backend_ack(self._gateway_id), down)
            ) as connection:
                self._connection = connection
                keeping = asyncio.create_task(self._count_what_it_takes())
                self.up.set()
                async for topic, payload in connection.messages():
                    if topic == down:
                        self._asked(payload)
                    else:
                        self._acknowledged(payload)
        finally:
            self.up.clear()
            self._connection = None
            if keeping is not None:
                keeping.cancel()
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)

    async def _count_what_it_takes(self) -> None:
        """The connection, and what keeps it while nothing is sent: a ping each time, which is the most it can be."""
        handshake = 0 if self._broker.ca_file is None else HANDSHAKE_BYTES
        await self._meter.spend(CONNECTION_BYTES + handshake, exempt=True)
        while True:
            await asyncio.sleep(self._broker.keepalive_s)
            await self._meter.spend(PING_BYTES, exempt=True)

    def _asked(self, payload: bytes) -> None:
        try:
            asked = batch_bytes.decode(payload)
        except batch_bytes.BatchBytesError:
            self.counters["bad_request"] += 1
            return
        self._take_down(asked)

    def _acknowledged(self, payload: bytes) -> None:
        try:
            answer = json.loads(payload)
            batch_id, refused = answer["batchId"], answer.get("refused")
            future = self._waiting.get(batch_id)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.counters["bad_acknowledgement"] += 1
            return
        if refused is not None:
            self.counters["batch_refused"] += 1
            log.error("the backend refused a batch; it stays in the store", batch=batch_id, reason=refused)
        elif future is None or future.done():
            self.counters["late_acknowledgement"] += 1
        if future is not None and not future.done():
            future.set_result(refused is None)

    async def prepare(self, batch: dict[str, Any]) -> None:
        """Pack it."""
        self._packed[is_alarm(batch)] = batch, await self._pack(batch)

    async def _pack(self, batch: dict[str, Any]) -> tuple[bytes, int]:
        if len(batch["records"]) <= FEW:
            return batch_bytes.encode(batch)
        return await asyncio.to_thread(batch_bytes.encode, batch)

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Publish until acknowledged."""
        alarm = is_alarm(batch)
        packed = self._packed.get(alarm)
        if packed is not None and packed[0] is batch:
            del self._packed[alarm]
            payload, plain_bytes = packed[1]
        else:
            payload, plain_bytes = await self._pack(batch)
        self.counters["bytes_plain"] += plain_bytes
        self.counters["bytes_packed"] += len(payload)
        unanswered, refused_s = 0, ACKNOWLEDGEMENT_FIRST_S
        patience_s = max(ACKNOWLEDGEMENT_FIRST_S, self._round_trip_s * ROUND_TRIPS)
        while True:
            asking = unanswered >= ASK_AFTER
            if asking:
                self.counters["asked_whether_there"] += 1
                ask = {**batch, "batchId": f"{batch['batchId']}-ask", "records": [], "requests": []}
                done = await self._attempt(ask["batchId"], batch_bytes.encode(ask)[0], patience_s, alarm)
            else:
                done = await self._attempt(batch["batchId"], payload, patience_s, alarm)
                if done:
                    return
            self.counters["resent"] += 1
            if done:
                unanswered = 0
                patience_s = max(ACKNOWLEDGEMENT_FIRST_S, self._round_trip_s * ROUND_TRIPS)
            elif done is False:
                await asyncio.sleep(refused_s)
                refused_s = min(REFUSED_LAST_S, refused_s * 2)
            else:
                unanswered += 1
                patience_s = min(ACKNOWLEDGEMENT_LAST_S, patience_s * 2)

    async def _attempt(self, batch_id: str, payload: bytes, patience_s: float, alarm: bool) -> bool | None:
        """True = acknowledged, False = refused, None = no answer."""
        await self.up.wait()
        await self._meter.spend(len(payload) + OVERHEAD_BYTES, alarm)
        connection = self._connection
        if connection is None:
            return None
        loop = asyncio.get_running_loop()
        future = self._waiting[batch_id] = loop.create_future()
        started = loop.time()
        try:
            async with asyncio.timeout(patience_s):
                await connection.publish(topics.backend_batch(self._gateway_id), payload, patience_s)
                answer: bool | None = await future
            if answer:
                self._round_trip_s = loop.time() - started
            return answer
        except TimeoutError:
            self.counters["not_acknowledged_in_time"] += 1
        except OSError:
            self.counters["publish_failed"] += 1
            # run() sees the same loss and clears `up`; give it the chance before trying again.
            await asyncio.sleep(0.05)
        finally:
            del self._waiting[batch_id]
        return None
