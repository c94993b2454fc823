"""Where the firmware and the shared wire code are: in the checkout, or in this package when it is a wheel."""

from pathlib import Path

import emwire

_PACKAGE = Path(__file__).parent


def firmware_folder() -> Path:
    """The folder that is a device's root."""
    packaged = _PACKAGE / "firmware"
    return packaged if packaged.is_dir() else _PACKAGE.parent.parent / "firmware"


def protocol_folder() -> Path:
    """The folder that holds the package emwire."""
    return Path(emwire.__file__).parent.parent
