"""Makes captures: packets of TCP and MQTT, pcap and pcapng files, and a tap between MQTT clients and their broker."""

import asyncio
import contextlib
import itertools
import struct
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

SYN, FIN, ACK, PSH = 2, 1, 16, 8
RAW_IP = 101


def tcp(
    source: tuple[str, int],
    destination: tuple[str, int],
    sequence: int,
    flags: int,
    data: bytes = b"",
    acknowledged: int = 0,
) -> bytes:
    """An IPv4 packet; checksums are left to the network card, as on loopback."""
    segment = struct.pack(
        ">HHIIBBHHH", source[1], destination[1], sequence & 0xFFFFFFFF, acknowledged, 5 << 4, flags, 65535, 0, 0
    )
    addresses = bytes(int(part) for address in (source[0], destination[0]) for part in address.split("."))
    return struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0x4000, 64, 6, 0) + addresses + segment + data


def pcap(packets: Iterable[tuple[int, bytes]], link_type: int = RAW_IP, order: str = "<", nano: bool = False) -> bytes:
    """A pcap file of (microseconds, packet)."""
    magic, scale = (0xA1B23C4D, 1000) if nano else (0xA1B2C3D4, 1)
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    for time_us, data in packets:
        seconds, fraction = divmod(time_us, 1_000_000)
        out += struct.pack(order + "IIII", seconds, fraction * scale, len(data), len(data)) + data
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def pcapng(
    packets: Iterable[tuple[int, bytes]], link_type: int = RAW_IP, order: str = "<", nano: bool = False
) -> bytes:
    """A pcapng file of the same, with a block that nobody has to know."""
    out = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    options = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0) if nano else b""
    out += block(1, struct.pack(order + "HHI", link_type, 0, 0) + options, order)
    out += block(0x0BAD, b"whatever", order)
    for time_us, data in packets:
        units = time_us * (1000 if nano else 1)
        head = struct.pack(order + "IIIII", 0, units >> 32, units & 0xFFFFFFFF, len(data), len(data))
        out += block(6, head + data, order)
    return out


def length(size: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (128 if size else 0))
        if not size:
            return bytes(out)


def connect(level: int = 4) -> bytes:
    body = b"\0\4MQTT" + bytes([level, 2, 0, 60]) + (b"\0" if level == 5 else b"") + b"\0\1x"
    return b"\x10" + length(len(body)) + body


def publish(topic: str, payload: bytes, quality: int = 1, properties: bytes | None = None) -> bytes:
    body = struct.pack(">H", len(topic)) + topic.encode() + (b"\0\7" if quality else b"")
    if properties is not None:
        body += length(len(properties)) + properties
    return bytes([0x30 | quality << 1]) + length(len(body) + len(payload)) + body + payload


class Conversation:
    """Packets of one TCP connection."""

    def __init__(
        self, client: tuple[str, int] = ("127.0.0.1", 40000), server: tuple[str, int] = ("127.0.0.1", 1883)
    ) -> None:
        self.ends = (client, server)
        self.next = [1000, 0xFFFFFF00]  # the server's numbers wrap soon
        self.packets: list[bytes] = []
        for end in (0, 1):
            self._add(end, SYN | (ACK if end else 0), b"")
            self.next[end] += 1

    def _add(self, end: int, flags: int, data: bytes) -> bytes:
        packet = tcp(self.ends[end], self.ends[1 - end], self.next[end], flags, data, self.next[1 - end] & 0xFFFFFFFF)
        self.packets.append(packet)
        self.next[end] += len(data)
        return packet

    def up(self, data: bytes) -> bytes:
        return self._add(0, ACK | PSH, data)

    def down(self, data: bytes) -> bytes:
        return self._add(1, ACK | PSH, data)

    def end(self) -> None:
        for end in (0, 1):
            self._add(end, FIN | ACK, b"")

    def file(self) -> bytes:
        return pcap((1_800_000_000_000_000 + index, packet) for index, packet in enumerate(self.packets))


class Tap:
    """A TCP proxy in front of a broker that keeps what passes as packets, in segments of at most 1,000 bytes."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._clients = itertools.count(40001)
        self.port = 0
        self.packets: list[tuple[int, bytes]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Tap"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            server.close_clients() if hasattr(server, "close_clients") else None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._broker_port)
        talk = Conversation(("127.0.0.1", next(self._clients)), ("127.0.0.1", self.port))
        self._keep(talk)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, end: int) -> None:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                while data := await source.read(4096):
                    for start in range(0, len(data), 1000):
                        (talk.down if end else talk.up)(data[start : start + 1000])
                    self._keep(talk)
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back, 0), pump(there, writer, 1))
        talk.end()
        self._keep(talk)

    def _keep(self, talk: Conversation) -> None:
        now_us = time.time_ns() // 1000
        self.packets += [(now_us, packet) for packet in talk.packets]
        talk.packets.clear()

    def write(self, path: Path) -> Path:
        path.write_bytes(pcap(self.packets))
        return path
