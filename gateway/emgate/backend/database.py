"""The backend's SQLite database: schema, one writing connection, any number of reading ones.

WAL, so that readers never wait for the writer nor it for them. synchronous=FULL, because "delivered" lets a device
free its flash: a commit must be on the disk before it is spoken of, not merely survive the process.
Columns called *_date hold unix milliseconds UTC; NULL means not known, never a guess.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emgate.errors import StoreError

SCHEMA_VERSION = 1
BUSY_MS = 10_000
"""A second writer (a tool loading orders) may wait as long as a large batch takes; longer means something is wrong."""

CACHE_KIB = 8192
"""A record goes into a dozen trees, at its device's place of each: in SQLite's 2 MB pages are read again."""
LOG_PAGES = 4000
"""16 MB of log before it is moved into the file: a page that many batches have changed is moved once."""

SCHEMA = """
CREATE TABLE records (
    record_id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    alarm INTEGER NOT NULL,
    link TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    message_type INTEGER,                 -- NULL: empty payload
    state TEXT NOT NULL,                  -- DECODED, UNKNOWN_TYPE, UNDECODABLE
    reason TEXT,                          -- why it could not be decoded
    quarantine_reason TEXT,               -- NULL: an activation covers it
    uptime_s INTEGER,
    clock_source INTEGER,
    clock_uncertainty_ms INTEGER,
    recorded_date INTEGER,
    recorded_source TEXT,                 -- DEVICE, ANCHOR (from another record of the epoch); NULL: unknown
    received_date INTEGER NOT NULL,       -- by the gateway
    uploaded_date INTEGER NOT NULL,       -- the gateway's batch
    ingested_date INTEGER NOT NULL,       -- this database
    payload BLOB NOT NULL,
    UNIQUE (device_id, epoch, sequence)
);
CREATE INDEX records_unset ON records (device_id, epoch) WHERE state = 'DECODED' AND recorded_source IS NOT 'DEVICE';
CREATE INDEX records_anchor ON records (device_id, epoch, uptime_s) WHERE recorded_source = 'DEVICE';
CREATE INDEX records_quarantined ON records (record_id) WHERE quarantine_reason IS NOT NULL;
CREATE INDEX records_undecoded ON records (record_id) WHERE state <> 'DECODED';

-- Same identity, other bytes: the first stays the record, the other is kept here as evidence.
CREATE TABLE conflicts (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    payload BLOB NOT NULL,
    ingested_date INTEGER NOT NULL,
    UNIQUE (device_id, epoch, sequence, payload)
);

CREATE TABLE epochs (
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    received INTEGER NOT NULL DEFAULT 0,
    highest_sequence INTEGER NOT NULL DEFAULT -1,
    records_made INTEGER NOT NULL DEFAULT 0,  -- as the newest status of the epoch says
    final_records INTEGER,                    -- as a later boot says; NULL: not known yet
    duplicates_refused INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, epoch)
) WITHOUT ROWID;

CREATE TABLE devices (
    device_id INTEGER PRIMARY KEY,
    device_model INTEGER,                     -- from the newest hello
    hardware_revision INTEGER,
    firmware_version TEXT,
    firmware_last_updated_date INTEGER,
    capabilities INTEGER,
    hello_epoch INTEGER NOT NULL DEFAULT -1,
    first_received_date INTEGER NOT NULL,
    last_received_date INTEGER NOT NULL,
    last_record_date INTEGER,
    last_link TEXT NOT NULL
);

CREATE TABLE hellos (
    record_id INTEGER PRIMARY KEY REFERENCES records,
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    device_model INTEGER NOT NULL,
    hardware_revision INTEGER NOT NULL,
    firmware_version TEXT NOT NULL,
    reset_cause INTEGER NOT NULL,
    capabilities INTEGER NOT NULL,
    configuration_version INTEGER NOT NULL,
    previous_epoch INTEGER NOT NULL,
    previous_epoch_records INTEGER NOT NULL,
    storage_dropped INTEGER NOT NULL
);

CREATE TABLE positions (
    position_id INTEGER PRIMARY KEY,
    record_id INTEGER NOT NULL REFERENCES records,
    item INTEGER NOT NULL,                    -- place in the record's block
    device_id INTEGER NOT NULL,
    gps_date INTEGER,
    latitude_microdegrees INTEGER NOT NULL,
    longitude_microdegrees INTEGER NOT NULL,
    speed REAL,                               -- km/h
    direction INTEGER,                        -- degrees
    precision INTEGER,                        -- metres, about 95 %
    satellite INTEGER,
    hdop REAL,
    mechanism INTEGER,                        -- GPS 1, RF 4, LBS 5, WIFI 6; NULL: the block does not say
    UNIQUE (record_id, item)
);
CREATE INDEX positions_by_time ON positions (device_id, gps_date);

CREATE TABLE events (
    event_id INTEGER PRIMARY KEY,
    record_id INTEGER NOT NULL REFERENCES records,
    device_id INTEGER NOT NULL,               -- whom the event is about
    reporting_device_id INTEGER NOT NULL,
    event_type_id INTEGER NOT NULL,
    event_type_code TEXT NOT NULL,
    event_start_date INTEGER,
    time_source TEXT,                         -- MEASURED, RECORDED (the body had no time); NULL: unknown
    value INTEGER NOT NULL,
    event_status TEXT,
    evidence BLOB NOT NULL
);
CREATE INDEX events_by_time ON events (device_id, event_start_date);
CREATE INDEX events_by_type ON events (device_id, event_type_id, event_start_date);

CREATE TABLE readings (
    reading_id INTEGER PRIMARY KEY,
    record_id INTEGER NOT NULL UNIQUE REFERENCES records,
    device_id INTEGER NOT NULL,
    reading_date INTEGER,
    time_source TEXT,
    tac_ug_per_l INTEGER NOT NULL,
    contact_ir_mv INTEGER NOT NULL,
    skin_temperature_centi_celsius INTEGER NOT NULL,
    motion_count INTEGER NOT NULL,
    quality INTEGER NOT NULL
);
CREATE INDEX readings_by_time ON readings (device_id, reading_date);

CREATE TABLE presences (
    presence_id INTEGER PRIMARY KEY,
    record_id INTEGER NOT NULL UNIQUE REFERENCES records,
    device_id INTEGER NOT NULL,               -- the home unit
    beacon_id INTEGER NOT NULL,               -- the pid
    authenticity INTEGER NOT NULL,
    window_start_date INTEGER,
    window_end_date INTEGER,
    time_source TEXT,
    listened_s INTEGER NOT NULL,
    deaf_s INTEGER NOT NULL,
    heard_count INTEGER NOT NULL,
    first_heard_s INTEGER,
    last_heard_s INTEGER,
    rssi_minimum_dbm INTEGER,
    rssi_median_dbm INTEGER,
    rssi_maximum_dbm INTEGER,
    beacon_battery_percent INTEGER,
    beacon_strap INTEGER                      -- 0 closed, 1 open
);
CREATE INDEX presences_by_time ON presences (beacon_id, window_start_date);
-- The few that speak of tampering or of a low battery (conditions/evidence.py names the same figures).
CREATE INDEX presences_open ON presences (beacon_id, window_start_date) WHERE beacon_strap = 1;
CREATE INDEX presences_copied ON presences (beacon_id, window_start_date) WHERE authenticity IN (2, 3);
CREATE INDEX presences_low ON presences (beacon_id, window_start_date) WHERE beacon_battery_percent <= 20;
CREATE INDEX presences_by_unit ON presences (device_id, window_start_date);

CREATE TABLE statuses (
    record_id INTEGER PRIMARY KEY REFERENCES records,
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    status_date INTEGER,
    battery_percent INTEGER,
    battery_mv INTEGER NOT NULL,
    charging INTEGER NOT NULL,
    temperature_centi_celsius INTEGER NOT NULL,
    memory_free_bytes INTEGER NOT NULL,
    memory_peak_bytes INTEGER NOT NULL,
    journal_records INTEGER NOT NULL,
    journal_bytes INTEGER NOT NULL,
    records_made INTEGER NOT NULL,
    frames_sent INTEGER NOT NULL,
    frames_refused INTEGER NOT NULL,
    configuration_version INTEGER NOT NULL,
    clock_error_ms INTEGER NOT NULL
);
CREATE INDEX statuses_by_order ON statuses (device_id, epoch, sequence);
CREATE INDEX statuses_by_time ON statuses (device_id, status_date);

CREATE TABLE gaps (
    record_id INTEGER PRIMARY KEY REFERENCES records,
    device_id INTEGER NOT NULL,
    gap_epoch INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    cause INTEGER NOT NULL
);
CREATE INDEX gaps_by_epoch ON gaps (device_id, gap_epoch);

CREATE TABLE activations (
    device_activation_id TEXT PRIMARY KEY,
    device_id INTEGER NOT NULL,
    person_id TEXT NOT NULL,
    device_activation_date INTEGER NOT NULL,
    device_deactivation_date INTEGER,         -- exclusive; NULL: still active
    curfew_address TEXT,
    charged INTEGER                           -- NULL: by the model
);
CREATE INDEX activations_by_device ON activations (device_id, device_activation_date);
CREATE INDEX activations_by_person ON activations (person_id);

CREATE TABLE orders (
    order_id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL,
    body TEXT NOT NULL                        -- the order as JSON, as orders.Order reads it
);

-- What is to be judged anew, because evidence within the span came since. Outlives a kill before the judgement.
CREATE TABLE pending (
    person_id TEXT NOT NULL,
    condition TEXT NOT NULL,
    from_date INTEGER NOT NULL,
    to_date INTEGER NOT NULL,
    PRIMARY KEY (person_id, condition)
) WITHOUT ROWID;

-- Violation events (what the devices saw) and, with raised = 1, violation alerts (what the service raises).
CREATE TABLE violations (
    alert_id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL UNIQUE,
    condition TEXT NOT NULL,                  -- curfew, exclusion_zone, alcohol, tamper, power
    condition_key TEXT NOT NULL,              -- the condition's instance, e.g. one zone
    scope_date INTEGER NOT NULL,              -- what decides which span of time the finding belongs to
    raised INTEGER NOT NULL,
    alert_code TEXT,
    category TEXT NOT NULL,
    certainty TEXT NOT NULL,
    state TEXT NOT NULL,
    person_id TEXT NOT NULL,
    device_activation_id TEXT NOT NULL,
    device_id INTEGER NOT NULL,
    start_date INTEGER NOT NULL,
    end_date INTEGER,
    due_date INTEGER,                         -- when time alone changes the judgement
    raised_date INTEGER NOT NULL,             -- when the service first said so
    changed_date INTEGER NOT NULL,
    cause TEXT NOT NULL,
    body TEXT NOT NULL                        -- the remaining public keys as JSON
);
CREATE INDEX violations_by_scope ON violations (person_id, condition_key, scope_date);
CREATE INDEX violations_due ON violations (due_date) WHERE due_date IS NOT NULL;

-- Every version of every violation, in the order in which the service said so.
CREATE TABLE violation_history (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id TEXT NOT NULL,
    changed_date INTEGER NOT NULL,
    snapshot TEXT NOT NULL
);
"""


def connect(path: Path) -> sqlite3.Connection:
    """The writing connection; creates the schema. StoreError when the file is of another version or not ours."""
    try:
        # Calls may come from different threads of a pool, but Backend lets only one at a time in.
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        # What a killed process left in the log may be in the kernel's memory alone, and for good where an fsync of it
        # failed. This writes it anew, before anything is said to be there or is written behind it.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with transaction(database):
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                _create(database)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: cannot be used as the backend's database: {error}") from None
    if version not in (0, SCHEMA_VERSION):
        database.close()
        raise StoreError(
            f"{path}: schema version {version}, this program knows {SCHEMA_VERSION}: use the program that wrote it"
        )
    database.row_factory = sqlite3.Row
    return database


def _create(database: sqlite3.Connection) -> None:
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError("it holds the tables of another program; name another file")
    statement = ""
    for line in SCHEMA.splitlines(keepends=True):  # executescript would commit the transaction
        statement += line
        if sqlite3.complete_statement(statement):
            database.execute(statement)
            statement = ""
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def connect_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, for this or another process; StoreError when there is no database yet."""
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        database.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        database.execute("SELECT 1 FROM records LIMIT 1")
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be read as the backend's database: {error}") from None
    database.row_factory = sqlite3.Row
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; takes the write lock at once, so that it cannot fail half way for want of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
