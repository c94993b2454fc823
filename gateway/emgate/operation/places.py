"""Places on the disk that may not be there yet: missing folders are made when something is written into them."""

from pathlib import Path


def nearest(path: Path) -> Path:
    """The path, or of the folders above it the first that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
