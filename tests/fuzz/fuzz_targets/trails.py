"""Recordings given to `emtag trail-size`: read as every kind they could be, or refused with TrailError."""

import os
import tempfile
from pathlib import Path

from emgate.commands.trails import TrailError, encode_trail, read_trail

KINDS = (".plt", ".gpx", ".csv")
_FOLDER = tempfile.TemporaryDirectory(prefix="emtag-fuzz-")


def check(data: bytes) -> None:
    """Byte 0 chooses the kind, the rest is the file."""
    if not data:
        return
    path = Path(_FOLDER.name) / f"{os.getpid()}{KINDS[data[0] % 3]}"
    path.write_bytes(data[1:])
    try:
        segments = read_trail(path)
    except TrailError:
        return
    assert all(segments)
    for _ in encode_trail(segments, 60):
        pass
