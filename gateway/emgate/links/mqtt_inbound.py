"""What an MQTT broker has sent and nobody has looked at yet: messages are taken out here, other packets by paho."""

import errno
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
        self._buffer = bytearray()
        self._at = 0
        self._error: OSError | None = None

    def put(self, data: bytes) -> None:
        """What the socket gave; nothing means that the broker has closed the connection."""
        if not data:
            self.open = False
        elif self._at == len(self._buffer):
            self._buffer, self._at = bytearray(data), 0
        else:
            del self._buffer[: self._at]
            self._at = 0
            self._buffer += data

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
        data = bytes(self._buffer[self._at : self._at + bufsize])
        self._at += len(data)
        return data

    def announced(self) -> int:
        """How long the next packet says it is; 0 while that is not known."""
        found = self._length(self._at + 1)
        return found[0] if found is not None else 0

    def message(self) -> Message | None:
        """The next packet, at_message; None until it has come whole. OSError when it is none."""
        buffer = self._buffer
        found = self._length(self._at + 1)
        if found is None or sum(found) > len(buffer):
            if not self.open:
                raise OSError(errno.ECONNRESET, "the broker closed the connection within a packet")
            return None
        length, at = found
        end = at + length
        first = buffer[self._at]
        qos = first >> 1 & 3
        topic_end = at + 2 + int.from_bytes(buffer[at : at + 2], "big")
        body = topic_end + 2 if qos else topic_end
        mid = int.from_bytes(buffer[topic_end:body], "big")
        if self._version5:
            properties = self._length(body)
            if properties is None:
                raise OSError(errno.EPROTO, "the broker sent a malformed message")
            body = properties[0] + properties[1]
        if body > end or (qos and mid == 0):
            raise OSError(errno.EPROTO, "the broker sent a malformed message")
        topic = buffer[at + 2 : topic_end].decode()
        message = Message(topic, bytes(buffer[body:end]), bool(first & 1), mid, qos)
        self._at = end
        return message

    def _length(self, at: int) -> tuple[int, int] | None:
        """A variable byte integer and where it ends; None while it is not whole. OSError: it never will be."""
        value = shift = 0
        for index in range(at, min(at + 4, len(self._buffer))):
            digit = self._buffer[index]
            value |= (digit & 0x7F) << shift
            if not digit & 0x80:
                return value, index + 1
            shift += 7
        if len(self._buffer) >= at + 4:
            raise OSError(errno.EPROTO, "the broker sent a packet without a length")
        return None
