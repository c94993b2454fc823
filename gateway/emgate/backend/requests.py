"""Requests to devices at the backend: each goes to the gateway that heard its device last, and its result comes back.

waiting (no gateway has it) → queued, sent (as the gateway says) → answered | expired | replaced | refused. A gateway
that does not report a request is given it again; ids make that harmless. A device that moves to another gateway takes
its open requests along; command numbers make that harmless. Answers are also read from the devices' own records.
"""

import json
import sqlite3
from typing import Any

from emwire import codec, constants
from emwire.errors import WireError

from emgate.down.kinds import KINDS, Asked, RequestError

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY,
    device_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    asked TEXT NOT NULL,                      -- what the gateway is given, as JSON
    number INTEGER NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    gateway_id TEXT,                          -- who has it, or was given it last
    created_date INTEGER NOT NULL,
    expires_date INTEGER NOT NULL,
    handed_date INTEGER,
    changed_date INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,      -- the gateway's
    result TEXT
)""",
    "CREATE INDEX IF NOT EXISTS requests_open ON requests (device_id)"
    " WHERE state IN ('waiting', 'queued', 'sent', 'expired')",
    "CREATE TABLE IF NOT EXISTS command_numbers (device_id INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS answers_read (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), record_id INTEGER)",
)
WAITING, OPEN = "waiting", ("waiting", "queued", "sent")
STATES = ("queued", "sent", "answered", "expired", "replaced", "refused")
HAND_AGAIN_MS = 30_000
"""A gateway that has it reports within a batch's round trip; one that was restarting has had time to connect."""
HANDED_AT_ONCE = 16
DEFAULT_EXPIRY_MS = 3_600_000
SILENT_MS = 86_400_000
"""So long after its expiry a request that no gateway speaks of is called expired: gateways report within a day."""
OPEN_PER_DEVICE = 64
ANSWER_TYPES = (constants.MESSAGE_EVENT, constants.MESSAGE_COMMAND_RESULT, constants.MESSAGE_UPDATE_STATE)
_KINDS = {kind.name: kind for kind in KINDS}


def prepare(database: sqlite3.Connection) -> None:
    """Make what tables are missing, inside a transaction of the caller's."""
    for statement in SCHEMA:
        database.execute(statement)


def submit(database: sqlite3.Connection, now_ms: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Take a request, once for each id: {"requestId", "deviceId", "kind", "expiresMs"?, …}. RequestError if wrong."""
    body = dict(asked)
    request_id, device_id = body.pop("requestId", None), body.pop("deviceId", None)
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= 64:
        raise RequestError("requestId must be 1 to 64 characters")
    if type(device_id) is not int or not 1 <= device_id <= 0xFFFF_FFFF:
        raise RequestError("deviceId must be a number from 1 to 4294967295")
    known = find(database, request_id)
    if known is not None:
        return known
    kind = _KINDS.get(str(body.pop("kind", None)))
    if kind is None:
        raise RequestError(f"kind must be one of {', '.join(_KINDS)}")
    waiting = f"device_id = ? AND state IN {OPEN}"
    if (
        database.execute(f"SELECT count(*) FROM requests WHERE {waiting}", (device_id,)).fetchone()[0]
        >= OPEN_PER_DEVICE
    ):
        raise RequestError("too many requests wait for this device: let some be answered or expire first")
    expires_ms = body.pop("expiresMs", now_ms + DEFAULT_EXPIRY_MS)
    if type(expires_ms) is not int or expires_ms <= now_ms:
        raise RequestError("expiresMs must be unix milliseconds in the future")
    if kind.name == "command":
        body["commandNumber"] = _next_number(database, device_id, now_ms)
    made = kind.make(Asked(body, 0, lambda: 0))
    if kind.replaces:
        database.execute(
            f"UPDATE requests SET state = 'replaced', changed_date = ? WHERE kind = ? AND {waiting}",
            (now_ms, kind.name, device_id),
        )
    given = {"requestId": request_id, "deviceId": device_id, "kind": kind.name, "expiresMs": expires_ms, **body}
    database.execute(
        "INSERT INTO requests (request_id, device_id, kind, asked, number, body, state, created_date, expires_date,"
        " changed_date) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request_id, device_id, kind.name, json.dumps(given), made.number, json.dumps(made.body), WAITING, now_ms,
            expires_ms, now_ms,
        ),
    )  # fmt: skip
    found = find(database, request_id)
    assert found is not None, "just inserted"
    return found


def _next_number(database: sqlite3.Connection, device_id: int, now_ms: int) -> int:
    """Even, and by the clock, as gateways take odd ones; two a second until 2044."""
    by_clock = 2 * max(1, now_ms // 1000 - constants.TIME_EPOCH_UNIX_S)
    (number,) = database.execute(
        "INSERT INTO command_numbers VALUES (?1, ?2)"
        " ON CONFLICT DO UPDATE SET number = max(number + 2, excluded.number) RETURNING number",
        (device_id, by_clock),
    ).fetchone()
    return int(number)


def find(database: sqlite3.Connection, request_id: str) -> dict[str, Any] | None:
    """A request as people see it."""
    row = database.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone()
    return None if row is None else _facts(row)


def listed(database: sqlite3.Connection, device_id: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """The newest first."""
    rows = database.execute(
        "SELECT * FROM requests WHERE ?1 IS NULL OR device_id = ?1 ORDER BY created_date DESC, rowid DESC LIMIT ?2",
        (device_id, limit),
    ).fetchall()
    return [_facts(row) for row in rows]


def _facts(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "requestId": row["request_id"],
        "deviceId": row["device_id"],
        "kind": row["kind"],
        "body": json.loads(row["body"]),
        "number": row["number"],
        "state": row["state"],
        "gatewayId": row["gateway_id"],
        "createdMs": row["created_date"],
        "expiresMs": row["expires_date"],
        "changedMs": row["changed_date"],
        "result": None if row["result"] is None else json.loads(row["result"]),
    }


# -- towards gateways -----------------------------------------------------------------------------------------


def due(database: sqlite3.Connection, now_ms: int, gateway_id: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(gateway, request) of what is to be handed out now, to one gateway or all; noted as handed."""
    found: list[tuple[str, dict[str, Any]]] = []
    rows = database.execute(
        f"SELECT * FROM requests WHERE state IN {OPEN} AND expires_date > ? ORDER BY rowid", (now_ms,)
    )
    for row in rows.fetchall():
        last = database.execute(
            "SELECT gateway_id FROM records WHERE device_id = ? AND link <> 'gateway'"
            " ORDER BY epoch DESC, sequence DESC LIMIT 1",
            (row["device_id"],),
        ).fetchone()
        if last is None or (gateway_id is not None and last["gateway_id"] != gateway_id):
            continue  # nobody has heard the device yet, or another gateway did
        target = str(last["gateway_id"])
        moved = row["gateway_id"] is not None and row["gateway_id"] != target
        again = row["state"] == WAITING and not 0 <= now_ms - (row["handed_date"] or 0) < HAND_AGAIN_MS
        if not (moved or again):
            continue
        database.execute(
            "UPDATE requests SET gateway_id = ?, handed_date = ?, state = ?, revision = iif(?, 0, revision)"
            " WHERE request_id = ?",
            (target, now_ms, WAITING, moved, row["request_id"]),
        )
        found.append((target, json.loads(row["asked"])))
        if len(found) >= HANDED_AT_ONCE:
            break
    return found


def report(database: sqlite3.Connection, now_ms: int, gateway_id: str, states: object) -> None:
    """What a gateway says of the requests that it was given; anything else in it is passed over."""
    for state in states if isinstance(states, list) else []:
        if not isinstance(state, dict) or state.get("state") not in STATES:
            continue
        request_id, revision, result = state.get("requestId"), state.get("revision"), state.get("result")
        if not isinstance(request_id, str) or type(revision) is not int or not 0 <= revision < 1 << 62:
            continue
        database.execute(
            "UPDATE requests SET state = ?1, revision = ?2, result = coalesce(?3, result), changed_date = ?4"
            " WHERE request_id = ?5 AND gateway_id = ?6 AND revision < ?2 AND state <> 'answered'"
            " AND (?1 NOT IN ('queued', 'sent') OR state IN ('waiting', 'queued', 'sent'))",
            (
                state["state"], revision, json.dumps(result) if isinstance(result, dict) else None, now_ms,
                request_id, gateway_id,
            ),
        )  # fmt: skip


# -- from devices ---------------------------------------------------------------------------------------------


def read_answers(database: sqlite3.Connection, now_ms: int, limit: int = 5000) -> int:
    """Look through the records that came since the last call for answers to open requests; how many were looked at."""
    row = database.execute("SELECT record_id FROM answers_read").fetchone()
    if row is None:
        newest = database.execute("SELECT coalesce(max(record_id), 0) FROM records").fetchone()[0]
        database.execute("INSERT INTO answers_read VALUES (1, ?)", (newest,))
        return 0
    records = database.execute(
        "SELECT record_id, device_id, message_type, payload FROM records WHERE record_id > ?"
        " ORDER BY record_id LIMIT ?",
        (row["record_id"], limit),
    ).fetchall()
    if not records:
        return 0
    for record in records:
        if record["message_type"] in ANSWER_TYPES:
            _answer(database, now_ms, record["device_id"], bytes(record["payload"]))
    database.execute("UPDATE answers_read SET record_id = ?", (records[-1]["record_id"],))
    return len(records)


def _answer(database: sqlite3.Connection, now_ms: int, device_id: int, payload: bytes) -> None:
    waiting = database.execute(
        "SELECT request_id, kind, number, body FROM requests"
        " WHERE device_id = ? AND state IN ('waiting', 'queued', 'sent', 'expired')",
        (device_id,),
    ).fetchall()
    if not waiting:
        return
    try:
        message = codec.decode(payload)
    except WireError:
        return
    for row in waiting:
        answer = _KINDS[row["kind"]].answer(row["number"], json.loads(row["body"]), message)
        if answer is not None:
            database.execute(
                "UPDATE requests SET result = ?, state = iif(?, 'answered', state), changed_date = ?"
                " WHERE request_id = ?",
                (json.dumps(answer.result), answer.final, now_ms, row["request_id"]),
            )


def expire(database: sqlite3.Connection, now_ms: int) -> None:
    """End what no gateway was ever given in time, and what its gateway has stopped speaking of."""
    database.execute(
        "UPDATE requests SET state = 'expired', changed_date = ?1 WHERE state = 'waiting' AND expires_date <= ?1"
        " OR state IN ('queued', 'sent') AND expires_date <= ?2",
        (now_ms, now_ms - SILENT_MS),
    )
