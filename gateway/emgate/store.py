"""The gateway's store: append-only records in SQLite, committed in groups by one writer thread.

A future that this module resolves with True speaks of a commit that has reached the disk (WAL, synchronous=FULL).
Nothing else in the gateway writes; reads for the uplinks go through a second connection.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from emgate.errors import StoreError
from emgate.histogram import Histogram
from emgate.store_schema import EpochState, GapRecord, Outcome, PayloadCipher, Record, connect, prepare
from emgate.store_writer import QUEUE_FRAMES, Operation, Writer

__all__ = ["EpochState", "GapRecord", "Outcome", "Record", "Store"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

INSERT = (
    "INSERT OR IGNORE INTO records (device_id, epoch, sequence, alarm, received_time_ms, link, payload, sealed)"
    " VALUES (?,?,?,?,?,?,?,?)"
)

IDENTITY_CONFLICT = "identity_conflict"
QUARANTINE_ROWS = 10_000
QUARANTINE_FRAME_BYTES = 1100
"""Quarantine is evidence, not a promise: at most about 11 MB, oldest out. A frame has at most 1024 B."""
PRUNE_ROWS = 2000
"""Deleted in one transaction: some 10 ms of the writer's time."""
DAY_MS = 86_400_000
COLUMNS = "device_id, epoch, sequence, alarm, received_time_ms, link, payload, row_id, sealed"


class Store:
    """Open with `await Store.open(...)`; close with `await store.close()`."""

    def __init__(
        self,
        path: Path,
        consumers: Mapping[str, bool],
        alarm_reserve_bytes: int,
        maximum_bytes: int,
        payload_cipher: PayloadCipher | None = None,
    ) -> None:
        self.path = path
        self.payload_cipher = payload_cipher
        self.counters: Counter[str] = Counter()
        self._appended = {(consumer, alarm): asyncio.Event() for consumer in consumers for alarm in (False, True)}
        self._required = [consumer for consumer, required in consumers.items() if required]
        self._maximum_bytes = maximum_bytes
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-reader")
        connection = connect(path)
        try:
            prepare(connection)
            self._read_connection = connect(path)
        except BaseException:
            connection.close()
            raise
        self._cursors: dict[tuple[str, bool], int] = dict.fromkeys(self._appended, 0)
        for consumer, lane, row_id in connection.execute("SELECT consumer, alarm, row_id FROM cursors"):
            if (consumer, bool(lane)) in self._cursors:
                self._cursors[consumer, bool(lane)] = row_id
        self._pruned = {
            (device_id, epoch): pruned
            for device_id, epoch, pruned in connection.execute(
                "SELECT device_id, epoch, pruned_through FROM watermarks WHERE pruned_through"
            )
        }
        self._writer = Writer(path, connection, alarm_reserve_bytes, self.counters, self._append_all, self._note)
        self._writer.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        consumers: Mapping[str, bool] | None = None,
        alarm_reserve_bytes: int = 0,
        maximum_bytes: int = 4_000_000_000,
        payload_cipher: PayloadCipher | None = None,
    ) -> "Store":
        """Open or create, check integrity, start the writer. StoreError says what is wrong and what to do.

        consumers: name → whether a record must have reached it to count as *delivered*. At least one must be
        required. A consumer that the store does not know yet begins with the oldest record still in the store."""
        consumers = {"uplink": True} if consumers is None else consumers
        if not any(consumers.values()):
            raise StoreError("no uplink target is required: nothing could ever count as delivered; require one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path, consumers, alarm_reserve_bytes, maximum_bytes, payload_cipher)
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(
                f"{path}: cannot open the store: {error}; its folder must be writable and the disk have room"
            ) from None
        except sqlite3.Error as error:
            raise StoreError(
                f"{path}: the store failed its check: {error}. Restore a copy, or move it and its -wal file away to "
                "start afresh: devices still hold every record that was not delivered"
            ) from None

    # -- writing ------------------------------------------------------------------------------------------

    def append(self, record: Record) -> "asyncio.Future[Outcome]":
        """Resolved after the commit. Never carries an exception."""
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def told(_: Record, outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        self.put(record, told)
        return future

    def put(self, record: Record, told: Callable[[Record, Outcome], None]) -> None:
        """As append, with a call in place of a future; at once when there is no room."""
        if self._writer.queued >= QUEUE_FRAMES or self._writer.closing:
            self.counters["queue_full"] += 1
            told(record, Outcome.REFUSED)
            return
        self._writer.submit((record, told))

    def appended(self, consumer: str, alarm: bool) -> asyncio.Event:
        """Set when a lane has something new for a consumer, who clears it before it looks."""
        return self._appended[consumer, alarm]

    def _note(self, records: Sequence[Record]) -> None:
        """In the event loop, after the commit of new records."""
        lanes = {record.alarm for record in records}
        for (_, lane), event in self._appended.items():
            if lane in lanes:
                event.set()

    def _append_all(self, connection: sqlite3.Connection, records: Sequence[Record]) -> list[Outcome]:
        """All at once when all are new, which is the rule; else one by one."""
        if not any(record.sequence < self._pruned.get((record.device_id, record.epoch), 0) for record in records):
            before = connection.total_changes
            connection.execute("SAVEPOINT appended")
            connection.executemany(INSERT, [self._row(record) for record in records])
            if connection.total_changes - before == len(records):
                connection.execute("RELEASE appended")
                return [Outcome.STORED] * len(records)
            connection.execute("ROLLBACK TO appended")
            connection.execute("RELEASE appended")
        return [self._append(connection, record) for record in records]

    def _row(self, record: Record) -> tuple[Any, ...]:
        """What INSERT takes."""
        cipher = self.payload_cipher
        kept = record if cipher is None else cipher.seal(record)
        return (
            record.device_id,
            record.epoch,
            record.sequence,
            record.alarm,
            kept.received_time_ms,
            record.link,
            kept.payload,
            cipher is not None,
        )

    def _append(self, connection: sqlite3.Connection, record: Record) -> Outcome:
        identity = (record.device_id, record.epoch, record.sequence)
        if record.sequence < self._pruned.get((record.device_id, record.epoch), 0):
            return Outcome.DUPLICATE
        if connection.execute(INSERT, self._row(record)).rowcount:
            return Outcome.STORED
        known = self._record(
            connection.execute(
                f"SELECT {COLUMNS} FROM records WHERE device_id=? AND epoch=? AND sequence=?", identity
            ).fetchone()
        )
        if known.payload == record.payload:
            return Outcome.DUPLICATE
        cipher = self.payload_cipher
        evidence = record.payload if cipher is None else cipher.seal_bytes(b"quarantine", record.payload)
        connection.execute(
            "INSERT INTO quarantine (received_time_ms, link, device_id, reason, frame) VALUES (?,?,?,?,?)",
            (record.received_time_ms, record.link, record.device_id, IDENTITY_CONFLICT, evidence),
        )
        return Outcome.CONFLICT

    def advance(
        self, consumer: str, alarm: bool, row_id: int, marks: Iterable[tuple[int, int, int, int]] = ()
    ) -> "asyncio.Future[tuple[int, int] | None]":
        """Move a consumer's cursor of one lane to row_id, and the watermarks with it, in one commit.

        marks: (device_id, epoch, stored_through, delivered_through); they never go back.
        Resolves with (before, after): records of the lane with before < row_id <= after have just now been
        delivered to every required consumer, and all of them are in the batch that the caller has delivered.
        None: could not be committed."""
        rows = list(marks)
        if (consumer, alarm) not in self._cursors:
            raise KeyError(consumer)

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO cursors VALUES (?,?,?) ON CONFLICT DO UPDATE SET row_id = max(row_id, excluded.row_id)",
                (consumer, alarm, row_id),
            )
            _mark(connection, rows)

        future: asyncio.Future[tuple[int, int] | None] = self._loop.create_future()

        def committed(done: "asyncio.Future[bool]") -> None:
            if future.done():
                return
            if done.cancelled() or done.result() is False:
                future.set_result(None)
                return
            before = self.delivered_row(alarm)
            self._cursors[consumer, alarm] = max(self._cursors[consumer, alarm], row_id)
            future.set_result((before, self.delivered_row(alarm)))

        self.write(apply, refused=False).add_done_callback(committed)
        return future

    def delivered_row(self, alarm: bool) -> int:
        """Every record of the lane up to this row has reached every required consumer."""
        return min(self._cursors[consumer, alarm] for consumer in self._required)

    def mark(self, marks: Iterable[tuple[int, int, int, int]]) -> "asyncio.Future[bool]":
        """Commit watermarks alone, for example when a device says that older records no longer exist."""
        rows = list(marks)

        def apply(connection: sqlite3.Connection) -> bool:
            _mark(connection, rows)
            return True

        return self.write(apply, refused=False)

    def reserve_down_counters(
        self, device_id: int, epoch: int, block: int, at_least: int = 0
    ) -> "asyncio.Future[int | None]":
        """Reserve `block` counters from `at_least` on; the first of them, or None when it could not be committed."""

        def apply(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT reserved_until FROM down_counters WHERE device_id=? AND epoch=?", (device_id, epoch)
            ).fetchone()
            first: int = max(row[0] if row else 0, at_least)
            connection.execute(
                "INSERT INTO down_counters VALUES (?,?,?)"
                " ON CONFLICT DO UPDATE SET reserved_until = excluded.reserved_until",
                (device_id, epoch, first + block),
            )
            return first

        return self.write(apply, refused=None)

    def note_up_counter(self, device_id: int, epoch: int, next_counter: int) -> "asyncio.Future[bool]":
        """Commit that link messages below next_counter have been seen, so that their replay is refused for good."""

        def apply(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "INSERT INTO up_counters VALUES (?,?,?) ON CONFLICT DO UPDATE SET"
                " next_counter = max(next_counter, excluded.next_counter)",
                (device_id, epoch, next_counter),
            )
            return True

        return self.write(apply, refused=False)

    def note_key(self, device_id: int, slot: int, fingerprint: bytes) -> "asyncio.Future[bool]":
        """Commit that a device uses this key: the one before is refused for good."""

        def apply(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "INSERT INTO keys_in_use VALUES (?,?,?)"
                " ON CONFLICT DO UPDATE SET slot = excluded.slot, fingerprint = excluded.fingerprint",
                (device_id, slot, fingerprint),
            )
            return True

        return self.write(apply, refused=False)

    def quarantine(self, received_time_ms: int, link: str, device_id: int, reason: str, frame: bytes) -> None:
        """Keep a frame that could not be verified, as evidence. Bounded; the caller counts and limits the rate."""
        if self._writer.queued >= QUEUE_FRAMES // 2:  # never at the expense of records
            self.counters["quarantine_skipped"] += 1
            return

        def apply(connection: sqlite3.Connection) -> bool:
            done = connection.execute(
                "INSERT INTO quarantine (received_time_ms, link, device_id, reason, frame) VALUES (?,?,?,?,?)",
                (received_time_ms, link, device_id, reason, frame[:QUARANTINE_FRAME_BYTES]),
            )
            connection.execute(
                "DELETE FROM quarantine WHERE row_id <= ? AND reason <> ?",
                ((done.lastrowid or 0) - QUARANTINE_ROWS, IDENTITY_CONFLICT),
            )
            return True

        self.write(apply, refused=False, routine=True)

    async def prune(self, now_ms: int, keep_delivered_days: float) -> int:
        """Delete delivered records that are old, or the oldest ones when the file has grown too large; how many."""
        total = 0
        before_ms = now_ms - int(keep_delivered_days * DAY_MS)
        while not self._writer.closing:
            deleted = await self.write(lambda connection: self._prune(connection, before_ms), refused=0)
            if not deleted:
                break
            total += deleted
        if total:
            self.counters["pruned"] += total
        return total

    def _prune(self, connection: sqlite3.Connection, before_ms: int) -> int:
        """One piece of one epoch: the prefix below both watermarks, delivered, and old enough."""
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * page_bytes > self._maximum_bytes:
            before_ms = 1 << 62
        cursors = {lane: self.delivered_row(lane) for lane in (False, True)}
        for device_id, epoch, pruned, through in connection.execute(
            "SELECT device_id, epoch, pruned_through, min(stored_through, delivered_through) FROM watermarks"
            " WHERE pruned_through < min(stored_through, delivered_through) ORDER BY epoch"
        ).fetchall():
            through = min(through, pruned + PRUNE_ROWS)
            kept = connection.execute(
                "SELECT min(sequence) FROM records WHERE device_id = ? AND epoch = ? AND sequence < ?"
                " AND (received_time_ms >= ? OR row_id > CASE alarm WHEN 1 THEN ? ELSE ? END)",
                (device_id, epoch, through, before_ms, cursors[True], cursors[False]),
            ).fetchone()[0]
            if kept is not None:
                through = min(through, kept)
            if through <= pruned:
                continue
            deleted = connection.execute(
                "DELETE FROM records WHERE device_id = ? AND epoch = ? AND sequence < ?", (device_id, epoch, through)
            ).rowcount
            connection.execute(
                "UPDATE watermarks SET pruned_through = ?, pruned_records = pruned_records + ?"
                " WHERE device_id = ? AND epoch = ?",
                (through, deleted, device_id, epoch),
            )
            self._pruned[device_id, epoch] = through
            if deleted:
                return deleted
        return 0

    def write(
        self, apply: Callable[[sqlite3.Connection], T], refused: Any, *, routine: bool = False
    ) -> "asyncio.Future[Any]":
        """Run `apply` in a transaction of the writer's, for tables that others keep here; its result, or `refused`."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._writer.closing:
            future.set_result(refused)
        else:
            self._writer.submit(Operation(apply, future, refused, routine))
        return future

    # -- reading ------------------------------------------------------------------------------------------

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the reading connection, for tables that others keep here."""
        return await self._loop.run_in_executor(self._reader, work, self._read_connection)

    async def undelivered(self, consumer: str, alarm: bool, limit: int, maximum_bytes: int) -> list[Record]:
        """The next records of a lane after the consumer's cursor, in the order they were committed."""
        after = self._cursors[consumer, alarm]

        def work(connection: sqlite3.Connection) -> list[Record]:
            records: list[Record] = []
            total = 0
            for row in connection.execute(
                f"SELECT {COLUMNS} FROM records WHERE alarm = ? AND row_id > ? ORDER BY row_id LIMIT ?",
                (alarm, after, limit),
            ):
                total += len(row[6])
                if records and total > maximum_bytes:
                    break
                records.append(self._record(row))
            return records

        return await self.read(work)

    async def epochs(self, device_id: int) -> list[EpochState]:
        """State of every epoch of a device, from which its session goes on after a restart."""

        def work(connection: sqlite3.Connection) -> list[EpochState]:
            marks = {
                epoch: (stored, delivered)
                for epoch, stored, delivered in connection.execute(
                    "SELECT epoch, stored_through, delivered_through FROM watermarks WHERE device_id = ?", (device_id,)
                )
            }
            cursors = {lane: self.delivered_row(lane) for lane in (False, True)}
            known = [
                epoch
                for (epoch,) in connection.execute(
                    "SELECT DISTINCT epoch FROM records WHERE device_id = ?", (device_id,)
                )
            ]
            states = []
            for epoch in sorted({*marks, *known}):
                stored, delivered = marks.get(epoch, (0, 0))
                rows = connection.execute(
                    "SELECT sequence, alarm, row_id FROM records WHERE device_id = ? AND epoch = ? AND sequence >= ?"
                    " ORDER BY sequence",
                    (device_id, epoch, min(stored, delivered)),
                ).fetchall()
                states.append(
                    EpochState(
                        device_id,
                        epoch,
                        stored,
                        delivered,
                        tuple(sequence for sequence, _, _ in rows if sequence >= stored),
                        tuple(
                            sequence
                            for sequence, alarm, row_id in rows
                            if sequence >= delivered and row_id <= cursors[bool(alarm)]
                        ),
                    )
                )
            return states

        return await self.read(work)

    async def latest(self, device_id: int) -> list[Record]:
        """What tells most of a device's present state, oldest first: its last hello or status, and its last record."""

        def work(connection: sqlite3.Connection) -> list[Record]:
            found = []
            for condition in ("AND substr(payload, 1, 1) IN (x'01', x'06')", ""):
                row = connection.execute(
                    f"SELECT {COLUMNS} FROM records"
                    f" WHERE device_id = ? {condition} ORDER BY epoch DESC, sequence DESC LIMIT 1",
                    (device_id,),
                ).fetchone()
                if row is not None:
                    found.append(self._record(row))
            return found

        return await self.read(work)

    async def gap_records(self, device_id: int) -> list[GapRecord]:
        """The gap records of a device, oldest first."""

        def work(connection: sqlite3.Connection) -> list[GapRecord]:
            return [
                GapRecord(self._record(row).payload, bool(delivered))
                for delivered, *row in connection.execute(
                    f"SELECT row_id <= CASE alarm WHEN 1 THEN ? ELSE ? END, {COLUMNS} FROM records"
                    " WHERE device_id = ? AND substr(payload, 1, 1) = x'07' ORDER BY row_id",
                    (self.delivered_row(True), self.delivered_row(False), device_id),
                )
            ]

        return await self.read(work)

    async def counts(self) -> dict[int, tuple[int, int]]:
        """Per device how many records were stored and how many of them delivered, since the store was made."""

        def work(connection: sqlite3.Connection) -> dict[int, tuple[int, int]]:
            return {
                device_id: (stored, delivered)
                for device_id, stored, delivered in connection.execute(
                    "SELECT device_id, sum(stored), sum(delivered) FROM ("
                    " SELECT device_id, pruned_records AS stored, pruned_records AS delivered FROM watermarks"
                    " UNION ALL SELECT device_id, 1, row_id <= CASE alarm WHEN 1 THEN ? ELSE ? END FROM records)"
                    " GROUP BY device_id",
                    (self.delivered_row(True), self.delivered_row(False)),
                )
            }

        return await self.read(work)

    async def up_counters(self, device_id: int) -> dict[int, int]:
        """Per epoch the first link counter that has not been seen."""
        return await self.read(
            lambda connection: dict(
                connection.execute(
                    "SELECT epoch, next_counter FROM up_counters WHERE device_id = ?", (device_id,)
                ).fetchall()
            )
        )

    async def keys_in_use(self) -> dict[int, tuple[int, bytes]]:
        """Per device the slot and the fingerprint of the key that it changed to last."""
        return await self.read(
            lambda connection: {
                device_id: (slot, fingerprint)
                for device_id, slot, fingerprint in connection.execute(
                    "SELECT device_id, slot, fingerprint FROM keys_in_use"
                )
            }
        )

    async def totals(self) -> dict[str, int]:
        """Rows in the store, and how many of them wait for delivery, per lane."""

        def work(connection: sqlite3.Connection) -> dict[str, int]:
            result = {"records": connection.execute("SELECT count(*) FROM records").fetchone()[0]}
            for alarm, name in ((0, "routine_waiting"), (1, "alarms_waiting")):
                result[name] = connection.execute(
                    "SELECT count(*) FROM records WHERE alarm = ? AND row_id > ?",
                    (alarm, self.delivered_row(bool(alarm))),
                ).fetchone()[0]
            return result

        return await self.read(work)

    async def oldest_undelivered_ms(self) -> int | None:
        """When the oldest record that waits for a required consumer was received; None: nothing waits."""

        def work(connection: sqlite3.Connection) -> int | None:
            found = []
            for alarm in (False, True):
                row = connection.execute(
                    f"SELECT {COLUMNS} FROM records WHERE alarm = ? AND row_id > ? ORDER BY row_id LIMIT 1",
                    (alarm, self.delivered_row(alarm)),
                ).fetchone()
                if row is not None:
                    found.append(self._record(row).received_time_ms)
            return min(found, default=None)

        return await self.read(work)

    @property
    def writer_moves(self) -> int:
        """Grows with every attempt to commit."""
        return self._writer.moves

    @property
    def commit_seconds(self) -> Histogram:
        """How long commits took."""
        return self._writer.commit_seconds

    def limit(self, maximum_bytes: int) -> None:
        """From now on."""
        self._maximum_bytes = maximum_bytes

    def _record(self, row: Sequence[Any]) -> Record:
        """A row of COLUMNS, opened. One that does not open goes on as it is: the backend keeps it as undecodable."""
        record = Record(row[0], row[1], row[2], bool(row[3]), row[4], row[5], row[6], row[7])
        if row[8]:
            try:
                if self.payload_cipher is None:
                    raise ValueError("sealed, and the store was opened without its key")
                return self.payload_cipher.open(record)
            except ValueError as error:
                self.counters["not_opened"] += 1
                log.error("record does not open", device=record.device_id, row=record.row_id, reason=str(error))
        return record

    async def drain(self) -> None:
        """Return once everything that was handed in before is committed or refused."""
        await self.write(lambda _: None, refused=None)

    async def close(self) -> None:
        """Commit what is queued, then close. What cannot be committed is refused and counted."""
        await self._loop.run_in_executor(self._reader, self._read_connection.close)
        self._reader.shutdown()
        await asyncio.to_thread(self._writer.close)


def _mark(connection: sqlite3.Connection, rows: list[tuple[int, int, int, int]]) -> None:
    connection.executemany(
        "INSERT INTO watermarks (device_id, epoch, stored_through, delivered_through) VALUES (?,?,?,?)"
        " ON CONFLICT DO UPDATE SET"
        " stored_through = max(stored_through, excluded.stored_through),"
        " delivered_through = max(delivered_through, excluded.delivered_through)",
        rows,
    )
