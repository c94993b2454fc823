"""The serial link: a home unit on a port, or a pty. Datagrams framed by emwire.framing, no thread, no polling."""

import asyncio
import errno
import os
import struct
from collections import Counter

import serial
from emwire.errors import WireError
from emwire.framing import StreamDecoder, encode_stream

from emgate.config import SerialSection
from emgate.links import Received

READ_BYTES = 4096  # what the kernel's tty buffer holds at most
WRITE_BYTES = 16384
"""Waiting to be written at most; 1.4 s at 115200 baud. A device that reads slower hears it again after it has asked."""
UNDER_WAY = 256
"""Frames waiting for their commit at which reading stops: two groups of the store and a half."""


class SerialLink:
    """A Link (see emgate.links) on one port. Any number of devices may share it: each datagram names its own."""

    kind = "serial"

    def __init__(self, section: SerialSection, received: Received) -> None:
        self.name = f"serial:{section.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._section = section
        self._received = received
        self._descriptor = -1
        self._lost: asyncio.Future[None] | None = None
        self._decoder = StreamDecoder()
        self._outgoing = bytearray()
        self._under_way = 0
        self._reading = False

    async def run(self) -> None:
        """Open the port for us alone and move frames until it vanishes (OSError) or the task is cancelled."""
        port = await asyncio.to_thread(self._open)
        loop = asyncio.get_running_loop()
        self._descriptor = port.fileno()
        self._lost = loop.create_future()
        self._decoder.reset()
        self._outgoing.clear()
        self._read_on()
        self.up.set()
        try:
            await self._lost
        finally:
            self.up.clear()
            loop.remove_reader(self._descriptor)
            loop.remove_writer(self._descriptor)
            self._reading = False
            self._descriptor = -1
            self._count_damage()
            port.close()

    def _open(self) -> serial.Serial:
        # pyserial sets raw mode, speed and the lock while opening, before anything is read; and never again, because
        # changing a tty's mode later loses what the peer has already written.
        try:
            port = serial.Serial(
                self._section.port, self._section.baud_rate, timeout=0, write_timeout=0, exclusive=True
            )
        except serial.SerialException as error:
            if error.errno == errno.EWOULDBLOCK:
                raise OSError(error.errno, "the port is in use by another program") from None
            raise OSError(error.errno or 0, os.strerror(error.errno) if error.errno else str(error)) from None
        os.set_blocking(port.fileno(), False)
        return port

    # -- up ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._lose(OSError("the port was closed from the other side"))
            return
        self.counters["bytes"] += len(data)
        for datagram in self._decoder.feed(data):
            if len(datagram) < 5:  # the device's number and at least one byte
                self.counters["short_datagram"] += 1
                continue
            (device_id,) = struct.unpack_from("<I", datagram)
            self._under_way += 1
            self._received(self, device_id, datagram[4:]).add_done_callback(self._dealt_with)
        self._count_damage()
        if self._under_way >= UNDER_WAY and self._reading:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._reading = False

    def _dealt_with(self, _: "asyncio.Future[bool]") -> None:
        self._under_way -= 1
        if self._under_way < UNDER_WAY // 2:
            self._read_on()

    def _read_on(self) -> None:
        if self._descriptor >= 0 and not self._reading:
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)
            self._reading = True

    def _count_damage(self) -> None:
        for name, value in (("damaged", self._decoder.damaged), ("oversize", self._decoder.oversize)):
            if value:
                self.counters[name] = value

    def _lose(self, error: OSError) -> None:
        if self._descriptor >= 0 and self._reading:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._reading = False
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(error)

    # -- down -------------------------------------------------------------------------------------------------

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Queue one datagram for the port; False when it is away, or too much is waiting already."""
        if self._descriptor < 0:
            return False
        try:
            data = encode_stream(struct.pack("<I", device_id) + frame)
        except WireError:
            self.counters["send_too_long"] += 1
            return False
        if len(self._outgoing) + len(data) > WRITE_BYTES:
            self.counters["send_queue_full"] += 1
            return False
        if not self._outgoing:
            asyncio.get_running_loop().add_writer(self._descriptor, self._writable)
        self._outgoing += data
        return True

    def _writable(self) -> None:
        try:
            written = os.write(self._descriptor, self._outgoing)
        except BlockingIOError:
            return
        except OSError as error:
            self._outgoing.clear()
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._lose(error)
            return
        del self._outgoing[:written]
        if not self._outgoing:
            asyncio.get_running_loop().remove_writer(self._descriptor)
