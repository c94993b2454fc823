"""Orders in the words of the wire: time zones, versions, when they are sent, again, and ended."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from emgate.backend import order_messages, requests
from emgate.backend.ingest import Backend
from emgate.backend.order_dispatch import OrderDispatch, listed
from emgate.backend.orders import OrderFile
from emgate.down.kinds import Asked, OrderKind
from emwire import codec, constants
from hypothesis import given
from hypothesis import strategies as st
from uplink_kit import event_of

DEVICE = 77


class Clock:
    def __init__(self) -> None:
        self.ms = at("2026-03-01T12:00")

    def now_ms(self) -> int:
        return self.ms

    def elapsed_ms(self) -> int:
        return self.ms

    def uncertainty_ms(self) -> int:
        return 1


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def wire(text: str) -> int:
    return at(text) // 1000 - constants.TIME_EPOCH_UNIX_S


def orders(**more: Any) -> OrderFile:
    order = {
        "orderId": "o",
        "personId": "p",
        "orderType": "BAIL",
        "startDate": "2026-01-01",
        "curfew": {
            "timetable": [{"dayOfWeek": ["MONDAY", "SUNDAY"], "startTime": "19:00", "endTime": "07:00"}],
        },
        "enforcementZones": [
            {
                "zoneId": "z",
                "zoneType": "EXCLUSION",
                "geometry": {"type": "Circle", "center": [-0.1, 51.5], "radiusMetres": 200},
            }
        ],
        **more.pop("order", {}),
    }
    activation = {
        "deviceActivationId": "1001",
        "deviceId": DEVICE,
        "personId": "p",
        "deviceActivationDate": "2026-02-01T09:00:00+00:00",
        **more,
    }
    return OrderFile.model_validate({"wearers": [{"personId": "p"}], "activations": [activation], "orders": [order]})


def conditions(messages: list[bytes]) -> codec.OrderConditions:
    message = codec.decode(messages[0])
    assert isinstance(message, codec.OrderConditions)
    return message


@pytest.mark.parametrize(
    ("now", "offset", "change", "following"),
    [
        ("2026-03-01T12:00", 0, "2026-03-29T01:00", 60),  # Europe/London goes forward on the last Sunday of March
        ("2026-03-29T00:59:59", 0, "2026-03-29T01:00", 60),
        ("2026-03-29T01:00", 60, "2026-10-25T01:00", 0),
        ("2026-10-25T00:59:59", 60, "2026-10-25T01:00", 0),
        ("2026-10-25T01:00", 0, "2027-03-28T01:00", 60),
    ],
)
def test_offsets_and_their_change_come_from_the_time_zone(now: str, offset: int, change: str, following: int) -> None:
    message = conditions(order_messages.of_device(orders(), DEVICE, 1, at(now)))
    assert (message.utc_offset_minutes, message.offset_change_s, message.next_utc_offset_minutes) == (
        offset, wire(change), following,
    )  # fmt: skip


def test_a_zone_without_daylight_saving_names_no_change() -> None:
    file = orders(order={"timezone": "Asia/Kolkata"})
    message = conditions(order_messages.of_device(file, DEVICE, 1, at("2026-03-01T12:00")))
    assert (message.utc_offset_minutes, message.offset_change_s, message.next_utc_offset_minutes) == (330, 0, 330)


def test_the_whole_order_in_the_words_of_the_wire() -> None:
    messages = order_messages.of_device(orders(), DEVICE, 3, at("2026-03-01T12:00"))
    head, zone = [codec.decode(message) for message in messages]
    assert isinstance(head, codec.OrderConditions) and isinstance(zone, codec.OrderZone)
    assert (head.activation_id, head.order_version, head.zone_count) == (1001, 3, 1)
    assert (head.starts_s, head.ends_s) == (wire("2026-02-01T09:00"), 0), "not before the activation"
    assert [tuple(entry) for entry in head.curfew_entries] == [(1, 1140, 420, 1), (7, 1140, 420, 1)]
    assert (zone.zone_type, zone.zone_shape, zone.radius_m, zone.points_inside) == (1, 1, 200, 2)
    assert [tuple(vertex) for vertex in zone.vertices] == [(51_500_000, -100_000)]


def test_midnight_as_start_and_end() -> None:
    timetable = [
        {"dayOfWeek": "SUNDAY", "startTime": "24:00", "endTime": "06:00"},
        {"dayOfWeek": "MONDAY", "startTime": "20:00", "endTime": "24:00"},
    ]
    file = orders(order={"curfew": {"timetable": timetable}})
    entries = conditions(order_messages.of_device(file, DEVICE, 1, at("2026-03-01T12:00"))).curfew_entries
    assert [tuple(entry) for entry in entries] == [(1, 0, 360, 1), (1, 1200, 0, 1)]


@given(st.lists(st.integers(3, 300), max_size=40), st.booleans())
def test_whatever_the_zones_a_gateway_takes_what_is_made_of_them(corners: list[int], huge: bool) -> None:
    zones = [
        {
            "zoneId": str(number),
            "zoneType": "INCLUSION",
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[-0.1 + step / 1000, 51.5 + step % 7 / 100] for step in range(count)] + [[-0.1, 51.5]]
                ],
            },
        }
        for number, count in enumerate(corners)
    ]
    if huge:
        circle = {"type": "Circle", "center": [179.9, 89.0], "radiusMetres": 900_000}
        zones.insert(0, {"zoneId": "huge", "zoneType": "RESTRICTION", "geometry": circle})
    file = orders(order={"enforcementZones": zones})
    what = order_messages.told(file.orders, 0, None, at("2026-03-01T12:00"))
    assert what is not None
    made = OrderKind().make(Asked({"messages": [each.hex() for each in what.messages(9, 4)]}, 0, lambda: 0))
    assert made.number == 4
    assert len(what.zones) + len(what.left_out) == len(zones), "what is left out is named"


class Dispatch:
    """A backend with its dispatcher, and records of a device."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.backend = Backend(folder / "backend.sqlite", self.clock)
        self.dispatch = OrderDispatch(self.backend, self.clock)
        self.sequence = 0
        self.look()

    def look(self) -> list[tuple[str, int, str | None]]:
        self.dispatch.look_after(at_once=True)
        self.backend.within(lambda database: requests.read_answers(database, self.clock.ms))
        return [
            (each["deviceActivationId"], each["version"], each["state"])
            for each in self.backend.within(lambda database: listed(database))
        ]

    def asked(self) -> list[dict[str, Any]]:
        return self.backend.within(lambda database: requests.listed(database, DEVICE))

    def records(self, *payloads: bytes) -> None:
        batch = {
            "batchId": str(self.sequence), "gatewayId": "g", "uploadedDateMs": self.clock.ms,
            "records": [
                {
                    "deviceId": DEVICE, "epoch": 1, "sequence": self.sequence + n, "alarm": False,
                    "receivedTimeMs": self.clock.ms, "link": "mqtt", "payload": payload.hex(),
                }
                for n, payload in enumerate(payloads)
            ],
        }  # fmt: skip
        self.sequence += len(payloads)
        self.backend.ingest(batch)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Dispatch]:
    made = Dispatch(tmp_path)
    yield made
    made.backend.close()


def applied(version: int, activation: int = 1001, event: int = constants.EVENT_ORDER_APPLIED) -> bytes:
    return event_of(event, version, activation.to_bytes(4, "little"))


def test_an_order_is_sent_once_confirmed_and_counted_up_when_it_changes(world: Dispatch) -> None:
    world.backend.set_orders(orders())
    assert world.look() == [("1001", 1, "waiting")]
    world.records(applied(1))
    assert world.look() == world.look() == [("1001", 1, "answered")]
    world.backend.set_orders(orders(order={"enforcementZones": []}))
    assert world.look() == [("1001", 2, "waiting")]
    world.records(applied(2))
    world.look()
    world.clock.ms = at("2026-03-29T01:00")  # summer time: the device is told of the next change
    assert world.look() == [("1001", 3, "waiting")]
    assert len(world.asked()) == 3


def test_an_order_is_sent_again_to_a_device_that_shows_another_version(world: Dispatch) -> None:
    world.backend.set_orders(orders())
    world.look()
    world.backend.set_orders(orders(order={"enforcementZones": []}))
    world.look()
    world.records(applied(2))
    world.look()
    hello = codec.Hello(0, 65535, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0).encode()
    for shows in (
        applied(1),
        applied(2, activation=5),
        applied(2, event=constants.EVENT_ORDER_ENDED),
        event_of(constants.EVENT_ZONE_ENTERED, 0, (1).to_bytes(2, "little")),
        hello,  # the first boot of all: its flash is new
    ):
        before = len(world.asked())
        world.records(shows)
        assert world.look() == [("1001", 2, "waiting")]
        assert len(world.asked()) == before + 1
        world.records(applied(2))
        assert world.look() == [("1001", 2, "answered")]


def test_an_order_nobody_confirms_is_given_out_anew(world: Dispatch) -> None:
    world.backend.set_orders(orders())
    world.look()
    world.clock.ms += 8 * 86_400_000
    world.backend.within(lambda database: requests.expire(database, world.clock.ms))
    assert world.look() == [("1001", 1, "waiting")]
    assert [each["state"] for each in world.asked()] == ["waiting", "expired"]


def test_the_order_ends_with_the_activation_and_is_confirmed(world: Dispatch) -> None:
    world.backend.set_orders(orders())
    world.look()
    world.records(applied(1))
    world.look()
    world.backend.set_orders(orders(deactivationDate="2026-03-01T12:00:00+00:00"))
    assert world.look() == world.look() == [("1001", 2, "waiting")]
    given = world.backend.within(lambda database: requests.due(database, world.clock.ms))
    (message,) = given[0][1]["messages"]
    end = conditions([bytes.fromhex(message)])
    assert (end.activation_id, end.order_version, end.ends_s) == (1001, 2, wire("2026-03-01T12:00"))
    world.records(applied(2), applied(2, event=constants.EVENT_ORDER_ENDED))
    assert world.look() == [("1001", 2, "answered")]


def test_a_device_that_passes_to_another_person_gets_the_new_order_alone(world: Dispatch) -> None:
    world.backend.set_orders(orders())
    world.look()
    first = orders(deactivationDate="2026-03-01T12:00:00+00:00")
    second = orders(deviceActivationId="next", deviceActivationDate="2026-03-01T12:00:00+00:00")
    world.backend.set_orders(first.model_copy(update={"activations": (*first.activations, *second.activations)}))
    assert ("next", 1, "waiting") in world.look()
    world.look()
    given = world.backend.within(lambda database: requests.due(database, world.clock.ms))
    assert given == [], "no gateway has heard the device yet"
    world.records(event_of(constants.EVENT_RESET, 0))
    given = world.backend.within(lambda database: requests.due(database, world.clock.ms))
    numbers = {conditions([bytes.fromhex(each["messages"][0])]).activation_id for _, each in given}
    assert numbers == {order_messages.activation_number("next")}
