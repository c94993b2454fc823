"""Root may run any command; what it writes stays the gateway's: the state directory's owner is the gateway's user."""

import os
from pathlib import Path


def give_to_owner(path: Path, state_directory: Path | None) -> None:
    """Make the gateway's user the owner of a file just written; nothing when that is not for us to do."""
    if os.geteuid() != 0 or state_directory is None or not state_directory.exists():
        return
    owner = state_directory.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def write_whole(path: Path, data: bytes, state_directory: Path) -> None:
    """Put a file in its place, for the gateway's user alone: whole or not at all, a power cut included."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    give_to_owner(temporary, state_directory)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
