"""Ingest: exactly once, whole batches, every payload kept, times resolved, books kept."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from backend_kit import ANKLE, ORDERS, Clock, Device, at, batch, minutes
from emgate.backend.batch import BatchError
from emgate.backend.ingest import AGAIN, Backend
from emgate.backend.queries import Reader
from emgate.errors import StoreError
from emwire import codec, constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = at("2026-03-02T10:00:00")


def test_batch_is_stored_once_however_often_it_comes(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    records = [device.hello(T), device.status(T), device.event(constants.EVENT_STRAP_CUT, T)]
    assert backend.ingest(batch(records)) == 3
    assert backend.ingest(batch(records, 2)) == 0
    assert backend.ingest(batch([*records, device.status(T + 1000)], 3)) == 1
    assert [record["payload"] for record in reader.records(ANKLE)] == [record["payload"] for record in device.made]
    assert reader.completeness()[0]["duplicatesRefused"] == 6
    assert len(reader.events(ANKLE)) == 3  # two battery reports and the cut


class Overtaking:
    """Asks for a pause where `when` says so, and then has an alarm ingested."""

    def __init__(self, backend: Backend, when: Iterable[bool]) -> None:
        self.backend, self.when = backend, iter(when)
        self.alarms = Device(ANKLE, epoch=2)
        self.waits = False

    def wanted(self) -> bool:
        self.waits = self.waits or next(self.when, False)
        return self.waits

    def take(self) -> None:
        self.waits = False
        alarm = self.alarms.status(T) | {"alarm": True}
        assert self.backend.ingest(batch([alarm], 100 + len(self.alarms.made))) == 1


def epochs_in_order(backend: Backend) -> list[int]:
    return backend.within(
        lambda database: [row["epoch"] for row in database.execute("SELECT epoch FROM records ORDER BY record_id")]
    )


def test_a_routine_batch_begins_again_behind_an_alarm(backend: Backend) -> None:
    device = Device(ANKLE)
    routine = [device.status(T + number) for number in range(30)]
    assert backend.ingest(batch(routine), Overtaking(backend, [False] * 9 + [True])) == 30
    assert backend.ingest(batch(routine)) == 0
    assert epochs_in_order(backend) == [2] + [1] * 30


def test_alarms_that_keep_coming_are_committed_between_the_parts_of_a_routine_batch(backend: Backend) -> None:
    """It must come to its end some time."""
    device = Device(ANKLE)
    routine = [device.status(T + number) for number in range(30)]
    assert backend.ingest(batch(routine), Overtaking(backend, cycle([False] * 9 + [True]))) == 30
    kept = epochs_in_order(backend)
    assert kept[:AGAIN] == [2] * AGAIN and kept[AGAIN] == 1
    assert 2 in kept[AGAIN + 1 : -1], "and none waited for the end"


def test_what_cannot_be_done_again_soon_is_committed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgate.backend.ingest.AGAIN_RECORDS", 20)
    device = Device(ANKLE)
    routine = [device.status(T + number) for number in range(50)]
    assert backend.ingest(batch(routine), Overtaking(backend, [False] * 24 + [True])) == 50
    assert epochs_in_order(backend) == [1] * 25 + [2] + [1] * 25


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 7))
def test_however_often_it_is_overtaken_a_batch_leaves_the_same(
    tmp_path_factory: pytest.TempPathFactory, when: list[bool], gathered: int
) -> None:
    kept = []
    for overtaken in (False, True):
        backend = Backend(tmp_path_factory.mktemp("overtaken") / "backend.sqlite", Clock())
        device = Device(ANKLE)
        records = [device.hello(T), *(device.status(T + number) for number in range(12)), device.reading(T, 30)]
        records.insert(5, records[4])  # a duplicate
        pause = Overtaking(backend, when) if overtaken else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("emgate.backend.ingest.GATHERED", gathered)
            assert backend.ingest(batch(records), pause) == len(records) - 1
        kept.append(
            [
                backend.within(lambda database, query=query: [tuple(row) for row in database.execute(query)])
                for query in (
                    "SELECT sequence, payload, recorded_date FROM records WHERE epoch = 1 ORDER BY record_id",
                    "SELECT * FROM epochs WHERE epoch = 1",
                    "SELECT sequence, status_date, battery_percent FROM statuses WHERE epoch = 1 ORDER BY record_id",
                )
            ]
        )
        backend.close()
    assert kept[0] == kept[1]


def test_duplicate_within_a_batch_counts_once(backend: Backend, reader: Reader) -> None:
    record = Device(ANKLE).status(T)
    assert backend.ingest(batch([record, record])) == 1
    assert reader.counts()["records"] == 1


def test_other_bytes_under_a_known_identity_are_kept_as_evidence(backend: Backend, reader: Reader) -> None:
    first, second = Device(ANKLE).status(T, percent=80), Device(ANKLE).status(T, percent=5)
    backend.ingest(batch([first]))
    assert backend.ingest(batch([second], 2)) == 0
    backend.ingest(batch([second], 3))
    assert reader.records(ANKLE)[0]["payload"] == first["payload"]
    assert reader.counts()["conflicts"] == 1
    assert reader.completeness()[0]["conflicts"] == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epoch": 70000}, "epoch"),
        ({"sequence": 1 << 24}, "sequence"),
        ({"payload": "0g"}, "payload"),
        ({"deviceId": -1}, "deviceId"),
        ({"receivedTimeMs": "now"}, "receivedTimeMs"),
    ],
)
def test_malformed_batch_is_refused_whole_and_names_the_field(
    backend: Backend, reader: Reader, change: dict[str, object], field: str
) -> None:
    device = Device(ANKLE)
    with pytest.raises(BatchError, match=field):
        backend.ingest(batch([device.status(T), device.status(T) | change], uploaded_ms=T))
    assert reader.counts()["records"] == 0


def test_a_failing_transaction_leaves_nothing(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    backend._database.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON main.readings BEGIN SELECT raise(FAIL, 'disk'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        backend.ingest(batch([device.status(T), device.reading(T, 0)]))
    assert reader.counts()["records"] == 0
    backend._database.execute("DROP TRIGGER refuse")
    assert backend.ingest(batch(device.made)) == 2


def test_unknown_and_undecodable_payloads_are_kept_with_their_reason(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    payloads = [b"", b"\x7funknown", b"\x01short", b"\x41", device.status(T)["payload"]]
    records = [device.raw(raw if isinstance(raw, bytes) else bytes.fromhex(raw), T) for raw in payloads]
    assert backend.ingest(batch(records)) == 5
    kept = reader.records(ANKLE)
    assert [row["state"] for row in kept] == ["UNDECODABLE", "UNKNOWN_TYPE", "UNDECODABLE", "UNDECODABLE", "DECODED"]
    assert [row["payload"] for row in kept] == [record["payload"] for record in records]
    assert all(row["reason"] for row in kept[:4])
    assert reader.counts()["undecoded"] == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_no_payload_can_stop_a_batch(backend: Backend, payloads: list[bytes]) -> None:
    epoch = backend._database.execute("SELECT coalesce(max(epoch), 0) + 1 FROM records").fetchone()[0]
    device = Device(ANKLE, epoch=epoch)
    assert backend.ingest(batch([device.raw(payload, T) for payload in payloads])) == len(payloads)


def test_reproject_understands_what_an_earlier_version_could_not(
    backend: Backend, reader: Reader, load: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(ORDERS)
    device = Device(ANKLE)
    record = device.event(constants.EVENT_STRAP_CUT, T)
    with monkeypatch.context() as patch:
        patch.setattr(codec, "decode", lambda data: codec.Unknown(data[0], data[1:]))
        backend.ingest(batch([record]))
    backend.evaluate(T)
    assert reader.records()[0]["state"] == "UNKNOWN_TYPE"
    assert not reader.alerts()
    assert backend.reproject() == 1
    backend.evaluate(T)
    assert reader.records()[0]["state"] == "DECODED"
    assert [alert["category"] for alert in reader.alerts()] == ["Strap cut"]
    assert reader.completeness()[0]["received"] == 1


def test_all_times_are_kept(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    record = device.fixes((T, 51.5, -0.1, 5, 1), (T + 60_000, 51.6, -0.1, 5, 1))
    backend.ingest(batch([record], uploaded_ms=T + 999_000))
    first, second = reader.positions(ANKLE)
    assert (first["gpsDate"], second["gpsDate"]) == ("2026-03-02T10:00:00Z", "2026-03-02T10:01:00Z")
    assert first["recordedDate"] == "2026-03-02T10:01:00Z"
    assert first["receivedDate"] == "2026-03-02T10:01:02Z"
    assert first["uploadedDate"] == "2026-03-02T10:16:39Z"
    assert (first["latitude"], first["longitude"], first["precision"], first["speed"]) == (51.5, -0.1, 5, 4.0)


def test_time_of_an_unset_clock_comes_from_the_same_boot_only(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE, unset=True)
    early = device.event(constants.EVENT_STRAP_CUT, T)
    backend.ingest(batch([early]))
    assert reader.events(ANKLE)[0]["eventStartDate"] is None
    other = Device(ANKLE, epoch=2, boot_ms=T)
    backend.ingest(batch([other.status(T + minutes(10))], 2))
    assert reader.records()[0]["recordedDate"] is None, "another boot's clock says nothing"
    device.unset = False
    backend.ingest(batch([device.status(T + minutes(5))], 3))
    assert reader.records()[0]["recordedDate"] == "2026-03-02T10:00:00Z"
    assert reader.records()[0]["recordedSource"] == "ANCHOR"
    cut = next(event for event in reader.events(ANKLE) if event["eventTypeCode"] == "EV_STRAP_CUT")
    assert (cut["eventStartDate"], cut["timeSource"]) == ("2026-03-02T10:00:00Z", "RECORDED")


def test_times_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    device = Device(ANKLE, unset=True)
    device.event(constants.EVENT_STRAP_CUT, T)
    device.unset = False
    device.status(T + 1000)
    # The clock is corrected by 7 s later on: the nearer anchor counts for each.
    device.boot_ms -= 7000
    device.unset = True
    device.event(constants.EVENT_CASE_OPEN, T + minutes(60))
    device.unset = False
    device.status(T + minutes(61))
    seen = []
    for name, order in (("a", [0, 1, 2, 3]), ("b", [3, 2, 1, 0]), ("c", [2, 0, 3, 1])):
        backend = Backend(tmp_path / f"{name}.db", Clock())
        for number, place in enumerate(order):
            backend.ingest(batch([device.made[place]], number))
        with Reader(backend.path) as reader:
            seen.append([(row["sequence"], row["recordedDate"], row["recordedSource"]) for row in reader.records()])
        backend.close()
    assert seen[0] == seen[1] == seen[2]
    assert all(date for _, date, _ in seen[0])


def test_books_tell_missing_accounted_and_complete(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    for number in range(10):
        device.status(T + number * 1000, made=number + 1)
    first_boot = [record for record in device.made if record["sequence"] not in (3, 4, 7)]
    backend.ingest(batch(first_boot))
    books = reader.completeness()[0]
    assert (books["made"], books["received"], books["missing"], books["missingRanges"]) == (10, 7, 3, [[3, 4], [7, 7]])
    assert not books["final"]
    device.reboot(T + minutes(1))
    gap = codec.Gap(*device.header(T + minutes(2)), 1, 3, 4, constants.GAP_STORAGE_FULL)
    hello = device.hello(T + minutes(2), previous=(1, 12))
    backend.ingest(batch([hello, device.raw(gap.encode(), T + minutes(2))], 2))
    books = reader.completeness()[0]
    assert books["final"] and not books["complete"]
    assert (books["made"], books["accounted"], books["missingRanges"]) == (12, 2, [[7, 7], [10, 11]])
    assert books["gaps"] == [{"firstSequence": 3, "lastSequence": 4, "cause": "STORAGE_FULL"}]
    late = [record for record in device.made if record["epoch"] == 1 and record["sequence"] == 7]
    backend.ingest(batch([*late, Device(ANKLE, sequence=10).status(T), Device(ANKLE, sequence=11).status(T)], 3))
    assert reader.completeness()[0]["complete"]


GATEWAY = 0xF000_0001
LOST = bytes([1, 0, 2, 0, 0, 4, 0, 0, constants.GAP_STORAGE_FULL])
"""Of boot epoch 1, sequences 2 to 4."""


def loss(reporter: int, evidence: bytes = LOST) -> dict[str, Any]:
    body = codec.Event(3, 50, 0, 10, constants.EVENT_GATEWAY_RECORDS_LOST, 0, ANKLE, 3, evidence)
    return Device(reporter, epoch=9).raw(body.encode(), T, alarm=True)


def test_what_a_gateway_lost_is_accounted_for_until_it_comes_again(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    records = [device.status(T + number) for number in range(6)]
    backend.ingest(batch([*records[:2], records[5]]))
    assert reader.completeness(ANKLE)[0]["missing"] == 3
    backend.ingest(batch([loss(GATEWAY)], 2))
    books = reader.completeness(ANKLE)[0]
    assert (books["missing"], books["accounted"], books["received"]) == (0, 3, 3)
    assert books["gaps"] == [{"firstSequence": 2, "lastSequence": 4, "cause": "STORAGE_FULL"}]
    assert [event["value"] for event in reader.events(ANKLE) if event["value"] == 3] == [3], "an event all the same"
    backend.ingest(batch(records[2:5], 3))
    books = reader.completeness(ANKLE)[0]
    assert (books["missing"], books["accounted"], books["received"]) == (0, 0, 6)


@pytest.mark.parametrize(
    ("reporter", "evidence"),
    [(ANKLE + 1, LOST), (GATEWAY, b""), (GATEWAY, LOST + b"\0"), (GATEWAY, b"\xff" * 5 + LOST[5:])],
)
def test_no_device_and_no_nonsense_excuses_what_is_missing(
    backend: Backend, reader: Reader, reporter: int, evidence: bytes
) -> None:
    device = Device(ANKLE)
    records = [device.status(T + number) for number in range(6)]
    backend.ingest(batch([records[0], records[5], loss(reporter, evidence)]))
    assert reader.completeness(ANKLE)[0]["missing"] == 4 and reader.gaps() == []


def test_devices_show_their_newest_state_whatever_comes_last(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    old = [device.hello(T, constants.MODEL_ANKLE_GPS), device.status(T, percent=90)]
    device.reboot(T + minutes(60))
    new = [device.hello(T + minutes(60), constants.MODEL_ALCOHOL), device.status(T + minutes(61), percent=40)]
    backend.ingest(batch(new))
    backend.ingest(batch(old, 2))
    shown = reader.devices()[0]
    assert (shown["deviceModelName"], shown["batteryPercent"]) == ("alcohol", 40)
    assert shown["lastRecordDate"] == "2026-03-02T11:01:00Z"
    assert shown["deviceStatus"] == "NOT_ACTIVATED"


def test_unknown_device_is_quarantined_and_judged_once_an_activation_covers_it(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    device = Device(ANKLE)
    backend.ingest(batch([device.hello(T), device.event(constants.EVENT_STRAP_CUT, T)]))
    backend.evaluate(T)
    assert {row["quarantineReason"] for row in reader.quarantine()} == {"no activation knows this device"}
    assert reader.alerts() == []
    load(ORDERS.replace("2026-03-01T00:00:00Z", "2026-03-05T00:00:00Z"))
    backend.evaluate(T)
    assert all("covers the time" in row["quarantineReason"] for row in reader.quarantine())
    assert reader.alerts() == []
    load(ORDERS)
    backend.evaluate(T)
    assert reader.quarantine() == []
    assert [alert["personId"] for alert in reader.alerts()] == ["P1"]


def test_a_device_that_changes_hands_is_never_charged_to_the_wrong_wearer(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load("""
wearers = [{ personId = "P1" }, { personId = "P2" }]

[[activations]]
deviceActivationId = "A1"
deviceId = 11
personId = "P1"
deviceActivationDate = 2026-03-01T00:00:00Z
deactivationDate = 2026-03-02T09:00:00Z

[[activations]]
deviceActivationId = "A2"
deviceId = "0000000b"
personId = "P2"
deviceActivationDate = 2026-03-02T11:00:00Z
""")
    device = Device(ANKLE)
    for moment in ("08:00", "10:00", "12:00"):
        device.event(constants.EVENT_CASE_OPEN, at(f"2026-03-02T{moment}:00"))
    backend.ingest(batch(device.made))
    backend.evaluate(T)
    assert sorted(
        (alert["personId"], alert["deviceActivationId"], alert["startDate"]) for alert in reader.alerts()
    ) == [
        ("P1", "A1", "2026-03-02T08:00:00Z"),
        ("P2", "A2", "2026-03-02T12:00:00Z"),
    ]
    assert [row["sequence"] for row in reader.quarantine()] == [1]


def test_reading_goes_on_while_a_batch_is_being_written(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    backend.ingest(batch([device.status(T)]))
    backend._database.execute("BEGIN IMMEDIATE")
    backend._database.execute("DELETE FROM records WHERE 0")
    assert reader.counts()["records"] == 1
    assert backend._database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: delivered means on the disk
    backend._database.execute("ROLLBACK")


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match=r"other\.db"):
        Backend(path, Clock())
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"other\.db"):
        Backend(path, Clock())
    with pytest.raises(StoreError, match="cannot be read"):
        Reader(tmp_path / "absent.db")


CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
from backend_kit import ANKLE, ORDERS, Clock, Device, at, batch
from pathlib import Path
from emgate.backend.ingest import Backend
from emwire import constants
T = at("2026-03-02T10:00:00")
folder = Path(sys.argv[1])
backend = Backend(folder / "backend.db", Clock())
(folder / "orders.toml").write_text(ORDERS)
backend.load_orders(folder / "orders.toml")
device = Device(ANKLE)
for number in range(100000):
    backend.ingest(batch([device.event(constants.EVENT_STRAP_CUT if number % 2 else constants.EVENT_STRAP_RESTORED,
        T + number * 3600_000), device.status(T + number * 3600_000)], number))
    print(device.sequence, flush=True)
    backend.evaluate(T + number * 3600_000)
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 30])
def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(acknowledged):
        stored = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    backend = Backend(tmp_path / "backend.db", Clock())
    backend.evaluate(at("2030-01-01T00:00:00"))
    with Reader(backend.path) as reader:
        records = reader.records()
        assert len(records) >= stored
        assert len(records) % 2 == 0, "a batch is whole or not there"
        assert [row["sequence"] for row in records] == list(range(len(records)))
        assert reader.completeness()[0]["missing"] == 0
        cuts = [event for event in reader.events() if event["eventTypeCode"] == "EV_STRAP_CUT"]
        assert len(reader.alerts()) == len(cuts), "what was not judged before the kill is judged after it"
    backend.close()
