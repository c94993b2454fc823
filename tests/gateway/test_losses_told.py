"""What a store gave up or lost reaches the backend as a record of the gateway's own, and is forgotten only then."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

from emgate.backend.queries import Reader
from emgate.store.limits import note_loss, note_missed
from emgate.store.store import Store
from emwire import codec, constants
from gateway_kit import DEVICE, GatewayProcess, Port, toml

RANGES = [(DEVICE, 3, 5 * n, 5 * n + 2) for n in range(700)]  # more than are told at once


async def test_every_range_is_told_to_the_backend_once(tmp_path: Path) -> None:
    port = Port()
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"'))
    store = await Store.open(gateway.store)

    def note(connection: sqlite3.Connection) -> None:
        for lost in RANGES:
            note_loss(connection, lost, constants.GAP_TOO_OLD)
        note_missed(connection, {"uplink": 7})

    await store.write(note, refused=None)
    await store.close()
    await gateway.start()
    async with asyncio.timeout(30):
        while len(_told(gateway.backend)) < len(RANGES):  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.1)
    assert await gateway.stop() == 0
    assert sorted(_told(gateway.backend)) == RANGES
    reader = Reader(gateway.backend)
    booked = [(DEVICE, gap["gapEpoch"], gap["firstSequence"], gap["lastSequence"]) for gap in reader.gaps(DEVICE)]
    reader.close()
    assert booked == RANGES, "the books of the device account for them"
    with contextlib.closing(sqlite3.connect(gateway.store)) as connection:
        assert connection.execute("SELECT count(*) FROM losses").fetchone() == (0,)
        assert connection.execute("SELECT * FROM missed").fetchall() == [("uplink", 7, 7)]
    with contextlib.closing(sqlite3.connect(gateway.backend)) as connection:
        events = [codec.decode(row[0]) for row in connection.execute("SELECT payload FROM records WHERE alarm = 0")]
    assert json.loads((gateway.store.parent / "status.json").read_text())["uplink"][0]["missed"] == 7
    told = [each for each in events if getattr(each, "event_type", 0) == constants.EVENT_GATEWAY_TARGET_MISSED]
    assert [(each.value, each.evidence) for each in told] == [(7, b"uplink")]


def _told(path: Path) -> list[tuple[int, int, int, int]]:
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("SELECT payload FROM records WHERE link = 'gateway' AND alarm = 1").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []
    found = []
    for (payload,) in rows:
        event = codec.decode(payload)
        if isinstance(event, codec.Event) and event.event_type == constants.EVENT_GATEWAY_RECORDS_LOST:
            evidence = event.evidence
            first, last = (int.from_bytes(evidence[at : at + 3], "little") for at in (2, 5))
            assert evidence[8:] == bytes([constants.GAP_TOO_OLD]) and event.value == last - first + 1
            found.append((event.subject_id, int.from_bytes(evidence[:2], "little"), first, last))
    return found
