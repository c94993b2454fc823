"""The control socket of a running gateway: one JSON object a line each way, for its own user and root alone.

| asked | answered |
|---|---|
| {"do": "submit", "request": {…}, "waitS": 60} | {"ok": true, "request": {…}, "more": false} |
| {"do": "show", "requestId": "…"} | {"ok": true, "request": {…}} |
| {"do": "list", "deviceId": 5} | {"ok": true, "requests": […]}, the newest 100; with "open": true all that are open |
| {"do": "status"} | {"ok": true, "status": {…}} |
| {"do": "reload"} | {"ok": true, "reload": {…}}, when it is done |
| {"do": "devices"} | {"ok": true, "devices": […]}, with strangers in quarantine |
| {"do": "change", "change": "revoke", "deviceId": 5} | {"ok": true, "said": "…"}: see devices/registry_changes.py |

With waitS there is an answer at every change, until "more" is false. Whatever cannot be done is answered
with {"ok": false, "reason": "…"}.
"""

import asyncio
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from emgate.down.kinds import RequestError
from emgate.down.requests import CONTROL, OPEN, Requests
from emgate.errors import ConfigError
from emgate.operation.control_client import LONGEST_WAIT_S, short

log = structlog.get_logger(__name__)

LONGEST_LINE = 512 * 1024
"""The largest request: an order of 129 messages of 1006 bytes in hexadecimal."""
MOST_CLIENTS = 16
IDLE_S = 30.0
"""A client that says nothing for so long, or does not read what it is told, has gone."""


Doing = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Does what one line asks, and gives what is answered beside "ok"; RequestError or ConfigError says why not."""


class ControlSocket:
    """`await run()` serves until cancelled."""

    def __init__(self, path: Path, requests: Requests, more: Mapping[str, Doing] | None = None) -> None:
        """`more`: what else may be asked, by its "do"."""
        self.counters: Counter[str] = Counter()
        self.up = asyncio.Event()
        self._path = path
        self._requests = requests
        self._more = more or {}
        self._clients: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Listen; a socket that cannot be made is logged and tried again, because the gateway works without."""
        try:
            while True:
                try:
                    server = await self._listen()
                except OSError as error:
                    log.error("no control socket", path=str(self._path), error=str(error))
                    await asyncio.sleep(IDLE_S)
                    continue
                async with server:
                    self.up.set()
                    await server.serve_forever()
        finally:
            for task in list(self._clients):
                task.cancel()
            self._path.unlink(missing_ok=True)

    async def _listen(self) -> asyncio.Server:
        self._path.unlink(missing_ok=True)  # left by a kill; the lock says that no other gateway runs here
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)  # so that it never exists with more rights
        try:
            listener.bind(short(self._path))
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
        return await asyncio.start_unix_server(self._client, sock=listener, limit=LONGEST_LINE, backlog=MOST_CLIENTS)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if not _is_ours(writer):
                self.counters["stranger"] += 1
            elif len(self._clients) > MOST_CLIENTS:
                self.counters["too_many_clients"] += 1
                await _say(writer, {"ok": False, "reason": "too many clients at once: try again"})
            else:
                await self._talk(reader, writer)
        except (OSError, TimeoutError):
            self.counters["client_lost"] += 1
        except Exception:
            self.counters["defect"] += 1
            log.exception("a client of the control socket met a defect")
        finally:
            self._clients.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except ValueError:
                self.counters["line_too_long"] += 1
                await _say(writer, {"ok": False, "reason": f"a line has at most {LONGEST_LINE} bytes"})
                return
            if not line.endswith(b"\n"):
                return
            self.counters["asked"] += 1
            async for answer in self._answers(line, reader):
                await _say(writer, answer)

    async def _answers(self, line: bytes, reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict):
                raise RequestError("a line must be one JSON object")
            what = asked.get("do")
            if what == "submit":
                async for answer in self._submit(asked, reader):
                    yield answer
            elif what == "show":
                request = await self._requests.find(str(asked.get("requestId"))[:100])
                if request is None:
                    raise RequestError("no request has this id")
                yield {"ok": True, "request": request.facts()}
            elif what == "list":
                device_id = asked.get("deviceId")
                if device_id is not None and (type(device_id) is not int or not 0 <= device_id <= 0xFFFF_FFFF):
                    raise RequestError("deviceId must be a number, or absent for all devices")
                if asked.get("open") is True:
                    yield {"ok": True, "requests": self._requests.open_ones(device_id)}
                else:
                    yield {"ok": True, "requests": await self._requests.listed(device_id)}
            elif isinstance(what, str) and what in self._more:
                yield {"ok": True, **await self._more[what](asked)}
            else:
                raise RequestError(f'"do" must be one of {", ".join(("submit", "show", "list", *self._more))}')
        except (RequestError, ConfigError) as error:
            self.counters["refused"] += 1
            yield {"ok": False, "reason": str(error)}
        except (ValueError, RecursionError) as error:
            self.counters["not_json"] += 1
            yield {"ok": False, "reason": f"not JSON: {error}"}

    async def _submit(self, asked: dict[str, Any], reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
        body, wait_s = asked.get("request"), asked.get("waitS", 0)
        if not isinstance(body, dict):
            raise RequestError('"request" must be an object')
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s <= LONGEST_WAIT_S:
            raise RequestError(f"waitS must be a number of seconds up to {LONGEST_WAIT_S:.0f}")
        request = await self._requests.submit(CONTROL, body)
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        gone: asyncio.Task[bytes] | None = None
        try:
            while True:
                seen = request.revision
                more = request.state in OPEN and loop.time() < end
                yield {"ok": True, "request": request.facts(), "more": more}
                if not more:
                    return
                gone = gone or loop.create_task(reader.read(1))
                changed = loop.create_task(self._requests.wait_change(request, seen, end - loop.time()))
                await asyncio.wait((gone, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if gone.done():  # it went away, or talks while it is to listen
                    raise ConnectionResetError
        finally:
            if gone is not None:
                gone.cancel()
                await asyncio.wait([gone])  # only then may another read begin


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(IDLE_S):
        await writer.drain()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """The mode of the file says so already, but not on every file system."""
    connection = writer.get_extra_info("socket")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user in (0, os.geteuid())
