"""The transdermal alcohol front end: fuel cell behind an ADC, contact infrared, skin temperature, ready line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emrig.clock import Timer
from emrig.models.parts import AdcChannel, InputPin, OutputPin
from emrig.rig import Rig
from emrig.target import Device

# Drawing a sample through the cell takes tens of seconds in fuel-cell instruments.
SAMPLE_MS = 20_000
# A recorded sample stays ready until the firmware has had ample time to read it.
READY_MS = 30_000
# ADC scaling of the board (firmware/drivers/alcohol_cell.py turns it back).
UG_PER_L_PER_COUNT = 100
CELL_ZERO_COUNTS = 1000
CHECK_COUNTS = 20_000
INFRARED_VOLTS_PER_COUNT = 0.0001
CELSIUS_PER_COUNT = 0.01
ZERO_CELSIUS_COUNTS = 10_000
# 1 g/dL = 10 g/L.
UG_PER_L_PER_G_PER_DL = 10_000_000


@dataclass(frozen=True, slots=True)
class Skin:
    """What the front end senses at a moment."""

    tac_ug_per_l: float = 0.0
    infrared_volts: float = 1.1
    celsius: float = 31.0


class AlcoholCell:
    """Answers a raised sample line with the ready line; `skin` says what there is to sense."""

    def __init__(self, rig: Rig, device: Device, skin: Callable[[], Skin]) -> None:
        self._rig = rig
        self.skin = skin
        self.faulty = False
        self.own_schedule = False
        """Whether it samples when it likes instead of when it is asked."""
        self._timer: Timer | None = None
        self.ready = InputPin(device, "alcohol_ready", 0)
        OutputPin(device, "alcohol_sample", self._on_sample)
        self.sensitivity = 1.0
        """Of the cell: what a test current shows, as a share of what it should."""
        check = OutputPin(device, "cell_check")
        AdcChannel(
            device,
            "alcohol_cell",
            lambda: (
                CELL_ZERO_COUNTS
                + self.skin().tac_ug_per_l / UG_PER_L_PER_COUNT
                + check.level * CHECK_COUNTS * self.sensitivity
            ),
        )
        AdcChannel(device, "contact_infrared", lambda: self.skin().infrared_volts / INFRARED_VOLTS_PER_COUNT)
        AdcChannel(device, "skin_temperature", lambda: ZERO_CELSIUS_COUNTS + self.skin().celsius / CELSIUS_PER_COUNT)

    def _on_sample(self, level: int) -> None:
        if self._timer:
            self._timer.cancel()
        if not level:
            self.ready.set(0)
        elif not (self.faulty or self.own_schedule):
            self._timer = self._rig.clock.call_later(SAMPLE_MS, lambda: self.ready.set(1))


@dataclass(frozen=True, slots=True)
class RecordedReading:
    """One row of a recording: offset from the first row, and what was sensed."""

    offset_ms: int
    skin: Skin


def read_recording(path: Path) -> tuple[int, list[RecordedReading]]:
    """Rows of local_time, tac_g_per_dl, ir_volts, temperature_f; unix ms of the first row, its local time taken as UTC.

    Raises ValueError naming file, line and column.
    """
    readings: list[RecordedReading] = []
    start_ms = 0
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                moment = datetime.fromisoformat(row["local_time"]).replace(tzinfo=UTC)
                skin = Skin(
                    float(row["tac_g_per_dl"]) * UG_PER_L_PER_G_PER_DL,
                    float(row["ir_volts"]),
                    (float(row["temperature_f"]) - 32) / 1.8,
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error!r}; expected the columns local_time, tac_g_per_dl, ir_volts, "
                    "temperature_f"
                ) from None
            unix_ms = round(moment.timestamp() * 1000)
            start_ms = start_ms or unix_ms
            if readings and unix_ms - start_ms < readings[-1].offset_ms:
                raise ValueError(f"{path}, line {number}: the time goes backwards; sort the rows by local_time")
            readings.append(RecordedReading(unix_ms - start_ms, skin))
    if not readings:
        raise ValueError(f"{path}: no readings; expected a CSV with a header line")
    return start_ms, readings


class RecordedSchedule:
    """Drives a cell through a recording on the recording's own schedule: it raises the ready line at each row."""

    def __init__(self, rig: Rig, cell: AlcoholCell, readings: list[RecordedReading]) -> None:
        self._rig, self._cell, self._readings = rig, cell, readings
        self._next = 0
        cell.own_schedule = True
        cell.skin = lambda: self._readings[max(0, self._next - 1)].skin

    def start(self, at_ms: int) -> None:
        """Offer the first row at at_ms of virtual time, and each other row at its distance from it."""
        for reading in self._readings:
            self._rig.clock.call_at(at_ms + reading.offset_ms, self._offer)

    def _offer(self) -> None:
        self._next += 1
        self._cell.ready.set(0)
        self._cell.ready.set(1)
        self._rig.clock.call_later(READY_MS, lambda: self._cell.ready.set(0))
