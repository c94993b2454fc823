"""MQTT 3.1, 3.1.1 and 5 in one direction of a captured connection: what was published. Bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from emgate.captures.pcap_file import CaptureError

# A publish of this protocol is about 1.1 KB, a batch to the backend up to some 100 KB; longer ones are passed over.
MAXIMUM_PACKET = 1 << 20

_CONNECT, _PUBLISH = 1, 3
_PROTOCOL_NAMES = (b"\x00\x04MQTT", b"\x00\x06MQIsdp")


class Publish(NamedTuple):
    """One PUBLISH."""

    topic: str
    payload: bytes
    duplicate: bool
    offset: int  # of the packet in the stream


class MqttStream:
    """Parses the control packets of one direction."""

    def __init__(self, counters: Counter[str], level: int = 4) -> None:
        self.level = level  # of the protocol: 3 is 3.1, 4 is 3.1.1, 5 is 5; a CONNECT says it
        self._counters = counters
        self._buffer = bytearray()
        self._offset = 0  # of the buffer's first byte in the stream
        self._skip = 0  # bytes still to come of a packet that is passed over

    def restart(self, offset: int) -> None:
        """Begin anew at this offset of the stream, after a hole or a fault."""
        self._buffer.clear()
        self._offset = offset
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Publish]:
        """What was published by the packets that became complete; CaptureError at the packet that is none."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self._offset += passed
            data = data[passed:]
        self._buffer += data
        start = 0
        try:
            while True:
                sizes = self._length(start)
                if sizes is None:
                    return
                head, size = sizes
                if size > MAXIMUM_PACKET:
                    self._counters["MQTT packets too long"] += 1
                    rest = head + size - (len(self._buffer) - start)
                    if rest > 0:
                        self._skip = rest
                        start = len(self._buffer)
                        return
                elif start + head + size > len(self._buffer):
                    return
                else:
                    body = bytes(self._buffer[start + head : start + head + size])
                    if publish := self._packet(self._buffer[start], body, self._offset + start, head):
                        yield publish
                start += head + size
        finally:
            del self._buffer[:start]
            self._offset += start

    @property
    def unfinished(self) -> int:
        """Bytes of a packet that has not ended."""
        return len(self._buffer) + self._skip

    @property
    def position(self) -> int:
        """Offset in the stream up to which it was fed."""
        return self._offset + len(self._buffer)

    def _length(self, start: int) -> tuple[int, int] | None:
        """Size of the fixed header and of what follows; None if it is not whole yet."""
        size = 0
        for index in range(4):
            if start + 1 + index >= len(self._buffer):
                return None
            byte = self._buffer[start + 1 + index]
            size |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return 2 + index, size
        raise CaptureError("length", self._offset + start + 1, "mqtt")

    def _packet(self, first: int, body: bytes, offset: int, head: int) -> Publish | None:
        kind, flags = first >> 4, first & 15
        if kind == 0:
            raise CaptureError("type", offset, "mqtt")
        if kind == _CONNECT:
            name = next((name for name in _PROTOCOL_NAMES if body.startswith(name)), None)
            if name is None or len(body) <= len(name):
                raise CaptureError("connect", offset + head, "mqtt")
            self.level = body[len(name)]
        if kind != _PUBLISH:
            return None
        quality = flags >> 1 & 3
        if quality == 3:
            raise CaptureError("quality", offset, "mqtt")
        end = 2 + int.from_bytes(body[:2], "big")
        topic_end = end
        if quality:
            end += 2
        if len(body) < max(2, end):
            raise CaptureError("truncated", offset + head + len(body), "mqtt")
        try:
            topic = body[2:topic_end].decode()
        except UnicodeDecodeError as error:
            raise CaptureError("topic", offset + head + 2 + error.start, "mqtt") from None
        if self.level == 5:
            end = self._after_properties(body, end, offset + head)
        return Publish(topic, body[end:], bool(flags & 8), offset)

    @staticmethod
    def _after_properties(body: bytes, start: int, offset: int) -> int:
        size = 0
        for index in range(4):
            if start + index >= len(body):
                break
            byte = body[start + index]
            size |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                end = start + index + 1 + size
                if end > len(body):
                    break
                return end
        raise CaptureError("properties", offset + start, "mqtt")


def is_connect(data: bytes) -> bool:
    """Whether a stream that begins so is that of an MQTT client."""
    return data[:1] == b"\x10" and any(name in data[2:12] for name in _PROTOCOL_NAMES)
