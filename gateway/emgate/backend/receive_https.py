"""The backend's HTTPS end: POST /v1/batch from gateways that it knows, answered after the commit.

A gateway is known by its bearer token, or by a client certificate whose common name is its id. The answer says what
devices are to be asked, so that a gateway behind any network needs no connection towards it.

Alarms overtake: a gateway sends them over a connection of their own and says so in a header, and what it says there has
places of its own here; the worker takes them before the rest of a routine batch, as it does what came over MQTT.
"""

import asyncio
import hmac
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from emgate.backend.intake import is_urgent
from emgate.config import ReceiveSection, read_token
from emgate.errors import ConfigError
from emgate.uplinks import batch_bytes
from emgate.uplinks.https import LANE, LANE_ALARM, PATH

if TYPE_CHECKING:
    from emgate.backend.service import Housekeeping

log = structlog.get_logger(__name__)

STOP_S = 1.0
LONGEST_BODY = batch_bytes.MAXIMUM_BYTES
BODY_S = 120.0
"""For a whole body, as long as a gateway gives itself: one that trickles holds no place for ever."""
MOST_AT_ONCE = 64
"""Bodies being read or waiting for the one worker, in each lane."""


class HttpsReceiver:
    """Runs under a Supervisor as a link does."""

    def __init__(self, section: ReceiveSection, house: "Housekeeping") -> None:
        self.name = f"https:{section.host}:{section.port}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.port: int | None = None  # the one in use, where 0 was asked for
        self._section = section
        self._house = house
        self._tokens = {
            gateway.id: read_token(gateway.token_file).encode() for gateway in section.gateways if gateway.token_file
        }
        self._known = {gateway.id for gateway in section.gateways}
        self._context = _context(section)
        self._places = {first: asyncio.Semaphore(MOST_AT_ONCE) for first in (False, True)}

    async def run(self) -> None:
        """Serve until cancelled; OSError when the address cannot be had."""
        # Bodies are unpacked by batch_bytes, which is bounded; aiohttp's own unpacking is not.
        server = web.Server(self._handle, auto_decompress=False, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._section.host, self._section.port, ssl_context=self._context)
            await site.start()
            self.port = runner.addresses[0][1]
            self.up.set()
            await asyncio.Event().wait()
        finally:
            self.up.clear()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != PATH:
            return self._no(404, "not_found", f"POST {PATH} is all there is")
        if request.method != "POST":
            return self._no(405, "wrong_method", f"POST {PATH} is all there is")
        gateway_id = self._who(request)
        if gateway_id is None:
            return self._no(401, "not_let_in", "no gateway is known by this token or certificate")
        if request.content_length is not None and request.content_length > LONGEST_BODY:
            return self._no(413, "too_large", f"a batch has at most {LONGEST_BODY} bytes")
        first = request.headers.get(LANE) == LANE_ALARM
        async with self._places[first]:
            return await self._take(request, gateway_id, first)

    async def _take(self, request: web.BaseRequest, gateway_id: str, first: bool) -> web.StreamResponse:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.content.iter_chunked(65536):
                    body += chunk
                    if len(body) > LONGEST_BODY:
                        return self._no(413, "too_large", f"a batch has at most {LONGEST_BODY} bytes")
        except TimeoutError:
            return self._no(408, "too_slow", f"a batch must be whole within {BODY_S:.0f} s")
        house = self._house
        try:
            if first:
                batch = await asyncio.to_thread(batch_bytes.decode, bytes(body))
            else:
                batch = await house.work(batch_bytes.decode, bytes(body))
        except batch_bytes.BatchBytesError as error:
            return self._no(400, "unreadable", f"the batch is {error}")
        urgent = first and is_urgent(batch)  # the header alone does not make it one
        return web.json_response(await (house.work_first if urgent else house.work)(self._answer, gateway_id, batch))

    def _answer(self, gateway_id: str, batch: dict[str, Any]) -> dict[str, Any]:
        """In the worker."""
        intake = self._house.intake
        answer = intake.take(gateway_id, batch)
        if "refused" not in answer and (due := intake.due(gateway_id)):
            self.counters["requests_handed"] += len(due)
            answer["down"] = [asked for _, asked in due]
        return answer

    def _who(self, request: web.BaseRequest) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip().encode(errors="replace")
            found = None
            for gateway_id, known in self._tokens.items():  # all, so that time says nothing about which
                if hmac.compare_digest(known, given):
                    found = gateway_id
            return found
        tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        certificate = tls.getpeercert() if tls is not None else None
        for part in (certificate or {}).get("subject", ()):
            for name, value in part:
                if name == "commonName" and value in self._known and value not in self._tokens:
                    return str(value)
        return None

    def _no(self, status: int, counter: str, reason: str) -> web.Response:
        self.counters[counter] += 1
        log.warning("a delivery is refused", status=status, reason=reason)
        return web.json_response({"batchId": None, "refused": reason}, status=status)


def _context(section: ReceiveSection) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(section.certificate_file, section.key_file)
        if section.client_ca_file is not None:
            context.load_verify_locations(str(section.client_ca_file))
            # Optional: the same port serves gateways with tokens. One without either is told 401.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"https: cannot load {section.certificate_file} and {section.key_file}: {error}") from None
    return context
