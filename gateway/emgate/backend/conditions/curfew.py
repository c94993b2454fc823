"""Curfew: home, out or unknown from what a home unit heard, against local timetables.

A beacon heard and authentic means home. Out needs a receiver that listened and heard nothing, for longer than the
grace. Everything else (receiver deaf, unit off, records not here yet, a beacon that could not be judged) is unknown
and never absence.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from emgate.backend.conditions.finding import Finding, Identity, identities, minutes_text
from emgate.backend.orders import DAYS, Curfew
from emgate.backend.vocabulary import AlertCode, Category

ABSENCE_GRACE_MS = 5 * 60_000
"""No published figure; 5 min is what the field calls a gap in ordinary data (field notes §1, "gap over 5 min"). A body
between beacon and unit for a while must not make an absence; where it lasts longer, the order sets its own figure."""
MINIMUM_LISTENED_FRACTION = 0.5
"""Of a window: a beacon is sent many times in a window, so half of it is ample to hear one; less is called deaf."""
JOIN_MS = 2_000
"""Windows follow one another in whole seconds; up to two of rounding between them is no gap."""
LOOK_BACK_MS = 3_600_000
"""Windows before a curfew's start that tell whether the wearer was already out; longest window is an hour."""
ADJACENT_MS = 60_000
"""Timetables split at midnight end at 23:59 or 00:00: parts a minute apart are one curfew period."""

LONGEST_JOINED_MS = 25 * 3_600_000
"""A day with the longer changeover: a curfew round the clock is judged day by day, or its first period never ends."""

CALENDAR_MS = 30 * 86_400_000
"""Calendars are laid out this much at a time."""

HOME, SILENT, UNKNOWN = "HOME", "SILENT", "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Window:
    """One presence record. Times in unix ms; first/last heard None when nothing authentic was heard."""

    unit_id: int
    start_ms: int
    end_ms: int
    listened_ms: int
    first_heard_ms: int | None
    last_heard_ms: int | None
    doubtful: bool  # something was heard that could not be judged
    identity: Identity


@dataclass(frozen=True, slots=True)
class Period:
    """One curfew period, unix ms [start, end)."""

    start_ms: int
    end_ms: int
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in one state."""

    start_ms: int
    end_ms: int
    state: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What the order may set."""

    grace_ms: int = ABSENCE_GRACE_MS
    minimum_listened: float = MINIMUM_LISTENED_FRACTION

    @classmethod
    def of(cls, curfew: Curfew) -> "Rules":
        """The order's own figures, else the defaults."""
        return cls(
            ABSENCE_GRACE_MS if curfew.absenceGraceMinutes is None else round(curfew.absenceGraceMinutes * 60_000),
            curfew.minimumListenedFraction or MINIMUM_LISTENED_FRACTION,
        )


def periods(curfew: Curfew, timezone: str, order: tuple[int, int], span: tuple[int, int]) -> list[Period]:
    """Curfew periods of an order [from, until) that begin or end in the span or contain it; adjacent ones joined.

    Local wall times become UTC night by night, so that a 19:00-07:00 curfew lasts 11 or 13 hours on changeover
    nights. A wall time that occurs twice means its first occurrence; one that the change leaves out is read in the
    offset before the change. Always counted from the order's start, so that joining gives the same periods each time.
    """
    horizon = min(order[1], (span[1] // CALENDAR_MS + 1) * CALENDAR_MS)
    calendar = _calendar(curfew, timezone, order, horizon)
    first = bisect_left(calendar, span[0], key=lambda period: period.end_ms)
    return [period for period in calendar[first:] if period.start_ms <= span[1]]


@lru_cache(maxsize=256)
def _calendar(curfew: Curfew, timezone: str, order: tuple[int, int], horizon_ms: int) -> list[Period]:
    """All periods of an order that begin before the horizon. Kept: an order of years takes some 10 ms to lay out."""
    from_ms, until_ms = order
    zone = ZoneInfo(timezone)
    day = datetime.fromtimestamp(from_ms / 1000, zone).date() - timedelta(days=1)  # may cross midnight into the order
    last = datetime.fromtimestamp(horizon_ms / 1000, zone).date() + timedelta(days=1)
    found: list[Period] = []
    while day <= last:
        for entry in curfew.timetable:
            if DAYS[day.weekday()] in entry.dayOfWeek:
                crosses = entry.endTime <= entry.startTime
                start = _local_ms(day, entry.startTime, zone)
                end = _local_ms(day + timedelta(days=1) if crosses else day, entry.endTime, zone)
                start, end = max(start, from_ms), min(end, until_ms)
                if end > start:
                    found.append(Period(start, end, frozenset((entry.curfewAddress,))))
        day += timedelta(days=1)
    return _joined(found)


def _local_ms(day: date, wall: str, zone: ZoneInfo) -> int:
    hours, minute = int(wall[:2]), int(wall[3:])
    if hours == 24:
        day, hours = day + timedelta(days=1), 0
    return int(datetime(day.year, day.month, day.day, hours, minute, tzinfo=zone).timestamp() * 1000)


def _joined(found: list[Period]) -> list[Period]:
    joined: list[Period] = []
    for period in sorted(found, key=lambda item: item.start_ms):
        if (
            joined
            and period.start_ms <= joined[-1].end_ms + ADJACENT_MS
            and period.end_ms - joined[-1].start_ms <= LONGEST_JOINED_MS
        ):
            before = joined.pop()
            period = Period(before.start_ms, max(before.end_ms, period.end_ms), before.addresses | period.addresses)
        joined.append(period)
    return joined


@dataclass(frozen=True, slots=True)
class Unit:
    """A home unit at one of the period's addresses, and when it is activated there: unix ms [from, until)."""

    unit_id: int
    from_ms: int
    until_ms: int


def segments(windows: Iterable[Window], units: Sequence[Unit], rules: Rules, span: tuple[int, int]) -> list[Segment]:
    """The span in states without holes. Home beats all; silent needs every unit in place to have listened."""
    pieces: list[tuple[int, int, int, str]] = []
    for window in windows:
        pieces.extend((window.unit_id, *piece) for piece in _pieces(window, rules))
    cuts = {span[0], span[1]}
    for _, start, end, _ in pieces:
        cuts.update((start, end))
    for unit in units:
        cuts.update((unit.from_ms, unit.until_ms))
    inside = sorted(cut for cut in cuts if span[0] <= cut <= span[1])
    pieces.sort(key=lambda piece: piece[1])
    found: list[Segment] = []
    active: list[tuple[int, int, int, str]] = []
    following = 0
    for start, end in pairwise(inside):
        while following < len(pieces) and pieces[following][1] <= start:
            active.append(pieces[following])
            following += 1
        active = [piece for piece in active if piece[2] > start]
        state = _combined(active, [unit.unit_id for unit in units if unit.from_ms <= start < unit.until_ms])
        if found and found[-1].state == state:
            found[-1] = Segment(found[-1].start_ms, end, state)
        else:
            found.append(Segment(start, end, state))
    return found


def _pieces(window: Window, rules: Rules) -> list[tuple[int, int, str]]:
    """One window as (start, end, state)."""
    duration = window.end_ms - window.start_ms
    listened = window.listened_ms >= rules.minimum_listened * duration and not window.doubtful
    other = SILENT if listened else UNKNOWN
    if window.first_heard_ms is None or window.last_heard_ms is None:
        return [(window.start_ms, window.end_ms, other)]
    first = window.first_heard_ms
    last = max(window.last_heard_ms, first + 1000)  # times in the record are whole seconds
    pieces = [(window.start_ms, first, other), (first, last, HOME), (last, window.end_ms, other)]
    return [piece for piece in pieces if piece[1] > piece[0]]


def _combined(active: list[tuple[int, int, int, str]], units: list[int]) -> str:
    here = [piece for piece in active if piece[0] in units]
    states = {state for _, _, _, state in here}
    if HOME in states:
        return HOME
    if not units or UNKNOWN in states or {unit for unit, _, _, _ in here} != set(units):
        return UNKNOWN
    return SILENT


@dataclass(slots=True)
class Absence:
    """A run of silence. `ended` says what follows: HOME, UNKNOWN, or None at the end of what is known."""

    parts: list[Segment]
    home_before: bool  # seen home earlier in the period
    last_heard_ms: int | None
    unknown_ms: int = 0
    ended: str | None = None


def _absences(states: list[Segment], period: Period, rules: Rules) -> list[Absence]:
    found: list[Absence] = []
    current: Absence | None = None
    home_before, last_heard = False, None
    pending_unknown = 0
    for segment in states:
        if segment.state == HOME:
            if current is not None:
                current.ended = HOME
            current = None
            last_heard = segment.end_ms
            home_before = home_before or segment.end_ms > period.start_ms
            pending_unknown = 0
        elif segment.state == UNKNOWN:
            length = segment.end_ms - segment.start_ms
            pending_unknown = length if length > JOIN_MS else 0
            # As long as the wearer may go unheard without being out, the unit may be deaf without ending an absence.
            if current is not None and length > rules.grace_ms:
                current.ended = UNKNOWN
                current = None
        else:
            if current is None:
                current = Absence([], home_before, last_heard)
                found.append(current)
            elif pending_unknown:
                current.unknown_ms += pending_unknown
            current.parts.append(segment)
            pending_unknown = 0
    return found


def judge(
    period: Period,
    windows: Sequence[Window],
    units: Sequence[Unit],
    authorised: Sequence[tuple[int, int]],
    now_ms: int,
    rules: Rules,
    wearer: tuple[int, str],
) -> list[Finding]:
    """Absences of one period. `wearer` is the pid's (deviceId, deviceActivationId); windows in any order."""
    ordered = sorted(windows, key=lambda window: (window.start_ms, window.unit_id, window.identity))
    known_until = max((window.end_ms for window in ordered), default=0)
    span = (period.start_ms - LOOK_BACK_MS, min(period.end_ms, max(known_until, period.start_ms)))
    found: list[Finding] = []
    states = segments(ordered, units, rules, span) if span[1] > period.start_ms else []
    for absence in _absences(states, period, rules):
        finding = _finding(period, absence, ordered, authorised, now_ms, rules, wearer)
        if finding is not None:
            found.append(finding)
    return found


def _subtract(parts: list[tuple[int, int]], holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    for hole_start, hole_end in holes:
        rest: list[tuple[int, int]] = []
        for start, end in parts:
            rest.extend(
                piece for piece in ((start, min(end, hole_start)), (max(start, hole_end), end)) if piece[1] > piece[0]
            )
        parts = rest
    return parts


def _finding(
    period: Period,
    absence: Absence,
    windows: Sequence[Window],
    authorised: Sequence[tuple[int, int]],
    now_ms: int,
    rules: Rules,
    wearer: tuple[int, str],
) -> Finding | None:
    inside = [(max(part.start_ms, period.start_ms), min(part.end_ms, period.end_ms)) for part in absence.parts]
    counted = _subtract([part for part in inside if part[1] > part[0]], authorised)
    out_ms = sum(end - start for start, end in counted)
    if out_ms <= rules.grace_ms:
        return None
    start, end = counted[0][0], counted[-1][1]
    # Out at the start: silence from the start on, but for what is authorised, with a grace for the first window.
    owed = _subtract([(period.start_ms, start)], authorised)
    from_start = not absence.home_before and sum(b - a for a, b in owed) <= rules.grace_ms
    to_end = end >= period.end_ms - JOIN_MS
    over = absence.ended is not None or to_end or now_ms >= period.end_ms
    codes = _codes(from_start, absence.home_before, to_end, absence.ended == HOME)
    evidence = identities([window.identity for window in windows if window.start_ms < end and window.end_ms > start])
    evidence |= {
        "outMinutes": round(out_ms / 60_000, 1),
        "unknownMinutes": round(absence.unknown_ms / 60_000, 1),
        "lastHeardMs": absence.last_heard_ms,
        "absenceGraceMinutes": rules.grace_ms / 60_000,
        "minimumListenedFraction": rules.minimum_listened,
        "curfewStartMs": period.start_ms,
        "curfewEndMs": period.end_ms,
        "alertCodes": [code.value for code in codes],
    }
    entire = codes[-1] is AlertCode.AL12
    return Finding(
        key=f"{period.start_ms}/{'start' if from_start else start}",
        category=Category.CURFEW,
        start_ms=start,
        end_ms=end if over else None,
        cause=_cause(codes[-1], out_ms, absence, over, to_end),
        evidence=evidence,
        device_id=wearer[0],
        device_activation_id=wearer[1],
        alert_code=codes[-1],
        scope_ms=period.start_ms,
        due_ms=None if over else period.end_ms,
        extra={
            "atvMinutes": round(out_ms / 60_000, 1),
            "includedInTotalAtvCalculation": True,
            "outForEntireCurfewPeriod": entire,
        },
    )


def _codes(from_start: bool, home_before: bool, to_end: bool, returned: bool) -> list[AlertCode]:
    """What the absence was called as it went on; the last is what it is."""
    codes = [AlertCode.AL10 if home_before else AlertCode.AL08]
    if to_end:
        codes.append(AlertCode.AL12 if from_start else AlertCode.AL11)
    elif returned and not home_before:
        codes.append(AlertCode.AL09)
    return codes


def _cause(code: AlertCode, out_ms: int, absence: Absence, over: bool, to_end: bool) -> str:
    what = {
        AlertCode.AL08: "Not at home since the curfew began",
        AlertCode.AL09: "Came home late",
        AlertCode.AL10: "Left home during the curfew",
        AlertCode.AL11: "Out when the curfew ended",
        AlertCode.AL12: "Out for the whole curfew period",
    }[code]
    text = f"{what}: the home unit listened and did not hear the wearer's device for {minutes_text(out_ms)}"
    if absence.ended == UNKNOWN and not to_end:
        text += "; then it is not known where the wearer was"
    elif absence.ended is None and over and not to_end:
        text += "; no record after that"
    if absence.unknown_ms:
        text += f" (and could not listen for {minutes_text(absence.unknown_ms)} in between)"
    return text + "."
