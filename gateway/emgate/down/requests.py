"""Requests to devices: kept in the store, sent until answered or expired, each under an id that is taken once.

queued → sent → answered, or expired (no answer in time; an answer that comes later is still taken), or replaced (a
newer order took its place). Every change of state is committed, and told to whoever the request came from.
"""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from emwire import codec, constants
from emwire.errors import WireError

from emgate.clock import Clock
from emgate.down.downlink import Downlink, Due
from emgate.down.kinds import KINDS, Answer, Asked, Kind, RequestError
from emgate.store.schema import PayloadCipher
from emgate.store.store import Store

log = structlog.get_logger(__name__)

RETRY_FIRST_MS, RETRY_LAST_MS = 20_000, 900_000
"""Above any round trip that works (LTE-M with eDRX sleeps up to 10 s), doubled up to a quarter of an hour."""
UNPROMPTED_ATTEMPTS = 3
"""Repeated so often by the clock alone; then only when the device has been heard, which may be weeks later."""
UNDER_WAY = 4
"""Requests of one device sent and unanswered at once: a device has little memory, and an order alone is 5 kB."""
OPEN_PER_DEVICE, OPEN_IN_ALL = 64, 4096
"""Not answered and not expired. More is a fault of whoever asks; each may hold 130 messages of 1 kB."""
HELD_IN_ALL, HELD_BYTES = 2 * OPEN_IN_ALL, 32 << 20
"""With those that have ended and whose end is not told: an order takes the place of another as fast as somebody can
ask, and 4,096 of the usual 5 kB are 20 MB. Of each the text is counted; its messages are half as much again."""
LONGEST_ID = 64
DEFAULT_EXPIRY_MS = 3_600_000
"""Somebody waits for the answer; a device that reports every 15 min has had four chances."""
LATEST_EXPIRY_MS = 400 * 86_400_000
GRACE_MS = 600_000
"""A command begun in its last second still has its time (LOCATE_NOW: 180 s) and the way back."""
KEEP_FINISHED_MS, KEEP_FINISHED = 30 * 86_400_000, 10_000
"""So long an id is known as taken, and so many rows of about 300 B are kept at most."""
LOOK_BACK = 1000
"""Records looked through at start for an answer that was committed but not noted: ten group commits."""
LATE_IN_ALL = 1000
"""Expired requests, newest, whose late answer is still recognised; it reaches the backend as a record anyway."""
SWEEP_S = 1.0

CONTROL = "control"  # the origin of what comes by the control socket
QUEUED, SENT, ANSWERED, EXPIRED, REPLACED = "queued", "sent", "answered", "expired", "replaced"
OPEN = (QUEUED, SENT)
COLUMNS = (
    "request_id, device_id, kind, origin, asked, number, messages, body, state, created_ms, expires_ms, attempts,"
    " sent_ms, changed_ms, result, revision, reported"
)


@dataclass(slots=True, eq=False)
class Request:
    """One request, as kept. Times are unix ms."""

    request_id: str
    device_id: int
    kind: str
    origin: str  # "control", or the name of the uplink target that it came by
    asked: str  # the request as it came, to tell a repetition from another request under the same id
    number: int
    messages: tuple[bytes, ...]
    body: dict[str, Any]
    state: str
    created_ms: int
    expires_ms: int
    attempts: int = 0
    sent_ms: int | None = None
    changed_ms: int = 0
    result: dict[str, Any] | None = None
    revision: int = 1  # counted up with every change that the origin should know
    reported: int = 0  # revision that the origin has confirmed
    sending: int = 0  # messages of this attempt that have left
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For people and for the backend."""
        return {
            "requestId": self.request_id,
            "deviceId": self.device_id,
            "kind": self.kind,
            "body": self.body,
            "number": self.number,
            "state": self.state,
            "createdMs": self.created_ms,
            "expiresMs": self.expires_ms,
            "attempts": self.attempts,
            "sentMs": self.sent_ms,
            "changedMs": self.changed_ms,
            "result": self.result,
            "revision": self.revision,
        }

    def row(self, cipher: PayloadCipher | None) -> tuple[Any, ...]:
        """As COLUMNS. What the request is about is sealed: an order tells where its wearer lives."""
        return (
            self.request_id, self.device_id, self.kind, self.origin, self.seal(cipher, self.asked), self.number,
            self.seal(cipher, json.dumps([message.hex() for message in self.messages])),
            self.seal(cipher, json.dumps(self.body)), self.state,
            self.created_ms, self.expires_ms, self.attempts, self.sent_ms, self.changed_ms,
            self.sealed_result(cipher), self.revision, self.reported,
        )  # fmt: skip

    def sealed_result(self, cipher: PayloadCipher | None) -> str | bytes | None:
        """The column `result`."""
        return None if self.result is None else self.seal(cipher, json.dumps(self.result))

    def seal(self, cipher: PayloadCipher | None, text: str) -> str | bytes:
        """As a column keeps it."""
        return text if cipher is None else cipher.seal_bytes(_place(self.request_id), text.encode())


def _place(request_id: str) -> bytes:
    return b"down_requests " + request_id.encode()


def _request(row: tuple[Any, ...], cipher: PayloadCipher | None) -> Request:
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    for name in ("asked", "messages", "body", "result"):
        if isinstance(values[name], bytes):
            if cipher is None:
                raise ValueError("a request is sealed, and the store was opened without its key")
            values[name] = cipher.open_bytes(_place(values["request_id"]), values[name]).decode()
    values["messages"] = tuple(bytes.fromhex(message) for message in json.loads(values["messages"]))
    values["body"] = json.loads(values["body"])
    values["result"] = None if values["result"] is None else json.loads(values["result"])
    return Request(**values)


def _apart_from_expiry(asked: str) -> dict[str, Any]:
    """What tells requests under one id apart. The expiry does not: whoever repeats "in an hour" means the first."""
    return {name: value for name, value in json.loads(asked).items() if name != "expiresMs"}


class Requests:
    """All requests of a gateway: a Source of the downlink."""

    def __init__(self, store: Store, clock: Clock, downlink: Downlink, known: Callable[[int], bool]) -> None:
        self.counters: Counter[str] = Counter()
        self.changed: Callable[[str], None] = lambda origin: None  # by the uplinks: an origin has something to hear
        self._store = store
        self._clock = clock
        self._downlink = downlink
        self._known = known
        self._kinds = {kind.name: kind for kind in KINDS}
        self._open: dict[int, dict[str, Request]] = {}  # by device, in the order of their making
        self._late: dict[int, dict[str, Request]] = {}  # expired: an answer may still come
        self._unreported: dict[str, dict[str, Request]] = {}
        self._numbers: dict[int, int] = {}
        self._submitting = asyncio.Lock()
        downlink.add(self)

    def add_kind(self, kind: Kind) -> None:
        """One more kind of request."""
        self._kinds[kind.name] = kind

    async def load(self) -> None:
        """Go on from the store, before any link starts."""

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], list[tuple[int, int]]]:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM down_requests WHERE state IN (?, ?)"
                " OR (reported < revision AND origin <> 'control') OR row_id IN"
                " (SELECT row_id FROM down_requests WHERE state = ? ORDER BY row_id DESC LIMIT ?) ORDER BY row_id",
                (*OPEN, EXPIRED, LATE_IN_ALL),
            ).fetchall()
            numbers = connection.execute(
                "SELECT device_id, max(number) FROM down_requests WHERE kind = 'command' GROUP BY device_id"
            ).fetchall()
            return rows, numbers

        rows, numbers = await self._store.read(work)
        self._numbers = dict(numbers)
        for row in rows:
            request = _request(row, self._store.payload_cipher)
            if request.state in OPEN:
                self._open.setdefault(request.device_id, {})[request.request_id] = request
            elif request.state == EXPIRED:
                self._late.setdefault(request.device_id, {})[request.request_id] = request
            if request.reported < request.revision and request.origin != CONTROL:
                self._unreported.setdefault(request.origin, {})[request.request_id] = request
        if self._open:
            await self._look_back()

    async def _look_back(self) -> None:
        """A kill may have come between the commit of an answer and that of the request's new state."""
        for record in await self._store.newest(LOOK_BACK):
            if record.device_id in self._open:
                try:
                    self.observed(record.device_id, codec.decode(record.payload))
                except WireError:
                    continue

    # -- asking -----------------------------------------------------------------------------------------------

    async def submit(self, origin: str, asked: dict[str, Any]) -> Request:
        """Take a request: {"requestId", "deviceId", "kind", "expiresMs"?, …of the kind}; the same id once only.

        RequestError says what is wrong with it, or why it cannot be taken."""
        async with self._submitting:  # so that a repetition finds the first
            return await self._submit(origin, asked)

    async def _submit(self, origin: str, asked: dict[str, Any]) -> Request:
        body = dict(asked)
        request_id, device_id = body.pop("requestId", None), body.pop("deviceId", None)
        if not isinstance(request_id, str) or not 1 <= len(request_id) <= LONGEST_ID or not request_id.isprintable():
            raise RequestError(f"requestId must be 1 to {LONGEST_ID} printable characters")
        text = json.dumps(asked, sort_keys=True)
        known = await self.find(request_id)
        if known is not None:
            if _apart_from_expiry(known.asked) != _apart_from_expiry(text):
                raise RequestError(f"requestId {request_id!r} was used for another request: give each its own")
            self.counters["repeated"] += 1
            if known.origin == origin:
                self._tell(known)  # whoever repeats it did not hear
            return known
        kind = self._kinds.get(str(body.pop("kind", None)))
        if kind is None:
            raise RequestError(f"kind must be one of {', '.join(self._kinds)}")
        if type(device_id) is not int or not self._known(device_id):
            raise RequestError(f"device {device_id!r:.40} is not in this gateway's registry: add it there first")
        mine = self._open.get(device_id, {})
        if len(mine) >= OPEN_PER_DEVICE or self._full(len(text)):
            self.counters["too_many"] += 1
            raise RequestError("too many requests are waiting: let some be answered or expire first")
        now_ms = self._clock.now_ms()
        expires_ms = body.pop("expiresMs", now_ms + DEFAULT_EXPIRY_MS)
        if type(expires_ms) is not int or not now_ms < expires_ms <= now_ms + LATEST_EXPIRY_MS:
            raise RequestError("expiresMs must be unix milliseconds within the next 400 days")
        expires_s = max(1, expires_ms // 1000 - constants.TIME_EPOCH_UNIX_S)
        made = kind.make(Asked(body, min(expires_s, 0xFFFF_FFFF), partial(self._next_number, device_id)))
        request = Request(
            request_id, device_id, kind.name, origin, text, made.number, made.messages, made.body, QUEUED, now_ms,
            expires_ms, changed_ms=now_ms,
        )  # fmt: skip
        replaced = [other for other in mine.values() if kind.replaces and other.kind == kind.name]

        def apply(connection: sqlite3.Connection) -> bool:
            row = request.row(self._store.payload_cipher)
            connection.execute(f"INSERT INTO down_requests ({COLUMNS}) VALUES ({','.join('?' * len(row))})", row)
            return True

        if not await self._store.write(apply, refused=False):
            self.counters["not_stored"] += 1
            raise RequestError("the store does not take it (disk full?): try again")
        self.counters["taken"] += 1
        for other in replaced:
            if other.state in OPEN:
                self._finish(other, REPLACED, {"by": request_id})
        self._open.setdefault(device_id, {})[request_id] = request
        self._tell(request)
        self._downlink.nudge(device_id)
        log.info("request taken", request=request_id, device=device_id, kind=kind.name, origin=origin)
        return request

    def _full(self, more_bytes: int) -> bool:
        if sum(map(len, self._open.values())) >= OPEN_IN_ALL:
            return True
        places = (*self._open.values(), *self._late.values(), *self._unreported.values())
        held = {request_id: len(request.asked) for place in places for request_id, request in place.items()}
        return len(held) >= HELD_IN_ALL or sum(held.values()) + more_bytes > HELD_BYTES

    def _next_number(self, device_id: int) -> int:
        """Counts up with the clock, so that an older copy of the store repeats none; odd, because the backend's are
        even. Two a second until 2044."""
        by_clock = 2 * max(0, self._clock.now_ms() // 1000 - constants.TIME_EPOCH_UNIX_S) + 1
        last = self._numbers.get(device_id, 0)
        number = max(by_clock, last + 2 - (last + 1) % 2)
        self._numbers[device_id] = number
        return number

    def open_of(self, device_id: int, kind: str) -> Request | None:
        """The newest request of a kind that is neither answered for good nor expired."""
        requests = self._open.get(device_id)
        if not requests:  # asked for every frame
            return None
        mine = [request for request in requests.values() if request.kind == kind]
        return mine[-1] if mine else None

    async def find(self, request_id: str) -> Request | None:
        """A request by its id, finished or not."""
        for requests in (*self._open.values(), *self._late.values(), *self._unreported.values()):
            if request_id in requests:
                return requests[request_id]
        await self._store.drain()  # its last state may be on its way
        row = await self._store.read(
            lambda connection: connection.execute(
                f"SELECT {COLUMNS} FROM down_requests WHERE request_id = ?", (request_id,)
            ).fetchone()
        )
        return None if row is None else _request(row, self._store.payload_cipher)

    async def listed(self, device_id: int | None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest requests first, of one device or all."""
        rows = await self._store.read(
            lambda connection: connection.execute(
                f"SELECT {COLUMNS} FROM down_requests WHERE ?1 IS NULL OR device_id = ?1 ORDER BY row_id DESC LIMIT ?2",
                (device_id, limit),
            ).fetchall()
        )
        return [_request(row, self._store.payload_cipher).facts() for row in rows]

    def open_ones(self, device_id: int | None) -> list[dict[str, Any]]:
        """All that are neither answered for good nor expired, of one device or all."""
        devices = self._open if device_id is None else (device_id,)
        return [request.facts() for each in devices for request in self._open.get(each, {}).values()]

    async def wait(self, request: Request, seconds: float) -> bool:
        """Until it is answered, expired or replaced; False when that takes longer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while request.state in OPEN:
            if not await self.wait_change(request, request.revision, end - loop.time()):
                return False
        return True

    async def wait_change(self, request: Request, revision: int, seconds: float) -> bool:
        """Until it has another revision than this; False when that takes longer, or nothing more can change."""
        if request.revision != revision:
            return True
        if request.state not in OPEN or seconds <= 0:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request.waiters.append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            if future in request.waiters:
                request.waiters.remove(future)
        return True

    # -- a source of the downlink -----------------------------------------------------------------------------

    def wants(self, device_id: int) -> bool:
        """See downlink.Source."""
        if device_id not in self._open:
            return False
        return bool(self._sendable(device_id))

    def _sendable(self, device_id: int) -> list[Request]:
        now_ms = self._clock.now_ms()
        ready, under_way = [], 0
        for request in self._open.get(device_id, {}).values():
            if request.expires_ms <= now_ms:
                continue  # the next sweep ends it
            if request.state == QUEUED or self._again(request, now_ms):
                ready.append(request)
            under_way += request.state == SENT
        fresh = max(0, UNDER_WAY - under_way)
        return [r for r in ready if r.state == SENT] + [r for r in ready if r.state == QUEUED][:fresh]

    def _again(self, request: Request, now_ms: int) -> bool:
        if request.sent_ms is None:
            return True
        if request.result is not None:
            patience_ms = RETRY_LAST_MS  # begun: another result follows
        else:
            patience_ms = min(RETRY_LAST_MS, RETRY_FIRST_MS << min(10, max(0, request.attempts - 1)))
        return not 0 <= now_ms - request.sent_ms < patience_ms  # a clock set back must not stop it

    def due(self, device_id: int, room: int) -> list[Due]:
        """See downlink.Source. A request of more messages than there is room goes on with the next flush."""
        found: list[Due] = []
        for request in self._sendable(device_id):
            for index in range(request.sending, len(request.messages)):
                if len(found) >= room:
                    return found
                found.append(Due(request.messages[index], partial(self._sent, request, index)))
        return found

    def _sent(self, request: Request, index: int) -> None:
        request.sending = index + 1
        if request.sending < len(request.messages) or request.state not in OPEN:
            return
        request.sending = 0
        request.attempts += 1
        request.sent_ms = self._clock.now_ms()
        self.counters["sent"] += 1
        if request.state == QUEUED:
            self._change(request, SENT)
        else:
            self._save(request)

    def observed(self, device_id: int, message: codec.Message) -> None:
        """See downlink.Source."""
        for requests in (self._open.get(device_id), self._late.get(device_id)):
            for request in list(requests.values()) if requests else ():
                answer = self._kinds[request.kind].answer(request.number, request.body, message)
                if answer is not None:
                    self._answered(request, answer)

    def _answered(self, request: Request, answer: Answer) -> None:
        request.result = answer.result
        if answer.final:
            self._finish(request, ANSWERED, answer.result)
        elif request.state in OPEN:
            self._change(request, SENT)

    # -- changes ----------------------------------------------------------------------------------------------

    def _finish(self, request: Request, state: str, result: dict[str, Any] | None) -> None:
        for place in (self._open, self._late):
            of_device = place.get(request.device_id)
            if of_device is not None:
                of_device.pop(request.request_id, None)
                if not of_device:
                    del place[request.device_id]
        if state == EXPIRED:
            self._late.setdefault(request.device_id, {})[request.request_id] = request
        request.result = result
        self.counters[state] += 1
        outcome = (result or {}).get("outcome")  # never the whole result: that of LOCATE_NOW tells where a wearer is
        log.info("request ended", request=request.request_id, device=request.device_id, state=state, outcome=outcome)
        self._change(request, state)
        if request.device_id in self._open:
            self._downlink.nudge(request.device_id)

    def _change(self, request: Request, state: str) -> None:
        request.state = state
        request.changed_ms = self._clock.now_ms()
        request.revision += 1
        self._save(request)
        self._tell(request)
        waiters, request.waiters = request.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _save(self, request: Request) -> None:
        values = (
            request.state, request.attempts, request.sent_ms, request.changed_ms,
            request.sealed_result(self._store.payload_cipher), request.revision, request.request_id,
        )  # fmt: skip

        def apply(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "UPDATE down_requests SET state = ?, attempts = ?, sent_ms = ?, changed_ms = ?, result = ?,"
                " revision = ? WHERE request_id = ?",
                values,
            )
            return True

        def saved(done: "asyncio.Future[bool]") -> None:
            if done.cancelled() or not done.result():
                self.counters["state_not_stored"] += 1  # after a restart it is sent again, and answered again

        self._store.write(apply, refused=False).add_done_callback(saved)

    # -- telling whoever asked --------------------------------------------------------------------------------

    def _tell(self, request: Request) -> None:
        if request.origin == CONTROL:
            return  # a client of the control socket asks, and waits itself
        self._unreported.setdefault(request.origin, {})[request.request_id] = request
        self.changed(request.origin)

    def unreported(self, origin: str, limit: int) -> list[dict[str, Any]]:
        """States that the origin has not confirmed."""
        return [request.facts() for request in list(self._unreported.get(origin, {}).values())[:limit]]

    def reported(self, origin: str, facts: list[dict[str, Any]]) -> None:
        """The origin has these."""
        mine = self._unreported.get(origin, {})
        done = []
        for each in facts:
            request = mine.get(each["requestId"])
            if request is None:
                continue
            request.reported = max(request.reported, each["revision"])
            done.append((request.reported, request.request_id))
            if request.reported >= request.revision:
                del mine[request.request_id]

        def apply(connection: sqlite3.Connection) -> bool:
            connection.executemany("UPDATE down_requests SET reported = ? WHERE request_id = ?", done)
            return True

        if done:
            self._store.write(apply, refused=False)  # if not: reported once more after a restart

    # -- time -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """End what expires, and prompt what is to be repeated, until cancelled."""
        cleaned_ms = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep()
                if abs(self._clock.now_ms() - cleaned_ms) > 3_600_000:
                    cleaned_ms = self._clock.now_ms()
                    await self.clean()
            except Exception:
                self.counters["sweep_failed"] += 1
                log.exception("looking after requests failed")

    def sweep(self) -> None:
        """What the clock alone decides."""
        now_ms = self._clock.now_ms()
        for device_id, requests in list(self._open.items()):
            for request in list(requests.values()):
                grace_ms = GRACE_MS if request.state == SENT and request.kind == "command" else 0
                if now_ms >= request.expires_ms + grace_ms:
                    self._finish(request, EXPIRED, request.result)
                elif request.attempts < UNPROMPTED_ATTEMPTS and request.state == SENT and self._again(request, now_ms):
                    self._downlink.nudge(device_id)
        for device_id in list(self._late):
            if sum(map(len, self._late.values())) <= LATE_IN_ALL:
                break
            del self._late[device_id]  # that which has waited longest

    async def clean(self) -> None:
        """Forget what ended long ago, and the oldest beyond a number."""
        before_ms = self._clock.now_ms() - KEEP_FINISHED_MS

        def apply(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM down_requests WHERE state NOT IN (?, ?) AND (changed_ms < ? OR row_id <="
                " (SELECT coalesce(max(row_id), 0) FROM down_requests) - ?)",
                (*OPEN, before_ms, KEEP_FINISHED),
            ).rowcount

        await self._store.write(apply, refused=0)

    def summary(self) -> dict[str, int]:
        """For the status."""
        return {"open": sum(map(len, self._open.values())), **self.counters}
