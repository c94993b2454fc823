"""Frames kept in quarantine of a device that nobody knew, once somebody does: verified by its key, they are records.

A frame that opens is stored as if it had come today, with the time and the link of then, and leaves the quarantine; one
that does not open stays there as evidence.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog
from emwire import envelope
from emwire.errors import WireError

from emgate.store.store import Outcome, Record, Store

if TYPE_CHECKING:
    from emgate.devices.sessions import Session

log = structlog.get_logger(__name__)

UNKNOWN, REVOKED = "unknown_device", "revoked"
"""The reasons for which a frame was not even tried."""
AT_ONCE = 200
"""Stored together: two group commits."""


async def waiting(store: Store) -> set[int]:
    """Devices of which there are frames that were not even tried."""
    await store.drain()  # also what has just been put aside
    rows = await store.read(
        lambda connection: connection.execute(
            "SELECT DISTINCT device_id FROM quarantine WHERE reason IN (?, ?)", (UNKNOWN, REVOKED)
        ).fetchall()
    )
    return {device_id for (device_id,) in rows}


async def adopt(store: Store, session: "Session", counters: "Counter[str]") -> list[Record]:
    """Take what opens out of the quarantine; the records that are new, as stored."""
    device_id = session.device.device_id
    taken: list[Record] = []
    after = 0
    while True:
        rows = await _kept(store, device_id, after)
        if not rows:
            break
        after = rows[-1][0]
        opened: list[int] = []
        commits: list[tuple[int, Record, asyncio.Future[Outcome]]] = []
        for row_id, received_time_ms, link, frame in rows:
            try:
                received = session.link.received(bytes(frame))
            except WireError:
                counters["quarantined_not_opened"] += 1
                continue
            if received.kind == envelope.LINK:
                opened.append(row_id)  # what it asked for is long over
                continue
            record = Record(
                device_id, received.epoch, received.sequence, received.alarm, received_time_ms, link, received.payload
            )
            commits.append((row_id, record, store.append(record)))
        for row_id, record, committed in commits:
            outcome = await committed
            if outcome is Outcome.REFUSED:
                continue  # no room: it stays where it is
            opened.append(row_id)
            session.link.stored(record.epoch, record.sequence, record.payload)
            if outcome is Outcome.STORED:
                taken.append(record)
        await _forget(store, opened)
    if taken:
        counters["adopted"] += len(taken)
        log.info("records taken out of quarantine", device=device_id, records=len(taken))
    return taken


async def _kept(store: Store, device_id: int, after: int) -> list[tuple[int, int, str, bytes]]:
    return await store.read(
        lambda connection: connection.execute(
            "SELECT row_id, received_time_ms, link, frame FROM quarantine"
            " WHERE device_id = ? AND reason IN (?, ?) AND row_id > ? ORDER BY row_id LIMIT ?",
            (device_id, UNKNOWN, REVOKED, after, AT_ONCE),
        ).fetchall()
    )


async def _forget(store: Store, rows: Iterable[int]) -> None:
    marks = [(row_id,) for row_id in rows]

    def apply(connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM quarantine WHERE row_id = ?", marks)

    if marks:
        await store.write(apply, refused=None)
