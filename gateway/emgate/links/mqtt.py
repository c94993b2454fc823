"""The MQTT link: devices with a cellular modem, through their broker. One sealed frame is one message, QoS 1.

The session is persistent, and a message is acknowledged to the broker only once its frame has been dealt with, so
a broker keeps what a killed gateway had not committed. That is a courtesy: what a device relies on is the sealed
acknowledgement, which no broker can make. A broker is believed in nothing: that it still delivers is proved by a
message to ourselves.
"""

import asyncio
import errno
from collections import Counter, deque

import structlog
from emwire import constants, topics
from emwire.errors import WireError

from emgate.config import Broker, MqttSection
from emgate.devices.counter_share import CounterShare
from emgate.links import Events, Received
from emgate.links.mqtt_connection import Connection
from emgate.links.mqtt_group import PRESENT_S, Group
from emgate.links.mqtt_inbound import Message
from emgate.own_records import evidence_of
from emgate.supervisor import first_of

log = structlog.get_logger(__name__)

MAXIMUM_FRAME_BYTES = 1100  # a sealed frame has at most 1024 B; a little more is kept as evidence of what is wrong
MAXIMUM_TOPICS = 10_000  # remembered; 2 MB
UNDER_WAY = 1000
"""Frames waiting for their commit at which reading stops: ten groups of the store, and 1 MB."""
PROBE_EACH_S, PROBE_PATIENCE_S = 60.0, 30.0
"""How often we send ourselves a message, and how long a broker may be silent then: an alarm has to arrive in time."""
MEMBERS_S = 10.0  # aiomqtt's own time-out for an answer
PRESENT_LOOKS = 3
"""So often between two words of our own we look who is there; a change is told at most as often."""


class MqttLink:
    """A Link (see emgate.links) over one broker."""

    kind = "mqtt"

    def __init__(
        self,
        broker: Broker,
        gateway_id: str,
        received: Received,
        events: Events | None = None,
        unguessed: str = "",
        counter_share: CounterShare | None = None,
    ) -> None:
        """`unguessed`: what makes the client id one (see emgate.brokers.client_name). `counter_share`: of which the
        other gateways of a group are told."""
        self.name = f"mqtt:{broker.host}:{broker.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._client_id = f"emtag-gateway-{gateway_id}" + (f"-{unguessed}" if unguessed else "")
        self._received = received
        self._events = events
        self._connection: Connection | None = None
        self._probe_topic = f"emtag/v1/gateway/{gateway_id}/probe"
        self._probe_returned = asyncio.Event()
        self._probes = 0
        self._arrived = 0
        shared = isinstance(broker, MqttSection) and broker.shared_group
        self.group = Group(shared, gateway_id) if shared else None
        self._counter_share = counter_share or CounterShare()
        self._members_known = asyncio.Event()
        self._members_told: tuple[str, ...] = ()
        self._dealt_with: deque[tuple[asyncio.Future[bool], int, int]] = deque()
        self._to_acknowledge = asyncio.Event()
        self._devices: dict[str, int] = {}  # by topic: parsing takes longer
        self._handing_on: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, subscribe and pass frames on until the connection is lost (OSError) or the task cancelled."""
        group = self.group
        # In a group others take over at once; what the broker kept for an absent member would only come late.
        connection = Connection(
            self._broker, self._client_id, self._message, self.counters,
            persistent=group is None, will_topic=group.my_presence if group else None,
        )  # fmt: skip
        self._dealt_with.clear()
        self._to_acknowledge.clear()
        self._members_known.clear()
        try:
            async with connection, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acknowledge(connection))
                self._connection = connection
                await self._subscribe(connection, group)
                self.up.set()
                tasks.create_task(self._probe(connection))
                if group is not None:
                    tasks.create_task(self._stay(group))
                try:
                    raise await connection.lost()
                except asyncio.CancelledError:
                    if group is not None:  # an orderly goodbye sends no will
                        connection.publish_last(group.my_presence, b"", retain=True)
                    raise
        except BaseExceptionGroup as errors:
            if (lost := first_of(errors, OSError)) is None:
                raise
            raise lost from None
        finally:
            self.up.clear()
            self._connection = None
            for task in self._handing_on:
                task.cancel()

    async def _subscribe(self, connection: Connection, group: Group | None) -> None:
        try:
            await connection.subscribe(self._probe_topic)
            self._probes = 0
        except PermissionError:  # an access list without it: then nothing can be proved
            self._probes = -1
            self.counters["probe_refused"] += 1
        if group is None:
            await connection.subscribe(topics.UP_FILTER)
            return
        group.begin()
        await connection.subscribe(group.counter_topic)
        await connection.subscribe(group.presence_filter)
        await connection.subscribe(group.my_filter)
        await connection.publish(group.my_presence, b"1", retain=True)
        # Our own word comes back behind everybody else's, who were there before.
        try:
            async with asyncio.timeout(MEMBERS_S):
                await self._members_known.wait()
        except TimeoutError:
            raise OSError(errno.EPROTO, f"the broker does not deliver {group.my_presence}") from None
        await connection.subscribe(group.shared_filter)

    async def _stay(self, group: Group) -> None:
        """Say that we are there, and notice who does not any more."""
        while True:
            for _ in range(PRESENT_LOOKS):
                group.forget_silent(asyncio.get_running_loop().time())
                self._tell_members(group)
                if (highest := self._counter_share.to_tell()) is not None:
                    await self._publish(group.counter_topic, b"%d" % highest, retain=True)
                await asyncio.sleep(PRESENT_S / PRESENT_LOOKS)
            await self._publish(group.my_presence, b"1", retain=True)

    def _tell_members(self, group: Group) -> None:
        members = group.members
        if members == self._members_told:
            return
        self._members_told = members
        log.info("gateways of the group", link=self.name, members=members)
        self.counters["group_changed"] += 1
        if self._events is not None:
            evidence = evidence_of(self.name, " ".join(members))
            self._events.event(constants.EVENT_GATEWAY_GROUP_CHANGED, value=len(members), evidence=evidence)

    async def _probe(self, connection: Connection) -> None:
        """A broker that takes subscriptions and delivers nothing looks like silence; silence must not be believed."""
        while self._probes >= 0:
            arrived = self._arrived
            self._probe_returned.clear()
            try:
                async with asyncio.timeout(PROBE_PATIENCE_S):
                    await connection.publish(self._probe_topic, b"%d" % self._probes)
                    await self._probe_returned.wait()
            except OSError as error:  # also a TimeoutError, ours, or the client library's after 10 s
                # Behind a backlog ours comes late: whatever came meanwhile proves as much.
                if self._arrived == arrived:
                    self.counters["probe_lost"] += 1
                    said = "the broker delivers nothing: a message to ourselves did not come back in time"
                    raise OSError(errno.EPROTO, said) from error
            self._probes += 1
            await asyncio.sleep(PROBE_EACH_S)

    # -- reading ----------------------------------------------------------------------------------------------

    def _message(self, connection: Connection, message: Message) -> None:
        """A whole PUBLISH."""
        self._arrived += 1
        future = self._take(message.topic, message.payload, message.retain)
        dealt_with = self._dealt_with
        if not dealt_with:
            self._to_acknowledge.set()
        dealt_with.append((future, message.mid, message.qos))
        if len(dealt_with) >= UNDER_WAY and not connection.paused:
            self.counters["paced"] += 1
            connection.pause()

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
            if group.presence(topic, payload, asyncio.get_running_loop().time()):
                if topic == group.my_presence:
                    self._members_known.set()
                return self._nothing_to_do()
            if topic == group.counter_topic:
                if (counter := group.counter(payload)) is not None:
                    self._counter_share.heard(counter)
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

    async def _acknowledge(self, connection: Connection) -> None:
        """In the order of arrival. A frame that found no room is acknowledged too: its device keeps it and repeats it,
        while withholding would let routine frames fill the window in front of alarms."""
        waiting = self._dealt_with
        while True:
            self._to_acknowledge.clear()
            if not waiting:
                await self._to_acknowledge.wait()
            await asyncio.shield(waiting[0][0])
            together = []
            while waiting and waiting[0][0].done():
                _, message_id, qos = waiting.popleft()
                together.append((message_id, qos))
            connection.acknowledge(together)
            if connection.paused and len(waiting) < UNDER_WAY // 2:
                connection.go_on()

    # -- down -------------------------------------------------------------------------------------------------

    def proven(self, device_id: int) -> None:
        """The broker serves its clients."""

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Publish to the device's topic; True when the broker has it."""
        return await self._publish(topics.down(device_id), frame)

    async def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            await connection.publish(topic, payload, retain=retain)
        except OSError:
            self.counters["send_failed"] += 1
            return False
        return True
