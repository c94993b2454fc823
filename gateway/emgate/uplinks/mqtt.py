"""The MQTT uplink: batches to the backend's broker; a batch counts once the backend's own acknowledgement came.

MQTT's QoS 1 ends at the broker, which may drop what a slow subscriber leaves queued; so the batch is published
again until the acknowledgement with its id arrives. While nobody answers, a small empty batch asks first. Nothing is
kept in the client over a reconnect. A batch that is larger than the broker takes is to be made smaller: brokers say so
(MQTT 5), cut the connection, or take it and pass nothing on.
"""

import asyncio
import json
from collections import Counter
from typing import Any, NamedTuple

import structlog
from emwire import topics

from emgate.brokers.connection import Connection, NotLetInError, connected
from emgate.config import Broker
from emgate.uplinks import LARGE_BYTES, BatchTooLargeError, BatchTooSlowError, TakeDown, batch_bytes, is_alarm
from emgate.uplinks.meter import HANDSHAKE_BYTES, REACH_BYTES, Meter

log = structlog.get_logger(__name__)

ACKNOWLEDGEMENT_FIRST_S, ACKNOWLEDGEMENT_LAST_S = 2.0, 120.0
"""When to publish a batch again: an ingest of 500 records takes well under 1 s; doubled up to what a backend that is
gone for a week may cost: an empty batch every two minutes."""
SENT_WITHIN_S = 120.0
"""Until the broker has a batch: 150 kB at 1.3 kB/s. To publish it again over the same connection earlier is no help:
what was sent first is ahead of it; that the connection is dead is found out by its pings."""
ROUND_TRIPS = 4
"""A backend is given so many times what it took last."""
REFUSED_LAST_S = 300.0
"""A batch that the backend refuses is tried again so often: somebody has to mend something first."""
ASK_AFTER = 2
"""Unanswered attempts after which the whole batch is not sent again before an empty one is answered."""
TRIES = 2
"""To lose the connection between a large batch and its acknowledgement is chance, twice running the broker's limit; so
is a large batch that is not acknowledged although a question after it is."""
PACKET_BYTES = 16
"""Of a PUBLISH besides topic and payload, at most (MQTT 5 §3.3)."""
FEW = 8
"""Records that are packed at once: some 0.1 ms, less than a thread takes to start on them while others compute."""
OVERHEAD_BYTES = 250
"""Of one batch besides its payload: topic 40, packets with TLS 100, TCP and IP headers of two segments each way."""
CONNECTION_BYTES = 600
"""CONNECT, two SUBSCRIBEs and their answers 200, TCP and IP headers of eight segments."""
PING_BYTES = 204
"""PINGREQ and PINGRESP (2 B) in TLS records of 24, TCP and IP headers of 52 in three segments."""


class Answer(NamedTuple):
    """The backend's."""

    batch_id: str
    taken: bool


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
        # By batch id, and what is said of it.
        self._waiting: dict[str, asyncio.Future[Answer | None]] = {}
        self._round_trip_s = 0.0
        self._losses: Counter[bool] = Counter()  # by lane, running: of the connection, after a large batch
        # Per lane the batch that comes next, and its bytes.
        self._packed: dict[bool, tuple[dict[str, Any], tuple[bytes, int]]] = {}

    async def run(self) -> None:
        """Connect and take acknowledgements and requests until the connection is lost (OSError)."""
        down = topics.backend_down(self._gateway_id)
        keeping: asyncio.Task[None] | None = None
        takes = CONNECTION_BYTES + (0 if self._broker.ca_file is None else HANDSHAKE_BYTES)
        exempt = await self._meter.may_ask(takes)
        try:
            async with connected(
                self._broker, self._client_id, (topics.backend_ack(self._gateway_id), down)
            ) as connection:
                self._connection = connection
                self._meter.count(takes, exempt)
                keeping = asyncio.create_task(self._count_what_it_takes())
                self.up.set()
                async for topic, payload in connection.messages():
                    if topic == down:
                        self._asked(payload)
                    else:
                        self._acknowledged(payload)
        except OSError as error:
            if self._connection is None:
                self._meter.count(takes if isinstance(error, NotLetInError) else REACH_BYTES, exempt)
            raise
        finally:
            self.up.clear()
            self._connection = None
            if keeping is not None:
                keeping.cancel()
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)

    async def _count_what_it_takes(self) -> None:
        """What keeps the connection while nothing is sent: a ping each time, which is the most it can be."""
        while True:
            await asyncio.sleep(self._broker.keepalive_s)
            self._meter.count(PING_BYTES, exempt=True)

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
            future.set_result(Answer(batch_id, refused is None))

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
        with self._meter.delivering(alarm):
            await self._until_acknowledged(batch, payload, alarm)

    async def _until_acknowledged(self, batch: dict[str, Any], payload: bytes, alarm: bool) -> None:
        batch_id: str = batch["batchId"]
        large = len(payload) > LARGE_BYTES and len(batch["records"]) > 1
        unanswered, answered_questions, refused_s = 0, 0, ACKNOWLEDGEMENT_FIRST_S
        patience_s = self._patience_s
        while True:
            if unanswered >= ASK_AFTER:
                self.counters["asked_whether_there"] += 1
                ask = {**batch, "batchId": f"{batch_id}-ask", "records": [], "requests": []}
                ids = (ask["batchId"], batch_id)  # which may be acknowledged late
                answer = await self._attempt(ids, batch_bytes.encode(ask)[0], patience_s, alarm)
            else:
                await self.up.wait()
                self._heed_limit(batch, payload)
                answer = await self._attempt((batch_id,), payload, patience_s, alarm, large)
            if answer == (batch_id, True):
                return
            self.counters["resent"] += 1
            if answer is None:
                unanswered += 1
                patience_s = min(ACKNOWLEDGEMENT_LAST_S, patience_s * 2)
            elif answer.taken:
                answered_questions += 1
                if large and answered_questions >= TRIES:
                    raise BatchTooLargeError(
                        "the backend answers, but not to this batch: the broker may have dropped it"
                    )
                unanswered = 0
                patience_s = self._patience_s
            else:
                await asyncio.sleep(refused_s)
                refused_s = min(REFUSED_LAST_S, refused_s * 2)

    @property
    def _patience_s(self) -> float:
        return max(ACKNOWLEDGEMENT_FIRST_S, self._round_trip_s * ROUND_TRIPS)

    def _heed_limit(self, batch: dict[str, Any], payload: bytes) -> None:
        most = None if self._connection is None else self._connection.largest_packet
        size = PACKET_BYTES + len(topics.backend_batch(self._gateway_id)) + len(payload)
        if most is not None and size > most and batch["records"]:
            raise BatchTooLargeError(f"the broker takes packets of {most} B, this one would have {size}")

    async def _attempt(
        self, ids: tuple[str, ...], payload: bytes, patience_s: float, alarm: bool, large: bool = False
    ) -> Answer | None:
        """Publish it, and wait for what is said of one of these; None = nothing is."""
        await self.up.wait()
        await self._meter.spend(len(payload) + OVERHEAD_BYTES, alarm)
        connection = self._connection
        if connection is None:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | None] = loop.create_future()
        self._waiting.update(dict.fromkeys(ids, future))
        started = loop.time()
        topic = topics.backend_batch(self._gateway_id)
        sending = loop.create_task(connection.publish(topic, payload, SENT_WITHIN_S))
        try:
            either: list[asyncio.Future[Any]] = [sending, future]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                await sending
            sent_s = loop.time()
            async with asyncio.timeout(patience_s):
                answer = await future
            if answer is not None:
                self._round_trip_s = loop.time() - sent_s
            if large:
                self._losses[alarm] = 0 if answer is not None else self._losses[alarm] + 1
                if self._losses[alarm] >= TRIES:
                    raise BatchTooLargeError("each batch of this size costs the connection: the broker may not take it")
            return answer
        except TimeoutError:
            self.counters["not_acknowledged_in_time"] += 1
        except OSError:
            self.counters["publish_failed"] += 1
            if large and loop.time() - started >= SENT_WITHIN_S:
                raise BatchTooSlowError("not all of it was sent in time") from None
            # run() sees the same loss and clears `up`; give it the chance before trying again.
            await asyncio.sleep(0.05)
        finally:
            sending.cancel()
            sending.add_done_callback(lambda done: done.cancelled() or done.exception())  # the loss is known already
            for batch_id in ids:
                del self._waiting[batch_id]
        return None
