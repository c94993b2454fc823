"""Listens at the boundary of every device, on each transport: the sealed frames that go up and that come down.

What a tap hears is what really left or reached a device, so a test can hold gateway and firmware to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from emgate.keys.sealing import Ccm
from emwire import codec, constants, envelope
from emwire.errors import WireError
from emwire.fragments import Reassembler
from emwire.framing import StreamDecoder

from emrig.micropython import ble_wire
from emrig.micropython import rig_wire as w
from emrig.station import Station
from emrig.target import Device, Part

_SUBSCRIBED = re.compile(rb'\+SMSUB: "[^"]*","([0-9A-F]*)"')
_PUBLISH = re.compile(rb'AT\+SMPUB="[^"]*",(\d+),')


@dataclass(slots=True)
class Heard:
    """Of one device: frames up by header (a header seen twice must carry the same bytes), and what it was told."""

    device_id: int
    up: dict[bytes, bytes] = field(default_factory=dict)
    down: dict[bytes, bytes] = field(default_factory=dict)
    reused_nonces: list[bytes] = field(default_factory=list)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    """(epoch, sequence) of every record that an acknowledgement called stored."""


class Tap:
    """Wraps the parts of a device; heard is filled from then on. Call before the device is started."""

    def __init__(self, station: Station, name: str) -> None:
        self.device: Device = station.rig.devices[name]
        self.heard = Heard(station.device(name).device_id)
        self.aeads = {0: Ccm(station.key(name))}
        """By key slot; more may be added as keys change."""
        self._epoch: int | None = None
        self._streams = {direction: StreamDecoder() for direction in ("up", "down")}
        self._fragments = {direction: Reassembler() for direction in ("up", "down")}
        self._at = {direction: bytearray() for direction in ("up", "down")}
        feed = self.device.feed

        def tapped_feed(channel: str, kind: int, payload: bytes) -> None:
            self._input(channel, kind, payload)
            feed(channel, kind, payload)

        self.device.feed = tapped_feed  # type: ignore[method-assign]
        for channel in ("host", "modem", "ble"):
            if channel in self.device.parts:
                self.device.parts[channel] = _TappedPart(self.device.parts[channel], self._output, channel)

    def _output(self, channel: str, operation: int, payload: bytes) -> None:
        if channel == "host":
            for datagram in self._streams["up"].feed(payload):
                self._frame("up", datagram[4:])
        elif channel == "modem":
            self._published(payload)
        elif operation == ble_wire.CALL_NOTIFY:
            self._fragment("up", payload[struct.calcsize(ble_wire.VALUE_TO) :])

    def _input(self, channel: str, kind: int, payload: bytes) -> None:
        if channel == "host" and kind == w.DATA:
            for datagram in self._streams["down"].feed(payload):
                self._frame("down", datagram[4:])
        elif channel == "modem" and kind == w.DATA:
            buffer = self._at["down"]
            buffer += payload
            for match in _SUBSCRIBED.finditer(bytes(buffer)):
                self._frame("down", bytes.fromhex(match[1].decode()))
            del buffer[: buffer.rfind(b"\r\n") + 1]
        elif channel == "ble" and kind == w.NOTIFY and payload[0] == ble_wire.IRQ_GATTS_WRITE:
            self._fragment("down", payload[1 + struct.calcsize(ble_wire.WRITE) :])

    def _published(self, payload: bytes) -> None:
        buffer = self._at["up"]
        buffer += payload
        while match := _PUBLISH.search(buffer):
            end = buffer.find(b"\r", match.end())
            length = int(match[1])
            if end < 0 or len(buffer) < end + 1 + length:
                return
            self._frame("up", bytes(buffer[end + 1 : end + 1 + length]))
            del buffer[: end + 1 + length]
        if not buffer.startswith(b"AT"):
            buffer.clear()

    def _fragment(self, direction: str, fragment: bytes) -> None:
        try:
            datagram = self._fragments[direction].feed(fragment)
        except WireError:
            return
        if datagram is not None:
            self._frame(direction, datagram[4:])

    def _frame(self, direction: str, frame: bytes) -> None:
        try:
            aead = self.aeads[envelope.key_slot(envelope.parse_header(frame)[0])]
            _, epoch, _, plaintext = envelope.open_frame(
                aead, self.heard.device_id, frame, self._epoch if direction == "down" else None
            )
        except (WireError, KeyError):
            return
        if direction == "up" and (self._epoch is None or epoch > self._epoch):
            # Down frames are bound to the present boot, which the device's own frames tell.
            self._epoch = epoch
        seen = self.heard.up if direction == "up" else self.heard.down
        head = frame[:6] if direction == "up" else frame[:6] + epoch.to_bytes(2, "little")
        if seen.setdefault(head, frame) != frame:
            self.heard.reused_nonces.append(head)
        if direction == "up":
            return
        message = codec.decode(plaintext)
        if plaintext[0] == constants.MESSAGE_ACKNOWLEDGEMENT:
            assert isinstance(message, codec.Acknowledgement)
            of = message.acknowledged_epoch
            self.heard.acknowledged |= {(of, sequence) for sequence in range(message.stored_through)}
            for first, last in message.ranges:
                self.heard.acknowledged |= {(of, sequence) for sequence in range(first, last + 1)}


class _TappedPart:
    def __init__(self, part: Part, tell: Callable[[str, int, bytes], None], channel: str) -> None:
        self._part, self._tell, self._channel = part, tell, channel

    def output(self, kind: int, payload: bytes) -> None:
        self._tell(self._channel, kind, payload)
        self._part.output(kind, payload)

    def call(self, operation: int, argument: bytes) -> bytes:
        self._tell(self._channel, operation, argument)
        return self._part.call(operation, argument)
