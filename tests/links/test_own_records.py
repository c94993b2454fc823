"""The gateway's own records: from an event to the backend, like a device's."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from emgate import loss_evidence, own_records, supervisor
from emgate.backend.ingest import Backend
from emgate.backend.projection import Header, decode, rows
from emgate.clock import SystemClock
from emgate.gateway_number import device_id_of
from emgate.own_records import OwnRecords, evidence_of
from emgate.store.store import Outcome, Store
from emgate.supervisor import Supervisor
from emwire import codec, constants
from links_kit import Heard


async def records(store: Store) -> list:
    found = [*await undelivered(store, False), *await undelivered(store, True)]
    return sorted(found, key=lambda record: record.row_id)


async def undelivered(store: Store, alarm: bool) -> list:
    return await store.undelivered("uplink", alarm, 10_000, 1 << 30)


@contextlib.asynccontextmanager
async def opened(path: Path):
    store = await Store.open(path / "store.sqlite")
    own = OwnRecords("gw-1", store, SystemClock(5))
    await own.open()
    try:
        yield store, own
    finally:
        await own.close()
        await store.close()


async def test_an_event_is_a_record_that_a_backend_takes(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, own):
        own.event(constants.EVENT_GATEWAY_CLOCK_STEPPED, value=-86_400, evidence=b"x" * 100, alarm=True)
        own.event(constants.EVENT_GATEWAY_FLOOD, value=1 << 40, subject_id=7)
        await own.close()
        made = await records(store)
    assert {record.device_id for record in made} == {device_id_of("gw-1")}
    assert [record.sequence for record in made] == [0, 1, 2]
    events = [codec.decode(record.payload) for record in made]
    assert [event.event_type for event in events] == [90, 96, 95]
    assert events[0].evidence == b"gw-1"
    assert (events[1].value, events[1].evidence, made[1].alarm) == (-86_400, b"x" * 64, True)
    assert (events[2].value, events[2].subject_id) == ((1 << 31) - 1, 7)
    backend = Backend(tmp_path / "backend.sqlite", SystemClock(5))
    batch = {"batchId": "b", "gatewayId": "gw-1", "uploadedDateMs": made[0].received_time_ms, "records": [
        {"deviceId": r.device_id, "epoch": r.epoch, "sequence": r.sequence, "alarm": r.alarm,
         "receivedTimeMs": r.received_time_ms, "link": r.link, "payload": r.payload.hex()} for r in made
    ]}  # fmt: skip
    assert backend.ingest(batch) == 3
    assert backend.ingest(batch) == 0
    backend.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "backend.sqlite")) as database:
        codes = database.execute("SELECT event_type_code FROM events ORDER BY record_id").fetchall()
        assert codes == [("EV_GATEWAY_STARTED",), ("EV_GATEWAY_CLOCK",), ("EV_GATEWAY_FLOOD",)]
        (reasons,) = database.execute("SELECT count(*) FROM records WHERE quarantine_reason IS NOT NULL").fetchone()
        assert reasons == 0, "a gateway has no wearer, and its records are nobody's fault"


async def test_every_start_takes_an_epoch_that_the_store_does_not_know(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(own_records, "MAXIMUM_EPOCH", 4)  # so few that chance alone would repeat one
    epochs = []
    for _ in range(4):
        async with opened(tmp_path) as (_, own):
            epochs.append(own.epoch)
    assert sorted(epochs) == [1, 2, 3, 4]


async def test_what_the_store_refuses_is_tried_again_and_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(own_records, "RETRY_S", 0.01)
    monkeypatch.setattr(own_records, "MAXIMUM_WAITING", 10)
    async with opened(tmp_path) as (store, own):
        await own.close()
        append = store.append
        refusing = True

        def reluctant(record):
            if not refusing:
                return append(record)
            future = asyncio.get_running_loop().create_future()
            future.set_result(Outcome.REFUSED)
            return future

        monkeypatch.setattr(store, "append", reluctant)
        for number in range(15):
            own.event(constants.EVENT_GATEWAY_FLOOD, value=number)
        async with asyncio.timeout(20):
            while own.counters["refused"] < 30:  # noqa: ASYNC110 - counted by the code under test
                await asyncio.sleep(0.005)
            refusing = False
            while len(await records(store)) < 12:  # noqa: ASYNC110 - filled by the code under test
                await asyncio.sleep(0.005)
        own.event(constants.EVENT_GATEWAY_FLOOD, value=99)
        await own.close()
        made = await records(store)
        assert own.counters["dropped"] == 5
        assert [codec.decode(record.payload).value for record in made[1:11]] == list(range(10))
        assert [record.sequence for record in made] == list(range(13)), "no sequence is used up by what was dropped"
        told = codec.decode(made[11].payload)
        assert (told.event_type, told.value, told.subject_id) == (constants.EVENT_GATEWAY_RECORDS_LOST, 5, 0)
        assert made[11].alarm and codec.decode(made[12].payload).value == 99, "told once"


@pytest.mark.parametrize("reserve", [True, False])
async def test_what_is_refused_until_the_stop_is_told_in_the_reserve(
    tmp_path: Path, monkeypatch, reserve: bool
) -> None:
    """A full disk refuses routine records, and takes alarms for a while. Without that too, the log has it."""
    monkeypatch.setattr(own_records, "MAXIMUM_WAITING", 4)
    logged: list[dict] = []
    monkeypatch.setattr(own_records.log, "error", lambda event, **facts: logged.append({"event": event, **facts}))
    async with opened(tmp_path) as (store, own):
        await own.close()
        append = store.append

        def full(record):
            if record.alarm and reserve:
                return append(record)
            future = asyncio.get_running_loop().create_future()
            future.set_result(Outcome.REFUSED)
            return future

        monkeypatch.setattr(store, "append", full)
        for number in range(6):
            own.event(constants.EVENT_GATEWAY_FLOOD, value=number)
        await own.close()
        made, dropped = await store.newest(10), own.counters["dropped"]  # what is over a hole is not handed out yet
        made.sort(key=lambda record: record.row_id)
    assert logged[0] == {"event": "own records could not be stored", "records": 6}
    assert dropped == 6
    assert len(made) == 1 + reserve
    if not reserve:
        return
    told = codec.decode(made[1].payload)
    assert (told.event_type, told.value) == (constants.EVENT_GATEWAY_RECORDS_LOST, 6)
    assert made[1].alarm and loss_evidence.decode(bytes(told.evidence))[:3] == (own.epoch, 1, 4)
    header = Header(1, made[1].device_id, made[1].epoch, made[1].sequence, None)
    (gap,) = [row.values for row in rows(header, decode(made[1].payload)) if row.table == "gaps"]
    assert (gap["device_id"], gap["first_sequence"], gap["last_sequence"]) == (device_id_of("gw-1"), 1, 4)


def test_evidence_is_cut_between_characters() -> None:
    assert evidence_of("é" * 40) == ("é" * 32).encode()
    assert evidence_of("a" + "é" * 40) == ("a" + "é" * 31).encode()


class Flapping:
    """Up and lost again at once, `times` times, then up for good."""

    name = "serial:x"

    def __init__(self, times: int) -> None:
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.left = times

    async def run(self) -> None:
        self.up.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self.left:
            self.left -= 1
            raise OSError(5, "Input/output error")
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def supervising(what: Flapping, heard: Heard):
    task = asyncio.create_task(Supervisor(what, maximum_s=0.001, events=heard).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_outage_is_two_events(monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_S", 0.001)
    heard = Heard()
    async with supervising(Flapping(1), heard):
        await heard.until(2)
    lost, restored = heard.events
    assert lost == (constants.EVENT_GATEWAY_LINK_LOST, 1, b"serial:x\nInput/output error")
    assert restored == (constants.EVENT_GATEWAY_LINK_RESTORED, 0, b"serial:x")
    assert heard.alarms == [True, True]


async def test_gateways_that_lost_one_broker_do_not_come_back_in_step() -> None:
    """Each pause doubles up to the limit, less up to a half by chance."""

    class Lost(Supervisor):
        def __init__(self) -> None:
            super().__init__(Flapping(1000), maximum_s=4.0)
            self.pauses: list[float] = []

        async def _pause(self, pause_s: float) -> bool:
            self.pauses.append(pause_s)
            if len(self.pauses) == 8:
                raise asyncio.CancelledError
            return False

    gateways = [Lost() for _ in range(20)]
    await asyncio.gather(*(each.run() for each in gateways), return_exceptions=True)
    for step, limit in enumerate((0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0)):
        pauses = [each.pauses[step] for each in gateways]
        assert all(limit / 2 <= pause <= limit for pause in pauses)
        assert max(pauses) - min(pauses) > limit / 8, "scattered"


async def test_a_loose_plug_does_not_fill_the_store_and_the_last_state_is_told(monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_S", 0.001)
    monkeypatch.setattr(supervisor, "EVENTS_BURST", 3.0)
    monkeypatch.setattr(supervisor, "EVENT_EACH_S", 0.5)
    heard = Heard()
    async with supervising(Flapping(100), heard):
        await heard.until(4)
    # Lost, restored, lost; then up for good is told when the next may be.
    assert [event for event, _, _ in heard.events] == [91, 92, 91, 92]


@pytest.mark.parametrize("gateway_id", ["a", "gw-test", "x" * 64])
def test_a_gateways_number_is_above_those_of_devices(gateway_id: str) -> None:
    assert 0xF000_0000 <= device_id_of(gateway_id) <= 0xFFFF_FFFF
