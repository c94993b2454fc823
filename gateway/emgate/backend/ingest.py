"""Ingest: batches of raw records into the database, exactly once in effect. A batch is committed whole. Where an alarm
waits meanwhile, it begins again behind the alarm, or is committed in parts with the alarm between them.

`Backend` is the one writer. It keeps every payload, decodes what it can, resolves times, keeps the books of every
boot epoch, and notes what has to be judged anew; `evaluate` then does the judging (conditions/engine.py).
"""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from emwire import codec, constants

from emgate.backend import batch as batches
from emgate.backend import database, orders, projection
from emgate.backend.conditions.engine import Judgement
from emgate.backend.conditions.evidence import BESIDE, LONGEST_WINDOW_MS, SILENCE_EVENTS
from emgate.backend.projection import Decoded, Header, Row
from emgate.backend.vocabulary import unix_ms
from emgate.gateway_number import LINK
from emgate.store.sqlite_rows import ROWS_AT_ONCE, bytes_in_use, insert, insert_by

log = structlog.get_logger(__name__)

T = TypeVar("T")

EVIDENCE_OF = {
    "positions": ("exclusion_zone",),
    "readings": ("alcohol",),
    "presences": ("curfew", "tamper", "power"),
    "events": ("tamper", "power"),
    "statuses": ("power",),
}
"""Which conditions a row of a table is evidence for."""

CONDITIONS = ("curfew", "exclusion_zone", "alcohol", "tamper", "power")

_WHY_QUARANTINED = (
    "CASE"
    " WHEN state <> 'DECODED' THEN 'not decoded: ' || reason"
    " WHEN link = 'gateway' THEN NULL"  # a gateway's own: no wearer's, and wrong in nothing
    " WHEN NOT EXISTS (SELECT 1 FROM activations a WHERE a.device_id = records.device_id)"
    "  THEN 'no activation knows this device'"
    " WHEN recorded_date IS NULL THEN 'the time of the record is not known'"
    " WHEN EXISTS (SELECT 1 FROM activations a WHERE a.device_id = records.device_id"
    "  AND a.device_activation_date <= recorded_date"
    "  AND (a.device_deactivation_date IS NULL OR recorded_date < a.device_deactivation_date)) THEN NULL"
    " ELSE 'no activation of this device covers the time of the record' END"
)
"""Why a record is nobody's. Such records are kept, raise nothing, and are judged once an activation covers them."""
QUARANTINE = f"UPDATE records SET quarantine_reason = {_WHY_QUARANTINED}"

_COLUMNS = (
    "record_id, device_id, epoch, sequence, alarm, link, gateway_id, batch_id, message_type, state, reason, uptime_s,"
    " clock_source, clock_uncertainty_ms, recorded_date, recorded_source, received_date, uploaded_date, ingested_date,"
    " payload"
)


def _insert_records(rows: int) -> str:
    """So many new records."""
    values = ", ".join([f"({', '.join('?' * len(_COLUMNS.split(', ')))})"] * rows)
    return (
        f"WITH records ({_COLUMNS}) AS (VALUES {values})"
        f" INSERT INTO main.records ({_COLUMNS}, quarantine_reason) SELECT {_COLUMNS}, {_WHY_QUARANTINED} FROM records"
    )


GATHERED = 2 * ROWS_AT_ONCE
"""Records that wait to be written: an alarm that comes meanwhile waits for these, some 3 ms."""

AGAIN, AGAIN_RECORDS = 2, 1000
"""How often a batch is begun again for an alarm, and from where on it is not: a commit takes 6 ms, 25 when it moves the
log into the file as well, and to roll back none. What is done again is 80 ms at most each time."""

_INSERT, _INSERT_MANY = _insert_records(1), _insert_records(ROWS_AT_ONCE)


class Clock(Protocol):
    """The part of emgate.clock.Clock that is needed here."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...


class Backend:
    """One database, one writer. Calls from several threads are let in one at a time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = Path(path)
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._database = database.connect(self.path)

    def close(self) -> None:
        """Close the database; everything acknowledged is already on the disk."""
        with self._lock:
            self._database.close()

    def bytes_in_use(self) -> int:
        """Of the database, without its log."""
        with self._lock:
            return bytes_in_use(self._database)

    def within(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction of the one writer."""
        with self._lock, database.transaction(self._database):
            return work(self._database)

    def ingest(self, batch: dict[str, Any], pause: "Pause | None" = None) -> int:
        """Store a batch; returns how many of its records are new. BatchError when it is not of the agreed shape.

        `pause`: what may come in between."""
        parsed = batches.parse(batch)
        new = done = 0
        again = AGAIN
        while done < len(parsed.records):
            try:
                with self._lock, database.transaction(self._database):
                    ingest = _Ingest(self._database, parsed, self.clock.now_ms(), pause, AGAIN_RECORDS if again else 0)
                    part, part_new = ingest.run(parsed.records[done:])
                done += part
                new += part_new
            except _Overtaken:
                again -= 1
            if pause is not None and done < len(parsed.records):
                self.counters["batches_overtaken"] += 1
                pause.take()
        self.counters["records_new"] += new
        self.counters["records_duplicate"] += len(parsed.records) - new
        return new

    def evaluate(self, now_ms: int) -> int:
        """Judge what new evidence or the passing of time calls for; returns how many violations changed.

        Cheap when nothing is due. Each person and condition is judged in a transaction of its own, so that ingest
        waits for one judgement at most, and a kill loses none.
        """
        changed = 0
        with self._lock:
            work = self._database.execute(
                "SELECT person_id, condition FROM pending UNION"
                " SELECT person_id, condition FROM violations WHERE due_date <= ? ORDER BY 1, 2",
                (now_ms,),
            ).fetchall()
        for row in work:
            try:
                with self._lock, database.transaction(self._database):
                    changed += self._judge(row["person_id"], row["condition"], now_ms)
            except Exception:  # one person's fault must not keep everybody else's alerts back; it stays pending
                self.counters["judgements_failed"] += 1
                log.exception("judgement failed", person=row["person_id"], condition=row["condition"])
        return changed

    def _judge(self, person_id: str, condition: str, now_ms: int) -> int:
        which = (person_id, condition)
        span = self._database.execute(
            "SELECT min(f), max(t) FROM ("
            " SELECT from_date f, to_date t FROM pending WHERE person_id = ?1 AND condition = ?2 UNION ALL"
            " SELECT scope_date, scope_date FROM violations"
            " WHERE person_id = ?1 AND condition = ?2 AND due_date <= ?3)",
            (*which, now_ms),
        ).fetchone()
        self._database.execute("DELETE FROM pending WHERE person_id = ? AND condition = ?", which)
        if span[0] is None:
            return 0
        return Judgement(self._database, person_id, condition, span[0], span[1], now_ms).run()

    def load_orders(self, path: Path) -> int:
        """Make wearers, activations and orders those of the file; returns how many persons it changed.

        Records quarantined until now are judged by the next evaluate(), as is everything of a person whose orders or
        activations changed. ConfigError names file, field and remedy, and nothing is changed.
        """
        return self.set_orders(orders.read_order_file(path))

    def set_orders(self, file: orders.OrderFile) -> int:
        """As load_orders, from a file already read."""
        with self._lock, database.transaction(self._database):
            return _load(self._database, file)

    def reproject(self) -> int:
        """Try again to decode what an earlier version could not; returns how many records are understood now."""
        with self._lock, database.transaction(self._database):
            return _Ingest(self._database, None, self.clock.now_ms()).reproject()


def _load(connection: sqlite3.Connection, file: orders.OrderFile) -> int:
    before = _by_person(connection)
    connection.execute("DELETE FROM activations")
    connection.execute("DELETE FROM orders")
    connection.executemany(
        "INSERT INTO activations VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                item.deviceActivationId,
                item.deviceId,
                item.personId,
                item.from_ms,
                item.until_ms,
                item.curfewAddress,
                item.charged,
            )
            for item in file.activations
        ],
    )
    connection.executemany(
        "INSERT INTO orders VALUES (?, ?, ?)",
        [(order.orderId, order.personId, orders.order_to_json(order)) for order in file.orders],
    )
    after = _by_person(connection)
    persons = {person for person in before.keys() | after.keys() if before.get(person) != after.get(person)}
    devices: set[int] = set()
    for person in persons:
        for state in (before, after):
            devices.update(row[1] for row in state.get(person, ([], []))[0])
        connection.executemany(
            "INSERT INTO pending VALUES (?, ?, 0, ?)"
            " ON CONFLICT DO UPDATE SET from_date = 0, to_date = excluded.to_date",
            [(person, condition, orders.FOR_EVER_MS) for condition in CONDITIONS],
        )
    for device_id in devices:
        connection.execute(QUARANTINE + " WHERE device_id = ?", (device_id,))
    return len(persons)


_PersonState = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


def _by_person(connection: sqlite3.Connection) -> dict[str, _PersonState]:
    """Activations and orders of every person, to see who changed."""
    found: dict[str, _PersonState] = {}
    for place, query in enumerate(
        ("SELECT * FROM activations ORDER BY device_activation_id", "SELECT * FROM orders ORDER BY order_id")
    ):
        for row in connection.execute(query):
            found.setdefault(row["person_id"], ([], []))[place].append(tuple(row))
    return found


@dataclass(slots=True)
class _EpochBooks:
    """What a batch adds to the books of one boot epoch."""

    received: int = 0
    highest_sequence: int = -1
    records_made: int = 0
    duplicates_refused: int = 0
    conflicts: int = 0


@dataclass(slots=True)
class _DeviceBooks:
    """What a batch tells of a device."""

    first_received: int
    last_received: int
    last_link: str
    last_record: int | None = None


class Pause(Protocol):
    """What is more urgent than the batch that is being ingested."""

    def wanted(self) -> bool:
        """Something waits. Asked for every record."""
        ...

    def take(self) -> None:
        """Do it; no transaction is open."""
        ...


class _Overtaken(Exception):
    """What was done in this transaction is to be done again behind what is more urgent."""


class _Ingest:
    """One batch inside its transaction. Books and rows are gathered and written once a batch: half of its time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        batch: batches.Batch | None,
        now_ms: int,
        pause: Pause | None = None,
        again: int = 0,
    ) -> None:
        """`again`: so many records may be done again for a pause."""
        self._pause = pause
        self._again = again
        self._done = 0
        self._database = connection
        self._batch = batch
        self._now_ms = now_ms
        self._touched: dict[tuple[int, str], tuple[int, int]] = {}
        self._anchored: set[tuple[int, int]] = set()
        self._silences: list[tuple[str, int, int]] = []  # gateway, unix ms [from, to]
        self._epochs: dict[tuple[int, int], _EpochBooks] = {}
        self._devices: dict[int, _DeviceBooks] = {}
        self._rows: dict[str, tuple[str, list[tuple[Any, ...]]]] = {}  # by table: its columns, and rows
        self._records: list[tuple[Any, ...]] = []  # to be written
        self._unwritten: dict[tuple[int, int, int], bytes] = {}  # their payloads
        self._highest: dict[tuple[int, int], int] = {}  # per epoch the highest sequence there is
        last = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'records'").fetchone()[0]
        self._next_id: int = (last or 0) + 1

    def run(self, records: Iterable[batches.BatchRecord]) -> tuple[int, int]:
        """Store records of the batch until none is left or a pause is wanted; how many, and how many were new.
        _Overtaken when these are few enough to be done again."""
        assert self._batch is not None
        new = 0
        for record in records:
            new += self._record(record, self._batch)
            self._done += 1
            if len(self._records) >= GATHERED:
                self._write_rows()
            if self._overtaken():
                break
        self._finish()
        self._overtaken()  # to commit takes as long as to write a hundred records
        return self._done, new

    def _overtaken(self) -> bool:
        """Whether something waits for the end of this transaction; _Overtaken if it need not."""
        if self._pause is None or not self._pause.wanted():
            return False
        if self._done <= self._again:
            raise _Overtaken
        return True

    def reproject(self) -> int:
        """Decode again what could not be decoded; returns how many records can be now."""
        understood = 0
        for row in self._database.execute("SELECT * FROM records WHERE state <> 'DECODED'").fetchall():
            record = batches.BatchRecord(
                deviceId=row["device_id"],
                epoch=row["epoch"],
                sequence=row["sequence"],
                alarm=bool(row["alarm"]),
                receivedTimeMs=row["received_date"],
                link=row["link"],
                payload=bytes(row["payload"]).hex(),  # type: ignore[arg-type]  # read from hexadecimal
            )
            decoded = projection.decode(record.payload)
            if decoded.message is not None:
                recorded, source = self._recorded(record, decoded)
                self._database.execute(
                    "UPDATE records SET state = ?, reason = NULL, uptime_s = ?, clock_source = ?,"
                    " clock_uncertainty_ms = ?, recorded_date = ?, recorded_source = ? WHERE record_id = ?",
                    (
                        decoded.state,
                        decoded.message.uptime_s,
                        decoded.message.clock_source,
                        decoded.message.clock_uncertainty_ms,
                        recorded,
                        source,
                        row["record_id"],
                    ),
                )
                self._database.execute(QUARANTINE + " WHERE record_id = ?", (row["record_id"],))
                self._project(row["record_id"], record, decoded, recorded, source)
                understood += 1
        self._finish()
        return understood

    def _finish(self) -> None:
        self._write_books()
        self._write_rows()
        for device_id, epoch in sorted(self._anchored):
            self._resolve_unset(device_id, epoch)
        self._mark_pending()

    def _mark_pending(self) -> None:
        """What was touched is to be judged anew; kept in the same commit, so that a kill cannot lose it."""
        for (device_id, table), (first, last) in self._touched.items():
            for condition in EVIDENCE_OF[table]:
                self._database.execute(
                    "INSERT INTO pending (person_id, condition, from_date, to_date)"
                    " SELECT DISTINCT person_id, ?1, ?3, ?4 FROM activations WHERE device_id = ?2"
                    " AND device_activation_date <= ?4 AND coalesce(device_deactivation_date, ?3 + 1) > ?3"
                    " ON CONFLICT DO UPDATE SET from_date = min(from_date, ?3), to_date = max(to_date, ?4)",
                    (condition, device_id, first, last),
                )
        for gateway_id, first, last in self._silences:
            # What a gateway heard is evidence about whoever has a home unit beside it, from then until now.
            self._database.execute(
                "INSERT INTO pending (person_id, condition, from_date, to_date)"
                " SELECT DISTINCT person_id, 'curfew', ?1, ?2 FROM activations a WHERE EXISTS"
                " (SELECT 1 FROM presences p JOIN records r USING (record_id) WHERE p.device_id = a.device_id"
                "  AND p.window_start_date > ?1 - ?4 AND p.window_start_date < ?2 AND r.gateway_id = ?3"
                f"  AND r.link IN {BESIDE})"
                " ON CONFLICT DO UPDATE SET from_date = min(from_date, ?1), to_date = max(to_date, ?2)",
                (first, max(last, self._now_ms), gateway_id, LONGEST_WINDOW_MS),
            )

    def _record(self, record: batches.BatchRecord, batch: batches.Batch) -> bool:
        identity = (record.deviceId, record.epoch, record.sequence)
        decoded = projection.decode(record.payload)
        recorded, source = self._recorded(record, decoded)
        message = decoded.message
        known = self._known(identity)
        if known is not None:
            self._duplicate(identity, record.payload, known)
            return False
        record_id = self._next_id
        self._next_id += 1
        self._unwritten[identity] = record.payload
        self._records.append(
            (
                record_id,
                *identity,
                record.alarm,
                record.link,
                batch.gatewayId,
                batch.batchId,
                record.payload[0] if record.payload else None,
                decoded.state,
                decoded.reason,
                message.uptime_s if message else None,
                message.clock_source if message else None,
                message.clock_uncertainty_ms if message else None,
                recorded,
                source,
                record.receivedTimeMs,
                batch.uploadedDateMs,
                self._now_ms,
                record.payload,
            )
        )
        books = self._epoch(record.deviceId, record.epoch)
        books.received += 1
        books.highest_sequence = max(books.highest_sequence, record.sequence)
        self._project(record_id, record, decoded, recorded, source)
        if isinstance(message, codec.Event) and message.event_type in SILENCE_EVENTS and record.link == LINK:
            moment = unix_ms(message.event_time_s) or record.receivedTimeMs
            started = message.event_type == constants.EVENT_GATEWAY_STARTED
            self._silences.append((batch.gatewayId, moment - (0 if started else message.value * 1000), moment))
        return True

    def _known(self, identity: tuple[int, int, int]) -> bytes | None:
        """The payload that is stored under this identity; None when it is new."""
        key, sequence = identity[:2], identity[2]
        highest = self._highest.get(key)
        if highest is None:
            (highest,) = self._database.execute(
                "SELECT coalesce(max(sequence), -1) FROM records WHERE device_id = ? AND epoch = ?", key
            ).fetchone()
        self._highest[key] = max(highest, sequence)
        if sequence > highest:
            return None
        payload = self._unwritten.get(identity)
        if payload is not None:
            return payload
        row = self._database.execute(
            "SELECT payload FROM records WHERE device_id = ? AND epoch = ? AND sequence = ?", identity
        ).fetchone()
        return None if row is None else bytes(row[0])

    def _project(
        self,
        record_id: int,
        record: batches.BatchRecord,
        decoded: Decoded,
        recorded: int | None,
        source: str | None,
    ) -> None:
        header = Header(record_id, record.deviceId, record.epoch, record.sequence, recorded)
        self._insert(projection.rows(header, decoded))
        self._account(record, decoded)
        self._device(record, decoded, recorded)
        if source == "DEVICE":
            self._anchored.add((record.deviceId, record.epoch))

    def _duplicate(self, identity: tuple[int, int, int], payload: bytes, kept: bytes) -> None:
        conflict = payload != kept
        if conflict:
            log.warning("other bytes under a known identity", device=identity[0], identity=identity)
            self._database.execute(
                "INSERT OR IGNORE INTO conflicts VALUES (?,?,?,?,?)", (*identity, payload, self._now_ms)
            )
        books = self._epoch(identity[0], identity[1])
        books.duplicates_refused += 1
        books.conflicts += conflict

    def _epoch(self, device_id: int, epoch: int) -> _EpochBooks:
        books = self._epochs.get((device_id, epoch))
        if books is None:
            books = self._epochs[device_id, epoch] = _EpochBooks()
        return books

    def _write_books(self) -> None:
        self._database.executemany(
            "INSERT INTO epochs (device_id, epoch, received, highest_sequence, records_made, duplicates_refused,"
            " conflicts) VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET received = received + excluded.received,"
            " highest_sequence = max(highest_sequence, excluded.highest_sequence),"
            " records_made = max(records_made, excluded.records_made),"
            " duplicates_refused = duplicates_refused + excluded.duplicates_refused,"
            " conflicts = conflicts + excluded.conflicts",
            [
                (*key, each.received, each.highest_sequence, each.records_made, each.duplicates_refused, each.conflicts)
                for key, each in self._epochs.items()
            ],
        )
        self._epochs.clear()
        self._database.executemany(
            "INSERT INTO devices (device_id, first_received_date, last_received_date, last_record_date, last_link)"
            " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET"
            " first_received_date = min(first_received_date, ?2),"
            " last_link = iif(?3 >= last_received_date, ?5, last_link),"
            " last_received_date = max(last_received_date, ?3),"
            " last_record_date = max(coalesce(last_record_date, ?4), coalesce(?4, last_record_date))",
            [
                (device_id, each.first_received, each.last_received, each.last_record, each.last_link)
                for device_id, each in self._devices.items()
            ],
        )
        self._devices.clear()

    def _recorded(self, record: batches.BatchRecord, decoded: Decoded) -> tuple[int | None, str | None]:
        """The record's own time, else one derived from another record of the same boot, else none."""
        if decoded.message is None:
            return None, None
        own = unix_ms(decoded.message.recorded_time_s)
        if own is not None:
            return own, "DEVICE"
        derived = self._anchor(record.deviceId, record.epoch, decoded.message.uptime_s)
        return derived, "ANCHOR" if derived is not None else None

    def _anchor(self, device_id: int, epoch: int, uptime_s: int) -> int | None:
        """Time at `uptime_s` by the record of this boot whose clock was set and whose uptime is nearest."""
        self._write_records()
        nearest = self._database.execute(
            "SELECT recorded_date, uptime_s FROM ("
            " SELECT * FROM (SELECT recorded_date, uptime_s, sequence FROM records INDEXED BY records_anchor"
            "  WHERE device_id = ?1 AND epoch = ?2 AND recorded_source = 'DEVICE' AND uptime_s <= ?3"
            "  ORDER BY uptime_s DESC, sequence LIMIT 1)"
            " UNION ALL"
            " SELECT * FROM (SELECT recorded_date, uptime_s, sequence FROM records INDEXED BY records_anchor"
            "  WHERE device_id = ?1 AND epoch = ?2 AND recorded_source = 'DEVICE' AND uptime_s > ?3"
            "  ORDER BY uptime_s, sequence LIMIT 1)"
            ") ORDER BY abs(uptime_s - ?3), uptime_s LIMIT 1",
            (device_id, epoch, uptime_s),
        ).fetchone()
        if nearest is None:
            return None
        derived: int = nearest["recorded_date"] - (nearest["uptime_s"] - uptime_s) * 1000
        return derived

    def _resolve_unset(self, device_id: int, epoch: int) -> None:
        """New anchors came: derive the times of this boot's records without one again."""
        unset = self._database.execute(
            "SELECT record_id, sequence, payload, uptime_s, recorded_date FROM records INDEXED BY records_unset"
            " WHERE device_id = ? AND epoch = ? AND state = 'DECODED' AND recorded_source IS NOT 'DEVICE'",
            (device_id, epoch),
        ).fetchall()
        for row in unset:
            derived = self._anchor(device_id, epoch, row["uptime_s"])
            if derived == row["recorded_date"]:
                continue
            self._database.execute(
                "UPDATE records SET recorded_date = ?, recorded_source = 'ANCHOR' WHERE record_id = ?",
                (derived, row["record_id"]),
            )
            self._database.execute(QUARANTINE + " WHERE record_id = ?", (row["record_id"],))
            decoded = projection.decode(bytes(row["payload"]))
            before = Header(row["record_id"], device_id, epoch, row["sequence"], row["recorded_date"])
            after = Header(row["record_id"], device_id, epoch, row["sequence"], derived)
            self._delete(projection.rows(before, decoded))
            self._insert(projection.rows(after, decoded))
            self._write_rows()

    def _insert(self, rows: Iterable[Row]) -> None:
        for row in rows:
            found = self._rows.get(row.table)
            if found is None:
                found = self._rows[row.table] = ", ".join(row.values), []
            found[1].append(tuple(row.values.values()))
            self._touch(row)

    def _write_records(self) -> None:
        insert_by(self._database, _INSERT, _INSERT_MANY, self._records)
        self._records.clear()
        self._unwritten.clear()

    def _write_rows(self) -> None:
        self._write_records()  # which they refer to
        for table, (columns, rows) in self._rows.items():
            marks = ", ".join("?" * len(rows[0]))
            self._overtaken()
            insert(self._database, f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
        self._rows.clear()

    def _delete(self, rows: Iterable[Row]) -> None:
        for row in rows:
            # The index by device and time leads to the few among which the record's is.
            which = " AND device_id = :device_id AND event_start_date IS :event_start_date"
            self._database.execute(
                f"DELETE FROM {row.table} WHERE record_id = :record_id{which if row.table == 'events' else ''}",
                row.values,
            )
            self._touch(row)

    def _touch(self, row: Row) -> None:
        for device_id, moment in row.measured:
            if moment is not None:
                first, last = self._touched.get((device_id, row.table), (moment, moment))
                self._touched[device_id, row.table] = min(first, moment), max(last, moment)

    def _account(self, record: batches.BatchRecord, decoded: Decoded) -> None:
        """The books of the boot epochs: what the device says it made."""
        if isinstance(decoded.message, codec.Status):
            books = self._epoch(record.deviceId, record.epoch)
            books.records_made = max(books.records_made, decoded.message.records_made)
        hello = decoded.message
        if isinstance(hello, codec.Hello) and hello.previous_epoch != record.epoch:
            if hello.previous_epoch == 0 and hello.previous_epoch_records == 0:
                return  # the first boot of all
            self._database.execute(
                "INSERT INTO epochs (device_id, epoch, final_records) VALUES (?1, ?2, ?3)"
                " ON CONFLICT DO UPDATE SET final_records = max(coalesce(final_records, 0), ?3)",
                (record.deviceId, hello.previous_epoch, hello.previous_epoch_records),
            )

    def _device(self, record: batches.BatchRecord, decoded: Decoded, recorded: int | None) -> None:
        moment = record.receivedTimeMs
        books = self._devices.get(record.deviceId)
        if books is None:
            books = self._devices[record.deviceId] = _DeviceBooks(moment, moment, record.link)
        books.first_received = min(books.first_received, moment)
        if moment >= books.last_received:
            books.last_received, books.last_link = moment, record.link
        if recorded is not None:
            books.last_record = recorded if books.last_record is None else max(books.last_record, recorded)
        if isinstance(decoded.message, codec.Hello):
            self._hello(record, decoded.message, recorded)

    def _hello(self, record: batches.BatchRecord, hello: codec.Hello, recorded: int | None) -> None:
        self._write_books()  # what follows needs the device's row
        version = f"{hello.firmware_major}.{hello.firmware_minor}.{hello.firmware_patch}"
        self._database.execute(
            "UPDATE devices SET device_model = ?2, hardware_revision = ?3, capabilities = ?4, hello_epoch = ?5,"
            " firmware_last_updated_date = iif(firmware_version IS ?6, firmware_last_updated_date, ?7),"
            " firmware_version = ?6 WHERE device_id = ?1 AND hello_epoch <= ?5",
            (
                record.deviceId,
                hello.device_model,
                hello.hardware_revision,
                hello.capabilities,
                record.epoch,
                version,
                recorded,
            ),
        )
