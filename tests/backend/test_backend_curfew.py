"""Curfew: home, out, unknown; alert codes; both changeover nights."""

from datetime import UTC, datetime

import pytest
from backend_kit import at, minutes
from emgate.backend.conditions.curfew import Period, Rules, Unit, Window, judge, periods
from emgate.backend.conditions.finding import Finding, Identity
from emgate.backend.orders import Curfew

START, END = at("2026-03-02T19:00:00"), at("2026-03-03T07:00:00")
PERIOD = Period(START, END, frozenset(("PRIMARY",)))
UNIT = Unit(12, 0, 1 << 60)
WEARER = (14, "A-pid")
WINDOW = 300_000


def window(
    start: int, heard: tuple[int, int] | None, listened: float = 1.0, doubtful: bool = False, unit: int = 12
) -> Window:
    first, last = heard if heard else (None, None)
    return Window(
        unit,
        start,
        start + WINDOW,
        round(listened * WINDOW),
        None if first is None else start + first * 1000,
        None if last is None else start + last * 1000,
        doubtful,
        Identity(unit, 1, start // WINDOW % 100000),
    )


def night(plan: str, start: int = START - WINDOW * 6, unit: int = 12) -> list[Window]:
    """Windows of five minutes from half an hour before: h home, . out, d deaf, ? doubtful, space no record."""
    made = []
    for number, what in enumerate(plan):
        at_ms = start + number * WINDOW
        if what == "h":
            made.append(window(at_ms, (5, 295), unit=unit))
        elif what == ".":
            made.append(window(at_ms, None, unit=unit))
        elif what == "d":
            made.append(window(at_ms, None, listened=0.1, unit=unit))
        elif what == "?":
            made.append(window(at_ms, None, doubtful=True, unit=unit))
    return made


FULL = 144  # five-minute windows from 19:00 to 07:00


def run(plan: str, now: int = END + 1, authorised: list[tuple[int, int]] | None = None) -> list[Finding]:
    return judge(PERIOD, night(plan), [UNIT], authorised or [], now, Rules(), WEARER)


def codes(found: list[Finding]) -> list[str]:
    return [str(finding.alert_code) for finding in found]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("h" * (6 + FULL), []),
        ("." * (6 + FULL), ["AL12"]),
        ("h" * 6 + "." * FULL, ["AL12"]),
        ("." * 6 + "." * 12 + "h" * (FULL - 12), ["AL09"]),
        ("h" * 18 + "." * 8 + "h" * (FULL - 20), ["AL10"]),
        ("h" * 18 + "." * (FULL - 12), ["AL11"]),
        ("." * 12 + "h" * 12 + "." * 12 + "h" * (FULL - 30), ["AL09", "AL10"]),
        (" " * (6 + FULL), []),  # silence of the unit is not absence
        ("d" * (6 + FULL), []),  # nor is a receiver that did not listen
        ("?" * (6 + FULL), []),  # nor a beacon that could not be judged
        ("h" * 20 + "   " * 10 + "h" * 20, []),
        ("h" * 20 + " " + "d" * 30 + "h" * 20, []),
    ],
)
def test_what_a_night_is_called(plan: str, expected: list[str]) -> None:
    assert codes(run(plan)) == expected


def test_leaving_and_returning_is_one_alert_with_its_times_and_atv() -> None:
    (found,) = run("h" * 18 + "." * 8 + "h" * (FULL - 20))
    assert found.start_ms == START + 12 * WINDOW - 5_000, "since it was last heard"
    assert found.end_ms == START + 20 * WINDOW + 5_000, "until it was heard again"
    assert found.extra == {"atvMinutes": 40.2, "includedInTotalAtvCalculation": True, "outForEntireCurfewPeriod": False}
    assert found.evidence["outMinutes"] == 40.2
    assert found.evidence["recordCount"] == 10
    assert "did not hear" in found.cause


def test_open_while_out_and_its_code_goes_on_with_the_night() -> None:
    plan = "." * 6
    ids = set()
    for extra, now, code, is_open in (
        ("." * 2, START + 2 * WINDOW, "AL08", True),
        ("." * 24, START + 24 * WINDOW, "AL08", True),
        ("." * 24 + "h" * 4, START + 28 * WINDOW, "AL09", False),
        ("." * FULL, END, "AL12", False),
    ):
        (found,) = run(plan + extra, now)
        assert (str(found.alert_code), found.end_ms is None) == (code, is_open)
        ids.add(found.key)
    assert len(ids) == 1, "one absence is one alert"
    assert found.extra["outForEntireCurfewPeriod"]
    assert found.evidence["alertCodes"] == ["AL08", "AL12"]


@pytest.mark.parametrize(("unheard_s", "expected"), [(300, []), (301, ["AL10"])])
def test_longer_than_the_grace_is_an_absence(unheard_s: int, expected: list[str]) -> None:
    heard = [window(START, (0, 100)), window(START + WINDOW, (100 + unheard_s - 300, 300))]
    found = judge(PERIOD, heard, [UNIT], [], END, Rules(), WEARER)
    assert codes(found) == expected


def test_not_yet_longer_than_the_grace_is_nothing() -> None:
    assert run("." * 6 + ".", START + WINDOW) == []


def test_when_records_stop_the_absence_lasts_as_long_as_it_was_known() -> None:
    plan = "h" * 12 + "." * 6
    (open_,) = run(plan, START + minutes(300))
    assert open_.end_ms is None and open_.due_ms == END
    (closed,) = run(plan, END)
    assert closed.end_ms == START + 12 * WINDOW
    assert "no record after that" in closed.cause


def test_a_long_deaf_time_ends_an_absence_and_is_not_counted() -> None:
    first, second = run("h" * 12 + "." * 6 + "d" * 6 + "." * 6 + "h" * (FULL - 24))
    assert (first.evidence["outMinutes"], second.evidence["outMinutes"]) == (30.1, 30.1)
    assert "not known" in first.cause


def test_a_short_deaf_time_does_not_split_an_absence_nor_count() -> None:
    (found,) = run("h" * 12 + "..." + "d" + "..." + "h" * 20)
    assert (found.evidence["outMinutes"], found.evidence["unknownMinutes"]) == (30.2, 5.0)


def test_authorised_absence_is_neither_alerted_nor_counted() -> None:
    plan = "h" * 18 + "." * 12 + "h" * (FULL - 24)
    allowed = [(START + minutes(50), START + minutes(130))]
    assert run(plan, authorised=allowed) == []
    (found,) = run(plan, authorised=[(START + minutes(50), START + minutes(90))])
    assert found.extra["atvMinutes"] == pytest.approx(30.1)


def test_heard_by_either_unit_is_home_and_out_needs_both() -> None:
    units = [UNIT, Unit(22, 0, 1 << 60)]
    other = night("h" * (6 + FULL), unit=22)
    assert judge(PERIOD, night("." * (6 + FULL)) + other, units, [], END, Rules(), WEARER) == []
    assert judge(PERIOD, night("." * (6 + FULL)), units, [], END, Rules(), WEARER) == []
    both = night("." * (6 + FULL)) + night("." * (6 + FULL), unit=22)
    assert codes(judge(PERIOD, both, units, [], END, Rules(), WEARER)) == ["AL12"]


def test_heard_by_a_unit_of_another_address_is_not_home() -> None:
    mixed = night("." * (6 + FULL)) + night("h" * (6 + FULL), unit=99)
    assert codes(judge(PERIOD, mixed, [UNIT], [], END, Rules(), WEARER)) == ["AL12"]


def timetable(*entries: tuple[str | list[str], str, str]) -> Curfew:
    return Curfew.model_validate(
        {"timetable": [{"dayOfWeek": day, "startTime": start, "endTime": end} for day, start, end in entries]}
    )


DAILY = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]


def spans(curfew: Curfew, start: str, end: str) -> list[tuple[str, str]]:
    found = periods(curfew, "Europe/London", (at(start), at(end)), (at(start), at(end)))
    return [
        (
            datetime.fromtimestamp(period.start_ms / 1000, UTC).strftime("%d %H:%M"),
            datetime.fromtimestamp(period.end_ms / 1000, UTC).strftime("%d %H:%M"),
        )
        for period in found
    ]


def test_the_night_the_clocks_go_forward_has_eleven_hours() -> None:
    assert spans(timetable((DAILY, "19:00", "07:00")), "2026-03-28T12:00:00", "2026-03-30T12:00:00") == [
        ("28 19:00", "29 06:00"),
        ("29 18:00", "30 06:00"),
    ]


def test_the_night_the_clocks_go_back_has_thirteen_hours() -> None:
    assert spans(timetable((DAILY, "19:00", "07:00")), "2026-10-24T12:00:00", "2026-10-26T12:00:00") == [
        ("24 18:00", "25 07:00"),
        ("25 19:00", "26 07:00"),
    ]


def test_changeover_nights_judged_to_the_minute() -> None:
    for start, end in (("2026-03-28T19:00:00", "2026-03-29T06:00:00"), ("2026-10-24T18:00:00", "2026-10-25T07:00:00")):
        curfew = timetable((DAILY, "19:00", "07:00"))
        around = (at(start) - minutes(60), at(end) + minutes(60))
        (period,) = periods(curfew, "Europe/London", around, around)
        assert (period.start_ms, period.end_ms) == (at(start), at(end))
        count = (period.end_ms - period.start_ms) // WINDOW
        away = night("." * (6 + count), period.start_ms - 6 * WINDOW)
        (found,) = judge(period, away, [UNIT], [], period.end_ms, Rules(), WEARER)
        assert (str(found.alert_code), found.extra["atvMinutes"]) == ("AL12", count * 5)


def test_times_that_do_not_exist_or_occur_twice() -> None:
    night_ = timetable(("SUNDAY", "01:30", "03:30"))
    assert spans(night_, "2026-03-28T12:00:00", "2026-03-29T12:00:00") == [("29 01:30", "29 02:30")]
    assert spans(night_, "2026-10-24T12:00:00", "2026-10-25T12:00:00") == [("25 00:30", "25 03:30")]


@pytest.mark.parametrize("midnight", ["00:00", "24:00", "23:59"])
def test_a_timetable_split_at_midnight_is_one_curfew(midnight: str) -> None:
    split = timetable((DAILY, "19:00", midnight), (DAILY, "00:00", "07:00"))
    assert spans(split, "2026-03-02T12:00:00", "2026-03-04T12:00:00") == [
        ("02 19:00", "03 07:00"),
        ("03 19:00", "04 07:00"),
    ]


def test_a_curfew_round_the_clock_is_judged_day_by_day() -> None:
    month = (at("2026-03-02T00:00:00"), at("2026-04-02T00:00:00"))
    found = periods(timetable((DAILY, "00:00", "24:00")), "Europe/London", month, month)
    assert len(found) == 31
    assert all(period.end_ms - period.start_ms <= 25 * 3_600_000 for period in found)


def test_periods_do_not_reach_beyond_the_order() -> None:
    assert spans(timetable((DAILY, "19:00", "07:00")), "2026-03-02T22:00:00", "2026-03-03T02:00:00") == [
        ("02 22:00", "03 02:00")
    ]


def test_a_span_shows_whole_periods_whenever_it_is_asked_for() -> None:
    curfew = timetable((DAILY, "19:00", "07:00"))
    order = (at("2001-01-01T00:00:00"), at("2100-01-01T00:00:00"))
    for moment in ("2026-03-02T19:00:00", "2026-03-02T20:00:00", "2026-03-03T06:59:00"):
        assert periods(curfew, "Europe/London", order, (at(moment), at(moment))) == [PERIOD]
    assert periods(curfew, "Europe/London", order, (at("2026-03-02T12:00:00"), at("2026-03-02T12:00:00"))) == []
