"""Metrics, health, readiness and status over HTTP, for this machine alone. Imported only where [http] is configured.

| path | meaning |
|---|---|
| /livez | 200 while the event loop turns; 503 when it has not answered for ANSWER_S |
| /readyz | 200 when links and uplinks have been tried, a link is up and the store commits; else 503 and the reasons |
| /metrics | Prometheus text |
| /status | status.json, of this moment |

The standard library's server, in one thread: an asyncio one (aiohttp) would take 12 MB of the 64 that a gateway may
have, and could not answer for a loop that is stuck. One request at a time: whoever asks is this machine's own.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Awaitable, Callable, Coroutine
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import structlog

from emgate.config import HttpSection
from emgate.operation.metrics import CONTENT_TYPE, render

log = structlog.get_logger(__name__)

AGAIN_S = 10.0
"""A port that another program holds is tried again so often: the gateway's work does not hang on it."""
ANSWER_S = 6.0
"""For an answer of the event loop: a little more than the store has to show that it commits."""
CLIENT_S = 2.0
"""For a client to say what it wants: it is on this machine."""

Answer = tuple[int, str, bytes]


class HttpServer:
    """Serves until cancelled."""

    def __init__(
        self,
        section: HttpSection,
        status: Callable[[], Awaitable[dict[str, Any]]],
        health: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._section = section
        self._status = status
        self._health = health
        self._paths = {"/livez": self._live, "/readyz": self._ready, "/metrics": self._metrics, "/status": self._facts}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                server = self._open(asyncio.get_running_loop())
                break
            except OSError as error:
                log.error("http cannot be served; trying again", reason=error.strerror or str(error))
                await asyncio.sleep(AGAIN_S)
        log.info("http", at=str(server.server_address))
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(asyncio.to_thread(server.shutdown))
            server.server_close()
            if self._section.socket is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(_take_away, self._section.socket)

    def _open(self, loop: asyncio.AbstractEventLoop) -> socketserver.TCPServer:
        paths = self._paths

        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_S

            def do_GET(self) -> None:
                code, kind, body = _ask(paths, self.path, loop)
                with contextlib.suppress(OSError):
                    self.send_response(code)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def address_string(self) -> str:
                return "local"  # a Unix socket's client has no address

            def log_message(self, *_: object) -> None:
                """No access log: a scrape every few seconds would be most of a journal."""

        section = self._section
        if section.socket is not None:
            section.socket.parent.mkdir(parents=True, exist_ok=True)
            _take_away(section.socket)  # of a process that was killed; the state directory's lock is ours
            return _UnixServer(str(section.socket), Handler)  # type: ignore[arg-type]
        if ":" in section.address:
            return _Server6((section.address, section.port or 0), Handler)
        return HTTPServer((section.address, section.port or 0), Handler)

    async def _live(self) -> Answer:
        return 200, "text/plain", b"live\n"

    async def _ready(self) -> Answer:
        reasons = await self._health()
        return 503 if reasons else 200, "text/plain", ("\n".join(reasons or ["ready"]) + "\n").encode()

    async def _metrics(self) -> Answer:
        facts = await self._status()
        return 200, CONTENT_TYPE, await asyncio.to_thread(render, facts)

    async def _facts(self) -> Answer:
        return 200, "application/json", json.dumps(await self._status()).encode()


def _ask(paths: dict[str, Callable[[], Coroutine[Any, Any, Answer]]], path: str, loop: Any) -> Answer:
    """In the server's thread: have the event loop answer."""
    answer = paths.get(path.split("?", 1)[0])
    if answer is None:
        return 404, "text/plain", (" ".join(paths) + "\n").encode()
    asked = asyncio.run_coroutine_threadsafe(answer(), loop)
    try:
        return asked.result(ANSWER_S)
    except (TimeoutError, concurrent.futures.TimeoutError):
        asked.cancel()
        return 503, "text/plain", b"the event loop does not answer\n"
    except Exception as error:  # the loop is closing, or a defect
        log.warning("http cannot answer", path=path, reason=repr(error))
        return 503, "text/plain", b"cannot be told now\n"


def not_a_socket(path: Path) -> bool:
    """Something else is there, and in the way."""
    return os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode)


def _take_away(path: Path) -> None:
    if not not_a_socket(path):
        path.unlink(missing_ok=True)


class _Server6(HTTPServer):
    address_family = socket.AF_INET6


class _UnixServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes of an address."""
        socketserver.TCPServer.server_bind(self)
