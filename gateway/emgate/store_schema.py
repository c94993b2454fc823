"""The store's tables, what a row of them is in Python, and how a connection to it is made."""

import enum
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: cursors point at it
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    alarm INTEGER NOT NULL,
    received_time_ms INTEGER NOT NULL,
    link TEXT NOT NULL,
    payload BLOB NOT NULL,
    sealed INTEGER NOT NULL DEFAULT 0,  -- 1: payload and time of receipt are as PayloadCipher.seal made them
    UNIQUE (device_id, epoch, sequence)
);
CREATE INDEX IF NOT EXISTS records_by_lane ON records (alarm, row_id);
-- Gap records (message type 0x07) say which sequences nobody needs to wait for.
CREATE INDEX IF NOT EXISTS gap_records ON records (device_id) WHERE substr(payload, 1, 1) = x'07';
CREATE TABLE IF NOT EXISTS cursors (
    consumer TEXT NOT NULL,
    alarm INTEGER NOT NULL,
    row_id INTEGER NOT NULL,
    PRIMARY KEY (consumer, alarm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermarks (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    stored_through INTEGER NOT NULL,
    delivered_through INTEGER NOT NULL,
    pruned_through INTEGER NOT NULL DEFAULT 0,  -- records below were delivered and deleted here
    pruned_records INTEGER NOT NULL DEFAULT 0,  -- how many that were
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
-- What devices are asked to do (down_requests.py).
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
CREATE INDEX IF NOT EXISTS down_requests_by_state ON down_requests (state, row_id);
"""


@dataclass(slots=True, frozen=True)
class Record:
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
    """Keeps what records say from whoever reads the disk; emgate.vault has the one there is."""

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
    """What the store knows of one boot epoch: everything below the watermarks, and what lies above them."""

    device_id: int
    epoch: int
    stored_through: int
    delivered_through: int
    stored_above: tuple[int, ...]
    delivered_above: tuple[int, ...]


@dataclass(slots=True, frozen=True)
class GapRecord:
    """A stored record that may declare others lost."""

    payload: bytes
    delivered: bool


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are on the disk when they return."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")  # what the log may keep after a burst
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """Check the file's integrity and make what tables are missing; sqlite3.Error when it cannot be used."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"its schema version {version} is newer than this program's {SCHEMA_VERSION}")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(" ".join(verdict.split()))
    if version < SCHEMA_VERSION:
        connection.executescript(SCHEMA)
        if 0 < version < 3:
            connection.execute("ALTER TABLE records ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
