"""Fixtures every area shares: recorded data and the MicroPython interpreter."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recordings beside the checkout; see ../shared/data/README.md for their sources."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the recordings in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def micropython() -> str:
    """Path of a MicroPython unix port: EMTAG_MICROPYTHON, the wheel's, or one on the path."""
    for candidate in (
        os.environ.get("EMTAG_MICROPYTHON"),
        str(Path(sys.executable).with_name("micropython")),
        shutil.which("micropython"),
    ):
        if candidate and Path(candidate).exists():
            return candidate
    pytest.skip("needs a MicroPython interpreter")
