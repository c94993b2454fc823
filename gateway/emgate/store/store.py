"""The gateway's store: append-only records in SQLite, committed in groups by one writer thread.

A future that this module resolves with True speaks of a commit that has reached the disk (WAL, synchronous=FULL).
Nothing else in the gateway writes; reads for the uplinks go through a second connection.
"""

import asyncio
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog
from emwire import constants
from emwire.ranges import RangeSet

from emgate.errors import StoreError
from emgate.operation.histogram import Histogram
from emgate.store import limits, salvage, summed
from emgate.store.audit import Audit
from emgate.store.books import Book, lane_rows
from emgate.store.errors import is_damage, is_out_of_room
from emgate.store.holes import HOLD_S, Holes
from emgate.store.log import IDENTITY_CONFLICT, Log
from emgate.store.schema import (
    COLUMNS,
    LANES,
    EpochState,
    GapRecord,
    NewerSchemaError,
    OlderSchemaError,
    Outcome,
    PayloadCipher,
    Record,
    connect,
    prepare,
)
from emgate.store.sqlite_rows import bytes_in_use
from emgate.store.writer import QUEUE_FRAMES, Operation, Writer

__all__ = ["EpochState", "GapRecord", "Outcome", "Record", "Store", "last_row", "newly_delivered"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

LATEST_ROWS = 200
"""How far back to look for a device's last hello or status: some hours of its records."""
QUARANTINE_ROWS = 10_000
QUARANTINE_FRAME_BYTES = 1100
"""Quarantine is evidence, not a promise: at most about 11 MB, oldest out. A frame has at most 1024 B."""
EVIDENCE_S, EVIDENCE_EACH_S = 1.0, 10.0
"""How long frames for the quarantine wait for company, and between two commits of them while a flood lasts: what comes
during such a commit waits for it, which would show in one of a hundred records. A kill costs as much evidence."""
DAY_MS = 86_400_000


def last_row(records: Iterable[Record]) -> int:
    """Where a cursor stands once these, of one lane, are taken."""
    return max(record.row_id for record in records)


def newly_delivered(records: Iterable[Record], moved: tuple[int, int]) -> list[Record]:
    """Which of a batch every required consumer has now; `moved` is what `advance` answered.

    Not those that were taken along from behind: of them others may have nothing yet. They come again in their place."""
    return [record for record in records if moved[0] < record.row_id <= moved[1]]


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
        self._appended = {(consumer, alarm): asyncio.Event() for consumer in consumers for alarm in LANES}
        self._loop = asyncio.get_running_loop()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-reader")
        self._alarm_reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alarm-reader")
        self.salvaged: salvage.Report | None = None  # set when this opening followed a damage
        self.damaged = asyncio.Event()
        self.damage: str | None = None  # what was found; the store takes nothing any more and is to be opened anew
        connection = connect(path, alarm_reserve_bytes)
        try:
            prepare(connection)
            self._log = Log(connection, consumers, payload_cipher)
            self._read_connection = connect(path)
            self._alarm_connection = connect(path)
        except BaseException:
            connection.close()
            raise
        self._writer = Writer(
            path, connection, alarm_reserve_bytes, self.counters, self._log, self._note, self._found_damage, self._crowd
        )
        self.crowded = asyncio.Event()  # no room for routine records: `prune` may make some
        self._log.maximum_bytes = maximum_bytes
        self._aged_s = time.monotonic()
        self._audit: Audit | None = None
        self._evidence: list[tuple[int, str, int, str, bytes]] = []
        self._evidence_s = -EVIDENCE_EACH_S  # when it is next committed, or was last
        self._holes = Holes(self._log.books.row_id)
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
        moves: Callable[[], None] = lambda: None,
    ) -> "Store":
        """Open or create, check integrity, start the writer. StoreError says what is wrong and what to do. `catch_up`
        once it is open.

        consumers: name → whether a record must have reached it to count as *delivered*. At least one must be
        required. A consumer that the store does not know yet begins with the oldest record still in the store.
        moves: called on another thread at each small step while a damaged store is salvaged, which takes its time."""
        consumers = {"uplink": True} if consumers is None else consumers
        if not any(consumers.values()):
            raise StoreError("no uplink target is required: nothing could ever count as delivered; require one")
        required = [consumer for consumer, wanted in consumers.items() if wanted]
        report = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            reason = salvage.marked(path)
            if reason is None:
                try:
                    return cls(path, consumers, alarm_reserve_bytes, maximum_bytes, payload_cipher)
                except NewerSchemaError:
                    raise
                except OlderSchemaError as error:
                    reason = str(error)
                except (TypeError, ValueError) as error:  # what the file holds is not what was written
                    reason = repr(error)
                except sqlite3.Error as error:
                    if is_out_of_room(error, path.parent) and salvage.make_room(path):
                        return cls(path, consumers, alarm_reserve_bytes, maximum_bytes, payload_cipher)
                    if not is_damage(error) and "no such" not in str(error):
                        raise
                    reason = str(error)
            report = await asyncio.to_thread(salvage.run, path, reason, required, moves)
            store = cls(path, consumers, alarm_reserve_bytes, maximum_bytes, payload_cipher)
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(
                f"{path}: cannot open the store: {error}; its folder must be writable and the disk have room"
            ) from None
        except sqlite3.Error as error:
            raise StoreError(
                f"{path}: the store cannot be used: {error}. Restore a copy, or move it and its -wal file away to "
                "start afresh: devices still hold every record that was not delivered"
            ) from None
        store.salvaged = report
        return store

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

    async def go_by(self, consumers: Mapping[str, bool]) -> dict[str, int]:
        """Go by other consumers from now on (see `open`), none of which may be reading that is not among them; how many
        rows each that goes lacked at most. They hold back nothing any more: more may be delivered now (`catch_up`)."""
        for place in [(consumer, alarm) for consumer in consumers for alarm in LANES]:
            self._appended.setdefault(place, asyncio.Event())
        lacked = await self.write(lambda connection: self._log.go_by(connection, consumers), refused=None)
        if lacked is None:
            raise StoreError("the store does not take other uplink targets now (disk full?): try again")
        self._appended = {place: event for place, event in self._appended.items() if place[0] in consumers}
        return dict(lacked)

    async def catch_up(self) -> bool:
        """Have the books call delivered what every required consumer has; True when they did not. So it is once a
        consumer that lagged is not waited for any more, at an opening or by `go_by`, which do not take that time."""
        found = False
        while await self.write(self._log.deliver_more, refused=False):
            found = True
        return found

    def _note(self, records: Sequence[Record]) -> None:
        """In the event loop, after the commit of new records."""
        self._holes.committed(self._log.books.row_id)
        self.counters["payload_bytes"] += sum(len(record.payload) for record in records)
        lanes = {record.alarm for record in records}
        for (_, lane), event in self._appended.items():
            if lane in lanes:
                event.set()

    def advance(
        self, consumer: str, alarm: bool, row_id: int, marks: Iterable[tuple[int, int, int, int]] = ()
    ) -> "asyncio.Future[tuple[int, int] | None]":
        """Move a consumer's cursor of one lane to row_id, and the watermarks with it, in one commit.

        marks: (device_id, epoch, stored_through, delivered_through); they never go back.
        Resolves with (before, after): records of the lane with before < row_id <= after have just now been
        delivered to every required consumer, and all of them are in the batch that the caller has delivered (see
        `newly_delivered`). None: could not be committed."""
        rows = list(marks)
        if (consumer, alarm) not in self._log.cursors:
            raise KeyError(consumer)

        def apply(connection: sqlite3.Connection) -> tuple[int, int]:
            self._log.mark(connection, rows)
            return self._log.advance(connection, consumer, alarm, row_id)

        return self.write(apply, refused=None)

    def delivered_row(self, alarm: bool) -> int:
        """Every record of the lane up to this row has reached every required consumer."""
        cursors = self._log.cursors
        return min(cursors[consumer, alarm] for consumer in self._log.required)

    def behind(self, consumer: str, alarm: bool) -> int:
        """Rows behind a consumer's cursor, those of the other lane among them."""
        return self._log.books.row_id - self._log.cursors[consumer, alarm]

    def mark(self, marks: Iterable[tuple[int, int, int, int]]) -> "asyncio.Future[bool]":
        """Commit watermarks alone, for example when a device says that older records no longer exist."""
        rows = list(marks)

        def apply(connection: sqlite3.Connection) -> bool:
            self._log.mark(connection, rows)
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
        """Keep a frame that could not be verified, as evidence. Bounded; the caller counts and limits the rate.

        Committed with others (see EVIDENCE_S): whoever sends rubbish must not make the disk wait for each."""
        if self._writer.queued >= QUEUE_FRAMES // 2:  # never at the expense of records
            self.counters["quarantine_skipped"] += 1
            return
        self._evidence.append((received_time_ms, link, device_id, reason, frame[:QUARANTINE_FRAME_BYTES]))
        now_s = self._loop.time()
        if now_s > self._evidence_s:
            self._evidence_s = max(now_s + EVIDENCE_S, self._evidence_s + EVIDENCE_EACH_S)
            self._loop.call_at(self._evidence_s, self._keep_evidence)

    def _keep_evidence(self) -> None:
        rows, self._evidence = self._evidence, []
        if not rows:
            return

        def apply(connection: sqlite3.Connection) -> bool:
            connection.executemany(
                "INSERT INTO quarantine (received_time_ms, link, device_id, reason, frame) VALUES (?,?,?,?,?)", rows
            )
            connection.execute(
                "DELETE FROM quarantine WHERE row_id <= (SELECT max(row_id) FROM quarantine) - ? AND reason <> ?",
                (QUARANTINE_ROWS, IDENTITY_CONFLICT),
            )
            return True

        self.write(apply, refused=False, routine=True)

    async def prune(self, now_ms: int, keep_delivered_days: float, undelivered_days: float = math.inf) -> int:
        """Make room: delete delivered records that are old, or the oldest ones while the store is too large; how many.

        Then give up routine records that nobody has taken for undelivered_days, and those that stand in the way of
        alarms (limits.py)."""
        self.crowded.clear()
        total, missed = 0, self.missed
        before_ms = now_ms - int(keep_delivered_days * DAY_MS)
        while not self._writer.closing:
            deleted = await self.write(lambda connection: self._prune(connection, before_ms), refused=0)
            if not deleted:
                break
            total += deleted
        if total:
            self.counters["pruned"] += total
        for consumer, records in self.missed.items():
            if lacking := records - missed.get(consumer, 0):
                log.warning("records were pruned that a target had not taken", target=consumer, records=lacking)
        too_old = await self._too_old(undelivered_days * DAY_MS / 1000)
        while not self._writer.closing and (
            given_up := await self.write(lambda connection: self._give_up(connection, too_old), refused=0)
        ):
            self.counters["given_up"] += given_up
        return total

    def _prune(self, connection: sqlite3.Connection, before_ms: int) -> int:
        self._log.checkpoint(connection, now=True)  # the books must not need the rows that go
        too_large = bytes_in_use(connection) > self._log.maximum_bytes
        deleted = self._log.prune(connection, 1 << 62 if too_large else before_ms)
        self._log.weigh(connection, now=True)
        return deleted

    async def _too_old(self, keep_s: float) -> int:
        """Up to which row records have waited too long."""
        passed_s = time.monotonic() - self._aged_s
        if math.isinf(keep_s) or passed_s < min(limits.MARK_S, keep_s / 24):
            return 0
        self._aged_s += passed_s
        row_id = self._log.books.row_id
        too_old: int = await self.write(
            lambda connection: limits.note_age(connection, passed_s, keep_s, row_id), refused=0
        )
        return too_old

    def _give_up(self, connection: sqlite3.Connection, too_old: int) -> int:
        self._log.checkpoint(connection, now=True)
        given_up = self._log.give_up(connection, too_old, constants.GAP_TOO_OLD)
        if not given_up and bytes_in_use(connection) > self._log.maximum_bytes + self._log.alarm_bytes:
            given_up = self._log.give_up(connection, 1 << 62, constants.GAP_STORAGE_FULL)
        self._log.weigh(connection, now=True)
        return given_up

    async def losses(self, after: int, limit: int) -> list[limits.Loss]:
        """What the store gave up or lost and is to be told; `told` each once that is committed."""
        return await self.read(lambda connection: limits.losses(connection, after, limit))

    def told(self, loss: limits.Loss) -> "asyncio.Future[bool]":
        """The record that tells of it is committed."""

        def apply(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM losses WHERE row_id = ?", (loss.number,))
            return True

        return self.write(apply, refused=False)

    @property
    def missed(self) -> Mapping[str, int]:
        """How many records were pruned that a consumer, which is not required, had not taken, since the store was
        made."""
        return self._log.missed

    async def missed_untold(self) -> dict[str, tuple[int, int]]:
        """Consumers that missed more than the backend was told: how many more, and how many in all; `told_missed`."""
        found = await self.read(limits.missed)
        return {consumer: (records - told, records) for consumer, (records, told) in found.items() if records > told}

    def told_missed(self, consumer: str, records: int) -> "asyncio.Future[bool]":
        """The record that tells of so many in all is committed."""

        def apply(connection: sqlite3.Connection) -> bool:
            connection.execute("UPDATE missed SET told = max(told, ?) WHERE consumer = ?", (records, consumer))
            return True

        return self.write(apply, refused=False)

    def taken_back(self, loss: limits.Loss) -> None:
        """The session of that device calls these records stored no more: its watermarks are believed again.

        Those it worked out before are already in the queue, ahead of this."""
        self.write(lambda _: self._log.taken_back.pop((loss.device_id, loss.epoch), None), refused=None)

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

    async def read(self, work: Callable[[sqlite3.Connection], T], *, alarm: bool = False) -> T:
        """Run `work` on the reading connection, for tables that others keep here; or on that of alarms, which wait for
        no backlog to be read."""
        reader, connection = self._reader, self._read_connection
        if alarm:
            reader, connection = self._alarm_reader, self._alarm_connection
        try:
            return await self._loop.run_in_executor(reader, work, connection)
        except sqlite3.Error as error:
            if is_damage(error):
                self._found_damage(str(error))
            raise

    async def undelivered(self, consumer: str, alarm: bool, limit: int, maximum_bytes: int) -> list[Record]:
        """The next records of a lane after the consumer's cursor, those of each epoch in the order of their sequences.

        They end before a record that came over a hole, which the device fills within a moment; a record that came too
        late for that is taken along from behind, and comes again in its place: the first time it has row_id 0.
        `last_row` is where to advance to, and `newly_delivered` what may be told then."""
        after = self._log.cursors[consumer, alarm]
        held = self._log.tails[alarm].after(after, limit, maximum_bytes)
        if held is not None:
            try:
                return self._in_order(None, alarm, held)
            except LookupError:
                pass  # the file has to be looked into after all

        def work(connection: sqlite3.Connection) -> list[Record]:
            records: list[Record] = []
            total = 0
            for row in connection.execute(
                f"SELECT {COLUMNS} FROM {lane_rows(alarm)} AND row_id > ? ORDER BY row_id LIMIT ?", (after, limit)
            ):
                total += len(row[6])
                if records and total > maximum_bytes:
                    break
                records.append(self._record(row))
            if records:
                self._log.books.find_late(connection, alarm, self.delivered_row(alarm), records[-1].row_id)
            return self._in_order(connection, alarm, records)

        return await self.read(work, alarm=alarm)

    def _in_order(self, connection: sqlite3.Connection | None, alarm: bool, records: list[Record]) -> list[Record]:
        """See undelivered. LookupError where no connection is given and one is needed."""
        books = self._log.books
        holes = self._holes.view(alarm, self._writer.hindered_s)
        epochs = {record[:2] for record in records}
        with books.lock:
            found = {key: books.all_held().get(key) for key in epochs}
        for key, book in found.items():
            if book is None:
                if connection is None:
                    raise LookupError(key)
                found[key] = books.read(connection, key)
        highest: dict[tuple[int, int], int] = {}
        disorder = False
        kept: list[Record] = []
        for record in records:
            key, sequence = record[:2], record[2]
            book = found[key]
            over = book is not None and sequence > book.stored.through
            if over and holes.waits(record.row_id):
                self._loop.call_soon_threadsafe(self._look_again, alarm)
                break
            if sequence < highest.get(key, -1):
                disorder = True
            else:
                highest[key] = sequence
            kept.append(record)
        if not kept:
            return kept
        last = kept[-1].row_id
        with books.lock:
            behind = [
                row_id
                for row_id, identity in books.late[alarm].items()
                if row_id > last and identity[2] < highest.get(identity[:2], -1)
            ]
        if behind and connection is None:
            raise LookupError(behind[0])
        for row_id in behind:
            assert connection is not None
            row = connection.execute(f"SELECT {COLUMNS} FROM records WHERE row_id = ?", (row_id,)).fetchone()
            if row is not None:
                kept.append(self._record(row)._replace(row_id=0))
                disorder = True
        if disorder:
            kept.sort(key=lambda record: (record.device_id, record.epoch, record.sequence))
        return kept

    def _look_again(self, alarm: bool) -> None:
        self._loop.call_later(HOLD_S[alarm] / 4, self._wake, alarm)

    def _wake(self, alarm: bool) -> None:
        for (_, lane), event in self._appended.items():
            if lane == alarm:
                event.set()

    async def epochs(self, device_id: int) -> list[EpochState]:
        """State of every epoch of a device, from which its session goes on after a restart."""

        def work(connection: sqlite3.Connection) -> list[EpochState]:
            marks = {
                epoch: (stored, delivered)
                for row in connection.execute("SELECT * FROM watermarks WHERE device_id = ?", (device_id,))
                for _, epoch, stored, delivered in (summed.verified("watermarks", row),)
            }
            known = {
                epoch: book
                for (epoch,) in connection.execute(
                    "SELECT epoch FROM epochs WHERE device_id = ?", (device_id,)
                ).fetchall()
                for book in (self._log.books.read(connection, (device_id, epoch)),)
                if book is not None
            }
            with self._log.books.lock:
                known |= self._log.books.held(device_id)
                states = []
                for epoch in sorted({*marks, *known}):
                    through = list(marks.get(epoch, (0, 0)))
                    above: list[tuple[tuple[int, int], ...]] = []
                    book = known.get(epoch) or Book()
                    for number, held in enumerate((book.stored, book.delivered)):
                        numbers = RangeSet(max(through[number], held.through))
                        for first, last in held.ranges():
                            numbers.add(first, last)
                        through[number] = numbers.through
                        above.append(tuple(numbers.ranges()))
                    states.append(EpochState(device_id, epoch, through[0], through[1], above[0], above[1]))
            return states

        return await self.read(work)

    async def latest(self, device_id: int) -> list[Record]:
        """What tells most of a device's present state, oldest first: its last hello or status, and its last record."""

        def work(connection: sqlite3.Connection) -> list[Record]:
            newest = connection.execute(
                f"SELECT {', '.join('records.' + name for name in COLUMNS.split(', '))} FROM identities"
                " CROSS JOIN records ON records.row_id = identities.row_id WHERE identities.device_id = ?"
                " ORDER BY identities.epoch DESC, identities.sequence DESC LIMIT ?",
                (device_id, LATEST_ROWS),
            ).fetchall()
            found = []
            for row in newest:
                if row[6][:1] in (b"\x01", b"\x06"):
                    found.append(self._record(row))
                    break
            if newest:
                found.append(self._record(newest[0]))
            return found

        return await self.read(work)

    async def newest(self, limit: int) -> list[Record]:
        """The last records that were committed, of all devices, oldest first."""

        def work(connection: sqlite3.Connection) -> list[Record]:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM records ORDER BY row_id DESC LIMIT ?", (limit,)
            ).fetchall()
            return [self._record(row) for row in reversed(rows)]

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
            sums: dict[int, list[int]] = {}
            with self._log.books.lock:
                held = {
                    key: (book.stored_records, book.delivered_records)
                    for key, book in self._log.books.all_held().items()
                }
            written = {
                (device_id, epoch): (stored, delivered)
                for device_id, epoch, stored, delivered in connection.execute(
                    "SELECT device_id, epoch, stored_records, delivered_records FROM epochs"
                )
            }
            for (device_id, _), (stored, delivered) in {**written, **held}.items():
                found = sums.setdefault(device_id, [0, 0])
                found[0] += stored
                found[1] += delivered
            return {device_id: (stored, delivered) for device_id, (stored, delivered) in sums.items()}

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

        books = self._log.books
        with books.lock:
            return {
                "records": sum(books.stored.values()) - books.pruned,
                "routine_waiting": books.stored[False] - books.delivered[False],
                "alarms_waiting": books.stored[True] - books.delivered[True],
            }

    async def oldest_undelivered_ms(self) -> int | None:
        """When the oldest record that waits for a required consumer was received; None: nothing waits."""

        def work(connection: sqlite3.Connection) -> int | None:
            found = []
            for alarm in LANES:
                row = connection.execute(
                    f"SELECT {COLUMNS} FROM {lane_rows(alarm)} AND row_id > ? ORDER BY row_id LIMIT 1",
                    (self.delivered_row(alarm),),
                ).fetchone()
                if row is not None:
                    found.append(self._record(row).received_time_ms)
            return min(found, default=None)

        return await self.read(work)

    async def audit(self) -> None:
        """Look at a few more rows, whether they are as they were written; what is not is told by `damaged`."""

        def work(connection: sqlite3.Connection) -> None:
            if self._audit is None:
                self._audit = Audit(connection)
            self._audit.step(connection)

        try:
            await self.read(work)
        except sqlite3.Error as error:
            if not is_damage(error):  # otherwise it is told already
                raise
            return
        assert self._audit is not None
        self.counters["audited_rows"], self.counters["audited_wholly"] = self._audit.rows, self._audit.walks

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
        self._log.maximum_bytes = maximum_bytes

    def _record(self, row: Sequence[Any]) -> Record:
        """A row of COLUMNS, opened. One that does not open goes on as it is: the backend keeps it as undecodable."""
        try:
            return self._log.record(row)
        except ValueError as error:
            self.counters["not_opened"] += 1
            log.error("record does not open", device=row[0], row=row[7], reason=str(error))
        return Record(row[0], row[1], row[2], bool(row[3]), row[4], row[5], row[6], row[7])

    def _crowd(self) -> None:
        """On the writer's thread."""
        if not self.crowded.is_set():
            self._loop.call_soon_threadsafe(self.crowded.set)

    def _found_damage(self, reason: str) -> None:
        """On any thread. The next opening salvages what can be read."""
        if self.damage is None:
            self.damage = reason
            log.error("the store is damaged", reason=reason)
            try:
                salvage.mark(self.path, reason)
            except OSError as error:
                log.error("cannot leave a note of the damage", error=str(error))
            self._loop.call_soon_threadsafe(self.damaged.set)

    async def drain(self) -> None:
        """Return once everything that was handed in before is committed or refused."""
        self._keep_evidence()
        await self.write(lambda _: None, refused=None)

    async def close(self) -> None:
        """Commit what is queued, then close. What cannot be committed is refused and counted."""
        self._keep_evidence()
        for reader, connection in (
            (self._reader, self._read_connection),
            (self._alarm_reader, self._alarm_connection),
        ):
            await self._loop.run_in_executor(reader, connection.close)
            reader.shutdown()
        await asyncio.to_thread(self._writer.close)
