"""What the store gives up when it is too large, or when nobody has taken a record for too long, and how that is told.

Only routine records are given up, the oldest first; alarms never. A device holds what was not delivered: it is taken
back as *stored*, so that it is sent again when there is room. Every range goes into `losses` in the transaction that
deletes it, and out of there only when the record that tells the backend of it is committed.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emgate.store import summed
from emgate.store.books import Books, Identity, Key, lane_rows

DROP_ROWS = 2000
"""In one transaction: some 20 ms of the writer's time."""
MARK_S = 3600.0
"""How often it is noted which row was the last one, to tell a record's age by."""
Range = tuple[int, int, int, int]  # device_id, epoch, first, last


@dataclass(slots=True, frozen=True)
class Loss:
    """A range of one epoch that the store had and gave up, or lost by damage."""

    number: int
    device_id: int
    epoch: int
    first: int
    last: int
    cause: int


def note_age(connection: sqlite3.Connection, seconds: float, keep_s: float, row_id: int) -> int:
    """`seconds` more have passed, and row_id is the last row; up to which row records are older than keep_s.

    Age is counted in time that the gateway ran, not by the clock: one that jumps a year must not cost a year."""
    (now_s,) = connection.execute("SELECT coalesce(max(running_s), 0) + ? FROM ages", (seconds,)).fetchone()
    connection.execute("INSERT OR REPLACE INTO ages VALUES (?,?)", (now_s, row_id))
    (limit,) = connection.execute("SELECT max(running_s) FROM ages WHERE running_s <= ?", (now_s - keep_s,)).fetchone()
    if limit is None:
        return 0
    connection.execute("DELETE FROM ages WHERE running_s < ?", (limit,))
    return int(connection.execute("SELECT row_id FROM ages WHERE running_s = ?", (limit,)).fetchone()[0])


def drop(
    connection: sqlite3.Connection, books: Books, after: int, through: int, cause: int
) -> list[tuple[int, Identity]]:
    """Give up routine records from behind a row to another, DROP_ROWS at most; which (row, identity).

    `after`: what is delivered. The books must have been written down in this transaction; they are set right in the
    file here, and in memory by `Books.drop` once it is committed."""
    rows = connection.execute(
        f"SELECT row_id, device_id, epoch, sequence FROM {lane_rows(False)} AND row_id > ? AND row_id <= ?"
        " ORDER BY row_id LIMIT ?",
        (after, through, DROP_ROWS),
    ).fetchall()
    identities = [(row[1], row[2], row[3]) for row in rows]
    connection.executemany("DELETE FROM records WHERE row_id = ?", [(row[0],) for row in rows])
    connection.executemany("DELETE FROM identities WHERE device_id=? AND epoch=? AND sequence=?", identities)
    for device_id, epoch, first, last in ranges_of(identities):
        note_loss(connection, (device_id, epoch, first, last), cause)
        marks = summed.read(connection, "watermarks", (device_id, epoch))
        if marks is not None and first < marks[2]:
            summed.write(connection, "watermarks", [(device_id, epoch, first, marks[3])])
    _books_without(connection, books, identities)
    return list(zip((row[0] for row in rows), identities, strict=True))


def _books_without(connection: sqlite3.Connection, books: Books, identities: list[Identity]) -> None:
    by_epoch: dict[Key, list[int]] = {}
    for device_id, epoch, sequence in identities:
        by_epoch.setdefault((device_id, epoch), []).append(sequence)
    for key, sequences in by_epoch.items():
        book = books.read(connection, key)
        if book is None:
            continue
        for sequence in sequences:
            book.stored.discard(sequence, sequence)
        book.stored_records -= len(sequences)
        summed.write(connection, "epochs", [book.row(key)])
    summed.add_to_checkpoint(connection, "routine_stored", -len(identities))


def ranges_of(identities: Iterable[Identity]) -> list[Range]:
    """The same as ranges."""
    found: list[Range] = []
    for device_id, epoch, sequence in sorted(identities):
        if found and found[-1][:2] == (device_id, epoch) and found[-1][3] == sequence - 1:
            found[-1] = (*found[-1][:3], sequence)
        else:
            found.append((device_id, epoch, sequence, sequence))
    return found


def note_loss(connection: sqlite3.Connection, lost: Range, cause: int) -> None:
    """To be told."""
    connection.execute("INSERT INTO losses (device_id, epoch, first, last, cause) VALUES (?,?,?,?,?)", (*lost, cause))


def note_missed(connection: sqlite3.Connection, missed: Mapping[str, int]) -> None:
    """So many more records went that these consumers, which are not required, had not taken."""
    connection.executemany(
        "INSERT INTO missed VALUES (?,?,0) ON CONFLICT DO UPDATE SET records = records + excluded.records",
        list(missed.items()),
    )


def missed(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Per consumer how many in all, since the store was made, and of how many the backend was told."""
    return {
        consumer: (records, told)
        for consumer, records, told in connection.execute("SELECT consumer, records, told FROM missed")
    }


def losses(connection: sqlite3.Connection, after: int, limit: int) -> list[Loss]:
    """What is still to be told, oldest first."""
    return [
        Loss(*row)
        for row in connection.execute(
            "SELECT row_id, device_id, epoch, first, last, cause FROM losses WHERE row_id > ? ORDER BY row_id LIMIT ?",
            (after, limit),
        )
    ]
