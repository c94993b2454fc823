"""An open connection to a broker, as uplink and backend need it: publish, and take what comes. Losses are OSError.

The client library is named in client.py, here, and for devices' messages in links/mqtt_connection.py, and nowhere
else: another takes its place by these few lines.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiomqtt

from emgate.brokers.client import make_client
from emgate.config import Broker


class Connection:
    """To a broker."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client

    async def publish(self, topic: str, payload: bytes, timeout_s: float) -> None:
        """Return once the broker has it (QoS 1); OSError when that takes longer, or the connection is lost."""
        try:
            await self._client.publish(topic, payload, qos=1, timeout=timeout_s)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None

    async def messages(self) -> AsyncIterator[tuple[str, bytes]]:
        """(topic, payload) of what comes, until the connection is lost (OSError)."""
        try:
            async for message in self._client.messages:
                payload = message.payload
                yield str(message.topic), payload if isinstance(payload, bytes) else b""
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None


@asynccontextmanager
async def connected(broker: Broker, client_id: str, subscriptions: Iterable[str]) -> AsyncIterator[Connection]:
    """Connect with a clean session and subscribe; OSError when it cannot be done, or is lost."""
    try:
        async with make_client(broker, client_id, persistent=False) as client:
            for topic in subscriptions:
                await client.subscribe(topic, qos=1)
            yield Connection(client)
    except aiomqtt.MqttError as error:
        raise OSError(str(error)) from None
