"""What systemd is told of this process (sd_notify(3)): ready, reloading, stopping, alive. Nothing without systemd."""

import asyncio
import math
import os
import socket
import time

import structlog

from emgate.store.store import Store

log = structlog.get_logger(__name__)

EACH_S = 1.0
"""Between two words that long work goes on."""
MORE_S = 300
"""What a start may take behind the last of them: as the unit's TimeoutStartSec=."""
FEEDS = 3
"""Fed so often in the time allowed: one that comes late, on a busy card, is not the end."""


def notify(*assignments: str) -> bool:
    """Send assignments such as "READY=1"; False when nobody listens. Never raises."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            log.warning("systemd does not hear", error=str(error))
            return False
    return True


def reloading() -> None:
    """Say that a reload begins; `notify("READY=1")` ends it. The time is asked for by Type=notify-reload."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


class LongWork:
    """Called at each small step of work that may take longer than a start, or longer than the watchdog waits."""

    def __init__(self) -> None:
        self._told_s = -math.inf

    def __call__(self) -> None:
        """On any thread."""
        now_s = time.monotonic()
        if now_s - self._told_s >= EACH_S:
            self._told_s = now_s
            notify("WATCHDOG=1", f"EXTEND_TIMEOUT_USEC={MORE_S * 1_000_000}")


def watchdog_s() -> float | None:
    """The time within which systemd wants to hear, or None when it does not watch this process."""
    try:
        allowed_s = int(os.environ["WATCHDOG_USEC"]) / 1e6
        watched = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return allowed_s if watched == os.getpid() and allowed_s > 0 else None


async def feed_watchdog(store: Store, allowed_s: float) -> None:
    """Until cancelled: feed while this loop turns and the store's writer moves.

    A writer that tries a full disk again and again moves; one that hangs in the disk does not, and takes no alarm."""
    while True:
        moves = store.writer_moves
        store.write(lambda _: None, refused=None)  # what waits for nothing would not move
        await asyncio.sleep(allowed_s / FEEDS)
        if store.writer_moves != moves:
            notify("WATCHDOG=1")
        else:
            log.error("the store's writer does not move; the watchdog goes hungry", seconds=round(allowed_s / FEEDS, 1))
