"""An MQTT 3.1.1 connection for measuring programs: a client library would take most of the core that is measured."""

import asyncio
from collections.abc import Callable, Sequence

SLICE = 50  # messages written at a time; the loop gets to read between them


def text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def packet(kind: int, body: bytes) -> bytes:
    length, size = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        size.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(size) + body


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A PUBLISH of QoS 1."""
    return packet(0x32, text(topic.encode()) + packet_id.to_bytes(2, "big") + payload)


class Line(asyncio.Protocol):
    """One connection with a clean session."""

    def __init__(self, take: Callable[[str, bytes], None] | None = None) -> None:
        self.acknowledged = 0  # of publish(): a broker acknowledges in order (MQTT 3.1.1 §4.6)
        self._take = take
        self._buffer = bytearray()
        self._ready = asyncio.Event()
        self._moved = asyncio.Event()
        self._lost = False
        self._packet_id = 0
        self.transport: asyncio.WriteTransport

    @classmethod
    async def open(
        cls, port: int, name: str, filters: Sequence[str] = (), take: Callable[[str, bytes], None] | None = None
    ) -> "Line":
        """Connected, and subscribed with QoS 1."""
        _, line = await asyncio.get_running_loop().create_connection(lambda: cls(take), "127.0.0.1", port)
        line.transport.write(packet(0x10, text(b"MQTT") + bytes([4, 2, 0, 0]) + text(name.encode())))
        await line._ready.wait()
        if filters:
            line._ready.clear()
            line.transport.write(packet(0x82, b"\0\1" + b"".join(text(each.encode()) + b"\1" for each in filters)))
            await line._ready.wait()
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._ready.set()
        self._moved.set()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while True:
            body = at + 1
            length = shift = 0
            while body < len(buffer):
                digit = buffer[body]
                length |= (digit & 0x7F) << shift
                shift += 7
                body += 1
                if not digit & 0x80:
                    break
            else:
                break
            if body + length > len(buffer):
                break
            self._packet(buffer[at], bytes(buffer[body : body + length]))
            at = body + length
        del buffer[:at]

    def _packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 4:
            self.acknowledged += 1
            self._moved.set()
        elif kind == 3:
            size = int.from_bytes(body[:2], "big")
            topic, payload = body[2 : 2 + size].decode(), body[2 + size :]
            if first & 6:
                self.transport.write(b"\x40\x02" + payload[:2])
                payload = payload[2:]
            if self._take is not None:
                self._take(topic, payload)
        elif kind in (2, 9):
            self._ready.set()

    async def publish(self, messages: Sequence[tuple[str, bytes]], window: int) -> None:
        """All of them with QoS 1, at most `window` unacknowledged; returns once the last is acknowledged."""
        first = self.acknowledged
        at = 0
        while self.acknowledged - first < len(messages):
            if self._lost:
                raise ConnectionError("the broker closed the connection")
            while at < len(messages) and at - (self.acknowledged - first) < window:
                packets = []
                for topic, payload in messages[at : at + SLICE]:
                    self._packet_id = self._packet_id % 65535 + 1
                    packets.append(publish_packet(topic, payload, self._packet_id))
                at += len(packets)
                self.transport.write(b"".join(packets))
            self._moved.clear()
            await self._moved.wait()

    def send(self, topic: str, payload: bytes) -> None:
        """One with QoS 1; `acknowledged` counts up when the broker has it."""
        self._packet_id = self._packet_id % 65535 + 1
        self.transport.write(publish_packet(topic, payload, self._packet_id))

    async def all_acknowledged(self, count: int) -> None:
        """Until the broker has acknowledged so many in all."""
        while self.acknowledged < count:
            if self._lost:
                raise ConnectionError("the broker closed the connection")
            self._moved.clear()
            await self._moved.wait()

    def close(self) -> None:
        self.transport.close()
