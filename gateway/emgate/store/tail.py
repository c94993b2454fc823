"""The newest records of a lane, kept in memory between their commit and their delivery.

While a target keeps up, what was just committed need not be read back: each row read costs a change of hands of
Python's lock, which the thread that takes frames gives up only so often. What is not here any more, or was committed by
an earlier run, comes from the file.
"""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from emgate.store.schema import Record

MOST_RECORDS, MOST_BYTES = 10_000, 1 << 20
"""Of a lane: what a target takes in a second, and 4 MB at most with what Python needs for a record."""
_row_of = itemgetter(7)


class Tail:
    """Filled by the writer's thread, after each commit; read by others."""

    def __init__(self, row_id: int) -> None:
        """Nothing yet of what comes behind this row."""
        self._lock = threading.Lock()
        self._begins = row_id  # every row of the lane behind this one is here
        self._records: list[Record] = []
        self._bytes = 0

    def append(self, records: Sequence[Record]) -> None:
        """Committed, with their rows, in the order of these."""
        with self._lock:
            self._records += records
            self._bytes += sum([len(record[6]) for record in records])
            number, size = max(0, len(self._records) - MOST_RECORDS), self._bytes
            for record in self._records[:number]:
                size -= len(record[6])
            while size > MOST_BYTES:
                size -= len(self._records[number][6])
                number += 1
            self._drop(number)

    def after(self, row_id: int, limit: int, maximum_bytes: int) -> list[Record] | None:
        """The next records behind a row, one at least where there is one; None when some of them are not here."""
        with self._lock:
            if row_id < self._begins:
                return None
            at = bisect_right(self._records, row_id, key=_row_of)
            found = self._records[at : at + limit]
        total = 0
        for number, record in enumerate(found):
            total += len(record[6])
            if number and total > maximum_bytes:
                return found[:number]
        return found

    def between(self, row_id: int, last: int) -> list[Record] | None:
        """All behind a row up to another; None when some of them are not here."""
        with self._lock:
            if row_id < self._begins:
                return None
            at = bisect_right(self._records, row_id, key=_row_of)
            return self._records[at : bisect_right(self._records, last, at, key=_row_of)]

    def passed(self, row_id: int) -> None:
        """A target has what is up to this row: what others still lack they read from the file, however long they are
        down."""
        with self._lock:
            self._drop(bisect_right(self._records, row_id, key=_row_of))

    def forget(self, row_id: int) -> None:
        """What is up to this row may be otherwise in the file."""
        with self._lock:
            self._begins = max(self._begins, row_id)
            self._drop(len(self._records))

    def _drop(self, number: int) -> None:
        if number:
            self._begins = max(self._begins, self._records[number - 1][7])
            self._bytes -= sum([len(record[6]) for record in self._records[:number]])
            del self._records[:number]
