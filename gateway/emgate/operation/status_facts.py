"""What a running gateway says of itself: the content of status.json, from which metrics and dashboard are made too."""

import os
import resource
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emgate.devices.sessions import Session, Sessions
from emgate.store.store import Store
from emgate.supervisor import Supervisor


def device_facts(session: Session) -> dict[str, Any]:
    """One device."""
    status, link = session.status, session.link
    return {
        "deviceId": session.device.device_id,
        "model": session.device.model,
        "link": status.link,
        "lastReceivedMs": status.last_received_ms,
        "lastRecordedMs": status.last_recorded_ms,
        "batteryPercent": status.battery_percent,
        "configurationVersion": status.configuration_version,
        "keySlot": link.slot,
        "keyChangePending": link.offered is not None,
        "epoch": link.epoch,
        "storedThrough": None if link.epoch is None else link.watermarks(link.epoch)[0],
        "deliveredThrough": None if link.epoch is None else link.watermarks(link.epoch)[1],
        "stored": status.stored,
        "delivered": status.delivered,
        "duplicates": status.duplicates,
        "refused": dict(status.refused),
        "gaps": status.gaps,
        "lostRecords": status.lost_records,
    }


def session_facts(sessions: Sessions) -> dict[str, Any]:
    """All devices together."""
    return {
        "frames": sessions.counters["frames"],
        "stored": sessions.counters["stored"],
        "delivered": sessions.counters["delivered"],
        "duplicates": sessions.counters["duplicates"],
        "refused": dict(sessions.refused),
        "sessions": dict(sessions.counters),
    }


def link_facts(supervisors: Iterable[Supervisor]) -> list[dict[str, Any]]:
    """Every link: whether it is up, why not, how often it was restarted and what it dropped."""
    return [
        {
            "name": each.what.name,
            "up": each.what.up.is_set(),
            "reason": each.last_reason,
            "restarts": dict(each.restarts),
            **each.what.counters,
            **getattr(each.what, "statistics", {}),
        }
        for each in supervisors
    ]


async def store_facts(store: Store) -> dict[str, Any]:
    """Rows, what waits, the oldest that waits, the room there is, and how long commits take."""
    return {
        **await store.totals(),
        **store.counters,
        "oldestUndeliveredMs": await store.oldest_undelivered_ms(),
        "bytes": _bytes_of(store.path),
        "diskFreeBytes": shutil.disk_usage(store.path.parent).free,
        "commitSeconds": store.commit_seconds.facts(),
    }


def process_facts(started_s: float, payload_bytes: int) -> dict[str, Any]:
    """This process. `started_s`: time.monotonic() when it began; `payload_bytes`: what it has taken for keeps since."""
    # The kernel counts blocks of 512 bytes that it is to bring to a disk (getrusage(2)); a RAM disk's are none.
    written = resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512
    return {
        "pid": os.getpid(),
        "runningS": round(time.monotonic() - started_s, 1),
        "residentBytes": _resident_bytes(),
        "writtenBytes": written,
        "writtenPerPayloadByte": round(written / payload_bytes, 1) if payload_bytes else None,
    }


def _bytes_of(path: Path) -> int:
    total = 0
    for suffix in ("", "-wal"):
        try:
            total += path.with_name(path.name + suffix).stat().st_size
        except OSError:  # between two checkpoints there is no log
            continue
    return total


def _resident_bytes() -> int | None:
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # not Linux
        return None
