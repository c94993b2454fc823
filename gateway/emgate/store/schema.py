"""The store's tables, what a row of them is in Python, and how a connection to it is made."""

import enum
import os
import re
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from emgate.store import summed

SCHEMA_VERSION = 6
WITHOUT_SUMS = 5
"""The same but for the sums of summed.py."""
SCHEMA = """
-- The log. Written at its end only, deleted from at its beginning.
CREATE TABLE IF NOT EXISTS records (
    row_id INTEGER PRIMARY KEY,  -- given by the writer and never again: cursors point at it
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    alarm INTEGER NOT NULL,
    received_time_ms INTEGER NOT NULL,
    link TEXT NOT NULL,
    payload BLOB NOT NULL,
    sealed INTEGER NOT NULL DEFAULT 0,  -- 1: payload and time of receipt are as PayloadCipher.seal made them
    check_sum INTEGER NOT NULL  -- CRC-32 of the row: a worn card gives back other bytes than it took
);
CREATE INDEX IF NOT EXISTS alarms ON records (row_id) WHERE alarm = 1;
-- Written in bulk, with the checkpoint (books.py).
CREATE TABLE IF NOT EXISTS identities (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    row_id INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    stored BLOB NOT NULL,
    delivered BLOB NOT NULL,
    stored_records INTEGER NOT NULL,
    delivered_records INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,  -- CRC-32 of the row, here and below: summed.py
    PRIMARY KEY (device_id, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    row_id INTEGER NOT NULL,  -- the books are as of this row
    routine_row INTEGER NOT NULL,  -- and of these cursors
    alarm_row INTEGER NOT NULL,
    routine_stored INTEGER NOT NULL,
    alarm_stored INTEGER NOT NULL,
    routine_delivered INTEGER NOT NULL,
    alarm_delivered INTEGER NOT NULL,
    pruned INTEGER NOT NULL,
    check_sum INTEGER NOT NULL
);
-- Gap records (message type 0x07) say which sequences nobody needs to wait for.
CREATE INDEX IF NOT EXISTS gap_records ON records (device_id) WHERE substr(payload, 1, 1) = x'07';
CREATE TABLE IF NOT EXISTS cursors (
    consumer TEXT NOT NULL,
    alarm INTEGER NOT NULL,
    row_id INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    PRIMARY KEY (consumer, alarm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    stored_through INTEGER NOT NULL,
    delivered_through INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS down_counters (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    reserved_until INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch)
) WITHOUT ROWID;
-- The key that a device was last seen to use, by its fingerprint.
CREATE TABLE IF NOT EXISTS keys_in_use (
    device_id INTEGER PRIMARY KEY,
    slot INTEGER NOT NULL,
    fingerprint BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS up_counters (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    next_counter INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_time_ms INTEGER NOT NULL,
    link TEXT NOT NULL,
    device_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    frame BLOB NOT NULL
);
-- What devices are asked to do (down/requests.py).
CREATE TABLE IF NOT EXISTS down_requests (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    device_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    asked TEXT NOT NULL,
    number INTEGER NOT NULL,
    messages TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    sent_ms INTEGER,
    changed_ms INTEGER NOT NULL,
    result TEXT,
    revision INTEGER NOT NULL,
    reported INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS down_requests_by_device ON down_requests (device_id, kind, number);
-- What the store gave up or lost, until it is told (limits.py).
CREATE TABLE IF NOT EXISTS losses (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    cause INTEGER NOT NULL
);
-- What was pruned before a consumer that is not required had it, and how much of that is told (limits.py).
CREATE TABLE IF NOT EXISTS missed (
    consumer TEXT PRIMARY KEY,
    records INTEGER NOT NULL,
    told INTEGER NOT NULL
) WITHOUT ROWID;
-- Which row was the last one when the gateway had run so long in all.
CREATE TABLE IF NOT EXISTS ages (running_s REAL PRIMARY KEY, row_id INTEGER NOT NULL) WITHOUT ROWID;
-- What is left of a metered target's budget (uplinks/meter.py).
CREATE TABLE IF NOT EXISTS uplink_meters (
    target TEXT NOT NULL,
    period_ms INTEGER NOT NULL,
    level REAL NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (target, period_ms)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS down_requests_by_state ON down_requests (state, row_id);
"""

LANES = (False, True)
"""Routine records, then alarms (what a record's `alarm` says): the order of the checkpoint's columns."""


Cursors = dict[tuple[str, bool], int]
"""(consumer, whether of alarms) → the row up to which it has all."""


class Record(NamedTuple):
    """One record as committed."""

    device_id: int
    epoch: int
    sequence: int
    alarm: bool
    received_time_ms: int
    link: str
    payload: bytes
    row_id: int = 0


class PayloadCipher(Protocol):
    """Keeps what records say from whoever reads the disk; emgate.keys.vault has the one there is."""

    def seal(self, record: Record) -> Record:
        """The record as the disk gets it. The first byte tells gap (7) and hello or status (1, 6); any other is 255."""
        ...

    def open(self, record: Record) -> Record:
        """The record as it came; ValueError when it does not open."""
        ...

    def seal_bytes(self, place: bytes, data: bytes) -> bytes:
        """Anything else that speaks of a wearer; opens only for the same place (a table's name, say)."""
        ...

    def open_bytes(self, place: bytes, sealed: bytes) -> bytes:
        """What was sealed for that place; ValueError when it does not open."""
        ...


class Outcome(enum.Enum):
    """What became of an append."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the same bytes are already committed
    CONFLICT = "conflict"  # other bytes are committed under this identity; the newcomer is in quarantine
    REFUSED = "refused"  # not stored: no room. The device still has it and sends it again.


@dataclass(slots=True, frozen=True)
class EpochState:
    """What the store knows of one boot epoch: everything below the watermarks, and ranges (inclusive) above them."""

    device_id: int
    epoch: int
    stored_through: int
    delivered_through: int
    stored_above: tuple[tuple[int, int], ...]
    delivered_above: tuple[tuple[int, int], ...]


@dataclass(slots=True, frozen=True)
class GapRecord:
    """A stored record that may declare others lost."""

    payload: bytes
    delivered: bool


LOG_PAGES = 1000
"""SQLite's default: 4 MB of log before it is moved into the file."""


def connect(path: Path, reserve_bytes: int = 0) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are on the disk when they return.

    Moving the log into the file takes as much room as the log has: never more than a quarter of the reserve, or a full
    disk could not be got out of by giving the reserve up."""
    log_pages = min(LOG_PAGES, max(50, reserve_bytes // 4 // 4096)) if reserve_bytes else LOG_PAGES
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
        connection.execute("PRAGMA journal_size_limit = 16777216")  # what the log may keep after a burst
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """Make what tables are missing; sqlite3.DatabaseError when the file cannot be used as it is.

    What is looked at does not grow with the store: the rest is checked while the gateway runs (audit.py)."""
    write_log_again(connection)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(f"its schema version {version} is newer than this program's {SCHEMA_VERSION}")
    if 0 < version < WITHOUT_SUMS:
        raise OlderSchemaError(f"schema version {version}")
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise sqlite3.DatabaseError("it has tables, but no schema version")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    for row in connection.execute(f"SELECT {COLUMNS} FROM records ORDER BY row_id DESC LIMIT {LOOKED_AT}"):
        verify(row)
    summed.check_cursors(connection)
    if version == WITHOUT_SUMS:  # in place: a store may be larger than the room that is left
        connection.execute("BEGIN IMMEDIATE")
        summed.add_sums(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    connection.execute(CREATE_MISSED)  # where an earlier program made the file
    for table in TABLES:
        for row in connection.execute(f"SELECT * FROM {table} LIMIT {LOOKED_AT}").fetchall():
            if table in summed.SUMMED:
                summed.verified(table, row)


def write_log_again(connection: sqlite3.Connection) -> None:
    """Make durable what the log shows. Nobody else may be writing to the store.

    What a killed process left there may be in the kernel's memory alone, and, where an fsync of it had failed, for
    good: Linux reports that once and takes the pages for clean. Commits behind it would go with it at a power cut. In
    its place, because a full disk must not keep a store from being opened."""
    connection.execute("BEGIN")  # nobody moves the log into the file meanwhile
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        name = connection.execute("PRAGMA database_list").fetchone()[2]
        with Path(name + "-wal").open("r+b", buffering=0) as log:
            at = 0
            while part := log.read(1 << 20):
                log.seek(at)
                at += log.write(part)
            os.fsync(log.fileno())
    except FileNotFoundError:
        pass
    finally:
        connection.execute("ROLLBACK")


class NewerSchemaError(sqlite3.DatabaseError):
    """Made by a later program."""


class OlderSchemaError(sqlite3.DatabaseError):
    """Made by an earlier program: its rows are taken over into a fresh store."""


COLUMNS = "device_id, epoch, sequence, alarm, received_time_ms, link, payload, row_id, sealed, check_sum"
INSERT = f"INSERT INTO records ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"
LOOKED_AT = 200
"""Rows of each table looked at when opening. The rest is for audit.py."""
TABLES = tuple(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", SCHEMA))
CREATE_MISSED = re.findall(r"CREATE TABLE IF NOT EXISTS missed [^;]*;", SCHEMA)[0]


def check_sum(row: Sequence[Any]) -> int:
    """Of a row of COLUMNS without its own."""
    device_id, epoch, sequence, alarm, received_time_ms, link, payload, row_id, sealed = row
    head = f"{device_id} {epoch} {sequence} {alarm:d} {received_time_ms} {link} {row_id} {sealed:d}"
    return zlib.crc32(payload, zlib.crc32(head.encode()))


def verify(row: Sequence[Any]) -> None:
    """sqlite3.DatabaseError when a row of COLUMNS is not as it was written."""
    try:
        whole = check_sum(row[:9]) == row[9]
    except (TypeError, ValueError):  # a number that is none, a payload that is text
        whole = False
    if not whole:
        raise sqlite3.DatabaseError(f"row {row[7]} is not as it was written")
