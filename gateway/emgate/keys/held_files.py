"""What the files hold that a section names (passwords, tokens, certificates), so that a reload notices when it changes.

Kept as a digest by a key of this process: it is compared, and nobody can try passwords against it.
"""

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

_KEY = secrets.token_bytes(32)
LONGEST = 1 << 20
"""A bundle of every public authority has 220 kB."""


def digest(paths: Iterable[Path | None]) -> bytes:
    """Of what is in them; what is wrong with a file is found by who uses it."""
    held = hashlib.blake2b(key=_KEY)
    for path in paths:
        held.update(b"-" if path is None else hashlib.blake2b(_content(path), key=_KEY).digest())
    return held.digest()


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe can be read once
            return b""
        with path.open("rb") as file:
            return file.read(LONGEST)
    except OSError:
        return b""
