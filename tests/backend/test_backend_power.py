"""Power: mains, empty batteries, chargers that do not charge."""

from backend_kit import at, minutes
from emgate.backend.conditions.finding import Finding, Identity
from emgate.backend.conditions.power import Level, judge
from emgate.backend.conditions.tamper import Observation
from emwire import constants

T = at("2026-03-02T10:00:00")
DEVICE = (11, "A-ankle")
LOST, BACK = constants.EVENT_MAINS_LOST, constants.EVENT_MAINS_RESTORED
LOW, CRITICAL = constants.EVENT_BATTERY_LOW, constants.EVENT_BATTERY_CRITICAL
STARTED, STOPPED = constants.EVENT_CHARGE_STARTED, constants.EVENT_CHARGE_STOPPED


def run(
    events: list[tuple[float, int]], levels: list[tuple[float, int]] | None = None, charged: bool = True
) -> list[tuple[str | None, float | None]]:
    """(alert code, end in minutes) of what is raised."""
    return [
        (
            str(finding.alert_code) if finding.alert_code else None,
            None if finding.end_ms is None else (finding.end_ms - T) / 60_000,
        )
        for finding in findings(events, levels, charged)
        if finding.raised
    ]


def findings(
    events: list[tuple[float, int]], levels: list[tuple[float, int]] | None = None, charged: bool = True
) -> list[Finding]:
    seen = [Observation(T + minutes(when), Identity(11, 1, n), kind, 9) for n, (when, kind) in enumerate(events)]
    known = [
        Level(T + minutes(when), percent, False, Identity(11, 2, n)) for n, (when, percent) in enumerate(levels or [])
    ]
    return judge(reversed(seen), reversed(known), charged, DEVICE)


def test_a_mains_failure_is_one_pair() -> None:
    assert run([(0, LOST)]) == [("AL04", None)]
    assert run([(0, LOST), (40, BACK)]) == [("AL04", 40.0)]
    assert run([(0, LOST), (1, BACK), (2, LOST), (3, BACK)]) == [("AL04", 3.0)], "flickering mains"
    assert run([(0, LOST), (0, LOST), (1, BACK), (60, LOST)]) == [("AL04", 1.0), ("AL04", None)]
    assert run([(0, BACK)]) == []


def test_an_empty_charged_device_until_it_charges() -> None:
    assert run([(0, LOW), (60, CRITICAL)]) == [("AL23", None)]
    assert run([(0, LOW), (60, CRITICAL), (90, STARTED)]) == [("AL23", 90.0)]
    assert run([(0, CRITICAL)], [(30, 12), (60, 80)]) == [("AL23", 60.0)]


def test_low_on_a_charged_device_is_noted_and_not_raised() -> None:
    (found,) = findings([(0, LOW)])
    assert not found.raised


def test_a_charger_that_does_not_charge_is_not_the_wearers_fault() -> None:
    charged_in_vain = [(-600, STARTED), (-500, STOPPED), (0, CRITICAL)]
    (found,) = findings(charged_in_vain, [(-610, 15), (-500, 16)])
    assert (str(found.alert_code), found.category.value) == ("AL24", "Device fault")
    assert "charging fault" in found.cause
    # Charged, it rose, and was used up since: an empty battery.
    (used,) = findings(charged_in_vain, [(-610, 15), (-500, 90)])
    assert str(used.alert_code) == "AL23" and "1 h 40 min" not in used.cause
    assert "100 min" in used.cause
    # Connected for ten minutes: no hour.
    assert run([(-600, STARTED), (-590, STOPPED), (0, CRITICAL)]) == [("AL23", None)]
    # Still connected as it runs empty.
    assert run([(-120, STARTED), (0, CRITICAL)]) == [("AL24", None)]


def test_a_device_that_nobody_charges_is_low() -> None:
    assert run([(0, LOW), (60, CRITICAL)], charged=False) == [("AL21", None)]
    assert run([], [(0, 90), (10, 20), (20, 19), (30, 95)], charged=False) == [("AL21", 30.0)]
    assert run([], [(0, 90), (10, 21)], charged=False) == []
