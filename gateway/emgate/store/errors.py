"""What an error says of the store: a disk without room, one that fails, a damaged file, or a defect of ours."""

import errno
import sqlite3


def is_out_of_room(error: Exception) -> bool:
    """True for a disk without room, and nothing else wrong with it."""
    if isinstance(error, sqlite3.Error):
        return is_full(error) or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_full(error: sqlite3.Error) -> bool:
    """True for a write that SQLite gave up for want of room: its commit is not in the log."""
    return _kind(error) == sqlite3.SQLITE_FULL


def may_be_out_of_room(error: sqlite3.Error) -> bool:
    """True where room may help: ENOSPC comes as SQLITE_FULL from a write, and as an I/O error from growing the
    shared-memory file."""
    return _kind(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def is_damage(error: sqlite3.Error) -> bool:
    """True for a file that is not as SQLite or this program wrote it."""
    if getattr(error, "sqlite_errorcode", None) is None:
        return type(error) is sqlite3.DatabaseError
    return _kind(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_of_disk(error: sqlite3.Error) -> bool:
    """True for what the disk or the file does to us (full, I/O, locked, read-only, damaged): worth trying again."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _kind(error: sqlite3.Error) -> int:
    """The primary code of an extended one; 0 for an error of this program's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
