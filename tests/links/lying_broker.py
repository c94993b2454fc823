"""An MQTT broker of a few lines that lies in the ways it is told to, by 3.1.1 or 5 as each client wants. No library.

Honest it does what the gateway's link and one device need: CONNECT, SUBSCRIBE, PUBLISH of QoS 0 and 1 to exact topics
and a trailing +, PING.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP = 1, 2, 3, 4, 8, 9, 12, 13
PROPERTIES = {"3.1.1": b"", "5": b"\0"}
"""What MQTT 5 has where this broker says nothing more (MQTT 5 §2.2.2)."""


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    size, length = b"", len(body)
    while True:
        length, seven = divmod(length, 128)
        size += bytes([seven | (0x80 if length else 0)])
        if not length:
            return bytes([kind << 4 | flags]) + size + body


def publish(topic: str, payload: bytes, identifier: int = 0, retain: bool = False, protocol: str = "3.1.1") -> bytes:
    name = topic.encode()
    head = struct.pack(">H", len(name)) + name + (struct.pack(">H", identifier) if identifier else b"")
    return packet(PUBLISH, head + PROPERTIES[protocol] + payload, (2 if identifier else 0) | retain)


def matches(wanted: str, topic: str) -> bool:
    """Exact, or with a + at the end; of a shared subscription to anybody."""
    wanted = wanted.split("/", 2)[2] if wanted.startswith("$share/") else wanted
    return wanted == topic or (wanted.endswith("/+") and topic.rpartition("/")[0] == wanted[:-2])


class LyingBroker:
    """Everything it should lie about is an attribute."""

    def __init__(self) -> None:
        self.port = 0
        self.delivers = True  # False: takes subscriptions, delivers nothing
        self.late_probes = False  # what a gateway sends itself waits behind a backlog that never ends
        self.forgets = 0  # so many PUBLISHes are acknowledged and forgotten
        self.twice = False  # delivers everything twice
        self.cuts = 0  # so many times: ends in the middle of a packet to a subscriber
        self.silent_subscribe = False
        self.on_subscribe: list[bytes] = []  # sent behind a SUBACK of an up filter
        self.retained: dict[str, bytes] = {}  # what it kept, by topic
        self.connections = 0
        self.acknowledged: list[int] = []
        self._subscribers: list[tuple[str, asyncio.StreamWriter]] = []
        self._protocols: dict[asyncio.StreamWriter, str] = {}
        self._identifier = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._packet(*await self._read(reader), writer)
        self._subscribers = [each for each in self._subscribers if each[1] is not writer]
        self._protocols.pop(writer, None)
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
        (first,) = await reader.readexactly(1)
        size = shift = 0
        while True:
            (seven,) = await reader.readexactly(1)
            size |= (seven & 0x7F) << shift
            shift += 7
            if not seven & 0x80:
                return first >> 4, first & 15, await reader.readexactly(size)

    async def _packet(self, kind: int, flags: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == CONNECT:
            self._protocols[writer] = "5" if body[6] == 5 else "3.1.1"
        properties = PROPERTIES[self._protocols[writer]]
        if kind == CONNECT:
            writer.write(packet(CONNACK, b"\0\0" + properties))
        elif kind == PINGREQ:
            writer.write(packet(PINGRESP, b""))
        elif kind == SUBSCRIBE:
            at = 2 + (1 + body[2] if properties else 0)
            topic = body[at + 2 : at + 2 + struct.unpack_from(">H", body, at)[0]].decode()
            if self.silent_subscribe:
                return
            self._subscribers.append((topic, writer))
            writer.write(packet(SUBACK, body[:2] + properties + b"\1"))
            for name, payload in self.retained.items():
                if matches(topic, name):
                    writer.write(publish(name, payload, retain=True, protocol=self._protocols[writer]))
            if topic.startswith("emtag/v1/up/"):
                for each in self.on_subscribe:
                    writer.write(each)
        elif kind == PUBACK:
            self.acknowledged.append(struct.unpack_from(">H", body)[0])
        elif kind == PUBLISH:
            length = struct.unpack_from(">H", body)[0]
            topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
            if flags & 6:
                writer.write(packet(PUBACK, rest[:2]))
                rest = rest[2:]
            if properties:
                rest = rest[1 + rest[0] :]
            self.give(topic, rest)

    def give(self, topic: str, payload: bytes) -> None:
        """Deliver, as far as it feels like it."""
        if not self.delivers or (self.late_probes and topic.endswith("/probe")):
            return
        up = topic.startswith("emtag/v1/up/")
        if up and self.forgets:
            self.forgets -= 1
            return
        for wanted, writer in self._subscribers:
            if matches(wanted, topic):
                for _ in range(2 if self.twice else 1):
                    self._identifier = self._identifier % 65_535 + 1
                    data = publish(topic, payload, self._identifier, protocol=self._protocols[writer])
                    if up and self.cuts:
                        self.cuts -= 1
                        writer.write(data[: len(data) // 2])
                        writer.close()
                        break
                    writer.write(data)


@contextlib.asynccontextmanager
async def lying_broker() -> AsyncIterator[LyingBroker]:
    broker = LyingBroker()
    server = await asyncio.start_server(broker._serve, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
