"""Structured logs: one JSON object a line, to the journal, standard error or a file of bounded size."""

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from emgate.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""sd-daemon(3): the journal takes a line's priority from <N> at its start."""
FILE_BYTES, FILES = 10_000_000, 5
"""A log file is set aside at this size, and so many are kept: 50 MB of a card at most, weeks of an ordinary gateway."""


class _JournalFormatter(logging.Formatter):
    """Puts the priority in front of what another formatter makes."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITIES.get(record.levelno, 6)}>{self._inner.format(record)}"


def _to_journal() -> bool:
    """Whether standard error is systemd's journal: it names the stream by device and inode (systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        facts = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{facts.st_dev}:{facts.st_ino}"


def configure(level: str = "info", log_file: Path | None = None) -> None:
    """For the whole process; libraries that use the standard logging go the same way, from warnings on."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter: logging.Formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler(sys.stderr)
        if _to_journal():
            formatter = _JournalFormatter(formatter)
    else:
        handler = open_file(log_file)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    for old in before:
        if isinstance(old, RotatingFileHandler):
            old.close()
    root.setLevel(logging.WARNING)
    set_level(level)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def open_file(path: Path) -> RotatingFileHandler:
    """A log file, to be gone on with or made anew; ConfigError when it cannot be written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"log_file: cannot write {path}: {error.strerror}; name another file") from None


def set_level(level: str) -> None:
    """From now on."""
    for name in ("emgate", "emrig"):
        logging.getLogger(name).setLevel(LEVELS[level])
