"""One kept HTTPS connection: the standard library's client in a thread, which a task can give up at any instant.

An asyncio client (aiohttp) would take 9 MB of the 64 that a gateway may, for at most four connections.
"""

import asyncio
import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from typing import TypeVar

Result = TypeVar("Result")

THREAD_S = 600.0
"""At most in one call of the socket; whoever waits for it cuts it long before."""
DROP_THE_REST = struct.pack("ii", 1, 0)  # struct linger of socket(7): on, 0 s
LOOKS = 30
"""At whether anything moves, while silence is waited for: once a second."""
HAPPY_EYEBALLS_S = 0.25  # RFC 8305 §8: until the next address is tried beside the first


@dataclass
class Answer:
    """Of a server. The body only of a 200; None: longer than was allowed."""

    status: int
    reason: str
    location: str | None
    body: bytes | None


class Connection:
    """To one server; for one request at a time."""

    def __init__(self, host: str, port: int, plain: socket.socket, context: ssl.SSLContext, threads: Executor) -> None:
        self.kept = False
        """Whether it may serve another request."""
        self._threads = threads
        self._http = HTTPSConnection(host, port, context=context)
        self._http.auto_open = 0
        self._socket = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        self._http.sock = self._socket

    @classmethod
    async def open(
        cls, host: str, port: int, context: ssl.SSLContext, threads: Executor, *, within_s: float
    ) -> "Connection":
        """Connected, with TLS. OSError; TimeoutError after `within_s`."""
        async with asyncio.timeout(within_s):
            plain = await _reach(host, port)
            plain.settimeout(within_s)
            try:
                made = cls(host, port, plain, context, threads)
            except BaseException:
                plain.close()
                raise
            await made._in_thread(made._socket.do_handshake)
        made._socket.settimeout(THREAD_S)
        made.kept = True
        return made

    @property
    def usable(self) -> bool:
        """Whether the server has left it open: between two answers it has nothing to say but goodbye."""
        if not self.kept:
            return False
        look = select.poll()
        look.register(self._socket, select.POLLIN)
        return not look.poll(0)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], longest: int, silence_s: float) -> Answer:
        """The server's answer. OSError, or HTTPException where it is none; TimeoutError when for `silence_s` nothing
        got there and nothing came: the kernel takes a whole batch at once, and a slow line is busy with it for long."""
        loop = asyncio.get_running_loop()
        moved = self._moved()
        looking: asyncio.TimerHandle

        def look() -> None:
            nonlocal moved, looking
            before, moved = moved, self._moved()
            if moved != before and not silent.expired():
                silent.reschedule(loop.time() + silence_s)
            looking = loop.call_later(silence_s / LOOKS, look)

        looking = loop.call_later(silence_s / LOOKS, look)
        try:
            async with asyncio.timeout(silence_s) as silent:
                return await self._in_thread(lambda: self._post(path, body, headers, longest))
        finally:
            looking.cancel()

    def _moved(self) -> tuple[int, int]:
        """Bytes that the server's machine has acknowledged, and that came from it."""
        with contextlib.suppress(OSError, AttributeError, struct.error):  # closed; not Linux; before 4.1
            information = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
            acknowledged, received = struct.unpack_from("=QQ", information, 120)  # <linux/tcp.h>, struct tcp_info
            return acknowledged, received
        return 0, 0

    def _post(self, path: str, body: bytes, headers: Mapping[str, str], longest: int) -> Answer:
        self.kept = False
        # A server that takes no such body may have said so and closed before the last of it was sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self._http.request("POST", path, body, dict(headers))
        with self._http.getresponse() as response:
            if response.status != 200:
                return Answer(response.status, response.reason, response.getheader("Location"), None)
            return self._whole(response, longest)

    def _whole(self, response: HTTPResponse, longest: int) -> Answer:
        # read() notices when the answer breaks off before its length, read(size) does not.
        known = response.length is not None and response.length <= longest
        body = response.read() if known else response.read(longest + 1)
        if len(body) > longest:
            return Answer(response.status, response.reason, None, None)
        self.kept = not response.will_close
        return Answer(response.status, response.reason, None, body)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """What a thread makes of it; it ends at once when the task is cancelled."""
        job = self._threads.submit(self._or_close, work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.cancel()
            self.cut()
            job.add_done_callback(lambda _: self.close())  # of whichever thread is done with it, maybe at once
            raise

    def _or_close(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Whoever waits for the server hears that the connection is gone. From any thread."""
        self.kept = False
        with contextlib.suppress(OSError):  # the socket's own shutdown: that of TLS forgets the keys under the reader
            # What the kernel still has of a batch would go on filling the line, and cost.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP_THE_REST)
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Where nobody waits for the server."""
        self.kept = False
        self._http.close()
        self._socket.close()


class _Waiting(asyncio.Protocol):
    """Leaves what comes in the socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()


async def _reach(host: str, port: int) -> socket.socket:
    """A socket with a TCP connection, over whichever of its addresses answers first."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(_Waiting, host, port, happy_eyeballs_delay=HAPPY_EYEBALLS_S)
    try:
        made: socket.socket = transport.get_extra_info("socket").dup()
        return made
    finally:
        transport.abort()
