"""The MQTT link: devices with a cellular modem, through their broker. One sealed frame is one message, QoS 1.

The session is persistent, and a message is acknowledged to the broker only once its frame has been dealt with, so
a broker keeps what a killed gateway had not committed. That is a courtesy: what a device relies on is the sealed
acknowledgement. aiomqtt has no call for manual acknowledgement; its paho client has, and is reached for here only.
"""

import asyncio
from collections import Counter

import aiomqtt
from emwire import topics
from emwire.errors import WireError

from emgate.config import Broker
from emgate.links import Received
from emgate.mqtt_client import make_client

MAXIMUM_FRAME_BYTES = 1100  # a sealed frame has at most 1024 B; a little more is kept as evidence of what is wrong


class MqttLink:
    """A Link (see emgate.links) over one broker."""

    kind = "mqtt"

    def __init__(self, broker: Broker, gateway_id: str, received: Received) -> None:
        self.name = f"mqtt:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._client_id = f"emtag-gateway-{gateway_id}"
        self._received = received
        self._client: aiomqtt.Client | None = None

    async def run(self) -> None:
        """Connect, subscribe and pass frames on until the connection is lost (OSError) or the task cancelled."""
        client = make_client(self._broker, self._client_id, persistent=True)
        client._client.manual_ack_set(True)
        dealt_with: asyncio.Queue[tuple[asyncio.Future[bool], int, int]] = asyncio.Queue()
        try:
            async with client, asyncio.TaskGroup() as group:
                acknowledging = group.create_task(self._acknowledge(client, dealt_with))
                for granted in await client.subscribe(topics.UP_FILTER, qos=1):
                    code = granted if isinstance(granted, int) else granted.value
                    if code >= 0x80:
                        raise OSError(f"the broker refused the subscription to {topics.UP_FILTER}")
                self._client = client
                self.up.set()
                async for message in client.messages:
                    dealt_with.put_nowait((self._pass_on(message), message.mid, message.qos))
                acknowledging.cancel()
        except* aiomqtt.MqttError as lost:
            raise OSError(str(lost.exceptions[0])) from None
        except* OSError as lost:
            raise OSError(str(lost.exceptions[0])) from None
        finally:
            self.up.clear()
            self._client = None

    def _pass_on(self, message: aiomqtt.Message) -> "asyncio.Future[bool]":
        payload = message.payload
        try:
            direction, device_id = topics.parse(str(message.topic))
        except WireError:
            self.counters["bad_topic"] += 1
        else:
            if direction != topics.UP:
                self.counters["bad_topic"] += 1
            elif len(payload) > MAXIMUM_FRAME_BYTES:
                self.counters["too_long"] += 1
            else:
                return self._received(self, device_id, payload)
        nothing_to_do: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        nothing_to_do.set_result(True)
        return nothing_to_do

    async def _acknowledge(
        self, client: aiomqtt.Client, dealt_with: "asyncio.Queue[tuple[asyncio.Future[bool], int, int]]"
    ) -> None:
        """PUBACKs in the order of arrival, as MQTT demands. A frame that found no room is acknowledged too: its device
        keeps it and repeats it, while withholding would let routine frames fill the window in front of alarms."""
        while True:
            future, message_id, qos = await dealt_with.get()
            await asyncio.shield(future)
            if qos:
                client._client.ack(message_id, qos)

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Publish to the device's topic; True when the broker has it."""
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(topics.down(device_id), frame, qos=1)
        except aiomqtt.MqttError:
            self.counters["send_failed"] += 1
            return False
        return True
