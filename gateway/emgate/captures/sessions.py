"""From a capture file to explained frames: pcap (MQTT, or the frames themselves) and raw serial bytes.

A raw serial capture is the bytes as they were on the line, one direction in a file: frames of emwire.framing, each
ending with its zero byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

from emwire import envelope, framing, topics
from emwire.errors import WireError

from emgate.captures import pcap_file
from emgate.captures.frames import OPENED, SEALED, FrameReader, explain_message
from emgate.captures.mqtt_stream import MqttStream, is_connect
from emgate.captures.pcap_file import CaptureError, Packet, read_packets
from emgate.captures.tcp_streams import MAXIMUM_FLOWS, Flow, Piece, TcpStreams

MQTT_PORT = 1883
CHUNK = 1 << 16

# A JSON-able object; time and packet for an opened capture, if it is a frame.
Entry = tuple[dict[str, Any], tuple[int, bytes] | None]


def read_pcap(file: BinaryIO, reader: FrameReader, counters: Counter[str]) -> Iterator[Entry]:
    """Every frame and every fault of a pcap or pcapng file; `counters` tell what else there was."""
    streams, sessions = TcpStreams(counters), _MqttSessions(reader, counters)
    try:
        for packet in read_packets(file):
            if packet.cut:
                yield _fault("truncated", packet.offset, "packet", {"time": _time(packet.time_us)}), None
            if packet.link_type in (pcap_file.USER0, pcap_file.USER1, pcap_file.USER2):
                yield _own_packet(packet, reader)
                continue
            for piece in streams.feed(packet):
                yield from sessions.take(piece)
    except CaptureError as error:
        yield _fault(error.reason, error.offset, error.layer), None
    for piece in streams.finish():
        yield from sessions.take(piece)
    yield from sessions.finish()


def read_serial(file: BinaryIO, reader: FrameReader) -> Iterator[Entry]:
    """Every frame and every fault of a raw serial capture; `fileOffset` is where a frame begins."""
    # A frame too long is kept one byte beyond the limit, where it is refused for that.
    limit = framing.encoded_limit(framing.MAXIMUM_DATAGRAM) + 1
    frame = bytearray()
    begin = position = 0  # in the file: of the frame, of the chunk
    while chunk := file.read(CHUNK):
        start = 0
        while (zero := chunk.find(0, start)) >= 0:
            frame += chunk[start : min(zero, start + limit - len(frame))]
            if frame:
                yield _stream_frame(bytes(frame) + b"\0", reader, {"fileOffset": begin})
            frame.clear()
            start = zero + 1
            begin = position + start
        frame += chunk[start : start + limit - len(frame)]
        position += len(chunk)
    if frame:
        yield _stream_frame(bytes(frame), reader, {"fileOffset": begin})


def _own_packet(packet: Packet, reader: FrameReader) -> Entry:
    where = {"time": _time(packet.time_us)}
    data = packet.data
    if packet.link_type == pcap_file.USER2:
        told, opened = _stream_frame(data, reader, where)
    elif packet.link_type == pcap_file.USER1:
        told, opened = _datagram(data, reader, {**where, "form": "datagram"})
    elif not data or data[0] not in (OPENED, SEALED):
        return _fault("form", 0, "packet", where), None
    elif data[0] == SEALED:
        told, opened = _datagram(data[1:], reader, {**where, "form": "datagram"})
    else:
        told, opened = _opened(data, where)
    return told, opened and (packet.time_us, opened[1])


def _opened(data: bytes, where: dict[str, Any]) -> Entry:
    """A packet of an opened capture."""
    size = 5 + envelope.HEADER_SIZE
    if len(data) < size:
        return _fault("truncated", len(data), "packet", where), None
    # The header is judged as that of a frame, whose tag is no longer there.
    told, _ = FrameReader(lambda _: ()).read(
        int.from_bytes(data[1:5], "little"), data[5:size] + bytes(envelope.TAG_SIZE)
    )
    told = {**where, **told, "form": "opened"}
    told.pop("sealedBytes", None)
    if "error" not in told:
        explain_message(data[size:], told)
    return told, (0, data)


def _stream_frame(frame: bytes, reader: FrameReader, where: dict[str, Any]) -> Entry:
    where = {**where, "form": "stream"}
    try:
        datagram = framing.decode_stream(frame)
    except WireError as error:
        return _fault(error.reason, error.offset, "stream", where), None
    return _datagram(datagram, reader, where)


def _datagram(datagram: bytes, reader: FrameReader, where: dict[str, Any]) -> Entry:
    if len(datagram) < 4:
        return _fault("truncated", len(datagram), "datagram", where), None
    told, opened = reader.read(int.from_bytes(datagram[:4], "little"), datagram[4:])
    return {**told, **where}, (0, opened)


class _MqttSessions:
    """The MQTT connections among the flows of a capture."""

    def __init__(self, reader: FrameReader, counters: Counter[str]) -> None:
        self._reader = reader
        self._counters = counters
        self._streams: dict[Flow, MqttStream | None] = {}  # None: not MQTT

    def take(self, piece: Piece) -> Iterator[Entry]:
        """Frames and faults of a piece."""
        flow = piece.flow
        if piece.kind == "begin":
            self._streams.pop(flow, None)
            return
        if flow not in self._streams:
            if len(self._streams) >= MAXIMUM_FLOWS:
                self._streams.pop(next(iter(self._streams)))
            self._streams[flow] = self._recognised(piece)
        stream = self._streams[flow]
        if stream is None:
            self._counters["TCP segments that are not MQTT"] += 1
            return
        where = _where(piece)
        if piece.kind == "gap":
            yield _fault("gap", piece.offset, "tcp", where), None
            stream.restart(piece.offset)
            return
        if stream.position != piece.offset:
            stream.restart(piece.offset)
        try:
            for publish in stream.feed(piece.data):
                try:
                    direction, device_id = topics.parse(publish.topic)
                except WireError:
                    self._counters["other publishes"] += 1
                    continue
                told, opened = self._reader.read(device_id, publish.payload)
                if "error" not in told and told["direction"] != ("down" if direction else "up"):
                    told.update(error="direction", offset=0, layer="topic")
                yield {**where, "topic": publish.topic, "duplicate": publish.duplicate, **told}, (piece.time_us, opened)
        except CaptureError as error:
            yield _fault(error.reason, error.offset, error.layer, where), None
            # The next segment may begin with a packet again.
            stream.restart(piece.offset + len(piece.data))

    def finish(self) -> Iterator[Entry]:
        """Faults of what has no end."""
        for flow, stream in self._streams.items():
            if stream and stream.unfinished:
                where = {"source": flow.source, "destination": flow.destination}
                yield _fault("truncated", stream.position, "mqtt", where), None

    def _recognised(self, piece: Piece) -> MqttStream | None:
        """A parser if the connection is MQTT: it begins with CONNECT, or uses MQTT's port."""
        other = self._streams.get(piece.flow.reverse())
        if other is not None:
            return MqttStream(self._counters, other.level)
        ports = [int(name.rpartition(":")[2]) for name in piece.flow]
        return MqttStream(self._counters) if is_connect(piece.data) or MQTT_PORT in ports else None


def _where(piece: Piece) -> dict[str, Any]:
    return {"time": _time(piece.time_us), "source": piece.flow.source, "destination": piece.flow.destination}


def _time(time_us: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(time_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


def _fault(reason: str, offset: int, layer: str, where: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(where or {}), "error": reason, "offset": offset, "layer": layer}
