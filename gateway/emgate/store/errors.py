"""What an error says of the store: a disk without room, one that fails, a damaged file, or a defect of ours."""

import errno
import math
import os
import sqlite3
from pathlib import Path

ROOM_BYTES = 1 << 20
"""A disk with less has no room: a commit of a hundred of the largest frames (1 kB) touches 0.4 MB of pages, and the
shared-memory file grows by 32 kB."""


def is_out_of_room(error: Exception, folder: Path) -> bool:
    """True for a disk without room, and nothing else wrong with it. ENOSPC comes as SQLITE_FULL from a write, and as an
    I/O error from growing the shared-memory file; but so does any defect of the disk, so that has to be seen."""
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0)
    return is_full(error) or (
        code in (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE) and _room_bytes(folder) < ROOM_BYTES
    )


def is_full(error: sqlite3.Error) -> bool:
    """True for a write that SQLite gave up for want of room: its commit is not in the log."""
    return _kind(error) == sqlite3.SQLITE_FULL


def is_damage(error: sqlite3.Error) -> bool:
    """True for a file that is not as SQLite or this program wrote it."""
    if getattr(error, "sqlite_errorcode", None) is None:
        return type(error) is sqlite3.DatabaseError or "UTF-8" in str(error)  # a text that is none
    return _kind(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_of_disk(error: sqlite3.Error) -> bool:
    """True for what the disk or the file does to us (full, I/O, locked, read-only, damaged): worth trying again."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _kind(error: sqlite3.Error) -> int:
    """The primary code of an extended one; 0 for an error of this program's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _room_bytes(folder: Path) -> float:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return math.inf
    return disk.f_bavail * disk.f_frsize
