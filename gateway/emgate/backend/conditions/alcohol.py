"""Alcohol: drinking events from runs of transdermal readings, interferents, wet sensors, and lost contact.

Rates of rise and fall are shown with an event and never decide it: of the 28 runs in the published SCRAM recordings
(UCI "Bar Crawl") only three pass the often-quoted rate rule.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from emwire import constants

from emgate.backend.conditions.finding import Finding, Identity, identities, minutes_text
from emgate.backend.orders import Alcohol
from emgate.backend.vocabulary import Category, Certainty

THRESHOLD_UG_PER_L = 200_000
"""0.020 g/dL, the level above which fielded bracelets detect (SCRAM)."""
RUN_READINGS = 3
"""Three readings in a row: one or two are what perfume and cleaning fluid do."""
LONGEST_BETWEEN_MS = 2 * 3_600_000
"""Readings further apart are not in a row: twice the hourly sampling of ordinary use, so that one may be missing."""
FAST_RISE_UG_PER_L_PER_H = 500_000
"""0.05 g/dL an hour, the often-quoted limit of absorption; an isolated reading above it is called fast."""
CONTACT_DEVIATION_MV = 500
CONTACT_TAMPER_MS = 10 * 3_600_000
"""IR contact more than 0.5 V off its own baseline for more than 10 h (field notes §2)."""
BASELINE_FIRST = 12
"""Readings that found the baseline: the first hour after fitting has one every 5.5 min, then every 30."""
BASELINE_MS = 7 * 86_400_000
"""The baseline is the median of a week of readings in contact: skin and season drift slower, obstruction faster."""

SET_ASIDE = constants.QUALITY_WET_SENSOR | constants.QUALITY_CELL_FAULT
"""Such a reading says nothing about alcohol: it neither counts in a run nor ends one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: unix ms, µg/L, mV, quality bits."""

    time_ms: int
    tac_ug_per_l: int
    contact_ir_mv: int
    quality: int
    identity: Identity


def threshold(condition: Alcohol) -> int:
    """The order's own level, else the detection level."""
    return condition.thresholdMicrogramsPerLitre or THRESHOLD_UG_PER_L


def judge(readings: Sequence[Reading], threshold_ug_per_l: int, wearer: tuple[int, str]) -> list[Finding]:
    """Drinking events and interferent flags of one device, from readings in any order."""
    ordered = _ordered(readings)
    valid = [reading for reading in ordered if not reading.quality & SET_ASIDE]
    found: list[Finding] = []
    for first, after in _runs(valid, threshold_ug_per_l):
        run = valid[first:after]
        before = valid[first - 1] if first and _in_a_row(valid[first - 1], run[0]) else None
        following = valid[after] if after < len(valid) else None
        adjoining = following if following is not None and _in_a_row(run[-1], following) else None
        if len(run) >= RUN_READINGS:
            found.append(_drinking(run, before, adjoining, following is not None, threshold_ug_per_l, wearer))
        elif following is not None:
            found.append(_interferent(run, before, threshold_ug_per_l, wearer))
    wet = [reading for reading in ordered if reading.quality & SET_ASIDE]
    found.extend(_set_aside(wet, threshold_ug_per_l, wearer))
    return found


def _ordered(readings: Sequence[Reading]) -> list[Reading]:
    return sorted(readings, key=lambda reading: (reading.time_ms, reading.identity))


def _in_a_row(a: Reading, b: Reading) -> bool:
    return b.time_ms - a.time_ms <= LONGEST_BETWEEN_MS


def _runs(readings: Sequence[Reading], threshold_ug_per_l: int) -> list[tuple[int, int]]:
    """[first, after) of every run of consecutive readings at or above the threshold."""
    found: list[tuple[int, int]] = []
    first: int | None = None
    for number, reading in enumerate(readings):
        above = reading.tac_ug_per_l >= threshold_ug_per_l
        if first is not None and (not above or not _in_a_row(readings[number - 1], reading)):
            found.append((first, number))
            first = None
        if above and first is None:
            first = number
    if first is not None:
        found.append((first, len(readings)))
    return found


def _rate(a: Reading, b: Reading) -> float | None:
    """g/dL per hour from a to b."""
    if b.time_ms <= a.time_ms:
        return None
    return round((b.tac_ug_per_l - a.tac_ug_per_l) / 1e7 * 3_600_000 / (b.time_ms - a.time_ms), 4)


def _grams(micrograms_per_litre: int) -> str:
    return f"{micrograms_per_litre / 1e7:.3f} g/dL"


def _drinking(
    run: list[Reading],
    before: Reading | None,
    adjoining: Reading | None,
    over: bool,
    threshold_ug_per_l: int,
    wearer: tuple[int, str],
) -> Finding:
    peak = max(run, key=lambda reading: reading.tac_ug_per_l)
    end = adjoining or run[-1]
    rise, fall = _rate(before or run[0], peak), _rate(peak, end)
    evidence: dict[str, Any] = identities([reading.identity for reading in run]) | {
        "readings": len(run),
        "thresholdMicrogramsPerLitre": threshold_ug_per_l,
        "peakMicrogramsPerLitre": peak.tac_ug_per_l,
        "peakMs": peak.time_ms,
        "absorptionRate": rise,
        "eliminationRate": None if fall is None else -fall,
        "rateUnit": "g/dL per hour",
        "interferentSuspected": sum(bool(reading.quality & constants.QUALITY_INTERFERENT_SUSPECTED) for reading in run),
        "contactLost": sum(bool(reading.quality & constants.QUALITY_CONTACT_LOST) for reading in run),
    }
    return Finding(
        key=f"drinking/{run[0].time_ms}",
        category=Category.ALCOHOL,
        start_ms=run[0].time_ms,
        end_ms=run[-1].time_ms if over else None,
        cause=f"Drinking event: {len(run)} readings in a row at or above {_grams(threshold_ug_per_l)} over"
        f" {minutes_text(run[-1].time_ms - run[0].time_ms)}, peak {_grams(peak.tac_ug_per_l)}.",
        evidence=evidence,
        device_id=wearer[0],
        device_activation_id=wearer[1],
        extra={"peakMicrogramsPerLitre": peak.tac_ug_per_l},
    )


def _interferent(
    run: list[Reading], before: Reading | None, threshold_ug_per_l: int, wearer: tuple[int, str]
) -> Finding:
    rise = None if before is None else _rate(before, run[0])
    fast = rise is not None and rise * 1e7 > FAST_RISE_UG_PER_L_PER_H
    peak = max(reading.tac_ug_per_l for reading in run)
    return Finding(
        key=f"interferent/{run[0].time_ms}",
        category=Category.ALCOHOL_INTERFERENT,
        start_ms=run[0].time_ms,
        end_ms=run[-1].time_ms,
        cause=f"{'Fast isolated' if fast else 'Isolated'} spike: {len(run)} reading(s) at or above"
        f" {_grams(threshold_ug_per_l)}, peak {_grams(peak)}; not a run of {RUN_READINGS}, so no drinking event.",
        evidence=identities([reading.identity for reading in run])
        | {"readings": len(run), "peakMicrogramsPerLitre": peak, "absorptionRate": rise, "fast": fast},
        device_id=wearer[0],
        device_activation_id=wearer[1],
        certainty=Certainty.INFORMATION,
    )


def _set_aside(wet: Sequence[Reading], threshold_ug_per_l: int, wearer: tuple[int, str]) -> list[Finding]:
    """Readings at or above the threshold that the sensor itself doubts: shown, so that nobody hides behind water."""
    found = []
    for first, after in _runs(wet, threshold_ug_per_l):
        run = wet[first:after]
        found.append(
            Finding(
                key=f"set-aside/{run[0].time_ms}",
                category=Category.ALCOHOL_INTERFERENT,
                start_ms=run[0].time_ms,
                end_ms=run[-1].time_ms,
                cause=f"{len(run)} reading(s) at or above {_grams(threshold_ug_per_l)} set aside: the sensor was wet or"
                " faulty.",
                evidence=identities([reading.identity for reading in run])
                | {
                    "readings": len(run),
                    "peakMicrogramsPerLitre": max(reading.tac_ug_per_l for reading in run),
                },
                device_id=wearer[0],
                device_activation_id=wearer[1],
                certainty=Certainty.INFORMATION,
            )
        )
    return found


def judge_contact(readings: Sequence[Reading], wearer: tuple[int, str]) -> list[Finding]:
    """Contact tampers: IR off its own baseline for more than ten hours. All readings of the activation are needed."""
    found: list[Finding] = []
    run: list[Reading] = []
    baseline = 0.0
    for reading, level in zip(ordered := _ordered(readings), _baselines(ordered), strict=True):
        if level is not None and abs(reading.contact_ir_mv - level) > CONTACT_DEVIATION_MV:
            run.append(reading)
            baseline = level
            continue
        if run:
            found.extend(_contact(run, baseline, True, wearer))
        run = []
    if run:
        found.extend(_contact(run, baseline, False, wearer))
    return found


def _baselines(ordered: Sequence[Reading]) -> list[float | None]:
    """The baseline each reading is held against; readings off it never become part of it."""
    if len(ordered) < BASELINE_FIRST:
        return [None] * len(ordered)
    first = median(reading.contact_ir_mv for reading in ordered[:BASELINE_FIRST])
    levels: list[float | None] = []
    kept: deque[Reading] = deque()
    values: list[int] = []
    for reading in ordered:
        while kept and reading.time_ms - kept[0].time_ms > BASELINE_MS:
            values.pop(bisect_left(values, kept.popleft().contact_ir_mv))
        level = first if len(values) < BASELINE_FIRST else _middle(values)
        levels.append(level)
        if abs(reading.contact_ir_mv - level) <= CONTACT_DEVIATION_MV:
            kept.append(reading)
            insort(values, reading.contact_ir_mv)
            first = level
    return levels


def _middle(values: Sequence[int]) -> float:
    half = len(values) // 2
    return float(values[half]) if len(values) % 2 else (values[half - 1] + values[half]) / 2


def _contact(run: list[Reading], baseline: float, over: bool, wearer: tuple[int, str]) -> list[Finding]:
    span_ms = run[-1].time_ms - run[0].time_ms
    if span_ms <= CONTACT_TAMPER_MS:
        return []
    worst = max(abs(reading.contact_ir_mv - baseline) for reading in run)
    return [
        Finding(
            key=f"contact/{run[0].time_ms}",
            category=Category.ALCOHOL_CONTACT,
            start_ms=run[0].time_ms,
            end_ms=run[-1].time_ms if over else None,
            cause=f"Infrared contact differed from its own baseline by up to {worst / 1000:.2f} V for"
            f" {minutes_text(span_ms)}: something lies between sensor and skin, or the bracelet is off.",
            evidence=identities([reading.identity for reading in run])
            | {"readings": len(run), "baselineMillivolts": round(baseline), "largestDeviationMillivolts": round(worst)},
            device_id=wearer[0],
            device_activation_id=wearer[1],
        )
    ]
