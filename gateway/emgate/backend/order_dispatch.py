"""Keeps every device that is on somebody told of its wearer's orders: versions, when to send, when to send again.

A version is counted up per activation whenever the device must be told something else, also when the clocks change.
It is sent as a request until the device confirms it; again when the device shows another version, has started with an
empty flash, or did not answer in time; and ended when the activation or the last order has ended.
"""

import json
import sqlite3
import time
from collections import Counter
from typing import Any

import structlog
from emwire import codec, constants
from emwire.errors import WireError

from emgate.backend import order_messages, requests
from emgate.backend.ingest import Backend
from emgate.backend.orders import order_from_json
from emgate.clock import Clock
from emgate.down.kinds import RequestError

log = structlog.get_logger(__name__)

LOOK_S = 5.0
"""How often orders are worked out anew: changes are rare, and minutes matter to nobody here but a test."""
EXPIRY_MS = 7 * 86_400_000
"""An order that a device has not confirmed by then is given out anew: the gateway may have been replaced."""
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS device_orders (
    device_activation_id TEXT PRIMARY KEY,
    device_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,                     -- empty: ended
    request_id TEXT NOT NULL,
    sendings INTEGER NOT NULL,
    send_again INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE TABLE IF NOT EXISTS orders_shown (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), record_id INTEGER)",
)


class OrderDispatch:
    """Looked after by whoever runs a backend."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.counters: Counter[str] = Counter()
        self._backend = backend
        self._clock = clock
        self._looked_s: float | None = None

        def make(database: sqlite3.Connection) -> None:
            requests.prepare(database)
            for statement in SCHEMA:
                database.execute(statement)

        backend.within(make)

    def look_after(self, *, at_once: bool = False) -> None:
        """Cheap when nothing changed."""
        now_s = time.monotonic()
        if not at_once and self._looked_s is not None and now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        now_ms = self._clock.now_ms()
        self._backend.within(lambda database: self._read_what_devices_show(database))
        self._backend.within(lambda database: self._look(database, now_ms))

    # -- what is wanted ---------------------------------------------------------------------------------------

    def _look(self, database: sqlite3.Connection, now_ms: int) -> None:
        orders: dict[str, list[Any]] = {}
        for row in database.execute("SELECT person_id, body FROM orders ORDER BY order_id"):
            orders.setdefault(row["person_id"], []).append(order_from_json(row["body"]))
        known = {row["device_activation_id"]: row for row in database.execute("SELECT * FROM device_orders")}
        worn: set[int] = set()
        over: list[sqlite3.Row] = []
        activations = database.execute("SELECT * FROM activations").fetchall()
        for activation in activations:
            until = activation["device_deactivation_date"]
            row = known.pop(activation["device_activation_id"], None)
            if activation["device_activation_date"] <= now_ms and (until is None or now_ms < until):
                worn.add(activation["device_id"])
                try:
                    what = order_messages.told(
                        orders.get(activation["person_id"], []), activation["device_activation_date"], until, now_ms
                    )
                    if what is not None:
                        self._tell(database, activation, row, what, now_ms)
                        continue
                except (RequestError, WireError) as error:  # one person's fault must not keep the others' orders back
                    self.counters["not_told"] += 1
                    log.error("order cannot be told", activation=activation["device_activation_id"], reason=str(error))
                    continue
            if row is not None:
                over.append(row)
        for row in (*over, *known.values()):  # ended, without an order, or no longer in the file
            if row["digest"] and (row["device_id"] not in worn or row in over):
                self._end(database, row, now_ms, still_worn=row["device_id"] in worn)

    def _tell(
        self,
        database: sqlite3.Connection,
        activation: sqlite3.Row,
        row: sqlite3.Row | None,
        what: order_messages.Told,
        now_ms: int,
    ) -> None:
        identity, device_id, digest = activation["device_activation_id"], activation["device_id"], what.digest()
        version, sendings = (row["version"], row["sendings"]) if row is not None else (0, 0)
        if row is None or row["digest"] != digest:
            version = version % 0xFFFF + 1
            for reason in what.left_out:
                log.warning("not told to the device", device=device_id, activation=identity, reason=reason)
        elif not row["send_again"] and not self._expired(database, row["request_id"]):
            return
        sendings += 1
        messages = what.messages(order_messages.activation_number(identity), version)
        self._send(database, identity, device_id, version, digest, sendings, messages, now_ms)

    def _end(self, database: sqlite3.Connection, row: sqlite3.Row, now_ms: int, *, still_worn: bool) -> None:
        if still_worn:  # by somebody else: the order of the new activation takes its place on the device
            others = database.execute(
                "SELECT count(*) FROM device_orders WHERE device_id = ? AND digest <> '' AND device_activation_id <> ?",
                (row["device_id"], row["device_activation_id"]),
            ).fetchone()[0]
            if others:
                database.execute(
                    "UPDATE device_orders SET digest = '' WHERE device_activation_id = ?",
                    (row["device_activation_id"],),
                )
                return
        identity, version = row["device_activation_id"], row["version"] % 0xFFFF + 1
        message = order_messages.end_message(order_messages.activation_number(identity), version, now_ms)
        self._send(database, identity, row["device_id"], version, "", row["sendings"] + 1, [message], now_ms)
        self.counters["ended"] += 1

    def _send(
        self,
        database: sqlite3.Connection,
        identity: str,
        device_id: int,
        version: int,
        digest: str,
        sendings: int,
        messages: list[bytes],
        now_ms: int,
    ) -> None:
        request_id = f"order-{order_messages.activation_number(identity):08x}-{version}-{sendings}"
        requests.submit(
            database,
            now_ms,
            {
                "requestId": request_id,
                "deviceId": device_id,
                "kind": "order",
                "expiresMs": now_ms + EXPIRY_MS,
                "messages": [message.hex() for message in messages],
            },
        )
        database.execute(
            "INSERT OR REPLACE INTO device_orders VALUES (?, ?, ?, ?, ?, ?, 0)",
            (identity, device_id, version, digest, request_id, sendings),
        )
        self.counters["sent"] += 1
        log.info("order to be sent", device=device_id, activation=identity, version=version, request=request_id)

    def _expired(self, database: sqlite3.Connection, request_id: str) -> bool:
        facts = requests.find(database, request_id)
        return facts is None or facts["state"] in ("expired", "refused")

    # -- what devices show ------------------------------------------------------------------------------------

    def _read_what_devices_show(self, database: sqlite3.Connection) -> None:
        cursor = database.execute("SELECT record_id FROM orders_shown").fetchone()
        newest = database.execute("SELECT coalesce(max(record_id), 0) FROM records").fetchone()[0]
        if cursor is None:
            database.execute("INSERT INTO orders_shown VALUES (1, ?)", (newest,))
            return
        if newest == cursor["record_id"]:
            return
        rows = database.execute(
            "SELECT device_id, payload FROM records WHERE record_id > ? AND record_id <= ? AND message_type IN (?, ?)"
            " ORDER BY record_id",
            (cursor["record_id"], newest, constants.MESSAGE_EVENT, constants.MESSAGE_HELLO),
        ).fetchall()
        for row in rows:
            self._shown(database, row["device_id"], bytes(row["payload"]))
        database.execute("UPDATE orders_shown SET record_id = ?", (newest,))

    def _shown(self, database: sqlite3.Connection, device_id: int, payload: bytes) -> None:
        told = database.execute(
            "SELECT * FROM device_orders WHERE device_id = ? AND digest <> ''", (device_id,)
        ).fetchall()
        if not told:
            return
        try:
            message = codec.decode(payload)
        except WireError:
            return
        for row in told:
            lacks = _lacks(message, order_messages.activation_number(row["device_activation_id"]), row["version"])
            if lacks is not None:
                database.execute(
                    "UPDATE device_orders SET send_again = ? WHERE device_activation_id = ?",
                    (lacks, row["device_activation_id"]),
                )
                self.counters["shown_another_version"] += lacks


def _lacks(message: codec.Message, activation: int, version: int) -> bool | None:
    """Whether the record shows that the device does not have this version in force; None = it does not say."""
    if isinstance(message, codec.Hello):
        return True if message.previous_epoch == 0 and message.previous_epoch_records == 0 else None  # its flash is new
    if not isinstance(message, codec.Event):
        return None
    evidence = bytes(message.evidence)
    if message.event_type == constants.EVENT_ORDER_APPLIED:
        return evidence[:4] != activation.to_bytes(4, "little") or message.value < version
    if message.event_type == constants.EVENT_ORDER_ENDED:
        return True if evidence[:4] == activation.to_bytes(4, "little") and message.value == version else None
    if message.event_type in (constants.EVENT_ZONE_ENTERED, constants.EVENT_ZONE_LEFT) and len(evidence) >= 2:
        return int.from_bytes(evidence[:2], "little") < version
    return None


def listed(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Which version each activation's device was sent, and whether it has confirmed it."""
    rows = database.execute(
        "SELECT d.*, r.state, r.result FROM device_orders d LEFT JOIN requests r USING (request_id)"
    ).fetchall()
    return [
        {
            "deviceActivationId": row["device_activation_id"],
            "deviceId": row["device_id"],
            "version": row["version"],
            "ended": not row["digest"],
            "state": row["state"],
            "result": None if row["result"] is None else json.loads(row["result"]),
        }
        for row in rows
    ]
