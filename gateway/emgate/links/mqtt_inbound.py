"""What an MQTT broker has sent and nobody has looked at yet: messages are taken out here, other packets by paho."""

import errno
from collections.abc import Iterator
from typing import NamedTuple

_PUBLISH = 3


class Message(NamedTuple):
    """A PUBLISH of QoS 0 or 1."""

    topic: str
    payload: bytes
    retain: bool
    mid: int
    qos: int


class Inbound:
    """The bytes of one connection."""

    def __init__(self, version5: bool) -> None:
        self.open = True
        self._version5 = version5
        self._buffer = b""
        self._at = 0
        self._error: OSError | None = None

    def put(self, data: bytes) -> None:
        """What the socket gave; nothing means that the broker has closed the connection."""
        if not data:
            self.open = False
        else:
            self._buffer = self._buffer[self._at :] + data
            self._at = 0

    def broken(self, error: OSError) -> None:
        """The socket gave an error; it is told behind what came before it."""
        self.open = False
        self._error = error

    @property
    def ready(self) -> bool:
        """There is something to take, if only the end."""
        return self._at < len(self._buffer) or not self.open

    @property
    def at_message(self) -> bool:
        """The next packet is one for message()."""
        if self._at == len(self._buffer):
            return False
        first = self._buffer[self._at]
        return first >> 4 == _PUBLISH and first & 6 <= 2

    def take(self, bufsize: int) -> bytes:
        """As a non-blocking socket's recv."""
        if self._at == len(self._buffer):
            if self.open:
                raise BlockingIOError
            if self._error is not None:
                raise self._error
            return b""
        data = self._buffer[self._at : self._at + bufsize]
        self._at += len(data)
        return data

    def announced(self) -> int:
        """How long the next packet says it is; 0 while that is not known."""
        found = self._length(self._at + 1)
        return found[0] if found is not None else 0

    def message(self) -> Message | None:
        """The next packet, at_message; None until it has come whole. OSError when it is none."""
        for message in self.messages():
            return message
        if not self.open:
            raise OSError(errno.ECONNRESET, "the broker closed the connection within a packet")
        return None

    def messages(self, longest: int = 1 << 28) -> Iterator[Message]:
        """What has come whole, up to a packet for others or one that is longer. OSError when one is no packet."""
        buffer, version5 = self._buffer, self._version5
        until = len(buffer)
        while self._at < until:
            first = buffer[self._at]
            if first >> 4 != _PUBLISH or first & 6 > 2:
                return
            found = self._length(self._at + 1)
            if found is None:
                return
            length, at = found
            end = at + length
            if end > until or length > longest:
                return
            topic_end = at + 2 + int.from_bytes(buffer[at : at + 2], "big")
            qos = first >> 1 & 3
            body, mid = topic_end, 0
            if qos:
                body = topic_end + 2
                mid = int.from_bytes(buffer[topic_end:body], "big")
            if version5 and buffer[body : body + 1] != b"\0":
                properties = self._length(body)
                if properties is None:
                    raise OSError(errno.EPROTO, "the broker sent a malformed message")
                body = properties[0] + properties[1]
            elif version5:
                body += 1
            if body > end or (qos and mid == 0):
                raise OSError(errno.EPROTO, "the broker sent a malformed message")
            message = Message(buffer[at + 2 : topic_end].decode(), buffer[body:end], first & 1 == 1, mid, qos)
            self._at = end
            yield message

    def _length(self, at: int) -> tuple[int, int] | None:
        """A variable byte integer and where it ends; None while it is not whole. OSError: it never will be."""
        buffer = self._buffer
        if at < len(buffer) and buffer[at] < 0x80:  # nearly always
            return buffer[at], at + 1
        value = shift = 0
        for index in range(at, min(at + 4, len(buffer))):
            digit = buffer[index]
            value |= (digit & 0x7F) << shift
            if not digit & 0x80:
                return value, index + 1
            shift += 7
        if len(buffer) >= at + 4:
            raise OSError(errno.EPROTO, "the broker sent a packet without a length")
        return None
