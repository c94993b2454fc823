"""The read side: public keys, JSON, polling, another process."""

import json
import subprocess
import sys
from collections.abc import Callable

from backend_kit import ALCOHOL, ANKLE, HOME, ORDERS, PID, Device, at, batch, minutes
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.backend.vocabulary import EVENT_TYPES, event_type, iso, unix_ms
from emwire import constants
from emwire.catalogue import EVENT_TYPE

T = at("2026-03-02T10:00:00")


def filled(backend: Backend, load: Callable[[str], int]) -> None:
    load(ORDERS)
    ankle, home, alcohol, stranger = Device(ANKLE), Device(HOME), Device(ALCOHOL), Device(99)
    records = [
        ankle.hello(T),
        ankle.status(T, percent=70),
        ankle.fixes((T, 51.5, -0.1, 5, 1)),
        ankle.event(constants.EVENT_STRAP_CUT, T),
        home.presence(PID, T),
        alcohol.reading(T, 123_000, quality=constants.QUALITY_WET_SENSOR | constants.QUALITY_CONTACT_LOST),
        stranger.status(T),
    ]
    backend.ingest(batch(records))
    backend.evaluate(T)


def test_everything_is_json_with_the_published_keys(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    filled(backend, load)
    shown = {
        "device": next(device for device in reader.devices() if device["deviceId"] == ANKLE),
        "position": reader.positions(ANKLE)[0],
        "event": next(event for event in reader.events(ANKLE) if event["eventTypeId"] == constants.EVENT_STRAP_CUT),
        "reading": reader.readings(ALCOHOL)[0],
        "presence": reader.presences(PID)[0],
        "alert": reader.alerts()[0],
        "record": reader.records(99)[0],
        "completeness": reader.completeness(ANKLE)[0],
    }
    assert json.loads(json.dumps(shown)) == shown
    published = {
        "device": "deviceId deviceModelName deviceSerialNumber firmwareVersion firmwareLastUpdatedDate deviceStatus"
        " deviceActivationDate deviceDeactivationDate deviceActivationId personId",
        "position": "positionId deviceId gpsDate speed satellite direction precision hdop latitude longitude mechanism",
        "event": "eventId deviceId eventStartDate eventEndDate eventRecordedDate eventUploadedDate eventTypeId"
        " eventTypeName eventTypeCode eventTypeCriticality eventStatus",
        "alert": "alertId category startDate endDate duration state responseAction reasonableExcuse authorisedAbsence"
        " includedInTotalAtvCalculation outForEntireCurfewPeriod personId deviceActivationId deviceId cause evidence",
    }
    for name, keys in published.items():
        assert set(keys.split()) <= shown[name].keys(), name
    assert shown["reading"]["quality"] == ["CONTACT_LOST", "WET_SENSOR"]
    assert shown["reading"]["tacGramsPerDecilitre"] == 0.0123
    assert shown["device"]["deviceStatus"] == "ACTIVE"
    assert shown["record"]["quarantineReason"] == "no activation knows this device"


def test_battery_reports_carry_the_published_code_and_the_percentage(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    filled(backend, load)
    report = next(event for event in reader.events(ANKLE) if event["value"] == 70)
    assert (report["eventTypeCode"], report["eventStatus"]) == ("EV_REPORT_TRACKER_BATTERY_PERCENTAGE", "70")


def test_counts_can_be_recomputed_from_the_records(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    filled(backend, load)
    counts = reader.counts()
    records = reader.records()
    assert counts["records"] == len(records) == sum(device["recordsReceived"] for device in reader.devices())
    assert counts["quarantined"] == len(reader.quarantine()) == 1
    assert counts["positions"] == len(reader.positions(ANKLE))
    assert counts["alerts"] == len(reader.alerts()) == 1


def test_spans_and_owners_narrow_what_is_shown(backend: Backend, reader: Reader) -> None:
    device = Device(ANKLE)
    for number in range(5):
        device.fixes((T + minutes(number), 51.5, -0.1, 5, 1))
    backend.ingest(batch(device.made))
    assert len(reader.positions(ANKLE, T + minutes(1), T + minutes(3))) == 2
    assert reader.positions(HOME) == []


def test_another_process_reads_while_this_one_writes(backend: Backend, load: Callable[[str], int]) -> None:
    filled(backend, load)
    code = (
        "import sys; from pathlib import Path; from emgate.backend.queries import Reader\n"
        "print(Reader(Path(sys.argv[1])).counts()['records'])"
    )
    backend._database.execute("BEGIN IMMEDIATE")
    shown = subprocess.run([sys.executable, "-c", code, str(backend.path)], capture_output=True, text=True, check=True)
    backend._database.execute("ROLLBACK")
    assert shown.stdout.strip() == "7"


def test_every_event_type_of_the_wire_has_a_public_name() -> None:
    assert {number for _, number, _ in EVENT_TYPE.members} <= EVENT_TYPES.keys()
    assert event_type(60000).code == "EV_UNKNOWN_60000"
    assert len({kind.code for kind in EVENT_TYPES.values()}) == len(EVENT_TYPES)


def test_dates() -> None:
    assert iso(T + 5) == "2026-03-02T10:00:00.005Z"
    assert iso(None) is None
    assert unix_ms(0) is None
    assert iso(unix_ms(1)) == "2010-01-01T00:00:01Z"
