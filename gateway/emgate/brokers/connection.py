"""An open connection to a broker, as uplink and backend need it: publish, and take what comes. Losses are OSError.

aiomqtt keeps to itself what a broker says of its limits, and whether it was reached at all: its paho client is asked.

The client library is named in client.py, here, and for devices' messages in links/mqtt_connection.py, and nowhere
else: another takes its place by these few lines.
"""

import secrets
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt

from emgate.brokers.client import make_client
from emgate.config import Broker


class NotLetInError(OSError):
    """There is a broker, but no connection came of it: wrong certificate, password, …"""


class Connection:
    """To a broker."""

    def __init__(self, client: aiomqtt.Client, largest_packet: int | None) -> None:
        self.largest_packet = largest_packet
        """That the broker takes, in bytes; None where it did not say (MQTT 3.1.1 cannot)."""
        self._client = client

    async def publish(self, topic: str, payload: bytes, timeout_s: float) -> None:
        """Return once the broker has it (QoS 1); OSError when that takes longer. A loss meanwhile is told by messages()
        alone."""
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
    """Connect with a clean session and subscribe; OSError when it cannot be done, or is lost.

    The id ends with random bits each time: who could guess it would end our connection by coming under it."""
    client = make_client(broker, f"{client_id}-{secrets.token_hex(8)}", persistent=False)
    heard = _Heard(client)
    connection: Connection | None = None
    try:
        async with client:
            for topic in subscriptions:
                await client.subscribe(topic, qos=1)
            connection = Connection(client, heard.largest_packet)
            yield connection
    except aiomqtt.MqttError as error:
        if connection is None and (heard.reached or isinstance(error.__context__, ssl.SSLError)):
            raise NotLetInError(str(error)) from None
        raise OSError(str(error)) from None


class _Heard:
    """What a client hears while it connects."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.reached = False
        self.largest_packet: int | None = None
        paho: Any = client._client
        opened, answered = paho.on_socket_open, paho.on_connect

        def on_socket_open(*given: Any) -> None:
            self.reached = True
            opened(*given)

        def on_connect(*given: Any) -> None:
            self.largest_packet = getattr(given[4], "MaximumPacketSize", None)
            answered(*given)

        paho.on_socket_open, paho.on_connect = on_socket_open, on_connect
