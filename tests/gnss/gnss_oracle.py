"""Reads gpsd's .log.chk oracles and, independently of the driver, the NMEA sentences of a recording."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

SENTENCE = re.compile(rb"\$([^*$\r\n]*)\*([0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Report:
    """A TPV: time as ISO text or None, position in degrees or None, speed in m/s or None."""

    time: str | None
    latitude: float | None
    longitude: float | None
    mode: int
    speed: float | None


def reports(check: Path) -> list[Report]:
    """Every TPV of an oracle, in order."""
    found = []
    for line in check.read_bytes().splitlines():
        if line.startswith(b"{"):
            item = json.loads(line)
            if item["class"] == "TPV":
                found.append(
                    Report(item.get("time"), item.get("lat"), item.get("lon"), item["mode"], item.get("speed"))
                )
    return found


def epochs(found: list[Report]) -> list[list[Report]]:
    """TPVs with a position, grouped: those of one time, or of one position while there is no time."""
    groups: list[list[Report]] = []
    for report in found:
        if report.latitude is None:
            continue
        last = groups[-1][-1] if groups else None
        position = (report.latitude, report.longitude)
        # gpsd names the time only once it knows the date: the same position goes on.
        same = last is not None and (
            report.time == last.time
            if report.time and last.time
            else last.time is None and position == (last.latitude, last.longitude)
        )
        if same:
            groups[-1].append(report)
        else:
            groups.append([report])
    return groups


def sentence_positions(stream: bytes) -> dict[str, set[tuple[float, float]]]:
    """Positions in degrees of all valid sentences by time of day, "hhmmss.mmm"."""
    found: dict[str, set[tuple[float, float]]] = {}
    for match in SENTENCE.finditer(stream):
        checksum = 0
        for byte in match[1]:
            checksum ^= byte
        fields = match[1].decode("ascii", "replace").split(",")
        if checksum != int(match[2], 16) or len(fields) < 7:
            continue
        kind = fields[0][2:]
        if kind == "GGA" and fields[6] != "0":
            time, position = fields[1], fields[2:6]
        elif kind == "RMC" and fields[2] == "A":
            time, position = fields[1], fields[3:7]
        elif kind == "GNS" and fields[2]:
            time, position = fields[1], fields[2:6]
        elif kind == "GLL" and fields[6] == "A":
            time, position = fields[5], fields[1:5]
        else:
            continue
        found.setdefault(f"{float(time):010.3f}", set()).add(
            (_degrees(position[0], position[1]), _degrees(position[2], position[3]))
        )
    return found


def _degrees(text: str, hemisphere: str) -> float:
    point = text.index(".")
    value = int(text[: point - 2]) + float(text[point - 2 :]) / 60
    return -value if hemisphere in "SW" else value
