"""Metrics, health, readiness and status over HTTP, for this machine alone. Imported only where [http] is configured.

| path | meaning |
|---|---|
| /livez | 200 while the event loop turns: only a loop that turns answers |
| /readyz | 200 when links and uplink have been tried, a link is up and the store commits; else 503 and the reasons |
| /metrics | Prometheus text |
| /status | status.json, of this moment |
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from emgate.config import HttpSection
from emgate.metrics import CONTENT_TYPE, render

log = structlog.get_logger(__name__)

AGAIN_S = 10.0
"""A port that another program holds is tried again so often: the gateway's work does not hang on it."""
MAXIMUM_UNDER_WAY = 4
"""Answers under way at once: each reads the store, and nobody needs more."""


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
        self._free = asyncio.Semaphore(MAXIMUM_UNDER_WAY)

    async def run(self) -> None:
        """Until cancelled."""
        application = web.Application(client_max_size=1024)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status_json)
        # No access log: a scrape every few seconds would be most of a journal.
        runner = web.AppRunner(application, access_log=None, handle_signals=False, keepalive_timeout=30)
        await runner.setup()
        try:
            while True:
                try:
                    await self._site(runner).start()
                    break
                except OSError as error:
                    log.error("http cannot be served; trying again", reason=error.strerror or str(error))
                    await asyncio.sleep(AGAIN_S)
            log.info("http", at=sorted(site.name for site in runner.sites))
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            if self._section.socket is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._section.socket.unlink)

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._section.socket is not None:
            return web.UnixSite(runner, self._section.socket)
        return web.TCPSite(runner, self._section.address, self._section.port, shutdown_timeout=1)

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        async with self._free:
            reasons = await self._health()
        return web.Response(text="\n".join(reasons or ["ready"]) + "\n", status=503 if reasons else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        async with self._free:
            facts = await self._status()
        return web.Response(body=render(facts), headers={"Content-Type": CONTENT_TYPE})

    async def _status_json(self, _: web.Request) -> web.Response:
        async with self._free:
            return web.json_response(await self._status())
