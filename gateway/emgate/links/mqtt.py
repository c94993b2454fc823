"""The MQTT link: devices with a cellular modem, through their broker. One sealed frame is one message, QoS 1.

The session is persistent, and a message is acknowledged to the broker only once its frame has been dealt with, so
a broker keeps what a killed gateway had not committed. That is a courtesy: what a device relies on is the sealed
acknowledgement, which no broker can make. A broker is believed in nothing: that it still delivers is proved by a
message to ourselves.

aiomqtt has no call for manual acknowledgement, queues what it receives without bound, and wakes a task for every
message; its paho client does none of that, and is reached for here only. paho in turn asks the kernel three times for
each message and writes each acknowledgement alone: so messages are taken from a buffer here (mqtt_inbound.py), paho is
given all other packets, and acknowledgements go out together.
"""

import asyncio
import errno
import ssl
from collections import Counter, deque
from typing import Any

import aiomqtt
from emwire import topics
from emwire.errors import WireError

from emgate.config import Broker, MqttSection
from emgate.links import Received
from emgate.links.mqtt_group import Group
from emgate.links.mqtt_inbound import Inbound, Message
from emgate.mqtt_client import make_client

MAXIMUM_FRAME_BYTES = 1100  # a sealed frame has at most 1024 B; a little more is kept as evidence of what is wrong
MAXIMUM_PACKET_BYTES = 65_536
"""Nobody has reason to send us more; MQTT itself allows 256 MB, which paho would gather in memory."""
MAXIMUM_TOPICS = 10_000  # remembered; 2 MB
READ_BYTES = 16_384
"""Read at a time: some 200 frames, 5 ms of work, between which everything else gets its turn."""
PUBACK = b"\x40\x02"  # MQTT 3.1.1 §3.4; in MQTT 5 the same, where there is nothing to complain of
UNDER_WAY = 1000
"""Frames waiting for their commit at which reading stops: ten groups of the store, and 1 MB."""
PROBE_EACH_S, PROBE_PATIENCE_S = 60.0, 30.0
"""How often we send ourselves a message, and how long it may take: slower, and no alarm arrives in time."""
MEMBERS_S = 10.0  # aiomqtt's own time-out for an answer


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
        self._probe_topic = f"emtag/v1/gateway/{gateway_id}/probe"
        self._probe_returned = asyncio.Event()
        self._probes = 0
        shared = isinstance(broker, MqttSection) and broker.shared_group
        self.group = Group(shared, gateway_id) if shared else None
        self._members_known = asyncio.Event()
        self._inbound = Inbound(True)
        self._dealt_with: deque[tuple[asyncio.Future[bool], int, int]] = deque()
        self._to_acknowledge = asyncio.Event()
        self._devices: dict[str, int] = {}  # by topic: parsing takes longer
        self._paused = False
        self._handing_on: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, subscribe and pass frames on until the connection is lost (OSError) or the task cancelled."""
        group = self.group
        will = aiomqtt.Will(group.my_presence, b"", qos=1, retain=True) if group else None
        # In a group others take over at once; what the broker kept for an absent member would only come late.
        client = make_client(self._broker, self._client_id, persistent=group is None, will=will)
        paho = client._client
        paho.manual_ack_set(True)
        paho.on_message = self._message
        self._inbound = Inbound(self._broker.protocol == "5")
        self._dealt_with.clear()
        self._to_acknowledge.clear()
        self._paused = False
        self._members_known.clear()
        try:
            async with client, asyncio.TaskGroup() as tasks:
                self._read_on(client)
                tasks.create_task(self._acknowledge(client))
                self._client = client
                await self._subscribe(client, group)
                _still_wanted()
                self.up.set()
                tasks.create_task(self._probe(client))
                try:
                    await asyncio.wait([client._disconnected])
                except asyncio.CancelledError:
                    if group is not None:  # an orderly goodbye sends no will; in the same stream ahead of it
                        paho.publish(group.my_presence, b"", qos=1, retain=True)
                    raise
                reason = client._disconnected.exception() or aiomqtt.MqttError("the broker closed the connection")
                raise OSError(str(reason))
        except* aiomqtt.MqttError as lost:
            raise OSError(str(lost.exceptions[0])) from None
        except* OSError as lost:
            raise lost.exceptions[0] from None
        finally:
            self.up.clear()
            self._client = None
            for task in self._handing_on:
                task.cancel()

    async def _subscribe(self, client: aiomqtt.Client, group: Group | None) -> None:
        try:
            await self._subscribe_to(client, self._probe_topic)
            self._probes = 0
        except OSError:  # an access list without it: then nothing can be proved
            self._probes = -1
            self.counters["probe_refused"] += 1
        if group is None:
            await self._subscribe_to(client, topics.UP_FILTER)
            return
        group.members = {group.me}
        await self._subscribe_to(client, group.presence_filter)
        await self._subscribe_to(client, group.my_filter)
        await client.publish(group.my_presence, b"1", qos=1, retain=True)
        # Our own word comes back behind everybody else's, who were there before.
        try:
            async with asyncio.timeout(MEMBERS_S):
                await self._members_known.wait()
        except TimeoutError:
            raise OSError(errno.EPROTO, f"the broker does not deliver {group.my_presence}") from None
        await self._subscribe_to(client, group.shared_filter)

    async def _subscribe_to(self, client: aiomqtt.Client, topic: str) -> None:
        for granted in await client.subscribe(topic, qos=1):
            code = granted if isinstance(granted, int) else granted.value
            if code >= 0x80:
                raise OSError(errno.EACCES, f"the broker refused the subscription to {topic}: see its access list")

    async def _probe(self, client: aiomqtt.Client) -> None:
        """A broker that takes subscriptions and delivers nothing looks like silence; silence must not be believed."""
        while self._probes >= 0:
            self._probe_returned.clear()
            await client.publish(self._probe_topic, b"%d" % self._probes, qos=1)
            _still_wanted()
            try:
                async with asyncio.timeout(PROBE_PATIENCE_S):
                    await self._probe_returned.wait()
            except TimeoutError:
                self.counters["probe_lost"] += 1
                raise OSError(
                    errno.EPROTO,
                    f"the broker delivers nothing: a message to ourselves took over {PROBE_PATIENCE_S:g} s",
                ) from None
            self._probes += 1
            await asyncio.sleep(PROBE_EACH_S)

    # -- reading ----------------------------------------------------------------------------------------------

    def _read_on(self, client: aiomqtt.Client) -> None:
        """Take the socket from aiomqtt, so that reading can stop while too much is under way."""
        paho = client._client
        connection = paho.socket()
        if connection is not None and connection.fileno() >= 0:
            self._paused = False
            paho._sock_recv = self._inbound.take  # type: ignore[method-assign]
            asyncio.get_running_loop().add_reader(connection.fileno(), self._readable, client)

    def _readable(self, client: aiomqtt.Client) -> None:
        paho = client._client
        lost = client._disconnected
        inbound = self._inbound
        try:
            self._packets(client)
            while not lost.done() and not self._paused and inbound.open:
                connection: Any = paho.socket()
                if connection is None:
                    return
                try:
                    inbound.put(connection.recv(READ_BYTES))
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
                except OSError as error:
                    inbound.broken(error)
                self._packets(client)
                # What TLS has decoded already is no event of the socket's: 16 KiB at most.
                if getattr(connection, "pending", int)() == 0:
                    return
        except Exception as error:  # whatever a malformed packet makes paho say
            connection = paho.socket()
            if connection is not None and connection.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(connection.fileno())
            if not lost.done():
                lost.set_exception(error)

    def _packets(self, client: aiomqtt.Client) -> None:
        """All that is whole, until too much is under way."""
        paho: Any = client._client
        inbound = self._inbound
        while not self._paused and not client._disconnected.done():
            amid = paho._in_packet["command"] != 0  # paho has begun a packet, and needs its rest
            if not amid:
                for message in inbound.messages(MAXIMUM_PACKET_BYTES):
                    self._message(paho, None, message)
                    if self._paused:
                        return
            size = int(paho._in_packet["remaining_length"]) if amid else inbound.announced()
            if size > MAXIMUM_PACKET_BYTES:
                self.counters["packet_too_long"] += 1
                raise OSError(errno.EMSGSIZE, f"the broker announced a packet of {size} bytes")
            if not amid and inbound.at_message:
                inbound.message()  # says whether there will be one
                return
            if not inbound.ready:
                return
            if paho.socket() is None:
                return
            paho.loop_read()

    def _message(self, paho: Any, userdata: Any, message: "Message | Any") -> None:
        """A whole PUBLISH; from paho those that came before its socket was taken."""
        future = self._take(message.topic, message.payload, message.retain)
        dealt_with = self._dealt_with
        if not dealt_with:
            self._to_acknowledge.set()
        dealt_with.append((future, message.mid, message.qos))
        if len(dealt_with) >= UNDER_WAY and not self._paused:
            self.counters["paced"] += 1
            self._paused = True
            asyncio.get_running_loop().remove_reader(paho.socket().fileno())

    def _take(self, topic: str, payload: bytes, retained: bool) -> "asyncio.Future[bool]":
        group = self.group
        device_id = self._devices.get(topic) if group is None and not retained else None
        if device_id is not None and len(payload) <= MAXIMUM_FRAME_BYTES:  # nearly always
            return self._received(self, device_id, payload)
        if topic == self._probe_topic:
            if payload == b"%d" % self._probes:
                self._probe_returned.set()
            return self._nothing_to_do()
        if group is not None:
            if group.presence(topic, payload):
                if topic == group.my_presence:
                    self._members_known.set()
                return self._nothing_to_do()
            device_id = group.handed_on(topic)
        if retained:  # no device sends that: rubbish that somebody left, once more after each connection
            return self._drop("retained")
        handed_on = device_id is not None
        if device_id is None:
            device_id = self._devices.get(topic)
        if device_id is None:
            try:
                direction, device_id = topics.parse(topic)
            except WireError:
                return self._drop("bad_topic")
            if direction != topics.UP:
                return self._drop("bad_topic")
            if len(self._devices) >= MAXIMUM_TOPICS:
                self._devices.clear()
            self._devices[topic] = device_id
        if len(payload) > MAXIMUM_FRAME_BYTES:
            return self._drop("too_long")
        if group is not None and not handed_on and group.owner(device_id) != group.me:
            return self._hand_on(group.hand_on_topic(device_id), payload)
        return self._received(self, device_id, payload)

    def _drop(self, reason: str) -> "asyncio.Future[bool]":
        self.counters[reason] += 1
        return self._nothing_to_do()

    def _nothing_to_do(self) -> "asyncio.Future[bool]":
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(True)
        return future

    def _hand_on(self, topic: str, payload: bytes) -> "asyncio.Future[bool]":
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if len(self._handing_on) >= UNDER_WAY:
            self.counters["not_handed_on"] += 1
            future.set_result(False)
            return future

        async def publish() -> None:
            sent = await self._publish(topic, payload)
            self.counters["handed_on" if sent else "not_handed_on"] += 1
            if not future.done():
                future.set_result(sent)

        task = asyncio.get_running_loop().create_task(publish())
        self._handing_on.add(task)

        def ended(_: "asyncio.Task[None]") -> None:
            self._handing_on.discard(task)
            if not future.done():
                future.set_result(False)

        task.add_done_callback(ended)
        return future

    async def _acknowledge(self, client: aiomqtt.Client) -> None:
        """PUBACKs in the order of arrival, as MQTT demands. A frame that found no room is acknowledged too: its device
        keeps it and repeats it, while withholding would let routine frames fill the window in front of alarms."""
        paho: Any = client._client
        waiting = self._dealt_with
        while True:
            self._to_acknowledge.clear()
            if not waiting:
                await self._to_acknowledge.wait()
            await asyncio.shield(waiting[0][0])
            together = bytearray()
            while waiting and waiting[0][0].done():
                _, message_id, qos = waiting.popleft()
                if qos == 1:
                    together += PUBACK + message_id.to_bytes(2, "big")
                elif qos:
                    paho.ack(message_id, qos)
            if together:
                paho._packet_queue(PUBACK[0], together, 0, 0)
            if self._paused and len(waiting) < UNDER_WAY // 2:
                self._read_on(client)
                self._readable(client)  # what has been read already

    # -- down -------------------------------------------------------------------------------------------------

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Publish to the device's topic; True when the broker has it."""
        return await self._publish(topics.down(device_id), frame)

    async def _publish(self, topic: str, payload: bytes) -> bool:
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(topic, payload, qos=1)
        except aiomqtt.MqttError:
            self.counters["send_failed"] += 1
            return False
        return True


def _still_wanted() -> None:
    """After a call of aiomqtt's: the wait_for of Python 3.11 in it loses a cancellation that comes with the answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
