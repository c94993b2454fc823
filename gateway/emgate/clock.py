"""Where the gateway's time comes from: the machine's clock with the kernel's error bound, or one shared by a rig."""

import ctypes
import mmap
import struct
import time
from pathlib import Path
from typing import Protocol

UNKNOWN_UNCERTAINTY_MS = 65535
"""What the wire says for "unknown or more" (u16)."""


class Clock(Protocol):
    """UTC with a bound on its error."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since some moment. Goes on whatever is done to the time of day: for waits of any length."""
        ...

    def uncertainty_ms(self) -> int:
        """How far off now_ms() may be; 65535 = unknown or more."""
        ...


class SystemClock:
    """The machine's clock. Its error bound is the configured one, or the kernel's (unknown while unsynchronised)."""

    def __init__(self, uncertainty_ms: int | None = None) -> None:
        self._uncertainty_ms = uncertainty_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        """The kernel's monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    def uncertainty_ms(self) -> int:
        """The configured bound, else the kernel's."""
        if self._uncertainty_ms is not None:
            return self._uncertainty_ms
        return _kernel_uncertainty_ms()


class _Timex(ctypes.Structure):
    """The head of struct timex, <sys/timex.h>; the rest only has to be large enough."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error_us", ctypes.c_long),
        ("estimated_error_us", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


_TIME_ERROR = 5  # adjtimex(2): "the system clock is not synchronized to a reliable server"


def _kernel_uncertainty_ms() -> int:
    timex = _Timex()  # modes = 0 only reads, and needs no privilege
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):  # not Linux
        return UNKNOWN_UNCERTAINTY_MS
    if state < 0 or state == _TIME_ERROR:
        return UNKNOWN_UNCERTAINTY_MS
    # Rounded up, and at least 1 ms because now_ms() is cut to whole milliseconds.
    return min(UNKNOWN_UNCERTAINTY_MS, max(1, -(-int(timex.maximum_error_us) // 1000)))


class SharedClock:
    """A clock that another process advances: a mapped file of 8 bytes, little-endian int64 unix milliseconds."""

    def __init__(self, path: Path, uncertainty_ms: int = 1) -> None:
        self._uncertainty_ms = uncertainty_ms
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z, as last written by the owner."""
        value: int = struct.unpack_from("<q", self._map)[0]
        return value

    def elapsed_ms(self) -> int:
        """As now_ms(): its owner does not set it back."""
        return self.now_ms()

    def uncertainty_ms(self) -> int:
        """The configured bound; the file has whole milliseconds."""
        return self._uncertainty_ms
