"""The books of the store: which sequences of every boot epoch are stored, and which are delivered, as ranges.

They are kept in memory, so that a record needs no look into the file to be known as new, and the file needs no index
that every commit would have to touch: `records` is written at its end only. Every CHECKPOINT_ROWS the books and the
index by identity (`identities`) are written in bulk. At start the last checkpoint is read, and the few rows behind it:
the time that takes does not depend on how many rows there are, nor on how many became delivered in between.
"""

import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence

from emwire.ranges import RangeSet

from emgate.store import summed
from emgate.store.schema import COLUMNS, LANES, Record, verify
from emgate.store.sqlite_rows import insert

CHECKPOINT_ROWS = 5000
"""Rows between two checkpoints: some 20 ms of the writer's time, and what a start has to read again at most."""
DELIVER_ROWS = CHECKPOINT_ROWS
"""Counted as delivered in one transaction. More become so at once where a target that lagged is not waited for any
more: then the rest follows in others, each with its checkpoint."""
BOOKS = 20_000
"""Epochs held in memory when nothing of theirs changes, at some 500 bytes."""

LATE = 20_000
"""Rows remembered that came behind a higher sequence of their lane: a link that loses every tenth of 200,000."""

LOOK_AHEAD_ROWS = 50_000
"""How far behind a row to look for those that came late: 25 s, as long as a hole is waited for, at 2,000 a second."""

Key = tuple[int, int]  # device_id, epoch
Identity = tuple[int, int, int]  # device_id, epoch, sequence


class Book:
    """One boot epoch."""

    __slots__ = ("delivered", "delivered_records", "highest", "stored", "stored_records")

    def __init__(self) -> None:
        self.stored = RangeSet()
        self.delivered = RangeSet()
        self.stored_records = 0
        self.delivered_records = 0
        self.highest = [-1, -1]  # per lane, of those stored since the book was opened

    def row(self, key: "Key") -> tuple[int, int, bytes, bytes, int, int]:
        """As `epochs` has it."""
        return (*key, pack(self.stored), pack(self.delivered), self.stored_records, self.delivered_records)


def lane_rows(alarm: bool) -> str:
    """FROM … WHERE of a lane: routine is nearly every row, alarms have an index of their own."""
    return "records INDEXED BY alarms WHERE alarm = 1" if alarm else "records NOT INDEXED WHERE alarm = 0"


class Books:
    """Changed by the writer's thread, after each commit; others read under `lock`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.row_id = 0  # the last one committed
        self.recent: dict[Identity, int] = {}  # row ids of records that `identities` does not have yet
        self.delivered_row = {False: 0, True: 0}
        self.stored = {False: 0, True: 0}
        self.delivered = {False: 0, True: 0}
        self.pruned = 0
        self.late: dict[bool, dict[int, Identity]] = {False: {}, True: {}}  # per lane: rows behind a higher sequence
        # The checkpoint does not say which rows came late. Those up to its own are looked through, per lane as far as
        # this says, with the highest sequences there.
        self._checkpoint_row = 0
        self._looked_through: dict[bool, tuple[int, dict[Key, int]]] = {}
        self._books: dict[Key, Book] = {}
        self._dirty: set[Key] = set()
        self._changes = 0

    @property
    def due(self) -> bool:
        """A checkpoint is due."""
        return self._changes >= CHECKPOINT_ROWS

    @property
    def changed(self) -> bool:
        """A checkpoint would have something to write."""
        return self._changes > 0

    def load(self, connection: sqlite3.Connection, delivered_row: Callable[[bool], int]) -> None:
        """The checkpoint's figures, and the rows behind it."""
        last = summed.checkpoint(connection)
        self.row_id = self._checkpoint_row = last.row_id
        self.delivered_row = {False: last.routine_row, True: last.alarm_row}
        self.stored = {False: last.routine_stored, True: last.alarm_stored}
        self.delivered = {False: last.routine_delivered, True: last.alarm_delivered}
        self.pruned = last.pruned
        self.catch_up(connection)
        for alarm in LANES:
            identities, self.delivered_row[alarm] = self.newly_delivered(connection, alarm, delivered_row(alarm))
            self.deliver(connection, alarm, identities)

    def catch_up(self, connection: sqlite3.Connection) -> None:
        """Take in rows that are in the file and not yet here."""
        for row in connection.execute(
            f"SELECT {COLUMNS} FROM records WHERE row_id > ? ORDER BY row_id", (self.row_id,)
        ):
            verify(row)
            self.store(connection, [Record(row[0], row[1], row[2], bool(row[3]), 0, "", b"", row[7])])

    def of(self, connection: sqlite3.Connection, device_id: int, epoch: int) -> Book:
        """The book of an epoch, from the file if need be."""
        key = (device_id, epoch)
        book = self._books.get(key)
        if book is None:
            book = self.read(connection, key) or Book()
            with self.lock:
                self._books[key] = book
        return book

    def read(self, connection: sqlite3.Connection, key: Key) -> Book | None:
        """As of the last checkpoint."""
        row = summed.read(connection, "epochs", key)
        if row is None:
            return None
        book = Book()
        book.stored, book.delivered = unpack(row[2]), unpack(row[3])
        book.stored_records, book.delivered_records = row[4:]
        above = book.stored.ranges()
        # Of which lane they are is not written down: some are then taken for late that are not, which costs little.
        book.highest = [above[-1][1] if above else book.stored.through - 1] * 2
        return book

    def held(self, device_id: int) -> dict[int, Book]:
        """Per epoch what is in memory of a device. Under `lock`."""
        return {epoch: book for (device, epoch), book in self._books.items() if device == device_id}

    def all_held(self) -> dict[Key, Book]:
        """What is in memory. Under `lock`."""
        return self._books

    def store(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Records are committed, in the order of their rows."""
        found = [self.of(connection, record[0], record[1]) for record in records]
        with self.lock:
            recent, stored = self.recent, self.stored
            for book, record in zip(found, records, strict=True):
                _, _, sequence, alarm, _, _, _, row_id = record
                identity = record[:3]
                book.stored.add(sequence, sequence)
                book.stored_records += 1
                recent[identity] = row_id
                stored[alarm] += 1
                if sequence > book.highest[alarm]:
                    book.highest[alarm] = sequence
                elif len(self.late[alarm]) < LATE:
                    self.late[alarm][row_id] = identity
            self.row_id = max(self.row_id, records[-1].row_id)
            self._dirty.update([record[:2] for record in records])
            self._changes += len(records)

    def find_late(self, connection: sqlite3.Connection, alarm: bool, begun: int, row_id: int) -> None:
        """Know which rows behind this one came late, also those that an earlier run has left. On a lane's reader.

        `begun`: every required consumer has what is up to there."""
        through, highest = self._looked_through.get(alarm) or (begun, {})
        end = min(row_id + LOOK_AHEAD_ROWS, self._checkpoint_row)
        if through >= end:
            return
        late: dict[int, Identity] = {}
        for found, *identity in connection.execute(
            f"SELECT row_id, device_id, epoch, sequence FROM {lane_rows(alarm)} AND row_id > ? AND row_id <= ?",
            (through, end),
        ):
            device_id, epoch, sequence = identity
            if sequence < highest.get((device_id, epoch), -1):
                late[found] = (device_id, epoch, sequence)
            else:
                highest[device_id, epoch] = sequence
        self._looked_through[alarm] = (end, highest)
        if late:
            with self.lock:
                known = {**late, **self.late[alarm]}
                self.late[alarm] = dict(sorted(known.items())[:LATE])

    def pass_late(self, alarm: bool) -> None:
        """Forget the late ones that every consumer has."""
        late = self.late[alarm]
        while late and (first := next(iter(late))) <= self.delivered_row[alarm]:
            del late[first]

    def newly_delivered(
        self, connection: sqlite3.Connection, alarm: bool, through: int, after: int = 0
    ) -> tuple[list[Identity], int]:
        """What of a lane, behind a row, counts as delivered once every required consumer's cursor is there: the first
        of it, and the row up to which that is all."""
        after = max(after, self.delivered_row[alarm])
        if through <= after:
            return [], after
        found = []
        for row in connection.execute(
            f"SELECT {COLUMNS} FROM {lane_rows(alarm)} AND row_id > ? AND row_id <= ? ORDER BY row_id LIMIT ?",
            (after, through, DELIVER_ROWS),
        ):
            verify(row)
            found.append(row[:3])
        return found, row[7] if len(found) == DELIVER_ROWS else through

    def deliver(self, connection: sqlite3.Connection, alarm: bool, identities: Iterable[Identity]) -> None:
        """These are delivered, and the cursors say so on the disk."""
        found = [(self.of(connection, identity[0], identity[1]), identity) for identity in identities]
        with self.lock:
            for book, identity in found:
                if book.delivered.add(identity[2], identity[2]):  # once, though a salvage begins a cursor anew
                    book.delivered_records += 1
                    self.delivered[alarm] += 1
                self._dirty.add(identity[:2])
            self._changes += len(found)

    def drop(self, connection: sqlite3.Connection, rows: Iterable[tuple[int, Identity]]) -> None:
        """These routine records (row, identity) are given up; the file says so already."""
        for row_id, identity in rows:
            book = self.of(connection, identity[0], identity[1])
            with self.lock:
                if identity[2] in book.stored:  # not where it has just been read from the file
                    book.stored.discard(identity[2], identity[2])
                    book.stored_records -= 1
                self.stored[False] -= 1
                self.recent.pop(identity, None)
                self.late[False].pop(row_id, None)
                self._dirty.add(identity[:2])
                self._changes += 1

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Write down everything, inside a transaction; `checkpointed` after its commit."""
        insert(
            connection,
            "INSERT OR REPLACE INTO identities VALUES (?,?,?,?)",
            [(*identity, row_id) for identity, row_id in sorted(self.recent.items())],
        )
        summed.write(connection, "epochs", (self._books[key].row(key) for key in sorted(self._dirty)))
        facts = [each[alarm] for each in (self.delivered_row, self.stored, self.delivered) for alarm in LANES]
        summed.write(connection, "checkpoint", [(0, self.row_id, *facts, self.pruned)])

    def checkpointed(self) -> None:
        """It is committed."""
        with self.lock:
            self.recent.clear()
            self._dirty.clear()
            self._changes = 0
            if len(self._books) > BOOKS:
                self._books.clear()


def pack(numbers: RangeSet) -> bytes:
    """A range set as bytes: `through`, then the first and last of each range above it, u32; then their CRC-32."""
    flat = [numbers.through, *(number for pair in numbers.ranges() for number in pair)]
    data = struct.pack(f"<{len(flat)}I", *flat)
    return data + struct.pack("<I", zlib.crc32(data))


def unpack(data: bytes) -> RangeSet:
    """The other way; sqlite3.DatabaseError when they are not as they were written."""
    if (
        not isinstance(data, bytes)
        or len(data) < 8
        or len(data) % 4
        or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]
    ):
        raise sqlite3.DatabaseError("the books are not as they were written")
    flat = struct.unpack(f"<{len(data) // 4 - 1}I", data[:-4])
    numbers = RangeSet(flat[0])
    for first, last in zip(flat[1::2], flat[2::2], strict=True):
        numbers.add(first, last)
    return numbers
