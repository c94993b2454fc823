"""What the writer does to the tables of the store: appends, cursors, pruning. Runs on the writer's thread alone.

Everything here happens inside the writer's transaction. What it means for the books is kept aside until the commit
has succeeded (`committed`), and forgotten when it has not (`rolled_back`).
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from emgate.store import summed
from emgate.store.books import Books, Identity
from emgate.store.limits import drop, missed, note_missed
from emgate.store.schema import COLUMNS, INSERT, LANES, Cursors, Outcome, PayloadCipher, Record, check_sum, verify
from emgate.store.sqlite_rows import bytes_in_use, insert
from emgate.store.tail import Tail

log = structlog.get_logger(__name__)

IDENTITY_CONFLICT = "identity_conflict"
WEIGH_EACH = 16
"""Commits between two looks at the size: 0.2 MB where each has a hundred records."""
ALARM_SHARE = 16
PRUNE_ROWS = 2000
"""Deleted in one transaction: some 10 ms of the writer's time."""


class Log:
    """The tables, and the books about them."""

    def __init__(
        self, connection: sqlite3.Connection, consumers: Mapping[str, bool], payload_cipher: PayloadCipher | None
    ) -> None:
        self.books = Books()
        self.payload_cipher = payload_cipher
        self.required = [consumer for consumer, required in consumers.items() if required]
        self.cursors = _cursors(connection, consumers)
        self._appended: dict[Identity, Record] = {}  # with their rows
        self._moved: Cursors = {}
        self._delivered: list[tuple[bool, int, list[Identity]]] = []
        self._pruned: list[Identity] = []
        self.missed = {consumer: records for consumer, (records, _) in missed(connection).items()}
        self._missed: Counter[str] = Counter()  # what was pruned, and who that is not required had not taken it
        self._dropped: list[tuple[int, Identity]] = []
        self._maybe_dropped: list[tuple[int, Identity]] = []  # by a commit that seemed to fail
        self.dropped_through = 0  # routine records up to this row that were not delivered are given up
        self.taken_back: dict[tuple[int, int], int] = {}  # per epoch from where no watermark is believed
        self._checkpointing = False
        self.maximum_bytes = 1 << 62
        self.full = False  # no routine records
        self.full_for_alarms = False
        self._weigh_in = 0
        self.books.load(connection, self.delivered_row)
        highest = connection.execute("SELECT max(row_id) FROM records").fetchone()[0] or 0
        self.books.row_id = max(self.books.row_id, highest, *self.cursors.values())
        self._next_row = self.books.row_id + 1
        self.tails = {alarm: Tail(self.books.row_id) for alarm in LANES}

    def delivered_row(self, alarm: bool) -> int:
        """Every record of the lane up to this row has reached every required consumer."""
        return min(self._stands(each, alarm) for each in self.required)

    def _stands(self, consumer: str, alarm: bool) -> int:
        """The cursor, as this transaction has moved it."""
        return max(self.cursors[consumer, alarm], self._moved.get((consumer, alarm), 0))

    # -- a transaction ------------------------------------------------------------------------------------

    def committed(self, connection: sqlite3.Connection) -> None:
        """What was done since the last call is on the disk."""
        books = self.books
        if self._checkpointing:
            books.checkpointed()
            self._checkpointing = False
        if self._appended:
            records = list(self._appended.values())
            books.store(connection, records)
            alarms = [record for record in records if record.alarm]
            if alarms:
                self.tails[True].append(alarms)
                records = [record for record in records if not record.alarm]
            self.tails[False].append(records)
            self._appended.clear()
        for (_, alarm), row_id in self._moved.items():
            self.tails[alarm].passed(row_id)
        self.cursors.update(self._moved)
        self._moved.clear()
        for alarm, through, identities in self._delivered:
            books.deliver(connection, alarm, identities)
            with books.lock:
                books.delivered_row[alarm] = max(books.delivered_row[alarm], through)
                books.pass_late(alarm)
        self._delivered.clear()
        with books.lock:
            books.pruned += len(self._pruned)
            for identity in self._pruned:
                books.recent.pop(identity, None)
        self._pruned.clear()
        if self._missed:
            self.missed = {**self.missed, **{each: self.missed.get(each, 0) + n for each, n in self._missed.items()}}
            self._missed.clear()
        self._take_out(connection, self._dropped)
        self._dropped.clear()

    def _take_out(self, connection: sqlite3.Connection, dropped: list[tuple[int, Identity]]) -> None:
        if dropped:
            self.books.drop(connection, dropped)
            self.dropped_through = max(self.dropped_through, dropped[-1][0])
            for _, (device_id, epoch, sequence) in dropped:
                first = self.taken_back.get((device_id, epoch), sequence)
                self.taken_back[device_id, epoch] = min(first, sequence)

    def weigh(self, connection: sqlite3.Connection, now: bool = False) -> None:
        """See whether there is room, now and then."""
        self._weigh_in -= 1
        if now or self._weigh_in <= 0:
            self._weigh_in = WEIGH_EACH
            used = bytes_in_use(connection)
            if (used > self.maximum_bytes) != self.full:
                self.full = not self.full
                log.warning("the store is full" if self.full else "the store has room again", bytes=used)
            self.full_for_alarms = used > self.maximum_bytes + 2 * self.alarm_bytes

    @property
    def alarm_bytes(self) -> int:
        """What alarms may have beyond maximum_bytes before routine records are given up for them."""
        return self.maximum_bytes // ALARM_SHARE

    def rolled_back(self) -> None:
        """It is not, or it is not known."""
        self._checkpointing = False
        self._appended.clear()
        self._moved.clear()
        self._delivered.clear()
        self._pruned.clear()
        self._missed.clear()
        self._maybe_dropped += self._dropped
        self._dropped.clear()

    def reopened(self, connection: sqlite3.Connection) -> None:
        """After a failed commit the file may have what was thought rolled back."""
        self.books.catch_up(connection)
        for tail in self.tails.values():
            tail.forget(self.books.row_id)
        self._next_row = max(self._next_row, self.books.row_id + 1)
        gone = [
            each
            for each in self._maybe_dropped
            if connection.execute("SELECT 1 FROM records WHERE row_id = ?", (each[0],)).fetchone() is None
        ]
        self._take_out(connection, gone)
        self._maybe_dropped.clear()

    def checkpoint(self, connection: sqlite3.Connection, now: bool = False) -> None:
        """Write the books down if it is time; they are as of the last commit."""
        if self.books.due or (now and self.books.changed):
            self.books.checkpoint(connection)
            self._checkpointing = True

    # -- records ------------------------------------------------------------------------------------------

    def append(self, connection: sqlite3.Connection, records: Sequence[Record]) -> list[Outcome]:
        """All of a group by one statement; what is known already is looked up one by one."""
        rows: list[tuple[Any, ...]] = []
        outcomes: list[Outcome] = []
        books, appended, cipher = self.books, self._appended, self.payload_cipher
        sealed = cipher is not None
        for record in records:
            device_id, epoch, sequence = identity = record[:3]
            placed = appended.get(identity)
            if placed is not None:
                outcomes.append(self._known(connection, placed, record))
            elif sequence in books.of(connection, device_id, epoch).stored:
                outcomes.append(self._known(connection, self._find(connection, identity), record))
            else:
                row_id = self._next_row
                self._next_row += 1
                appended[identity] = Record._make((*record[:7], row_id))
                kept = record if cipher is None else cipher.seal(record)
                row = (*kept[:7], row_id, sealed)
                rows.append((*row, check_sum(row)))
                outcomes.append(Outcome.STORED)
        insert(connection, INSERT, rows)
        return outcomes

    def _find(self, connection: sqlite3.Connection, identity: Identity) -> Record | None:
        row_id = self.books.recent.get(identity)
        if row_id is None:
            found = connection.execute(
                "SELECT row_id FROM identities WHERE device_id=? AND epoch=? AND sequence=?", identity
            ).fetchone()
            if found is None:
                return None
            row_id = found[0]
        row = connection.execute(f"SELECT {COLUMNS} FROM records WHERE row_id = ?", (row_id,)).fetchone()
        return None if row is None else self.record(row)

    def record(self, row: Sequence[Any]) -> Record:
        """A row of COLUMNS, verified and opened. DatabaseError when it is not as it was written, ValueError when its
        seal does not open."""
        verify(row)
        record = Record(row[0], row[1], row[2], bool(row[3]), row[4], row[5], row[6], row[7])
        if row[8]:
            if self.payload_cipher is None:
                raise ValueError("sealed, and the store was opened without its key")
            return self.payload_cipher.open(record)
        return record

    def _known(self, connection: sqlite3.Connection, known: Record | None, record: Record) -> Outcome:
        if known is None or known.payload == record.payload:  # None: pruned since
            return Outcome.DUPLICATE
        cipher = self.payload_cipher
        evidence = record.payload if cipher is None else cipher.seal_bytes(b"quarantine", record.payload)
        connection.execute(
            "INSERT INTO quarantine (received_time_ms, link, device_id, reason, frame) VALUES (?,?,?,?,?)",
            (record.received_time_ms, record.link, record.device_id, IDENTITY_CONFLICT, evidence),
        )
        return Outcome.CONFLICT

    # -- delivery -----------------------------------------------------------------------------------------

    def advance(self, connection: sqlite3.Connection, consumer: str, alarm: bool, row_id: int) -> tuple[int, int]:
        """Move a cursor; rows of the lane from…to (from excluded) have now reached every required consumer."""
        before = self.delivered_row(alarm)
        _, _, stood = summed.read(connection, "cursors", (consumer, alarm)) or (consumer, alarm, 0)
        summed.write(connection, "cursors", [(consumer, int(alarm), max(row_id, stood))])
        self._moved[consumer, alarm] = max(row_id, self._stands(consumer, alarm))
        after = self.delivered_row(alarm)
        if after > before:
            self._deliver(connection, alarm, after)
        if not alarm:  # of what was given up while it was under way, nobody knows that every target has it
            return max(before, self.dropped_through), max(after, self.dropped_through)
        return before, after

    def _deliver(self, connection: sqlite3.Connection, alarm: bool, through: int) -> None:
        counted = [row_id for lane, row_id, _ in self._delivered if lane == alarm]  # in this transaction
        begun = max(self.books.delivered_row[alarm], *counted, 0)
        held = self.tails[alarm].between(begun, through)
        if held is None:
            identities, through = self.books.newly_delivered(connection, alarm, through, begun)
        else:
            identities = [record[:3] for record in held]
        self._delivered.append((alarm, through, identities))

    def deliver_more(self, connection: sqlite3.Connection) -> bool:
        """Take some of what every required consumer has, and the books do not call delivered yet, into the books; False
        when there is none."""
        behind = [alarm for alarm in LANES if self.books.delivered_row[alarm] < self.delivered_row(alarm)]
        for alarm in behind:
            self._deliver(connection, alarm, self.delivered_row(alarm))
        return bool(behind)

    def go_by(self, connection: sqlite3.Connection, consumers: Mapping[str, bool]) -> dict[str, int]:
        """Other consumers from now on, as after a restart; how many rows each that goes lacked at most.

        They hold back nothing any more. One that is new goes on where its cursor was left, or begins with the oldest
        record there is."""
        gone = {consumer for consumer, _ in self.cursors} - consumers.keys()
        lacked = {
            consumer: self.books.row_id - min(self.cursors[consumer, lane] for lane in LANES) for consumer in gone
        }
        self._moved = {place: row_id for place, row_id in self._moved.items() if place[0] in consumers}
        cursors = _cursors(connection, consumers)
        self.cursors = {**self.cursors, **cursors}  # others read `required` and these at any moment
        self.required = [consumer for consumer, required in consumers.items() if required]
        self.cursors = cursors
        self.deliver_more(connection)
        return lacked

    def mark(self, connection: sqlite3.Connection, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """Raise watermarks. Those that a session worked out before it heard what was taken back are cut down."""
        marks: dict[tuple[int, int], tuple[int, ...]] = {}
        for device_id, epoch, stored, delivered in rows:
            key = (device_id, epoch)
            stood = marks.get(key) or summed.read(connection, "watermarks", key) or (*key, 0, 0)
            stored = min(stored, self.taken_back.get(key, stored))
            marks[key] = (*key, max(stored, stood[2]), max(delivered, stood[3]))
        summed.write(connection, "watermarks", marks.values())

    def give_up(self, connection: sqlite3.Connection, through: int, cause: int) -> int:
        """Drop the oldest routine records that are not delivered, up to a row; how many."""
        dropped = drop(connection, self.books, self.delivered_row(False), through, cause)
        self._dropped += dropped
        if dropped:
            self.tails[False].forget(self._next_row - 1)
        return len(dropped)

    def prune(self, connection: sqlite3.Connection, before_ms: int) -> int:
        """Delete from the beginning of the log what is delivered and was received before; how many."""
        rows = connection.execute(f"SELECT {COLUMNS} FROM records ORDER BY row_id LIMIT ?", (PRUNE_ROWS,))
        last = 0
        gone: list[Identity] = []
        lacking: Counter[str] = Counter()
        spare = [each for each in {consumer for consumer, _ in self.cursors} if each not in self.required]
        for row in rows:
            verify(row)  # of a damaged one it cannot be told whether it is delivered
            device_id, epoch, sequence, alarm, received_time_ms, _, _, row_id = row[:8]
            if received_time_ms >= before_ms or row_id > self.books.delivered_row[bool(alarm)]:
                break
            last = row_id
            gone.append((device_id, epoch, sequence))
            for each in spare:
                lacking[each] += row_id > self._stands(each, bool(alarm))
        rows.close()
        lacking = +lacking
        note_missed(connection, lacking)
        self._missed += lacking
        self._delete(connection, gone, "row_id <= ?", [(last,)])
        return len(gone)

    def _delete(
        self, connection: sqlite3.Connection, gone: list[Identity], where: str, parameters: list[tuple[int]]
    ) -> None:
        if gone:
            connection.executemany(f"DELETE FROM records WHERE {where}", parameters)
            connection.executemany("DELETE FROM identities WHERE device_id=? AND epoch=? AND sequence=?", gone)
            summed.add_to_checkpoint(connection, "pruned", len(gone))
            self._pruned += gone


def _cursors(connection: sqlite3.Connection, consumers: Mapping[str, bool]) -> Cursors:
    cursors: Cursors = {(consumer, alarm): 0 for consumer in consumers for alarm in LANES}
    for row in connection.execute("SELECT * FROM cursors"):
        consumer, lane, row_id = summed.verified("cursors", row)
        if (consumer, bool(lane)) in cursors:
            cursors[consumer, bool(lane)] = row_id
    return cursors
