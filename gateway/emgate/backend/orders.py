"""Orders, wearers and activations from a TOML file: attributes spelled as the public services spell them.

Dates in the file: a date-time with an offset is that moment; one without is local time of the order's timezone; a
bare date begins at local midnight and, as an end, includes that day. Stored as UTC, judged as local time.
"""

import json
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from emgate.errors import ConfigError, explain, read_toml

DAY_MS = 86_400_000


class OrderType(StrEnum):
    """Published order types."""

    CIVIL = "CIVIL"
    COMMUNITY = "COMMUNITY"
    IMMIGRATION = "IMMIGRATION"
    POST_RELEASE = "POST_RELEASE"
    PRE_TRIAL = "PRE_TRIAL"
    SPECIAL = "SPECIAL"
    BAIL = "BAIL"


DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
Address = Literal["PRIMARY", "SECONDARY", "TERTIARY"]
Identifier = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)
]


def _device_id(value: object) -> object:
    if isinstance(value, str):
        try:
            return int(value, 16)
        except ValueError:
            raise ValueError("write the device id as a number, or as a string of 8 hexadecimal digits") from None
    return value


def _wall_time(value: object) -> str:
    if isinstance(value, time):
        return value.strftime("%H:%M")
    if isinstance(value, str):
        try:
            return "24:00" if value == "24:00" else datetime.strptime(value, "%H:%M").strftime("%H:%M")
        except ValueError:
            pass
    raise ValueError('write the local time as "HH:MM", for example "19:00"')


def _days(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for day in values:
        if day not in DAYS:
            raise ValueError(f"{day!r} is no day: write one of {', '.join(DAYS)}, or a list of them")
    return [str(day) for day in values]


def _moment(value: object) -> datetime | date:
    if isinstance(value, str):  # how the database keeps it
        return datetime.fromisoformat(value) if "T" in value else date.fromisoformat(value)
    if isinstance(value, date):  # datetime is one
        return value
    raise ValueError("write a date (2026-03-01) or a date-time (2026-03-01T09:00:00Z), without quotes")


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(
            f"unknown time zone {value!r}: write an IANA name such as Europe/London"
            " (a machine without time zone data needs the package tzdata)"
        ) from None
    return value


DeviceId = Annotated[int, BeforeValidator(_device_id), Field(ge=0, le=0xFFFFFFFF)]
WallTime = Annotated[str, BeforeValidator(_wall_time)]
Moment = Annotated[
    datetime | date, BeforeValidator(_moment), PlainSerializer(lambda value: value.isoformat(), return_type=str)
]
Zone = Annotated[str, AfterValidator(_zone)]
Longitude = Annotated[float, Field(ge=-180, le=180)]
Latitude = Annotated[float, Field(ge=-90, le=90)]


class Section(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Wearer(Section):
    """A device wearer. Names are for people; nothing here depends on them."""

    personId: Identifier
    name: str | None = None


class Activation(Section):
    """A device on (or at the home of) a person for a time: [deviceActivationDate, deactivationDate)."""

    deviceActivationId: Identifier
    deviceId: DeviceId
    personId: Identifier
    deviceActivationDate: Moment
    deactivationDate: Moment | None = None
    curfewAddress: Address | None = None
    charged: bool | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, value in (
            ("deviceActivationDate", self.deviceActivationDate),
            ("deactivationDate", self.deactivationDate),
        ):
            if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
                raise ValueError(f"{name} needs a time with an offset: write for example 2026-03-01T09:00:00Z")
        if self.until_ms is not None and self.until_ms <= self.from_ms:
            raise ValueError("deactivationDate is not after deviceActivationDate: correct one of them")
        return self

    @property
    def from_ms(self) -> int:
        """First moment, unix ms."""
        return moment_ms(self.deviceActivationDate, UTC)

    @property
    def until_ms(self) -> int | None:
        """First moment after, unix ms; None while active."""
        return None if self.deactivationDate is None else moment_ms(self.deactivationDate, UTC)


class TimetableEntry(Section):
    """Local curfew times of one or more days of the week; an end not after the start lies on the next day."""

    dayOfWeek: Annotated[tuple[str, ...], BeforeValidator(_days)]
    startTime: WallTime
    endTime: WallTime
    curfewAddress: Address = "PRIMARY"


class AuthorisedAbsence(Section):
    """A time for which the wearer need not be home: it is neither alerted nor added to ATV."""

    startDate: Moment
    endDate: Moment
    reason: str


class Curfew(Section):
    """Curfew condition. Defaults and reasons: conditions/curfew.py."""

    timetable: Annotated[tuple[TimetableEntry, ...], Field(min_length=1)]
    authorisedAbsences: tuple[AuthorisedAbsence, ...] = ()
    absenceGraceMinutes: Annotated[float, Field(gt=0, le=240)] | None = None
    minimumListenedFraction: Annotated[float, Field(gt=0, le=1)] | None = None


class Polygon(Section):
    """GeoJSON polygon: rings of [longitude, latitude]; the first is the outline, further ones are holes."""

    type: Literal["Polygon"]
    coordinates: Annotated[
        tuple[Annotated[tuple[tuple[Longitude, Latitude], ...], Field(min_length=4)], ...], Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _closed(self) -> Self:
        for ring in self.coordinates:
            if ring[0] != ring[-1]:
                raise ValueError("a ring must end with its first point: repeat it at the end")
        return self


class Circle(Section):
    """A circle: centre [longitude, latitude] and radius in metres."""

    type: Literal["Circle"]
    center: tuple[Longitude, Latitude]
    radiusMetres: Annotated[float, Field(gt=0, le=1_000_000)]


class EnforcementZone(Section):
    """A zone. Only EXCLUSION is judged here."""

    zoneId: Identifier
    zoneType: Literal["EXCLUSION", "INCLUSION", "RESTRICTION"]
    name: str = ""
    description: str = ""
    startDate: Moment | None = None
    endDate: Moment | None = None
    geometry: Annotated[Polygon | Circle, Field(discriminator="type")]
    pointsInside: Annotated[int, Field(ge=1, le=5)] | None = None
    pointsOf: Annotated[int, Field(ge=1, le=10)] | None = None

    @model_validator(mode="after")
    def _n_of_m(self) -> Self:
        if self.pointsInside is not None and self.pointsOf is not None and self.pointsOf < self.pointsInside:
            raise ValueError("pointsOf is less than pointsInside: N of M needs M >= N")
        return self


class Alcohol(Section):
    """Alcohol condition; a level order names its level."""

    monitoringType: Literal["ALCOHOL_ABSTINENCE", "ALCOHOL_LEVEL"]
    startDate: Moment | None = None
    endDate: Moment | None = None
    thresholdMicrogramsPerLitre: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _level_has_threshold(self) -> Self:
        if self.monitoringType == "ALCOHOL_LEVEL" and self.thresholdMicrogramsPerLitre is None:
            raise ValueError("ALCOHOL_LEVEL needs thresholdMicrogramsPerLitre (0.020 g/dL = 200000)")
        return self


class Order(Section):
    """MonitoringConditions of one person."""

    orderId: Identifier
    personId: Identifier
    orderType: OrderType
    startDate: Moment
    endDate: Moment | None = None
    timezone: Zone = "Europe/London"
    curfew: Curfew | None = None
    enforcementZones: tuple[EnforcementZone, ...] = ()
    alcohol: Alcohol | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        first, last = self.span_ms()
        if last <= first:
            raise ValueError("endDate is not after startDate: correct one of them")
        return self

    def span_ms(self, start: datetime | date | None = None, end: datetime | date | None = None) -> tuple[int, int]:
        """Unix ms [from, until) of the order, narrowed by a condition's own dates."""
        zone = ZoneInfo(self.timezone)
        first = max(moment_ms(value, zone) for value in (self.startDate, start) if value is not None)
        ends = [end_ms(value, zone) for value in (self.endDate, end) if value is not None]
        return first, min(ends, default=FOR_EVER_MS)


FOR_EVER_MS = 4_102_444_800_000  # 2100-01-01, later than any order


class OrderFile(Section):
    """The whole file."""

    wearers: tuple[Wearer, ...] = ()
    activations: tuple[Activation, ...] = ()
    orders: tuple[Order, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("wearers", "personId", [wearer.personId for wearer in self.wearers])
        _unique("activations", "deviceActivationId", [item.deviceActivationId for item in self.activations])
        _unique("orders", "orderId", [order.orderId for order in self.orders])
        known = {wearer.personId for wearer in self.wearers}
        for person in [item.personId for item in self.activations] + [order.personId for order in self.orders]:
            if person not in known:
                raise ValueError(f"personId {person!r} is no wearer: add a [[wearers]] entry for it")
        by_start = sorted(self.activations, key=lambda item: (item.deviceId, item.from_ms))
        for earlier, later in pairwise(by_start):
            same = earlier.deviceId == later.deviceId
            if same and (earlier.until_ms is None or earlier.until_ms > later.from_ms):
                raise ValueError(
                    f"activations {earlier.deviceActivationId} and {later.deviceActivationId} of device"
                    f" {later.deviceId} overlap: give the earlier a deactivationDate before the later begins"
                )
        return self


def _unique(table: str, name: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{table}: {name} {value!r} is used more than once: give each its own")


def moment_ms(value: datetime | date, zone: ZoneInfo | Any) -> int:
    """Unix ms of a date-time, or of local midnight at which a date begins."""
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=zone)
    return int(value.timestamp() * 1000)


def end_ms(value: datetime | date, zone: ZoneInfo | Any) -> int:
    """Unix ms of the first moment after an end; a bare date is included whole."""
    if not isinstance(value, datetime):
        value = value + timedelta(days=1)
    return moment_ms(value, zone)


def read_order_file(path: Path) -> OrderFile:
    """The file's content; ConfigError names file, field and remedy."""
    try:
        text, content = read_toml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the orders: {error.strerror or error}") from None
    try:
        return OrderFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(path, error, OrderFile, text)) from None


def order_to_json(order: Order) -> str:
    """For the database."""
    return json.dumps(order.model_dump(mode="json", exclude_none=True), sort_keys=True)


def order_from_json(text: str) -> Order:
    """From the database."""
    return Order.model_validate(json.loads(text))
