"""A gateway of this version and what a later one's devices send it: nothing is lost that it cannot read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.keys.sealing import Ccm
from emgate.uplinks.drain import Drain
from emwire import codec, constants, envelope
from gateway_kit import DEVICE, KEY, hello_record, status_record
from test_sessions import Bench, up_frame


@pytest.fixture
async def bench(tmp_path: Path):
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.stop()


# Of a version to come: a new record, a known one with a field appended, cut short, with a value nobody knows yet.
LATER = {
    "new type": b"\x2e" + bytes(range(40)),
    "field appended": status_record(1) + b"\x2a\x00",
    "field removed": status_record(2)[:-4],
    "value out of range": status_record(3)[:15] + b"\x02" + status_record(3)[16:],
    "new event": codec.Event(1, 0, 5, 5, 4711, 5, 0, 0, b"new").encode(),
    "new model": hello_record()[:12] + b"\x63" + hello_record()[13:],
    "longest": b"\x2e" + bytes(envelope.MAXIMUM_PLAINTEXT - 1),
}


def told(bench: Bench) -> list[Any]:
    """What the gateway has sent since the last call, as the device of boot epoch 1 opens it."""
    frames, bench.wire.sent = bench.wire.sent, []
    return [codec.decode(envelope.open_frame(Ccm(KEY), DEVICE, frame, 1)[3]) for frame in frames]


class ToBackend:
    """An uplink straight into a backend."""

    name = "backend"

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.batches: list[dict[str, Any]] = []

    async def deliver(self, batch: dict[str, Any]) -> None:
        self.batches.append(batch)
        self.backend.ingest(batch)


async def test_records_of_a_later_version_are_stored_acknowledged_and_forwarded_as_they_are(
    bench: Bench, tmp_path: Path
) -> None:
    for sequence, payload in enumerate(LATER.values()):
        assert await bench.take(up_frame(envelope.RECORD, 1, sequence, payload))
    assert told(bench)[-1].stored_through == len(LATER)
    stored = bench.query("SELECT payload FROM records ORDER BY row_id")
    assert stored == [(payload,) for payload in LATER.values()]
    assert bench.sessions.counters["unknown_message_types"] == 2
    assert bench.sessions.counters["undecodable"] == 3

    database = tmp_path / "backend.sqlite"
    backend = Backend(database, bench.clock)
    uplink = ToBackend(backend)
    arrived = asyncio.Event()

    def delivered(records: Any) -> None:
        bench.sessions.delivered(records)
        arrived.set()

    drain = Drain(bench.store, "uplink", uplink, bench.clock, "g", 100, delivered, bench.sessions.marks)  # type: ignore[arg-type]
    running = asyncio.create_task(drain.run())
    await asyncio.wait_for(arrived.wait(), 20)
    running.cancel()
    await bench.settle()
    assert told(bench)[-1].delivered_through == len(LATER)
    sent = [record["payload"] for batch in uplink.batches for record in batch["records"]]
    assert sent == [payload.hex() for payload in LATER.values()]
    kept = {row["payload"]: row for row in Reader(database).records(DEVICE)}
    states = {name: kept[payload.hex()]["state"] for name, payload in LATER.items()}
    assert states == {
        "new type": "UNKNOWN_TYPE",
        "field appended": "UNDECODABLE",
        "field removed": "UNDECODABLE",
        "value out of range": "UNDECODABLE",
        "new event": "DECODED",
        "new model": "DECODED",
        "longest": "UNKNOWN_TYPE",
    }
    assert "trailing" in kept[LATER["field appended"].hex()]["reason"]
    backend.close()


async def test_a_link_message_of_a_later_version_is_counted_and_harms_nothing(bench: Bench) -> None:
    assert await bench.take(up_frame(envelope.LINK, 1, 0, b"\x55new"))
    assert bench.sessions.counters["unknown_link_messages"] == 1
    await bench.take(up_frame(envelope.LINK, 1, 1, codec.Poll().encode()))
    assert any(isinstance(message, codec.Time) for message in told(bench))


async def test_a_frame_of_a_later_envelope_is_kept_aside_and_not_acknowledged(bench: Bench) -> None:
    frame = up_frame(envelope.RECORD, 1, 0, status_record(0))
    later = bytes([frame[0] & 0x1F | 2 << 5]) + frame[1:]
    await bench.take(later)
    assert told(bench) == []
    assert bench.query("SELECT reason, frame FROM quarantine") == [("version", later)]
    await bench.take(frame)
    assert told(bench)[-1].stored_through == 1


async def test_new_records_of_this_version_are_understood(bench: Bench) -> None:
    records = [
        codec.Listening(1, 0, 5, 5, 0, 60, [(constants.RECEIVER_GNSS, 50, 10, constants.DEAF_JAMMING)]).encode(),
        codec.Log(1, 0, 5, 5, constants.LOG_ERROR, "flash 3 °C".encode()).encode(),
        codec.CommandResult(1, 0, 5, 5, 9, constants.COMMAND_LOCATE_NOW, constants.OUTCOME_DONE, 5, 0, b"").encode(),
        codec.UpdateState(1, 0, 5, 5, 3, constants.UPDATE_RECEIVING, 0, 64, 1, 2, 3, 3900, 0).encode(),
    ]
    for sequence, payload in enumerate(records):
        await bench.take(up_frame(envelope.RECORD, 1, sequence, payload))
    assert told(bench)[-1].stored_through == len(records)
    assert not bench.sessions.counters["unknown_message_types"] and not bench.sessions.counters["undecodable"]
