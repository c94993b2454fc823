"""The one thread that writes to the store: commits in groups, and does not give up on a full or failing disk."""

import asyncio
import math
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from emgate.operation.histogram import Histogram
from emgate.store.errors import is_damage, is_full, is_of_disk, is_out_of_room
from emgate.store.log import Log
from emgate.store.salvage import drop_asides, reserve_path
from emgate.store.schema import Outcome, Record, connect

log = structlog.get_logger(__name__)

GROUP_MS = 10
"""A commit waits no longer than this for company: against an fsync of 1-10 ms it at most doubles the delay."""
QUIET_MS = 1
"""Nor longer than this while nothing comes: whoever waits for a commit before the next frame is not kept waiting."""
GROUP_FRAMES = 100
"""Enough company, and the most of a commit: 25 k frames/s were measured in tens and 103 k in hundreds."""
QUEUE_FRAMES = 10_000
"""Waiting for the disk at most; 10 MB with the largest frames (1024 B). Beyond it records are not accepted."""
RETRY_FIRST_S, RETRY_LAST_S = 0.05, 5.0
"""After a failed commit: soon, because a checkpoint may have freed space, and then no more than every 5 s."""
RESERVE_RETRY_S = 5.0
"""How often to try to take back the space that was given up for alarms."""


@dataclass(slots=True)
class Operation:
    """Work for the writer: `apply` runs inside a transaction, `future` gets its result after the commit.

    `routine` work may be refused (the future then gets `refused`) to keep room for alarms."""

    apply: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    refused: Any = None
    routine: bool = False


Append = tuple[Record, Callable[[Record, Outcome], None]]
"""A record, and who is told in the event loop what became of it after the commit."""
Item = Append | Operation


class Writer:
    """Owns the writing connection from `start` on; `close` commits what is queued and ends the thread."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        reserve_bytes: int,
        counters: "Counter[str]",
        tables: Log,
        stored: Callable[[Sequence[Record]], None],
        damaged: Callable[[str], None],
        crowded: Callable[[], None],
    ) -> None:
        """`stored` is told in the event loop which records are new, `damaged` (on this thread) what is wrong,
        `crowded` (on this thread) that there is no room for routine records."""
        self.closing = False
        self.moves = 0  # attempts to commit: does not stand still while the thread lives and has work
        self.hindered_s = -math.inf  # when the disk last did not take something (monotonic)
        self.commit_seconds = Histogram()
        self._path = path
        self._connection = connection
        self._counters = counters
        self._reserve = Reserve(reserve_path(path), reserve_bytes)
        self._tables = tables
        self._stored = stored
        self._damaged = damaged
        self._crowded = crowded
        self._doubtful = False  # a commit failed, and the file has not been brought onto the disk since
        self._queue: deque[Item] = deque()
        self._wake = threading.Condition()
        self._sleeping = False
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)

    def start(self) -> None:
        """Set space aside for alarms and begin."""
        if not self._reserve.take():
            log.warning("no room for the alarm reserve", bytes=self._reserve.size)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How much waits for the disk."""
        return len(self._queue)

    def submit(self, item: Item) -> None:
        """From the event loop. The lock is taken only where somebody is to be woken."""
        self._queue.append(item)
        if self._sleeping or len(self._queue) == GROUP_FRAMES:
            with self._wake:
                self._wake.notify()

    def close(self) -> None:
        """Blocks until everything queued is committed, or refused because the disk does not take it."""
        with self._wake:
            self.closing = True
            self._wake.notify_all()
        self._thread.join()

    def _write(self) -> None:
        while True:
            batch = self._next_batch()
            if not batch:
                break
            try:
                self._commit(batch)
            except Exception:  # a defect must not end the one thread that writes
                log.exception("the writer failed")
                self._tables.rolled_back()
                self._doubtful = True
                self._refuse(batch, lambda _: True, "writer_failed")
        self._last_checkpoint()
        self._reserve.close()
        self._connection.close()  # the last connection to close checkpoints the log

    def _last_checkpoint(self) -> None:
        """So that the next start has nothing to read again."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._tables.checkpoint(self._connection, now=True)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.warning("the books of the store were not written at the end", error=str(error))

    def _next_batch(self) -> list[Item]:
        """At most GROUP_FRAMES; empty = closed and drained.

        What comes alone is committed at once. After a commit with company the next one waits for more, until
        GROUP_MS have passed or nothing came for QUIET_MS."""
        queue = self._queue
        with self._wake:
            self._sleeping = True
            while not queue and not self.closing:
                self._wake.wait()
            self._sleeping = False
            if self._busy:
                deadline = time.monotonic() + GROUP_MS / 1000
                before = 0
                while before < len(queue) < GROUP_FRAMES and not self.closing and time.monotonic() < deadline:
                    before = len(queue)
                    self._wake.wait(QUIET_MS / 1000)
        batch = [queue.popleft() for _ in range(min(GROUP_FRAMES, len(queue)))]
        self._busy = len(batch) > 1
        return batch

    def _commit(self, batch: list[Item]) -> None:
        """Commit the batch, again and again if need be; give routine work up when only the reserve is left."""
        delay_s = RETRY_FIRST_S
        while batch:
            self.moves += 1
            begun = time.monotonic()
            if self._doubtful and not self._settle():
                if self._wait_closing(delay_s):
                    self._refuse(batch, lambda _: True, "lost_at_stop")
                    return
                delay_s = min(RETRY_LAST_S, delay_s * 2)
                continue
            if self._reserve.spent and not self._reserve.retake():
                batch = self._refuse(batch, _is_routine, "no_room_for_routine")
            self._tables.weigh(self._connection)
            if self._tables.full:
                self._crowded()
                batch = self._refuse(batch, _is_routine, "store_full")
            if self._tables.full_for_alarms:
                batch = self._refuse(batch, _is_record, "store_full")
            if not batch:
                return
            try:
                results = self._transaction(batch)
            except sqlite3.Error as error:
                self._tables.rolled_back()
                if is_damage(error):
                    self._counters["damaged"] += 1
                    self._refuse(batch, lambda _: True, "refused_damaged")
                    self._damaged(str(error))
                    return
                if not is_of_disk(error):
                    self._commit_singly(batch)
                    return
                self._doubtful = True
                self.hindered_s = time.monotonic()
                self._counters["commit_failed"] += 1
                log.error("commit failed", error=str(error), operations=len(batch), retry_s=delay_s)
                if is_full(error) and drop_asides(self._path):
                    continue
                if is_out_of_room(error, self._path.parent) and self._reserve.spend():
                    log.error("disk full: the alarm reserve is in use, routine records are not accepted")
                    continue
                if self._wait_closing(delay_s):
                    self._refuse(batch, lambda _: True, "lost_at_stop")
                    return
                delay_s = min(RETRY_LAST_S, delay_s * 2)
                continue
            except Exception:
                self._tables.rolled_back()
                self._commit_singly(batch)
                return
            self._tables.committed(self._connection)
            self.commit_seconds.observe(time.monotonic() - begun)
            self._resolve(list(zip(batch, results, strict=True)))
            return

    def _commit_singly(self, batch: list[Item]) -> None:
        """One of the batch cannot be applied at all (a defect): find it, so that it takes no other with it."""
        if len(batch) > 1:
            for operation in batch:
                self._commit([operation])
            return
        log.exception("an operation failed and is refused")
        self._refuse(batch, lambda _: True, "operation_failed")

    def _transaction(self, batch: Sequence[Item]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            appends = [item[0] for item in batch if type(item) is tuple]
            self._tables.checkpoint(connection)
            results: list[Any] = self._tables.append(connection, appends) if appends else []
            if len(appends) < len(batch):
                outcomes = iter(results)
                results = [next(outcomes) if type(item) is tuple else item.apply(connection) for item in batch]  # type: ignore[union-attr]
            connection.execute("COMMIT")
        except Exception:
            if connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error as error:
                    log.error("rollback failed", error=str(error))
            raise
        return results

    def _settle(self) -> bool:
        """After a failed commit: what the file shows may never have reached the disk, not even when a later fsync says
        so (Linux reports a failed write-back once). Move the log into the file and begin anew; False: not yet."""
        try:
            fresh = connect(self._path, self._reserve.size)
        except sqlite3.Error as error:
            log.error("reopening the store failed", error=str(error))
            return False
        self._connection.close()
        self._connection = fresh
        try:
            # This writes every page again, and may make all the room that is needed.
            (busy, _, _) = fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._tables.reopened(fresh)
        except sqlite3.Error as error:
            log.error("the store is not settled yet", error=str(error))
            if is_damage(error):
                self._damaged(str(error))
            # A full disk leaves the log as it is: its last commit failed before anything was promised by it.
            self._doubtful = not is_full(error)
            return not self._doubtful
        self._doubtful = bool(busy)
        return not busy

    def _refuse(self, batch: list[Item], which: Callable[[Item], bool], reason: str) -> list[Item]:
        refused = [item for item in batch if which(item)]
        self._counters[reason] += len(refused)
        if reason == "no_room_for_routine":
            self.hindered_s = time.monotonic()
        self._resolve([(item, item.refused if isinstance(item, Operation) else Outcome.REFUSED) for item in refused])
        return [item for item in batch if not which(item)]

    def _resolve(self, results: list[tuple[Item, Any]]) -> None:
        if not results:
            return
        try:
            self._loop.call_soon_threadsafe(self._tell, results)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            log.debug("the event loop closed before the store")

    def _tell(self, results: list[tuple[Item, Any]]) -> None:
        stored = []
        for item, result in results:
            if isinstance(item, Operation):
                if not item.future.done():
                    item.future.set_result(result)
                continue
            record, told = item
            if result is Outcome.STORED:
                stored.append(record)
            try:
                told(record, result)
            except Exception:  # one receiver's defect must not keep the others from hearing
                log.exception("a commit could not be told", device=record.device_id)
        if stored:
            self._stored(stored)

    def _wait_closing(self, seconds: float) -> bool:
        """Wait; True when the store is being closed and the disk had its last chance."""
        with self._wake:
            if not self.closing:
                self._wake.wait_for(lambda: self.closing, seconds)
                return False
            return True


class Reserve:
    """Space set aside on the disk (a file of zeros), given up when the disk is full so that alarms still fit."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.spent = False
        self._path = path
        self._next_try = 0.0

    def take(self) -> bool:
        """Allocate the space; False when there is not enough."""
        if not self.size:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self.size)
            finally:
                os.close(descriptor)
        except OSError:
            self._remove()
            self.spent = True
            self._next_try = time.monotonic() + RESERVE_RETRY_S
            return False
        self.spent = False
        return True

    def retake(self) -> bool:
        """Try to take the space back, now and then, and only when it leaves a quarter as much for routine work."""
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + RESERVE_RETRY_S
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= self.size + self.size // 4 and self.take()

    def spend(self) -> bool:
        """Give the space to whoever needs it; False when there is none to give."""
        if self.spent or not self.size:
            return False
        self._remove()
        self.spent = True
        self._next_try = time.monotonic() + RESERVE_RETRY_S
        return True

    def close(self) -> None:
        """The space is needed by nobody while the gateway does not run."""
        self._remove()

    def _remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:  # a file system that has turned read-only
            log.warning("the alarm reserve cannot be removed", error=str(error))


def _is_routine(item: Item) -> bool:
    return item.routine if isinstance(item, Operation) else not item[0].alarm


def _is_record(item: Item) -> bool:
    return type(item) is tuple
