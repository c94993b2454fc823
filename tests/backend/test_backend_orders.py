"""Orders files: what they may say, and errors that name file, field and remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
from backend_kit import ORDERS, at
from emgate.backend.orders import order_from_json, order_to_json, read_order_file
from emgate.errors import ConfigError


def read(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "orders.toml"
    path.write_text(text)
    return read_order_file(path)


def test_a_whole_file(tmp_path: Path) -> None:
    file = read(tmp_path, ORDERS)
    assert [item.deviceId for item in file.activations] == [11, 12, 13, 14]
    order = file.orders[0]
    # Bare dates: from local midnight, to the end of the last day (London is on GMT on both).
    assert order.span_ms() == (at("2026-03-01T00:00:00"), at("2026-12-01T00:00:00"))
    assert order_from_json(order_to_json(order)) == order


def test_local_dates_are_of_the_orders_time_zone(tmp_path: Path) -> None:
    order = read(tmp_path, ORDERS.replace("startDate = 2026-03-01", "startDate = 2026-06-01")).orders[0]
    assert order.span_ms()[0] == at("2026-05-31T23:00:00")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('orderType = "COMMUNITY"', 'orderType = "HOLIDAY"', ("orders[0].orderType", "COMMUNITY")),
        (
            'startTime = "19:00"',
            'startTime = "7pm"',
            ("timetable[0].startTime", "write the local time"),
        ),
        ('"MONDAY", ', '"MONTAG", ', ("timetable[0].dayOfWeek", "MONTAG", "one of MONDAY")),
        ('timezone = "Europe/London"', 'timezone = "London"', ("orders[0].timezone", "Europe/London")),
        ('zoneType = "EXCLUSION"', 'zonType = "EXCLUSION"', ("zonType", "zoneType")),
        ("radiusMetres = 300", "radiusMetres = -3", ("radiusMetres", "greater than 0")),
        ("deviceId = 13", "deviceId = 14", ("overlap", "deactivationDate")),
        ("deviceId = 13", 'deviceId = "tag"', ("activations[2].deviceId", "hexadecimal")),
        ("endDate = 2026-11-30", "endDate = 2025-11-30", ("orders[0]", "not after startDate")),
        ("deviceActivationDate = 2026-03-01T00:00:00Z", "deviceActivationDate = 2026-03-01", ("offset", "Z")),
        ('monitoringType = "ALCOHOL_ABSTINENCE"', 'monitoringType = "ALCOHOL_LEVEL"', ("thresholdMicrogramsPerLitre",)),
        ('[[wearers]]\npersonId = "P1"', "wearers = []", ("no wearer", "[[wearers]]")),
        ("[orders.curfew]", "[orders.curfew", ("not valid TOML",)),
        ('deviceActivationId = "A-pid"', 'deviceActivationId = "A-home"', ("A-home", "more than once")),
    ],
)
def test_errors_name_file_field_and_remedy(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in ORDERS
    with pytest.raises(ConfigError) as error:
        read(tmp_path, ORDERS.replace(old, new, 1))
    for word in ("orders.toml", *words):
        assert word in str(error.value)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the orders"):
        read_order_file(tmp_path / "absent.toml")


def test_loading_tells_who_changed_and_a_bad_file_changes_nothing(load: Callable[[str], int]) -> None:
    assert load(ORDERS) == 1
    assert load(ORDERS) == 0
    with pytest.raises(ConfigError):
        load(ORDERS.replace('"19:00"', '"25:00"'))
    assert load(ORDERS) == 0
    assert load(ORDERS.replace('"19:00"', '"20:00"')) == 1


def test_the_example_of_the_documentation_is_a_valid_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backend.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    order = read(tmp_path, example).orders[0]
    assert order.curfew is not None and order.alcohol is not None and order.enforcementZones
