"""Recorded input in the place of a scenario's synthetic input: a receiver's bytes, alcohol readings, advertisements."""

from __future__ import annotations

import io
import json
from datetime import datetime
from pathlib import Path

from emrig import gnss_replay
from emrig.air.recording import BeaconRecording
from emrig.models.alcohol_cell import read_recording
from emrig.scenario import Scenario
from emrig.station import Recordings


def load(scenario: Scenario, gnss: Path | None, alcohol: Path | None, ble: Path | None) -> tuple[Scenario, Recordings]:
    """The scenario, moved to the receiver recording's own date, and the recordings. ValueError, OSError: a bad file."""
    recordings = Recordings(gnss=gnss)
    if gnss is not None:
        start = first_date(gnss)
        if start is not None:
            # The tag sets its clock by the receiver; the gateway's must agree with it.
            scenario = scenario.model_copy(update={"start": start})
    if alcohol is not None:
        recordings.alcohol = read_recording(alcohol)[1]
    if ble is not None:
        recordings.ble_rssi_dbm = BeaconRecording.read(ble).repeated_rssi_dbm
    return scenario, recordings


def first_date(gnss: Path) -> datetime | None:
    """The first date that the firmware's driver finds in a receiver's bytes; ValueError when they hold no fix."""
    output = io.StringIO()
    try:
        gnss_replay.replay(gnss, output, io.StringIO())
    except gnss_replay.ReplayError as error:
        raise ValueError(str(error)) from None
    fixes = [json.loads(line) for line in output.getvalue().splitlines()]
    if not fixes:
        raise ValueError(f"{gnss}: no fix in it; give a recording of NMEA or UBX bytes with a fix")
    dates = [fix["gpsDate"] for fix in fixes if fix["gpsDate"]]
    return datetime.fromisoformat(dates[0].replace("Z", "+00:00")) if dates else None
