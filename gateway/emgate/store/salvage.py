"""A store that is damaged, or of an earlier schema: whatever can be read is taken over into a fresh one.

The damaged file is kept aside. What was in it and not delivered is still on the devices: the fresh store says by its
watermarks what it lacks, and the devices send that again (docs/link.md). So nothing is believed here that does not
verify: a wrong watermark would let a device free what nobody has.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from emwire import constants
from emwire.link import first_counter

from emgate.store import summed
from emgate.store.books import Book, unpack
from emgate.store.errors import is_out_of_room
from emgate.store.limits import note_loss
from emgate.store.schema import (
    COLUMNS,
    INSERT,
    LANES,
    SCHEMA,
    SCHEMA_VERSION,
    TABLES,
    Cursors,
    check_sum,
    connect,
    verify,
)
from emgate.store.sqlite_rows import insert

log = structlog.get_logger(__name__)

CHUNK = 500
COMMIT_ROWS = 20_000
"""In one transaction, so that no step takes long on a slow card: a fresh store half done is begun again anyway."""
SKIP = 3
"""Rows passed over at an unreadable place before the next try: as many as a page has of the largest."""
BEYOND = 100_000
"""How far behind the last row that something speaks of to look for more."""
KEPT_ASIDE = 3
COUNTER_MARGIN = first_counter(86_400)
"""Down counters left out for each device (a day of them): its newest reservation may be lost."""
NOT_WITHOUT_ROOM = {"quarantine"}
"""Left out, with records, where the disk has no room for both stores."""
OWN_TABLES = {"records", "identities", "epochs", "checkpoint", "cursors", "watermarks"}
"""Rebuilt from the rows, with what verifies of the old books and cursors."""


@dataclass
class Report:
    """What became of a damaged store."""

    reason: str
    aside: Path
    records: int = 0
    unreadable_places: int = 0
    missing: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(device_id, epoch, first, last) that the books of the old store had and its rows do not: asked for again."""
    seconds: float = 0.0


def mark(path: Path, reason: str) -> None:
    """Have the next opening salvage. What it says may be missing on a full disk."""
    _note(path).touch()
    with contextlib.suppress(OSError):
        _note(path).write_text(reason + "\n", encoding="utf-8")


def marked(path: Path) -> str | None:
    """Why the store is to be salvaged, if it is."""
    try:
        return _note(path).read_text(encoding="utf-8", errors="replace").strip() or "damaged"
    except FileNotFoundError:
        return None


def reserve_path(path: Path) -> Path:
    """The space set aside for alarms (writer.py)."""
    return path.with_name(path.name + ".reserve")


def drop_asides(path: Path) -> bool:
    """For the room that they take; False when there are none. They are evidence, and hold nothing that devices lack."""
    asides = _asides(path)
    for old in asides:
        log.warning("the disk is full: an old damaged store is deleted", aside=str(old))
        _delete(old)
    return bool(asides)


def make_room(path: Path) -> bool:
    """On a full disk before the store is open: all that it can do without goes; False when there is nothing."""
    dropped = drop_asides(path)
    reserve = reserve_path(path)
    if reserve.exists():
        reserve.unlink()
        dropped = True
    return dropped


def run(path: Path, reason: str, required: Sequence[str], moves: Callable[[], None] = lambda: None) -> Report:
    """Put a fresh store in the place of a damaged one. Killed in between, it begins again. OSError or
    sqlite3.OperationalError when the disk does not take it; nothing is lost then either.

    On a full disk what was set aside goes first. If that is not enough, routine records are left behind, and then
    alarms too: the devices send again what was not delivered. The damaged store is not kept then.

    `moves` is called at each small step."""
    begun = time.monotonic()
    mark(path, reason)
    fresh_path = path.with_name(path.name + ".fresh")
    report = Report(reason, _aside(path))
    if path.exists():
        whole = _take_over(path, fresh_path, report, required, moves)
        path.rename(report.aside)
        for companion, aside in zip(_companions(path), _companions(report.aside), strict=True):
            if companion.exists():
                companion.rename(aside)
        if not whole:
            _delete(report.aside)
    # Whatever log lies there now belongs to no store: SQLite must not take it for the fresh one's.
    for companion in _companions(path):
        companion.unlink(missing_ok=True)
    if fresh_path.exists():
        fresh_path.rename(path)
    _note(path).unlink(missing_ok=True)
    report.seconds = time.monotonic() - begun
    log.error(
        "the store was salvaged",
        reason=reason,
        records=report.records,
        unreadable_places=report.unreadable_places,
        missing=len(report.missing),
        aside=str(report.aside),
        seconds=round(report.seconds, 1),
    )
    return report


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _companions(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _delete(path: Path) -> None:
    for name in (path, *_companions(path), path.with_name(path.name + "-journal")):
        name.unlink(missing_ok=True)


def _asides(path: Path) -> list[Path]:
    """The oldest first."""
    found = path.parent.glob(path.name + ".aside-*[0-9]")
    return sorted(found, key=lambda each: int(each.name.rpartition("-")[2]))


def _aside(path: Path) -> Path:
    """A free name; the oldest of those kept goes."""
    taken = _asides(path)
    for old in taken[: max(0, len(taken) - KEPT_ASIDE + 1)]:
        _delete(old)
    number = int(taken[-1].name.rpartition("-")[2]) + 1 if taken else 1
    return path.with_name(f"{path.name}.aside-{number}")


def _take_over(
    path: Path, fresh_path: Path, report: Report, required: Sequence[str], moves: Callable[[], None]
) -> bool:
    """Make the fresh store, of as much as there is room for; True when that is everything."""
    lanes = list(LANES)
    while True:
        _delete(fresh_path)
        try:
            _Salvage(path, fresh_path, report, required, lanes, moves).run()
        except (OSError, sqlite3.OperationalError) as error:
            _delete(fresh_path)
            report.records, report.unreadable_places, report.missing = 0, 0, []
            if not is_out_of_room(error, path.parent):
                raise
            if not make_room(path):
                if not lanes:
                    raise
                left = "alarms" if lanes.pop(0) else "routine records"
                log.error("no room for both stores: records are left to the devices", which=left)
        else:
            return len(lanes) == len(LANES)


class _Salvage:
    def __init__(
        self,
        path: Path,
        fresh_path: Path,
        report: Report,
        required: Sequence[str],
        lanes: Sequence[bool],
        moves: Callable[[], None],
    ) -> None:
        """`lanes`: those whose records are taken along."""
        self._lanes = lanes
        self._moves = moves
        self._uncommitted = 0
        self._path = path
        self._fresh_path = fresh_path
        self._report = report
        self._required = required

    def run(self) -> None:
        fresh = connect(self._fresh_path)
        try:
            fresh.execute("PRAGMA journal_mode = DELETE")  # one file when it is done
            fresh.executescript(SCHEMA)
            fresh.execute("BEGIN")
            try:
                old = sqlite3.connect(self._path, isolation_level=None)
                old.text_factory = lambda text: text.decode(errors="replace")  # what is none does not verify
                old.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                log.error("nothing of the store can be read", error=str(error))
            else:
                try:
                    self._take_over(old, fresh)
                finally:
                    old.close()
            fresh.execute("COMMIT")
            fresh.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        finally:
            fresh.close()

    def _take_over(self, old: sqlite3.Connection, fresh: sqlite3.Connection) -> None:
        for table in TABLES:
            if table not in OWN_TABLES and (len(self._lanes) == len(LANES) or table not in NOT_WITHOUT_ROOM):
                self._copy(old, fresh, table)
        fresh.execute("UPDATE down_counters SET reserved_until = reserved_until + ?", (COUNTER_MARGIN,))
        cursors, claimed = self._cursors(old)
        delivered = {lane: min(cursors.get((each, lane), 0) for each in self._required) for lane in LANES}
        books, were_stored = self._old_books(old)
        waiting = {False: 0, True: 0}
        rows = {False: 0, True: 0}
        borne, borne_out = {False: True, True: True}, {False: 0, True: 0}  # by the old books: all to this row delivered
        highest = max(cursors.values(), default=0)
        taken: list[tuple[Any, ...]] = []
        for row in self._records(old, highest):
            device_id, epoch, sequence, lane, row_id = row[0], row[1], row[2], bool(row[3]), row[7]
            book = books.setdefault((device_id, epoch), Book())
            highest = max(highest, row_id)
            if borne[lane]:
                if sequence in book.delivered:
                    borne_out[lane] = row_id
                else:
                    borne[lane] = False
            if lane in self._lanes:
                taken.append(row)
                if len(taken) == CHUNK:
                    self._write(fresh, taken)
                rows[lane] += 1
            elif row_id > delivered[lane] and sequence not in book.delivered:
                were_stored.setdefault((device_id, epoch), Book()).stored.add(sequence, sequence)
                continue
            book.stored.add(sequence, sequence)
            if row_id <= delivered[lane]:
                if book.delivered.add(sequence, sequence):
                    book.delivered_records += 1
                    book.stored_records += 1
            elif sequence not in book.delivered:
                book.stored_records += 1
                waiting[lane] += 1
        self._write(fresh, taken)
        cursors |= {place: min(row_id, borne_out[place[1]]) for place, row_id in claimed.items()}
        delivered = {lane: min(cursors.get((each, lane), 0) for each in self._required) for lane in LANES}
        summed.write(fresh, "cursors", [(consumer, int(lane), row_id) for (consumer, lane), row_id in cursors.items()])
        summed.write(fresh, "epochs", (book.row(key) for key, book in sorted(books.items())))
        facts = (*delivered.values(), *rows.values(), *(rows[lane] - waiting[lane] for lane in LANES))
        summed.write(fresh, "checkpoint", [(0, highest, *facts, 0)])
        self._report.records = sum(rows.values())
        for key, before in were_stored.items():
            self._report.missing += [(*key, first, last) for first, last in _holes(before, books[key])]
        for lost in self._report.missing:
            note_loss(fresh, lost, constants.GAP_STORAGE_DAMAGED)

    def _write(self, fresh: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
        insert(fresh, INSERT, rows)
        identities = sorted((*row[:3], row[7]) for row in rows)
        fresh.executemany("INSERT OR IGNORE INTO identities VALUES (?,?,?,?)", identities)
        self._uncommitted += len(rows)
        rows.clear()
        if self._uncommitted >= COMMIT_ROWS:
            self._uncommitted = 0
            fresh.execute("COMMIT")
            fresh.execute("BEGIN")

    def _cursors(self, old: sqlite3.Connection) -> tuple[Cursors, Cursors]:
        """Those that verify; and those of an earlier program, which wrote no sums."""
        whole: Cursors = {}
        claimed: Cursors = {}
        for row in self._rows(old, "cursors"):
            consumer, lane, row_id = row[:3]
            try:
                if len(row) > 3:
                    summed.verified("cursors", row)
                    whole[consumer, bool(lane)] = row_id
                else:
                    claimed[str(consumer), bool(lane)] = int(row_id)
            except (sqlite3.DatabaseError, TypeError, ValueError):
                self._report.unreadable_places += 1
        return whole, claimed

    def _old_books(self, old: sqlite3.Connection) -> tuple[dict[tuple[int, int], Book], dict[tuple[int, int], Book]]:
        """What is delivered, as far as the old books say, and beside it the old books."""
        books: dict[tuple[int, int], Book] = {}
        before: dict[tuple[int, int], Book] = {}
        for row in self._rows(old, "epochs"):
            was, book = Book(), Book()
            device_id, epoch, stored, delivered, _, delivered_records = row[:6]
            try:
                if len(row) > 6:
                    summed.verified("epochs", row)
                was.stored, was.delivered = unpack(stored), unpack(delivered)
                book.stored, book.delivered = unpack(delivered), unpack(delivered)
                book.stored_records = book.delivered_records = int(delivered_records)
                books[int(device_id), int(epoch)], before[device_id, epoch] = book, was
            except (sqlite3.DatabaseError, TypeError, ValueError):
                self._report.unreadable_places += 1
        return books, before

    def _copy(self, old: sqlite3.Connection, fresh: sqlite3.Connection, table: str) -> None:
        wanted = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")]
        try:
            present = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
        except sqlite3.DatabaseError:
            present = set()
        columns = ", ".join(name for name in wanted if name in present)
        if not columns:
            return
        for row in self._rows(old, table, columns):
            try:
                fresh.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", row)
            except sqlite3.IntegrityError:  # a field that cannot be: damaged
                self._report.unreadable_places += 1

    def _rows(self, old: sqlite3.Connection, table: str, columns: str = "*") -> Iterator[tuple[Any, ...]]:
        """From both ends, as far as they can be read."""
        try:
            key = [
                row[1] for row in sorted(old.execute(f"PRAGMA table_info({table})"), key=lambda row: row[5]) if row[5]
            ]
        except sqlite3.DatabaseError:
            key = []
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{name} {direction}" for name in key) or "1"
            try:
                for row in old.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):
                    self._moves()
                    yield row
                return
            except sqlite3.DatabaseError as error:
                if "no such table" in str(error):
                    return
                self._report.unreadable_places += 1

    def _records(self, old: sqlite3.Connection, spoken_of: int) -> Iterator[tuple[Any, ...]]:
        """Every row that can be read and verifies, in their order."""
        try:
            present = {row[1] for row in old.execute("PRAGMA table_info(records)")}
        except sqlite3.DatabaseError:
            present = set()
        if not present:
            return
        columns = ", ".join(name if name in present else "0" for name in COLUMNS.split(", "))
        for query in ("SELECT max(row_id) FROM records NOT INDEXED", "SELECT row_id FROM checkpoint"):
            try:
                spoken_of = max(spoken_of, (old.execute(query).fetchone() or (0,))[0] or 0)
            except (sqlite3.DatabaseError, TypeError):
                self._report.unreadable_places += 1
        end = spoken_of + BEYOND
        position = 0
        limit = CHUNK
        while position <= end:
            self._moves()
            try:
                rows = old.execute(
                    f"SELECT {columns} FROM records NOT INDEXED WHERE row_id > ? ORDER BY row_id LIMIT ?",
                    (position, limit),
                ).fetchall()
            except sqlite3.DatabaseError:
                if limit > 1:
                    limit = 1
                else:
                    self._report.unreadable_places += 1
                    position += SKIP
                continue
            if not rows:
                return
            before, damaged = position, []
            for row in rows:
                try:
                    if "check_sum" not in present:
                        row = (*row[:9], check_sum(row[:9]))
                    verify(row)
                except (sqlite3.DatabaseError, TypeError, ValueError):
                    damaged.append(row[7])
                    continue
                if row[7] > position:
                    position = row[7]
                    yield row
            if position == before:  # what damaged rows say of their place is believed where no other does
                position = max((place for place in damaged if position < place <= end), default=position + SKIP)
            self._report.unreadable_places += sum(place <= position for place in damaged)  # others come again
            limit = min(CHUNK, limit * 2)


def _holes(before: Book, now: Book) -> list[tuple[int, int]]:
    """Ranges that were stored and are not any more."""
    found = []
    for first, last in [(0, before.stored.through - 1), *before.stored.ranges()]:
        at = first
        for have_first, have_last in [(0, now.stored.through - 1), *now.stored.ranges()]:
            if have_last < at or have_first > last:
                continue
            if have_first > at:
                found.append((at, have_first - 1))
            at = have_last + 1
        if at <= last:
            found.append((at, last))
    return found
