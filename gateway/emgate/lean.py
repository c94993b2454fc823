"""Keeps out of a daemon's memory what only terminals need. Import before anything that imports structlog."""

import sys

# structlog takes rich along, where it is installed, for coloured tracebacks that no daemon prints: 5 MB.
if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not there
    import structlog  # noqa: F401

    del sys.modules["rich"]
