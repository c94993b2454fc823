"""From records to alerts through the database: the same alerts whatever the order of arrival, nothing twice."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_kit import ALCOHOL, ANKLE, HOME, ORDERS, PID, Clock, Device, at, batch, minutes
from emgate.backend.ingest import Backend
from emgate.backend.queries import Reader
from emgate.gateway_number import device_id_of
from emwire import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOON = at("2026-03-02T12:00:00")
NEXT_NOON = at("2026-03-03T12:00:00")


def a_day() -> list[dict[str, Any]]:
    """The day of one wearer: a zone entered twice, a curfew left, an evening's drink, a cut strap, a mains failure."""
    ankle, home, alcohol = Device(ANKLE), Device(HOME), Device(ALCOHOL)
    ankle.hello(NOON)
    for start in (0, 150):
        for block in range(0, 30, 5):
            ankle.fixes(
                *(
                    (NOON + minutes(start + n), 51.5 + (0.01 if n < 10 or n > 13 else 0.0), -0.1, 8, 1)
                    for n in range(block, block + 5)
                )
            )
    ankle.event(constants.EVENT_STRAP_CUT, NOON + minutes(600))
    ankle.event(constants.EVENT_STRAP_RESTORED, NOON + minutes(640))
    home.hello(NOON, constants.MODEL_HOME_UNIT)
    for number in range(0, 19 * 12):
        start = NOON + minutes(number * 5)
        away = minutes(480) <= start - NOON < minutes(540)
        home.presence(PID, start, heard=not away, duration_s=300)
    home.event(constants.EVENT_MAINS_LOST, NOON + minutes(300))
    home.event(constants.EVENT_MAINS_RESTORED, NOON + minutes(330))
    alcohol.hello(NOON, constants.MODEL_ALCOHOL)
    for number, level in enumerate([0] * 12 + [0.01, 0.04, 0.07, 0.05, 0.03, 0.01] + [0] * 20):
        alcohol.reading(NOON + minutes(30 * number), round(level * 1e7))
    return ankle.made + home.made + alcohol.made


EXPECTED = [
    ("Alcohol", None, "2026-03-02T18:30:00Z", "2026-03-02T20:00:00Z"),
    ("Curfew", "AL10", "2026-03-02T19:59:59Z", "2026-03-02T21:00:01Z"),
    ("Exclusion zone", None, "2026-03-02T12:10:00Z", "2026-03-02T12:13:00Z"),
    ("Exclusion zone", None, "2026-03-02T14:40:00Z", "2026-03-02T14:43:00Z"),
    ("HMU mains to battery power", "AL04", "2026-03-02T17:00:00Z", "2026-03-02T17:30:00Z"),
    ("Strap cut", None, "2026-03-02T22:00:00Z", "2026-03-02T22:40:00Z"),
]


def judged(folder: Path, batches: list[list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """Alerts after these batches, each judged as it comes; without what tells when the service said so."""
    clock = Clock(NOON)
    backend = Backend(folder / f"{name}.db", clock)
    (folder / "orders.toml").write_text(ORDERS)
    backend.load_orders(folder / "orders.toml")
    for number, records in enumerate(batches):
        backend.ingest(batch(records, number))
        clock.ms = max(clock.ms, max(record["receivedTimeMs"] for record in records))
        backend.evaluate(clock.ms)
    backend.evaluate(NEXT_NOON)
    with Reader(backend.path) as reader:
        alerts = reader.violation_events()
    backend.close()
    for alert in alerts:
        for key in ("revision", "raisedDate", "changedDate"):
            del alert[key]
    return sorted(alerts, key=lambda alert: str(alert["alertId"]))


def test_a_day_gives_its_alerts(tmp_path: Path) -> None:
    alerts = judged(tmp_path, [a_day()], "day")
    found = [(alert["category"], alert["alertCode"], alert["startDate"], alert["endDate"]) for alert in alerts]
    assert sorted(found, key=str) == sorted(EXPECTED, key=str)
    for alert in alerts:
        assert alert["personId"] == "P1" and alert["state"] == "CLOSED"
        assert alert["cause"].endswith(".") and alert["evidence"]["records"]
    curfew = next(alert for alert in alerts if alert["category"] == "Curfew")
    assert (curfew["deviceId"], curfew["deviceActivationId"], curfew["orderId"]) == (PID, "A-pid", "O1")
    assert curfew["evidence"]["lastHeardDate"] == "2026-03-02T19:59:59Z"


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return judged(tmp_path_factory.mktemp("order"), [a_day()], "day")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), size=st.sampled_from([20, 60, 150]), repeats=st.integers(0, 60))
def test_late_out_of_order_and_repeated_records_give_the_same_alerts(
    in_order: list[dict[str, Any]], tmp_path: Path, seed: int, size: int, repeats: int
) -> None:
    chance = random.Random(seed)
    records = a_day()
    records += chance.sample(records, repeats)
    chance.shuffle(records)
    name = f"{seed}-{size}-{repeats}-{chance.random()}"
    batches = [records[start : start + size] for start in range(0, len(records), size)]
    assert judged(tmp_path, batches, name) == in_order


def test_record_by_record_in_order_withdraws_nothing(tmp_path: Path, in_order: list[dict[str, Any]]) -> None:
    records = sorted(a_day(), key=lambda record: record["receivedTimeMs"])
    assert judged(tmp_path, [[record] for record in records], "single") == in_order
    with Reader(tmp_path / "single.db") as reader:
        every = reader.violation_events(withdrawn=True)
    assert len(every) == len(in_order)


ZONE_POINTS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([0, 0, 250, 290, 310, 350, 900, 60000]), st.sampled_from([5, 40])),
    min_size=1,
    max_size=40,
    unique_by=lambda item: item[0],
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=ZONE_POINTS, seed=st.integers(0, 1000))
def test_zone_judged_piece_by_piece_equals_judged_whole(
    tmp_path: Path, points: list[tuple[int, int, int]], seed: int
) -> None:
    records = Device(ANKLE)
    for minute, metres, precision in points:
        records.fixes((NOON + minutes(minute * 3), 51.5 + metres / 111_194.93, -0.1, precision, 1))
    shuffled = list(records.made)
    random.Random(seed).shuffle(shuffled)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    whole = judged(folder, [records.made], "whole")
    assert judged(folder, [[record] for record in shuffled], "pieces") == whole


def test_an_alert_raised_on_part_of_the_evidence_is_withdrawn_with_its_reason(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    device = Device(ANKLE)
    places = [0.0, 0.01, 0.01, 0.0]
    for number, north in enumerate(places):
        device.fixes((NOON + minutes(number), 51.5 + north, -0.1, 5, 1))
    backend.ingest(batch([device.made[0], device.made[3]]))
    backend.evaluate(NOON)
    (alert,) = reader.alerts()
    backend.ingest(batch(device.made[1:3], 2))
    backend.evaluate(NOON)
    assert reader.alerts() == []
    (withdrawn,) = reader.alerts(withdrawn=True)
    assert (withdrawn["alertId"], withdrawn["state"]) == (alert["alertId"], "WITHDRAWN")
    assert "later evidence" in withdrawn["cause"]
    history = reader.alert_history(alert["alertId"])
    assert [version["state"] for version in history] == ["OPEN", "WITHDRAWN"]


def test_a_hole_in_coverage_is_no_absence_and_backfills(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    home = Device(HOME)
    for number in range(19 * 12):
        home.presence(PID, NOON + minutes(number * 5), duration_s=300)
    backend.ingest(batch(home.made[:90]))
    backend.evaluate(NOON + minutes(600))
    assert reader.alerts() == []
    backend.evaluate(NEXT_NOON)
    assert reader.alerts() == []
    backend.ingest(batch(home.made[90:], 2))
    backend.evaluate(NEXT_NOON)
    assert reader.alerts() == []


@pytest.mark.parametrize("first", ["the unit's records", "the gateway's"])
@pytest.mark.parametrize(
    ("end", "link", "listening", "expected"),
    [
        (constants.EVENT_GATEWAY_HEARS_AGAIN, "serial", "gateway-1", ["AL10"]),
        (constants.EVENT_GATEWAY_STARTED, "ble", "gateway-1", ["AL10"]),
        (None, "serial", "gateway-1", []),
        (None, "mqtt", "gateway-1", ["AL10"]),  # a unit with a line of its own is in another place
        (None, "serial", "gateway-2", ["AL10"]),  # and so is another gateway
    ],
)
def test_what_a_gateway_was_deaf_for_is_no_absence_at_the_unit_beside_it(
    backend: Backend, reader: Reader, load: Callable[[str], int], first: str, end: int | None, link: str,
    listening: str, expected: list[str],
) -> None:  # fmt: skip
    """A jammed home: the unit listens and hears nobody from 20:00, the gateway finds it at 20:04, until 22:00."""
    load(ORDERS)
    home, gateway = Device(HOME), Device(device_id_of(listening))
    for number in range(19 * 12):
        start = NOON + minutes(number * 5)
        home.presence(PID, start, heard=not minutes(480) <= start - NOON < minutes(630), duration_s=300)
    gateway.event(constants.EVENT_GATEWAY_HEARS_NOTHING, NOON + minutes(484), value=240)
    if end is not None:
        gateway.event(end, NOON + minutes(600), value=7200)
    for record in home.made:
        record["link"] = link
    for record in gateway.made:
        record["link"] = "gateway"
    batches = [batch(home.made, 1), {**batch(gateway.made, 2), "gatewayId": listening}]
    for each in batches if first == "the unit's records" else reversed(batches):
        backend.ingest(each)
        backend.evaluate(NEXT_NOON)
    alerts = reader.alerts()
    assert [alert["alertCode"] for alert in alerts] == expected
    if end is not None:
        assert alerts[0]["startDate"] == "2026-03-02T22:00:00Z", "known to be out from then on, and not before"


def test_curfew_on_both_changeover_nights(backend: Backend, reader: Reader, load: Callable[[str], int]) -> None:
    load(ORDERS)
    home = Device(HOME)
    for noon, hours in (("2026-03-28T12:00:00", 20), ("2026-10-24T12:00:00", 21)):
        for number in range(hours * 12):
            home.presence(PID, at(noon) + minutes(number * 5), heard=False, duration_s=300)
    backend.ingest(batch(home.made))
    backend.evaluate(at("2026-10-27T12:00:00"))
    assert [(a["alertCode"], a["startDate"], a["endDate"], a["atvMinutes"]) for a in reader.alerts()] == [
        ("AL12", "2026-03-28T19:00:00Z", "2026-03-29T06:00:00Z", 660.0),
        ("AL12", "2026-10-24T18:00:00Z", "2026-10-25T07:00:00Z", 780.0),
    ]


def test_an_absence_is_open_until_the_curfew_it_belongs_to_ends(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    home = Device(HOME)
    seven = at("2026-03-02T19:00:00")
    for number in range(6):
        home.presence(PID, seven + minutes(number * 5), heard=number < 2, duration_s=300)
    backend.ingest(batch(home.made))
    backend.evaluate(seven + minutes(30))
    (alert,) = reader.alerts()
    assert (alert["state"], alert["alertCode"]) == ("OPEN", "AL10")
    assert alert["evidence"]["curfewEndDate"] == "2026-03-03T07:00:00Z"
    assert backend.evaluate(at("2026-03-03T06:59:59")) == 0
    assert backend.evaluate(at("2026-03-03T07:00:00")) == 1
    (alert,) = reader.alerts()
    assert (alert["state"], alert["endDate"]) == ("CLOSED", "2026-03-02T19:30:00Z")


def test_time_alone_raises_an_open_strap_again_and_polling_sees_it(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    device = Device(ANKLE)
    backend.ingest(batch([device.event(constants.EVENT_STRAP_CUT, NOON)]))
    assert backend.evaluate(NOON + 1000) == 1
    (first,) = reader.alerts()
    assert backend.evaluate(NOON + minutes(60 * 23)) == 0
    assert backend.evaluate(NEXT_NOON) == 1
    (again,) = reader.alerts(since=first["revision"])
    assert again["alertId"] == first["alertId"]
    assert again["raisedDates"] == ["2026-03-02T12:00:00Z", "2026-03-03T12:00:00Z"]
    assert backend.evaluate(NEXT_NOON + 500) == 0


def test_a_pids_strap_and_battery_speak_through_the_home_unit(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    home = Device(HOME)
    for number, (strap_open, percent) in enumerate([(0, 50), (0, 20), (1, 20), (1, 20), (0, 20), (0, 95)]):
        home.presence(PID, NOON + minutes(number * 5), strap=strap_open, battery=percent, duration_s=300)
    backend.ingest(batch(home.made))
    backend.evaluate(NOON + minutes(60))
    assert sorted(
        (a["category"], a["alertCode"], a["startDate"][11:16], a["endDate"][11:16], a["deviceId"])
        for a in reader.alerts()
    ) == [
        ("Battery", "AL21", "12:05", "12:25", PID),
        ("Strap cut", None, "12:14", "12:24", PID),
    ]


def test_a_copied_beacon_is_reported_and_neither_home_nor_out(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    home = Device(HOME)
    for number in range(19 * 12):
        home.presence(PID, NOON + minutes(number * 5), duration_s=300, authenticity=constants.AUTHENTICITY_COPIED)
    backend.ingest(batch(home.made))
    backend.evaluate(NEXT_NOON)
    assert [alert["category"] for alert in reader.alerts()] == ["Beacon copied"]


def test_what_ends_with_the_activation_does_not_stay_open(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    ended = ORDERS.replace(
        'deviceId = 11\npersonId = "P1"\ndeviceActivationDate = 2026-03-01T00:00:00Z',
        'deviceId = 11\npersonId = "P1"\ndeviceActivationDate = 2026-03-01T00:00:00Z\n'
        "deactivationDate = 2026-03-02T13:00:00Z",
    )
    load(ended)
    device = Device(ANKLE)
    backend.ingest(batch([device.event(constants.EVENT_STRAP_CUT, NOON)]))
    backend.evaluate(NOON + 1000)
    assert reader.alerts()[0]["state"] == "OPEN"
    backend.evaluate(NOON + minutes(61))
    (alert,) = reader.alerts()
    assert (alert["state"], alert["endDate"]) == ("CLOSED", "2026-03-02T13:00:00Z")
    assert backend.evaluate(NEXT_NOON + minutes(60 * 24 * 30)) == 0


def test_a_condition_that_is_taken_out_of_the_orders_withdraws_its_alerts(
    backend: Backend, reader: Reader, load: Callable[[str], int]
) -> None:
    load(ORDERS)
    backend.ingest(batch(a_day()))
    backend.evaluate(NEXT_NOON)
    assert len(reader.alerts()) == len(EXPECTED)
    load(ORDERS.replace('[orders.alcohol]\nmonitoringType = "ALCOHOL_ABSTINENCE"\n', ""))
    backend.evaluate(NEXT_NOON)
    assert "Alcohol" not in [alert["category"] for alert in reader.alerts()]
    assert [a["category"] for a in reader.alerts(withdrawn=True) if a["state"] == "WITHDRAWN"] == ["Alcohol"]
    load(ORDERS)
    backend.evaluate(NEXT_NOON)
    assert len(reader.alerts()) == len(EXPECTED)


def test_a_fault_in_one_judgement_keeps_no_other_back_and_is_tried_again(
    backend: Backend, reader: Reader, load: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(ORDERS)
    backend.ingest(batch(a_day()))
    with monkeypatch.context() as patch:
        patch.setattr("emgate.backend.conditions.alcohol.judge", lambda *_: 1 // 0)
        backend.evaluate(NEXT_NOON)
    assert backend.counters["judgements_failed"] == 1
    assert len(reader.alerts()) == len(EXPECTED) - 1
    backend.evaluate(NEXT_NOON)
    assert len(reader.alerts()) == len(EXPECTED)


def test_judging_again_changes_nothing(backend: Backend, reader: Reader, load: Callable[[str], int]) -> None:
    load(ORDERS)
    backend.ingest(batch(a_day()))
    assert backend.evaluate(NEXT_NOON) > 0
    before = reader.alerts()
    backend.ingest(batch(a_day(), 2))
    assert backend.evaluate(NEXT_NOON) == 0
    assert reader.alerts() == before
