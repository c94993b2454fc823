"""The rows that decide what a device may free, each with a CRC-32: the books, the cursors, the watermarks.

A worn card gives back other bytes than it took; too high a number here, and a device frees what nobody has. So whoever
changes such a row reads and verifies it first: a sum over a damaged row would make it look whole.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

SUMMED = {
    "epochs": ("device_id", "epoch"),
    "checkpoint": ("only",),
    "cursors": ("consumer", "alarm"),
    "watermarks": ("device_id", "epoch"),
}
"""Table → its key. The last column is the sum."""

READ = {
    table: f"SELECT * FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in key)}" for table, key in SUMMED.items()
}
Row = tuple[Any, ...]


class Checkpoint(NamedTuple):
    """The one row of `checkpoint`."""

    only: int
    row_id: int
    routine_row: int
    alarm_row: int
    routine_stored: int
    alarm_stored: int
    routine_delivered: int
    alarm_delivered: int
    pruned: int


def sum_of(row: Sequence[Any]) -> int:
    """Of all columns but the sum, as SQLite gives them: whole numbers, text, bytes."""
    return zlib.crc32(ascii(tuple(row)).encode())


def verified(table: str, row: Sequence[Any]) -> Row:
    """The columns without the sum; sqlite3.DatabaseError when they are not as they were written."""
    if sum_of(row[:-1]) != row[-1]:
        raise sqlite3.DatabaseError(f"a row of {table} is not as it was written")
    return tuple(row[:-1])


def read(connection: sqlite3.Connection, table: str, key: Sequence[Any]) -> Row | None:
    """The row of a key, verified."""
    row = connection.execute(READ[table], key).fetchone()
    return None if row is None else verified(table, row)


def write(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """In the place of what their keys have."""
    rows = iter(rows)
    for first in rows:
        places = ",".join("?" * (len(first) + 1))
        connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES ({places})",
            ((*row, sum_of(row)) for row in chain((first,), rows)),
        )


def checkpoint(connection: sqlite3.Connection) -> Checkpoint:
    """The last one; all zeros where there is none yet."""
    return Checkpoint(*(read(connection, "checkpoint", (0,)) or [0] * len(Checkpoint._fields)))


def add_to_checkpoint(connection: sqlite3.Connection, figure: str, change: int) -> None:
    """Change one of its figures by so much."""
    last = checkpoint(connection)
    write(connection, "checkpoint", [last._replace(**{figure: getattr(last, figure) + change})])


def add_sums(connection: sqlite3.Connection) -> None:
    """To tables of an earlier program, which wrote none, inside a transaction."""
    for table in SUMMED:
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        connection.execute(f"ALTER TABLE {table} ADD COLUMN check_sum INTEGER NOT NULL DEFAULT 0")
        write(connection, table, rows)


def check_cursors(connection: sqlite3.Connection) -> None:
    """sqlite3.DatabaseError when one is above every row there was: what it says is delivered is not even there."""
    (highest,) = connection.execute(
        "SELECT max(coalesce((SELECT max(row_id) FROM records), 0), coalesce((SELECT max(row_id) FROM checkpoint), 0))"
    ).fetchone()
    (cursor,) = connection.execute("SELECT coalesce(max(row_id), 0) FROM cursors").fetchone()
    if cursor > highest:
        raise sqlite3.DatabaseError(f"a cursor is at row {cursor}, and the last row is {highest}")
