"""Recorded bracelets through tag, wire, gateway and backend: a drinking event for each wearer who drank, no tamper."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

DETECTION_G_PER_DL = 0.020
WEARERS = ("BK7610", "CC6740", "DK3500", "JB3156", "MC7070", "SA0297")


def recorded(path: Path) -> list[float]:
    """TAC of every row, g/dL."""
    with path.open(newline="") as file:
        return [float(row["tac_g_per_dl"]) for row in csv.DictReader(file)]


def times(path: Path) -> list[str]:
    """Local time of every row, which the replay takes as UTC."""
    with path.open(newline="") as file:
        return [row["local_time"] for row in csv.DictReader(file)]


def longest_run(levels: list[float]) -> int:
    """Readings in a row at or above the detection limit."""
    longest = run = 0
    for level in levels:
        run = run + 1 if level >= DETECTION_G_PER_DL else 0
        longest = max(longest, run)
    return longest


@pytest.mark.slow
@pytest.mark.parametrize("wearer", WEARERS)
def test_each_drinking_wearer_has_an_event_and_none_a_tamper(wearer: str, shared_data: Path, micropython: str) -> None:
    path = shared_data / "alcohol" / f"{wearer}.csv"
    levels = recorded(path)
    assert longest_run(levels) >= 3, "the recording is not what this test is about"
    done = subprocess.run(
        [sys.executable, "-m", "emgate.cli", "replay", "alcohol", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    readings = [item for item in objects if item["kind"] == "reading"]
    alerts = [item for item in objects if item["kind"] == "alert"]
    assert [reading["readingDate"][:16] for reading in readings] == [row[:16] for row in times(path)]
    measured = [round(reading["tacGramsPerDecilitre"], 3) for reading in readings]
    assert measured == levels, "the readings are not the recording's"
    drinking = [alert for alert in alerts if alert["condition"] == "alcohol" and alert["certainty"] == "VIOLATION"]
    assert drinking, "no drinking event"
    assert {alert["condition"] for alert in alerts} == {"alcohol"}, "something else than drinking was alleged"


def test_a_bad_recording_is_refused_plainly(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("local_time,tac_g_per_dl,ir_volts,temperature_f\n2017-05-02T10:36:54,much,1.1,74\n")
    done = subprocess.run(
        [sys.executable, "-m", "emgate.cli", "replay", "alcohol", str(bad)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert "Traceback" not in done.stderr
