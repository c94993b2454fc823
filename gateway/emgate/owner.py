"""Root may run any command; what it writes stays the gateway's: the state directory's owner is the gateway's user."""

import os
from pathlib import Path


def give_to_owner(path: Path, state_directory: Path | None) -> None:
    """Make the gateway's user the owner of a file just written; nothing when that is not for us to do."""
    if os.geteuid() != 0 or state_directory is None or not state_directory.exists():
        return
    owner = state_directory.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
