"""Root may run any command; what it writes stays the gateway's: the state directory's owner is the gateway's user."""

import os
from collections.abc import Callable
from pathlib import Path


def give_to_owner(path: Path, state_directory: Path | None) -> None:
    """Make the gateway's user the owner of a file just written; nothing when that is not for us to do."""
    if os.geteuid() != 0 or state_directory is None or not state_directory.exists():
        return
    owner = state_directory.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def write_whole(
    path: Path, data: bytes, state_directory: Path | None, check: Callable[[Path], object] = lambda _: None
) -> None:
    """Put a file in its place, for the gateway's user alone: whole or not at all, a power cut included.

    `check` looks at what was written before it is in its place; where it raises, the file stays as it was."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # one that was left behind may have more rights
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        check(temporary)
        give_to_owner(temporary, state_directory)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
