"""Where a host in another process finds its controller: HCI (H4) over a unix socket, a fresh one per connection."""

import asyncio
import logging
import os
import tempfile
from pathlib import Path

from bumble import core, hci
from bumble.transport.common import PacketParser, StreamPacketSink

from emrig.air.air import GATEWAY, Air
from emrig.air.controller import AirController

logger = logging.getLogger(__name__)

# sockaddr_un holds 108 bytes with the final zero on Linux, 104 on macOS (unix(7)).
MAXIMUM_PATH = 103


class _Attachment(asyncio.Protocol):
    """One connected host and its controller."""

    def __init__(self, server: "HciServer") -> None:
        self._server = server
        self._controller: AirController | None = None
        self._parser = PacketParser()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._controller = self._server.attach(self)
        self._controller.host = StreamPacketSink(transport)
        self._parser.set_packet_sink(self._controller)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except core.InvalidPacketError:
            logger.warning("%s: not HCI; closing", self._server.path)
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.detach()

    def detach(self) -> None:
        """The host is gone: its radio falls silent, and peers see the connection time out."""
        controller, self._controller = self._controller, None
        if controller is not None:
            controller.host = None
            controller.silence(hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
            controller.air_link.remove_controller(controller)
            self._server.detached(self)


class HciServer:
    """Listens at `path`; the transport string for a host is `unix:<path>`. One host at a time: the latest wins.

    A path too long for a socket is replaced by one in a temporary folder: read `path` again."""

    def __init__(self, air: Air, path: Path, radio_id: int = GATEWAY) -> None:
        self.air = air
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if len(os.fsencode(path)) > MAXIMUM_PATH:
            self._folder = tempfile.TemporaryDirectory(prefix="emtag-")
            path = Path(self._folder.name) / "hci"
        self.path = path
        self.radio_id = radio_id
        self.attached = asyncio.Event()
        self.detached_event = asyncio.Event()
        self.detached_event.set()
        self.attachments = 0
        self._current: _Attachment | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Attachment(self), str(self.path))

    async def close(self) -> None:
        """Stop listening and drop the host."""
        self.drop()
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        if self._folder is not None:
            self._folder.cleanup()

    def drop(self) -> None:
        """Take the adapter away from the host, as if it were unplugged."""
        current = self._current
        if current is not None:
            current.detach()
            if current.transport is not None:
                current.transport.abort()

    def attach(self, attachment: _Attachment) -> AirController:
        """A controller for a new host."""
        self.drop()
        self._current = attachment
        self.attachments += 1
        self.attached.set()
        self.detached_event.clear()
        return AirController(f"adapter {self.radio_id}", self.air.link, self.radio_id)

    def detached(self, attachment: _Attachment) -> None:
        """A host went away."""
        if self._current is attachment:
            self._current = None
            self.attached.clear()
            self.detached_event.set()
