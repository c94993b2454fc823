"""Many rows into an SQLite table by few statements, and how large a database is."""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

ROWS_AT_ONCE = 50
"""Of one statement. Python's lock changes hands once per statement: row by row, another thread's work comes between."""


def bytes_in_use(connection: sqlite3.Connection) -> int:
    """Of the pages in use."""
    pages, free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page_bytes)


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Any number of rows, by a statement that ends with its row of placeholders."""
    placeholders = statement[statement.rindex("(") :]
    insert_by(connection, statement, statement + f",{placeholders}" * (ROWS_AT_ONCE - 1), rows)


def insert_by(connection: sqlite3.Connection, one: str, many: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Any number of rows, by a statement for one and another for ROWS_AT_ONCE."""
    whole = len(rows) - len(rows) % ROWS_AT_ONCE
    for at in range(0, whole, ROWS_AT_ONCE):
        connection.execute(many, tuple(chain.from_iterable(rows[at : at + ROWS_AT_ONCE])))
    if whole < len(rows):
        connection.executemany(one, rows[whole:])
