"""Power: mains of the home unit, empty batteries, and chargers that do not charge (which is no wearer's fault)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emwire import constants

from emgate.backend.conditions.finding import Finding, Identity, identities, minutes_text
from emgate.backend.conditions.tamper import Observation
from emgate.backend.vocabulary import AlertCode, Category, Certainty

MAINS_JOIN_MS = 2 * 60_000
"""Mains that fail again within the ±2 min of field notes §2 have failed once."""
LOW_PERCENT = 20
"""What the devices themselves call low; a level reported above it ends the warning."""
CHARGE_LOOK_BACK_MS = 24 * 3_600_000
CHARGED_ENOUGH_MS = 3_600_000
"""Wearers are told to charge at least 1 h a day (GOV.UK): who did so has charged."""
CHARGE_RISE_PERCENT = 5
"""An hour on the charger that adds less has not charged."""

EVENTS = (
    constants.EVENT_MAINS_LOST,
    constants.EVENT_MAINS_RESTORED,
    constants.EVENT_BATTERY_LOW,
    constants.EVENT_BATTERY_CRITICAL,
    constants.EVENT_CHARGE_STARTED,
    constants.EVENT_CHARGE_STOPPED,
)


@dataclass(frozen=True, slots=True)
class Level:
    """A battery level as a status or a presence record gives it."""

    time_ms: int
    percent: int | None
    charging: bool
    identity: Identity


def judge(
    observations: Iterable[Observation], levels: Iterable[Level], charged: bool, device: tuple[int, str]
) -> list[Finding]:
    """Power findings of one device. `charged`: the wearer charges it; `device` is (deviceId, deviceActivationId)."""
    ordered = sorted(observations, key=lambda item: (item.time_ms, item.identity))
    known = sorted(levels, key=lambda item: (item.time_ms, item.identity))
    if charged:
        return [*_mains(ordered, device), *_empty(ordered, known, device), *_low(ordered, known, device)]
    return [*_mains(ordered, device), *_non_charged(ordered, known, device)]


def _mains(ordered: Sequence[Observation], device: tuple[int, str]) -> list[Finding]:
    outages: list[tuple[list[Observation], int | None]] = []
    for item in ordered:
        items, end = outages[-1] if outages else ([], 0)
        if item.event_type == constants.EVENT_MAINS_LOST:
            if items and (end is None or item.time_ms - end <= MAINS_JOIN_MS):
                outages[-1] = ([*items, item], None)
            else:
                outages.append(([item], None))
        elif item.event_type == constants.EVENT_MAINS_RESTORED and items and end is None:
            outages[-1] = ([*items, item], item.time_ms)
    found = []
    for items, end in outages:
        start = items[0].time_ms
        state = "still off" if end is None else f"back after {minutes_text(end - start)}"
        found.append(
            Finding(
                key=f"mains/{items[0].identity}",
                category=Category.HMU_MAINS,
                start_ms=start,
                end_ms=end,
                cause=f"Mains power of the home unit went off, {state}; it runs on its battery meanwhile.",
                evidence=identities([item.identity for item in items]),
                device_id=device[0],
                device_activation_id=device[1],
                alert_code=AlertCode.AL04,
            )
        )
    return found


def _ends(ordered: Sequence[Observation], levels: Sequence[Level], after_ms: int, above: int) -> int | None:
    """When a warning is over: charging begins, or a level above is reported."""
    times = [
        item.time_ms
        for item in ordered
        if item.event_type == constants.EVENT_CHARGE_STARTED and item.time_ms > after_ms
    ]
    times += [
        level.time_ms
        for level in levels
        if level.time_ms > after_ms and (level.charging or (level.percent is not None and level.percent > above))
    ]
    return min(times, default=None)


def _empty(ordered: Sequence[Observation], levels: Sequence[Level], device: tuple[int, str]) -> list[Finding]:
    found: list[Finding] = []
    for item in ordered:
        if item.event_type != constants.EVENT_BATTERY_CRITICAL:
            continue
        if found and (found[-1].end_ms is None or item.time_ms <= found[-1].end_ms):
            continue  # the same empty battery
        charging_ms = _charging_ms(ordered, item.time_ms)
        fault = charging_ms >= CHARGED_ENOUGH_MS and _rise(ordered, levels, item.time_ms) < CHARGE_RISE_PERCENT
        told = f"the charger was connected for {minutes_text(charging_ms)} in the 24 h before"
        if fault:
            cause = f"Battery nearly empty although {told}: charging fault, not a wearer who did not charge."
        elif charging_ms:
            cause = f"Battery of a charged device nearly empty; {told}."
        else:
            cause = "Battery of a charged device nearly empty; no charging was reported in the 24 h before."
        found.append(
            Finding(
                key=f"battery/{item.identity}",
                category=Category.DEVICE_FAULT if fault else Category.BATTERY,
                start_ms=item.time_ms,
                end_ms=_ends(ordered, levels, item.time_ms, LOW_PERCENT),
                cause=cause,
                evidence=identities([item.identity])
                | {
                    "percent": item.value,
                    "chargingMinutes": round(charging_ms / 60_000, 1),
                    "chargingFaultSuspected": fault,
                },
                device_id=device[0],
                device_activation_id=device[1],
                alert_code=AlertCode.AL24 if fault else AlertCode.AL23,
            )
        )
    return found


def _charges(ordered: Sequence[Observation], until_ms: int) -> list[tuple[int, int]]:
    """[start, stop) on the charger within the day before."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    for item in ordered:
        if item.time_ms > until_ms:
            break
        if item.event_type == constants.EVENT_CHARGE_STARTED and start is None:
            start = item.time_ms
        elif item.event_type == constants.EVENT_CHARGE_STOPPED and start is not None:
            found.append((start, item.time_ms))
            start = None
    if start is not None:
        found.append((start, until_ms))
    from_ms = until_ms - CHARGE_LOOK_BACK_MS
    return [(max(first, from_ms), last) for first, last in found if last > from_ms]


def _charging_ms(ordered: Sequence[Observation], until_ms: int) -> int:
    return sum(last - first for first, last in _charges(ordered, until_ms))


def _rise(ordered: Sequence[Observation], levels: Sequence[Level], until_ms: int) -> int:
    """Percent gained on the charger, as far as levels were reported; 0 when they were not."""
    gained = 0
    for first, last in _charges(ordered, until_ms):
        during = [level.percent for level in levels if first <= level.time_ms <= last and level.percent is not None]
        before = [level.percent for level in levels if level.time_ms < first and level.percent is not None]
        if during:
            gained += max(during) - (before[-1] if before else during[0])
    return gained


def _low(ordered: Sequence[Observation], levels: Sequence[Level], device: tuple[int, str]) -> list[Finding]:
    """A charged device that runs low tells its wearer; the service only notes it (no published alert code)."""
    found: list[Finding] = []
    for item in ordered:
        if item.event_type != constants.EVENT_BATTERY_LOW:
            continue
        if found and (found[-1].end_ms is None or item.time_ms <= found[-1].end_ms):
            continue
        found.append(
            Finding(
                key=f"low/{item.identity}",
                category=Category.BATTERY,
                start_ms=item.time_ms,
                end_ms=_ends(ordered, levels, item.time_ms, LOW_PERCENT),
                cause="Battery of a charged device is low; the wearer has been told to charge it.",
                evidence=identities([item.identity]) | {"percent": item.value},
                device_id=device[0],
                device_activation_id=device[1],
                certainty=Certainty.INFORMATION,
            )
        )
    return found


def _non_charged(ordered: Sequence[Observation], levels: Sequence[Level], device: tuple[int, str]) -> list[Finding]:
    low = (constants.EVENT_BATTERY_LOW, constants.EVENT_BATTERY_CRITICAL)
    warnings = [(item.time_ms, item.identity, item.value) for item in ordered if item.event_type in low]
    warnings += [
        (level.time_ms, level.identity, level.percent)
        for level in levels
        if level.percent is not None and level.percent <= LOW_PERCENT
    ]
    found: list[Finding] = []
    for time_ms, identity, percent in sorted(warnings):
        if found and (found[-1].end_ms is None or time_ms <= found[-1].end_ms):
            continue
        found.append(
            Finding(
                key=f"battery/{identity}",
                category=Category.BATTERY,
                start_ms=time_ms,
                end_ms=_ends(ordered, levels, time_ms, LOW_PERCENT),
                cause=f"Battery of a device that is not charged is low ({percent} %): it needs a new one.",
                evidence=identities([identity]) | {"percent": percent},
                device_id=device[0],
                device_activation_id=device[1],
                alert_code=AlertCode.AL21,
            )
        )
    return found
