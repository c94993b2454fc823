"""A scenario file: which devices, what happens to them, and when. What follows is for the firmware to notice."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCENARIOS = Path(__file__).parent / "scenarios"
DAY_MS = 86_400_000
METRES_PER_DEGREE = 111_320.0


class ScenarioError(ValueError):
    """A scenario file that cannot be used; the message names the file, the field and what is expected."""


ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$")]
"""UTC time of day; the first such moment at or after the scenario's start."""
Span = tuple[ClockTime, ClockTime]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Waypoint(_Model):
    """Where the wearer is at a moment; between two of them they move in a straight line."""

    at: ClockTime
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]


class Drinking(_Model):
    """An episode: TAC rises from `begin` to the peak at `peak`, then falls by `fall_ug_per_l_per_h`."""

    begin: ClockTime
    peak: ClockTime
    peak_ug_per_l: Annotated[float, Field(gt=0)]
    fall_ug_per_l_per_h: Annotated[float, Field(gt=0)] = 200_000.0


class DeviceScenario(_Model):
    """One device, its settings, and what happens to it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    model: Literal["ankle_gps", "home_unit", "pid", "alcohol"]
    device_id: Annotated[int, Field(ge=1, le=0xFFFFFFFF)]
    configuration: dict[str, int] = {}
    settings: dict[str, int] = {}
    receiver: Literal["nmea", "ubx"] = "nmea"
    track: tuple[Waypoint, ...] = ()
    no_sky: tuple[Span, ...] = ()
    strap_open: tuple[Span, ...] = ()
    mains_lost: tuple[Span, ...] = ()
    link_cut: tuple[Span, ...] = ()
    away: tuple[Span, ...] = ()
    drinking: tuple[Drinking, ...] = ()
    beacons: tuple[str, ...] = ()
    battery_percent: Annotated[float, Field(gt=0, le=100)] = 92.0
    battery_percent_per_h: float = -0.8


class Scenario(_Model):
    """The file."""

    name: str
    start: datetime
    duration_h: Annotated[float, Field(gt=0)]
    speed: Annotated[float, Field(gt=0)] = 480.0
    seed: int = 1
    orders: Path
    devices: tuple[DeviceScenario, ...]

    @property
    def start_unix_ms(self) -> int:
        """When the scenario begins."""
        return round(self.start.replace(tzinfo=self.start.tzinfo or UTC).timestamp() * 1000)

    def offset_ms(self, clock_time: str) -> int:
        """Milliseconds from the start to the first such time of day."""
        parts = [int(part) for part in clock_time.split(":")] + [0]
        of_day = (parts[0] * 3600 + parts[1] * 60 + parts[2]) * 1000
        return (of_day - self.start_unix_ms) % DAY_MS

    def within(self, spans: Sequence[Span], now_ms: int) -> bool:
        """Whether now_ms after the start lies in one of the spans."""
        return any(self.offset_ms(begin) <= now_ms < self.offset_ms(end) for begin, end in spans)


def load(path: Path) -> Scenario:
    """Read a scenario; ScenarioError says what is wrong and where."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if isinstance(data.get("like"), str):
            # Another scenario, but for what this file says; `every` is of all its devices.
            like = tomllib.loads((path.parent / data.pop("like")).read_text(encoding="utf-8"))
            like["devices"] = [device | data.get("every", {}) for device in like["devices"]]
            data.pop("every", None)
            data = like | data
    except OSError as error:
        raise ScenarioError(f"{path}: cannot read the scenario: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}") from None
    if isinstance(data.get("orders"), str):
        data["orders"] = str(path.parent / data["orders"])
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(f"{path}: {where}: {first['msg']}") from None
    names = [device.name for device in scenario.devices]
    for device in scenario.devices:
        if names.count(device.name) > 1:
            raise ScenarioError(f"{path}: two devices are named {device.name}; give each a name of its own")
        for beacon in device.beacons:
            if beacon not in names:
                raise ScenarioError(f"{path}: {device.name} listens for {beacon}, which is no device of this scenario")
    if not scenario.orders.is_file():
        raise ScenarioError(f"{path}: orders: there is no file {scenario.orders}")
    return scenario


def position(scenario: Scenario, device: DeviceScenario, now_ms: int) -> tuple[float, float, float, float]:
    """Latitude and longitude in degrees, speed in km/h and direction in degrees, now_ms after the start."""
    points = sorted((scenario.offset_ms(point.at), point.latitude, point.longitude) for point in device.track)
    if not points:
        raise ScenarioError(f"{device.name} has no track")
    before = next((point for point in reversed(points) if point[0] <= now_ms), points[0])
    after = next((point for point in points if point[0] > now_ms), before)
    if after == before or after[0] <= before[0] or now_ms < before[0]:
        return before[1], before[2], 0.0, 0.0
    share = (now_ms - before[0]) / (after[0] - before[0])
    north, east = after[1] - before[1], after[2] - before[2]
    metres_east = east * METRES_PER_DEGREE * math.cos(math.radians(before[1]))
    metres = math.hypot(north * METRES_PER_DEGREE, metres_east)
    speed_kph = metres / (after[0] - before[0]) * 3600
    direction = math.degrees(math.atan2(metres_east, north * METRES_PER_DEGREE)) % 360 if metres else 0.0
    return before[1] + north * share, before[2] + east * share, speed_kph, direction


def tac_ug_per_l(scenario: Scenario, device: DeviceScenario, now_ms: int) -> float:
    """Transdermal alcohol, µg/L, now_ms after the start."""
    level = 0.0
    for episode in device.drinking:
        begin, peak = scenario.offset_ms(episode.begin), scenario.offset_ms(episode.peak)
        if begin <= now_ms < peak:
            level = max(level, episode.peak_ug_per_l * (now_ms - begin) / (peak - begin))
        elif now_ms >= peak:
            level = max(level, episode.peak_ug_per_l - episode.fall_ug_per_l_per_h * (now_ms - peak) / 3_600_000)
    return max(0.0, level)
