"""Reads the whole store again and again while the gateway runs, a little at a time: damage is found before it matters.

At the pace set here ten million rows take seven hours and the disk gives 50 kB a second. It begins anywhere, so that a
gateway that restarts often does not look at the same rows for ever.
"""

import random
import sqlite3
from collections.abc import Sequence
from typing import Any

from emgate.store.schema import COLUMNS, verify
from emgate.store.summed import SUMMED, verified

STEP_ROWS = 200
"""Read in one go: 2 ms of the reader's thread, which the uplinks share."""
STEP_S = 0.5
KEYED = {"identities": ("device_id", "epoch", "sequence"), **SUMMED}


class Audit:
    """One walk after the other through `records`, then the books, cursors and watermarks."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        (highest,) = connection.execute("SELECT coalesce(max(row_id), 0) FROM records").fetchone()
        self.walks = 0  # finished
        self.rows = 0  # looked at
        self._table = "records"
        self._after: Sequence[Any] = (random.randrange(highest + 1),)

    def step(self, connection: sqlite3.Connection) -> None:
        """Look at the next rows; sqlite3.DatabaseError when one is not as it was written."""
        found = self._records(connection) if self._table == "records" else self._keyed(connection)
        self.rows += found
        if found < STEP_ROWS:
            tables = ["records", *KEYED]
            at = (tables.index(self._table) + 1) % len(tables)
            self._table = tables[at]
            self._after = (0,) if at == 0 else (-1,) * len(KEYED[self._table])
            self.walks += at == 0

    def _records(self, connection: sqlite3.Connection) -> int:
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM records NOT INDEXED WHERE row_id > ? ORDER BY row_id LIMIT ?",
            (*self._after, STEP_ROWS),
        ).fetchall()
        for row in rows:
            verify(row)
            self._after = (row[7],)
        return len(rows)

    def _keyed(self, connection: sqlite3.Connection) -> int:
        key = KEYED[self._table]
        names, places = ", ".join(key), ", ".join("?" * len(key))
        rows = connection.execute(
            f"SELECT {names}, * FROM {self._table} WHERE ({names}) > ({places}) ORDER BY {names} LIMIT ?",
            (*self._after, STEP_ROWS),
        ).fetchall()
        for row in rows:
            self._after = row[: len(key)]
            if self._table in SUMMED:
                verified(self._table, row[len(key) :])
        return len(rows)
