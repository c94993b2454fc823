"""The MQTT uplink: batches as JSON to the backend's broker; a batch counts once the backend's own acknowledgement came.

MQTT's QoS 1 ends at the broker, which may drop what a slow subscriber leaves queued; so the batch is published
again until the acknowledgement with its id arrives. Nothing is kept in the client over a reconnect.
"""

import asyncio
import json
from collections import Counter
from typing import Any

import aiomqtt
import structlog
from emwire import topics

from emgate.config import Broker
from emgate.mqtt_client import make_client

log = structlog.get_logger(__name__)

ACKNOWLEDGEMENT_FIRST_S, ACKNOWLEDGEMENT_LAST_S = 2.0, 30.0
"""When to publish a batch again: an ingest of 500 records takes well under 1 s; doubling up to what an absent backend
may cost a broker in repeated batches of up to 600 kB."""


class MqttUplink:
    """An Uplink (see emgate.uplinks) over one broker."""

    def __init__(self, broker: Broker, gateway_id: str) -> None:
        self.name = f"mqtt:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._gateway_id = gateway_id
        self._client: aiomqtt.Client | None = None
        self._waiting: dict[str, asyncio.Future[bool]] = {}  # batch id: True = acknowledged, False = connection lost

    async def run(self) -> None:
        """Connect and take acknowledgements until the connection is lost (OSError)."""
        client = make_client(self._broker, f"emtag-uplink-{self._gateway_id}", persistent=False)
        try:
            async with client:
                await client.subscribe(topics.backend_ack(self._gateway_id), qos=1)
                self._client = client
                self.up.set()
                async for message in client.messages:
                    self._acknowledged(message)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        finally:
            self.up.clear()
            self._client = None
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(False)

    def _acknowledged(self, message: aiomqtt.Message) -> None:
        try:
            answer = json.loads(message.payload)
            batch_id, refused = answer["batchId"], answer.get("refused")
        except (ValueError, TypeError, KeyError, AttributeError):
            self.counters["bad_acknowledgement"] += 1
            return
        if refused is not None:
            self.counters["batch_refused"] += 1
            log.error("the backend refused a batch; it stays in the store", batch=batch_id, reason=refused)
            return
        future = self._waiting.get(batch_id)
        if future is None or future.done():
            self.counters["late_acknowledgement"] += 1
            return
        future.set_result(True)

    async def deliver(self, batch: dict[str, Any]) -> None:
        """Publish until acknowledged."""
        payload = json.dumps(batch, separators=(",", ":"))
        patience_s = ACKNOWLEDGEMENT_FIRST_S
        while True:
            await self.up.wait()
            client = self._client
            assert client is not None, "set whenever up is"
            future = self._waiting[batch["batchId"]] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(patience_s):
                    await client.publish(topics.backend_batch(self._gateway_id), payload, qos=1)
                    if await future:
                        return
            except TimeoutError:
                self.counters["not_acknowledged_in_time"] += 1
                patience_s = min(ACKNOWLEDGEMENT_LAST_S, patience_s * 2)
            except aiomqtt.MqttError:
                self.counters["publish_failed"] += 1
                # run() sees the same loss and clears `up`; give it the chance before trying again.
                await asyncio.sleep(0.05)
            finally:
                del self._waiting[batch["batchId"]]
            self.counters["resent"] += 1
