"""Tamper: strap, case, home unit moved, beacon copied; and device faults, which are never called a tamper.

A flickering strap is one fault with its raw evidence, not N breaches: 115 faulty straps once raised false tampers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from emwire import constants

from emgate.backend.conditions.finding import Finding, Identity, identities, minutes_text
from emgate.backend.vocabulary import AlertCode, Category, event_type

REPEAT_MS = 24 * 3_600_000
"""An open strap is raised again every 24 h (field notes §2)."""
FLICKER_JOIN_MS = 10 * 60_000
"""Openings less than this apart are one cause: ten times the quiet minute after which a device believes its strap."""
FLICKER_OPEN_MS = 60_000
"""An opening that lasts longer is no flicker: the device's own flicker rule looks at one minute."""
FLICKER_EPISODES = 3
"""A cut and a refit happen once, perhaps twice; three short openings in one cause are a contact."""
MOVED_JOIN_MS = 10 * 60_000
"""Carrying a unit across a room and setting it down again is one move."""
CORROBORATION_MS = 2 * 60_000
"""Motion with power or WAN loss within ±2 min is "moved", motion alone "motion" (field notes §2)."""
COPIED_JOIN_MS = 3_600_000
CASE_JOIN_MS = FAULT_JOIN_MS = 24 * 3_600_000
"""What has no end of its own is one cause for as long as an open strap is until it is raised again."""


@dataclass(frozen=True, slots=True)
class Observation:
    """An event, or what a presence record says of a pid, as one. Times in unix ms."""

    time_ms: int
    identity: Identity
    event_type: int
    value: int = 0


STRAP_EVENTS = (constants.EVENT_STRAP_CUT, constants.EVENT_STRAP_RESTORED, constants.EVENT_STRAP_FAULT)
FAULT_EVENTS = (constants.EVENT_SELF_TEST_FAILED, constants.EVENT_GNSS_FAULT)
MOVED_EVENTS = (constants.EVENT_HOME_UNIT_MOVED, constants.EVENT_MAINS_LOST, constants.EVENT_WAN_LOST)
ALL_EVENTS = (*STRAP_EVENTS, *FAULT_EVENTS, *MOVED_EVENTS, constants.EVENT_CASE_OPEN, constants.EVENT_BEACON_COPIED)


def judge(observations: Iterable[Observation], now_ms: int, device: tuple[int, str]) -> list[Finding]:
    """Tampers and faults of one device, from observations in any order. `device` is (deviceId, deviceActivationId)."""
    ordered = sorted(observations, key=lambda item: (item.time_ms, item.identity, item.event_type))
    return [
        *strap([item for item in ordered if item.event_type in STRAP_EVENTS], now_ms, device),
        *_case(ordered, device),
        *_moved(ordered, device),
        *_copied(ordered, device),
        *_faults(ordered, device),
    ]


@dataclass(slots=True)
class _Cause:
    """Strap openings close enough together to be one cause. An opening is [from, until or None]."""

    openings: list[list[int | None]] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    faults: int = 0

    def last_ms(self) -> int | None:
        """End of the last thing that happened; None while the strap is open."""
        if self.openings and self.openings[-1][1] is None:
            return None
        return max(item.time_ms for item in self.observations)


def strap(ordered: Sequence[Observation], now_ms: int, device: tuple[int, str]) -> list[Finding]:
    """Strap cuts (open until restored) and strap faults."""
    causes: list[_Cause] = []
    for item in ordered:
        cause = causes[-1] if causes else None
        closing = item.event_type == constants.EVENT_STRAP_RESTORED
        last = None if cause is None else cause.last_ms()
        if cause is None or (last is not None and item.time_ms - last > FLICKER_JOIN_MS):
            if closing:
                continue  # a strap that was not known to be open
            cause = _Cause()
            causes.append(cause)
        is_open = bool(cause.openings) and cause.openings[-1][1] is None
        if closing and not is_open:
            continue
        cause.observations.append(item)
        if closing:
            cause.openings[-1][1] = item.time_ms
        elif item.event_type == constants.EVENT_STRAP_FAULT:
            cause.faults += 1
        elif not is_open:
            cause.openings.append([item.time_ms, None])
    return [_strap_finding(cause, now_ms, device) for cause in causes]


def _strap_finding(cause: _Cause, now_ms: int, device: tuple[int, str]) -> Finding:
    lengths = [(end if end is not None else max(now_ms, start or 0)) - (start or 0) for start, end in cause.openings]
    flicker = (cause.faults > 0 or len(lengths) >= FLICKER_EPISODES) and max(lengths, default=0) < FLICKER_OPEN_MS
    start = cause.observations[0].time_ms
    last = cause.last_ms()
    evidence = identities([item.identity for item in cause.observations]) | {
        "openings": len(lengths),
        "longestOpenSeconds": max(lengths, default=0) // 1000,
        "strapFaults": cause.faults,
    }
    if flicker:
        opened = cause.openings[-1][0] if cause.openings else None
        return Finding(
            key=f"strap/{cause.observations[0].identity}",
            category=Category.DEVICE_FAULT,
            start_ms=start,
            end_ms=last,
            cause=f"Strap contact flickers ({len(lengths)} short openings, {cause.faults} fault reports): a fault of"
            " the device, not a tamper.",
            evidence=evidence,
            device_id=device[0],
            device_activation_id=device[1],
            alert_code=AlertCode.AL24,
            due_ms=None if last is not None or opened is None else opened + FLICKER_OPEN_MS,
        )
    raised, due = _raisings(cause, now_ms)
    state = f"closed again after {minutes_text(last - start)}" if last is not None else "still open"
    return Finding(
        key=f"strap/{cause.observations[0].identity}",
        category=Category.STRAP_CUT,
        start_ms=start,
        end_ms=last,
        cause=f"Strap opened, {state}" + (f" ({len(lengths)} openings)." if len(lengths) > 1 else "."),
        evidence=evidence,
        device_id=device[0],
        device_activation_id=device[1],
        due_ms=due,
        raised_ms=raised,
    )


def _raisings(cause: _Cause, now_ms: int) -> tuple[tuple[int, ...], int | None]:
    """When the cut is raised: at once, then every 24 h while open; and when next."""
    raised = [cause.observations[0].time_ms]
    following = None
    for start, end in cause.openings:
        assert start is not None
        following = start + REPEAT_MS
        while following <= (now_ms if end is None else end):
            raised.append(following)
            following += REPEAT_MS
    return tuple(raised), following if cause.last_ms() is None else None


def _together(items: Iterable[Observation], join_ms: int) -> list[list[Observation]]:
    groups: list[list[Observation]] = []
    for item in items:
        if groups and item.time_ms - groups[-1][-1].time_ms <= join_ms:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _moment(
    group: Sequence[Observation],
    category: Category,
    cause: str,
    device: tuple[int, str],
    code: AlertCode | None = None,
    **evidence: object,
) -> Finding:
    """A finding of something without an end of its own: it lasts from the first to the last time it was seen."""
    first, last = group[0], group[-1]
    return Finding(
        key=f"{category.name.lower()}/{first.identity}",
        category=category,
        start_ms=first.time_ms,
        end_ms=last.time_ms,
        cause=cause,
        evidence=identities([item.identity for item in group]) | {"times": len(group)} | evidence,
        device_id=device[0],
        device_activation_id=device[1],
        alert_code=code,
    )


def _of(ordered: Iterable[Observation], *event_types: int) -> list[Observation]:
    return [item for item in ordered if item.event_type in event_types]


def _case(ordered: Sequence[Observation], device: tuple[int, str]) -> list[Finding]:
    groups = _together(_of(ordered, constants.EVENT_CASE_OPEN), CASE_JOIN_MS)
    return [_moment(group, Category.CASE_OPEN, "The device's case was opened.", device) for group in groups]


def _moved(ordered: Sequence[Observation], device: tuple[int, str]) -> list[Finding]:
    found = []
    losses = _of(ordered, constants.EVENT_MAINS_LOST, constants.EVENT_WAN_LOST)
    for group in _together(_of(ordered, constants.EVENT_HOME_UNIT_MOVED), MOVED_JOIN_MS):
        beside = [
            loss
            for loss in losses
            if group[0].time_ms - CORROBORATION_MS <= loss.time_ms <= group[-1].time_ms + CORROBORATION_MS
        ]
        names = sorted({event_type(loss.event_type).name for loss in beside})
        detail = f", with {' and '.join(names)} within 2 min" if names else ""
        found.append(
            _moment(
                group,
                Category.HMU_MOVED,
                f"The home unit reports that it was moved{detail}.",
                device,
                AlertCode.AL05,
                corroboratedBy=names,
            )
        )
    return found


def _copied(ordered: Sequence[Observation], device: tuple[int, str]) -> list[Finding]:
    groups = _together(_of(ordered, constants.EVENT_BEACON_COPIED), COPIED_JOIN_MS)
    text = "The home unit heard a copy of the wearer's device: somebody may be imitating it."
    return [_moment(group, Category.BEACON_COPIED, text, device) for group in groups]


def _faults(ordered: Sequence[Observation], device: tuple[int, str]) -> list[Finding]:
    found = []
    for number in FAULT_EVENTS:
        for group in _together(_of(ordered, number), FAULT_JOIN_MS):
            text = f"Fault of the device, not a tamper: {event_type(number).name}."
            found.append(_moment(group, Category.DEVICE_FAULT, text, device, AlertCode.AL24))
    return found
