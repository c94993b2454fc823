"""The HTTPS uplink: every batch is a POST, its answer the backend's acknowledgement, with what devices are asked.

While nothing is delivered, an empty batch asks now and then. Only a 200 with the batch's own id counts; every
other answer has its reason in the log, the status and a counter, and the batch stays in the store. A batch of alarms
goes over another connection than the routine one that is under way, and says in a header that it overtakes.
"""

import asyncio
import contextlib
import json
import random
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

import structlog

from emgate.config import HttpsTarget
from emgate.errors import ConfigError
from emgate.uplinks import LARGE_BYTES, BatchTooLargeError, BatchTooSlowError, TakeDown, batch_bytes, is_alarm
from emgate.uplinks.https_connection import Answer, Connection
from emgate.uplinks.meter import HANDSHAKE_BYTES, REACH_BYTES, Meter

log = structlog.get_logger(__name__)

PATH = "/v1/batch"
LANE, LANE_ALARM = "X-Emtag-Lane", "alarm"
"""The header of a batch that carries alarms: the backend has to know before it reads the body."""
CONNECTIONS = 4
"""A batch of each lane, what became of requests, and a question may be under way at once."""
RETRY_FIRST_S, RETRY_LAST_S = 1.0, {False: 300.0, True: 30.0}
"""After a failure, doubled and jittered, per lane (alarm: True): a server that answers 500 for a week sees 12 attempts
an hour, while alarms, which are to be there within 3 min (NIJ Standard-1004.00 §5.4.1), go soon after it is back."""
METERED_ALARM_LAST_S = 120.0
"""The latter where each attempt, with the handshake and the poll before it, costs money."""
CONNECT_S, SILENCE_S, TOTAL_S = 15.0, 30.0, 120.0
"""To connect with TLS over LTE-M; while nothing gets there and nothing comes; for 240 kB at 2 kB/s."""
IN_PATHS = "/%!$&'()*+,;=:@~"  # RFC 3986 §3.3, and what is escaped already
LONGEST_ANSWER = batch_bytes.MAXIMUM_BYTES
OVERHEAD_BYTES = 900
"""Of one request besides its body: headers 350 and 200, TLS records 60, TCP and IP headers of four segments."""
POLL_BYTES = OVERHEAD_BYTES + 100


class _SlowError(OSError):
    """The server was there, but not all of the request or of its answer in time."""


class HttpsUplink:
    """An Uplink (see emgate.uplinks) to one URL."""

    def __init__(
        self,
        target: HttpsTarget,
        gateway_id: str,
        *,
        name: str = "uplink",
        meter: Meter | None = None,
        take_down: TakeDown = lambda asked: None,
    ) -> None:
        self.name = f"https:{urlsplit(target.url).netloc}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.last_problem: str | None = None
        self._target = target
        self._gateway_id = gateway_id
        self._meter = meter or Meter(name, {}, None, None)
        self._take_down = take_down
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="https")  # begun as they are needed
        self._context: ssl.SSLContext | None = None  # of this run
        self._headers: dict[str, str] = {}
        self._idle: list[Connection] = []
        self._under_way: set[Connection] = set()
        self._lost: asyncio.Future[str] | None = None
        self._polls = 0
        self._answers = 0

    async def run(self) -> None:
        """Ask whether the backend is there, then again whenever nothing else was sent; OSError when it is not."""
        loop = asyncio.get_running_loop()
        headers = {"User-Agent": f"emtag-gateway/{self._gateway_id}", "X-Emtag-Gateway": self._gateway_id}
        token = self._target.read_token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers
        self._context = make_context(self._target)
        self._lost = loop.create_future()
        try:
            while True:
                await self._poll()
                self.up.set()
                await self._while_others_ask(self._lost)
        except BatchTooLargeError as error:
            raise OSError(f"not even an empty batch is taken: {error}") from None
        finally:
            self.up.clear()
            self._context = None
            while self._idle:
                self._idle.pop().close()
            for connection in self._under_way:
                connection.cut()

    async def _while_others_ask(self, lost: asyncio.Future[str]) -> None:
        """Until nothing was under way for as long as is waited between polls: every answer has what a poll's would."""
        answers = -1
        while answers != self._answers or self._under_way:
            answers = self._answers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._target.poll_interval_s):
                    reason = await asyncio.shield(lost)
                raise OSError(reason)

    async def _poll(self) -> None:
        self._polls += 1
        batch_id = f"{self._gateway_id}-poll-{self._polls}"
        body = {"batchId": batch_id, "gatewayId": self._gateway_id, "uploadedDateMs": 0, "records": []}
        self._meter.count(POLL_BYTES, await self._meter.may_ask(POLL_BYTES))
        self.counters["polls"] += 1
        refused = await self._post(batch_id, batch_bytes.encode(body)[0])
        if refused is not None:
            raise OSError(f"the backend refuses this gateway: {refused}")

    async def deliver(self, batch: dict[str, Any]) -> None:
        """POST until acknowledged."""
        payload, plain_bytes = await asyncio.to_thread(batch_bytes.encode, batch)
        self.counters["bytes_plain"] += plain_bytes
        self.counters["bytes_packed"] += len(payload)
        with self._meter.delivering(is_alarm(batch)):
            await self._until_acknowledged(batch, payload, is_alarm(batch))

    async def _until_acknowledged(self, batch: dict[str, Any], payload: bytes, alarm: bool) -> None:
        delay_s = RETRY_FIRST_S
        last_s = METERED_ALARM_LAST_S if alarm and self._meter.limited else RETRY_LAST_S[alarm]
        while True:
            await self.up.wait()
            await self._meter.spend(len(payload) + OVERHEAD_BYTES, alarm)
            try:
                refused = await self._post(batch["batchId"], payload, alarm)
                if refused is None:
                    return
                self.counters["batch_refused"] += 1
                log.error("the backend refused a batch; it stays in the store", batch=batch["batchId"], reason=refused)
            except OSError as error:
                self._give_up(str(error))
                if isinstance(error, _SlowError) and len(payload) > LARGE_BYTES and len(batch["records"]) > 1:
                    raise BatchTooSlowError(str(error)) from None
            self.counters["resent"] += 1
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(last_s, delay_s * 2)

    def _give_up(self, reason: str) -> None:
        """Let run() find out when the backend is there again."""
        self.up.clear()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    async def _post(self, batch_id: str, payload: bytes, alarm: bool = False) -> str | None:
        """None = acknowledged, text = refused and why. OSError with the reason for anything else."""
        context = self._context
        if context is None:
            raise OSError("not connected")
        headers = {**self._headers, "Content-Type": "application/json"}
        if payload[:2] == batch_bytes.MAGIC:
            headers["Content-Encoding"] = "gzip"
        if alarm:
            headers[LANE] = LANE_ALARM
        try:
            answered = await self._exchange(context, payload, headers)
        except _SlowError:
            self._failed("timeout", "no whole answer in time")
            raise
        except TimeoutError:  # an OSError as well
            raise self._failed("timeout", "no connection in time") from None
        except OSError as error:
            raise self._failed("connection", _words(error)) from None
        except HTTPException as error:
            raise self._failed("broken_answer", f"the answer broke off or is not HTTP: {error!r:.200}") from None
        except ValueError as error:
            raise self._failed("connection", f"correct the url: {error}") from None
        answer = self._answer(answered, batch_id)
        self._answers += 1
        self.last_problem = None
        for asked in answer.get("down") or ():
            self._take_down(asked)
        refused = answer.get("refused")
        return None if refused is None else str(refused)

    async def _exchange(self, context: ssl.SSLContext, payload: bytes, headers: dict[str, str]) -> Answer:
        """Over a connection that was kept, or another."""
        parts = urlsplit(self._target.url)
        connection = self._kept()
        if connection is None:
            took = HANDSHAKE_BYTES
            try:
                connection = await Connection.open(
                    parts.hostname or "", parts.port or 443, context, self._threads, within_s=CONNECT_S
                )
            except OSError as error:
                took = HANDSHAKE_BYTES if isinstance(error, ssl.SSLError | ConnectionResetError) else REACH_BYTES
                raise
            finally:
                self._meter.count(took, exempt=True)
        self._under_way.add(connection)
        try:
            path = quote(parts.path.rstrip("/") + PATH, safe=IN_PATHS)
            async with asyncio.timeout(TOTAL_S):
                answer = await connection.post(path, payload, headers, LONGEST_ANSWER, SILENCE_S)
        except TimeoutError:
            raise _SlowError("no whole answer in time") from None
        finally:
            self._under_way.discard(connection)
        if connection.kept and self._context is context:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    def _answer(self, answered: Answer, batch_id: str) -> dict[str, Any]:
        status = answered.status
        if status == 413:
            self.counters["too_large"] += 1
            raise BatchTooLargeError("the server answers 413 (too large)")
        if 300 <= status < 400:
            where = answered.location or "nowhere"
            raise self._failed("redirected", f"redirected to {where!r:.100}, which is not followed: correct the url")
        if status in (401, 403):
            raise self._failed("not_let_in", f"answered {status}: check token_file, or the client certificate")
        if status != 200:
            raise self._failed(f"status_{status}", f"answered {status} {answered.reason:.100}")
        body = answered.body
        if body is None:
            raise self._failed("wrong_answer", "the answer has no end")
        try:
            answer = json.loads(body)
            if isinstance(answer, dict) and answer.get("batchId") == batch_id:
                down = answer.get("down")
                if down is None or isinstance(down, list):
                    return answer
        except (ValueError, RecursionError):
            raise self._failed("wrong_answer", "the answer is not JSON: is the url that of a backend?") from None
        raise self._failed("wrong_answer", "the answer is not about this batch")

    def _failed(self, counter: str, reason: str) -> OSError:
        self.counters[counter] += 1
        self.last_problem = reason
        return OSError(reason)


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({error.verify_message}): check ca_file and the host name"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with the server: {error}"
    return str(error) or type(error).__name__


def make_context(target: HttpsTarget) -> ssl.SSLContext:
    """TLS as configured; ConfigError when a file cannot be loaded."""
    try:
        context = ssl.create_default_context(cafile=None if target.ca_file is None else str(target.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate_file is not None:
            context.load_cert_chain(target.certificate_file, target.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{target.url}: cannot load the certificates: {error}") from None
    return context
