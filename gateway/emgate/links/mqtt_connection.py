"""The connection of an MQTT link: messages as they come, acknowledged by hand and in any number at once. Losses are
OSError.

aiomqtt has no call for manual acknowledgement, queues what it receives without bound, and wakes a task for every
message; its paho client does none of that, and is reached for here only. paho in turn asks the kernel three times for
each message and writes each acknowledgement alone: so messages are taken from a buffer here (mqtt_inbound.py), paho is
given all other packets, and acknowledgements go out together.
"""

import asyncio
import errno
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

import aiomqtt

from emgate.brokers.client import make_client
from emgate.config import Broker
from emgate.links.mqtt_inbound import Inbound, Message

MAXIMUM_PACKET_BYTES = 65_536
"""Nobody has reason to send us more; MQTT itself allows 256 MB, which paho would gather in memory."""
READ_BYTES = 16_384
"""Read at a time: some 200 frames, 5 ms of work, between which everything else gets its turn."""
PUBACK = b"\x40\x02"  # MQTT 3.1.1 §3.4; in MQTT 5 the same, where there is nothing to complain of


class Connection:
    """To a broker, within `async with`. `arrived` gets every message, and may call pause()."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        arrived: "Callable[[Connection, Message], None]",
        counters: "Counter[str]",
        *,
        persistent: bool,
        will_topic: str | None = None,
    ) -> None:
        """`persistent`: the broker keeps what comes meanwhile. `will_topic`: emptied when we are lost."""
        will = None if will_topic is None else aiomqtt.Will(will_topic, b"", qos=1, retain=True)
        self._client = make_client(broker, client_id, persistent=persistent, will=will)
        self._paho: Any = self._client._client
        self._paho.manual_ack_set(True)
        self._paho.on_message = self._came_before
        self._arrived = arrived
        self._counters = counters
        self._inbound = Inbound(broker.protocol == "5")
        self.paused = False

    async def __aenter__(self) -> Self:
        """Connect, and read."""
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        self._listen()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        try:
            await self._client.__aexit__(*reason)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        finally:
            ended = self._client._disconnected
            if ended.done() and not ended.cancelled():
                ended.exception()  # whoever was cancelled did not look, and asyncio would complain

    async def lost(self) -> OSError:
        """Why, as soon as it is."""
        ended = self._client._disconnected
        await asyncio.wait([ended])
        return OSError(str(ended.exception() or "the broker closed the connection"))

    async def subscribe(self, topic: str) -> None:
        """PermissionError when the broker refuses."""
        try:
            answer = await self._client.subscribe(topic, qos=1)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        _still_wanted()
        for granted in answer:
            code = granted if isinstance(granted, int) else granted.value
            if code >= 0x80:
                raise OSError(errno.EACCES, f"the broker refused the subscription to {topic}: see its access list")

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Return once the broker has it (QoS 1)."""
        try:
            await self._client.publish(topic, payload, qos=1, retain=retain)
        except aiomqtt.MqttError as error:
            raise OSError(str(error)) from None
        _still_wanted()

    def publish_last(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Ahead of the goodbye, in the same stream; nobody waits for the broker to have it."""
        self._paho.publish(topic, payload, qos=1, retain=retain)

    def acknowledge(self, messages: Iterable[tuple[int, int]]) -> None:
        """(id, QoS) in the order of arrival, as MQTT demands."""
        together = bytearray()
        for message_id, qos in messages:
            if qos == 1:
                together += PUBACK + message_id.to_bytes(2, "big")
            elif qos:
                self._paho.ack(message_id, qos)
        if together:
            self._paho._packet_queue(PUBACK[0], together, 0, 0)

    # -- reading ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """No message arrives until go_on()."""
        self.paused = True
        asyncio.get_running_loop().remove_reader(self._paho.socket().fileno())

    def go_on(self) -> None:
        """With what has been read already, and then what comes."""
        self._listen()
        self._readable()

    def _listen(self) -> None:
        """Take the socket from aiomqtt, so that reading can stop while too much is under way."""
        connection = self._paho.socket()
        if connection is not None and connection.fileno() >= 0:
            self.paused = False
            self._paho._sock_recv = self._inbound.take
            asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)

    def _readable(self) -> None:
        lost = self._client._disconnected
        inbound = self._inbound
        try:
            self._packets()
            while not lost.done() and not self.paused and inbound.open:
                connection = self._paho.socket()
                if connection is None:
                    return
                try:
                    inbound.put(connection.recv(READ_BYTES))
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
                except OSError as error:
                    inbound.broken(error)
                self._packets()
                # What TLS has decoded already is no event of the socket's: 16 KiB at most.
                if getattr(connection, "pending", int)() == 0:
                    return
        except Exception as error:  # whatever a malformed packet makes paho say
            connection = self._paho.socket()
            if connection is not None and connection.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(connection.fileno())
            if not lost.done():
                lost.set_exception(error)

    def _packets(self) -> None:
        """All that is whole, until too much is under way."""
        paho, inbound = self._paho, self._inbound
        while not self.paused and not self._client._disconnected.done():
            amid = paho._in_packet["command"] != 0  # paho has begun a packet, and needs its rest
            if not amid:
                for message in inbound.messages(MAXIMUM_PACKET_BYTES):
                    self._arrived(self, message)
                    if self.paused:
                        return
            size = int(paho._in_packet["remaining_length"]) if amid else inbound.announced()
            if size > MAXIMUM_PACKET_BYTES:
                self._counters["packet_too_long"] += 1
                raise OSError(errno.EMSGSIZE, f"the broker announced a packet of {size} bytes")
            if not amid and inbound.at_message:
                inbound.message()  # says whether there will be one
                return
            if not inbound.ready:
                return
            if paho.socket() is None:
                return
            paho.loop_read()

    def _came_before(self, paho: Any, userdata: Any, message: Any) -> None:
        """From paho: a message that it had read when its socket was taken."""
        self._arrived(self, Message(message.topic, message.payload, message.retain, message.mid, message.qos))


def _still_wanted() -> None:
    """After a call of aiomqtt's: the wait_for of Python 3.11 in it loses a cancellation that comes with the answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
