"""Builders for backend tests: records as a device encodes them, batches as a gateway uploads them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from emwire import codec, constants, positions

EPOCH_S = constants.TIME_EPOCH_UNIX_S


def at(text: str) -> int:
    """ISO text in UTC as unix milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def wire(ms: int) -> int:
    """Unix milliseconds as wire seconds."""
    return ms // 1000 - EPOCH_S


@dataclass
class Clock:
    """A clock that stands where the test puts it."""

    ms: int = at("2026-03-02T12:00:00")

    def now_ms(self) -> int:
        return self.ms


@dataclass
class Device:
    """Makes records of one device with the next sequence; `unset` leaves the clock at 0."""

    device_id: int
    epoch: int = 1
    sequence: int = 0
    boot_ms: int = at("2026-03-01T00:00:00")
    unset: bool = False
    made: list[dict[str, Any]] = field(default_factory=list)

    def header(self, ms: int) -> tuple[int, int, int, int]:
        return (
            (0, 65535, 0, (ms - self.boot_ms) // 1000) if self.unset else (3, 50, wire(ms), (ms - self.boot_ms) // 1000)
        )

    def raw(self, payload: bytes, ms: int, alarm: bool = False) -> dict[str, Any]:
        record = {
            "deviceId": self.device_id,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "alarm": alarm,
            "receivedTimeMs": ms + 2000,
            "link": "serial",
            "payload": payload.hex(),
        }
        self.sequence += 1
        self.made.append(record)
        return record

    def reboot(self, ms: int) -> None:
        self.epoch, self.sequence, self.boot_ms = self.epoch + 1, 0, ms

    def hello(
        self, ms: int, model: int = constants.MODEL_ANKLE_GPS, previous: tuple[int, int] = (0, 0)
    ) -> dict[str, Any]:
        body = codec.Hello(*self.header(ms), model, 1, 0, 1, 0, constants.RESET_POWER_ON, 0, 0, *previous, 0)
        return self.raw(body.encode(), ms)

    def status(self, ms: int, percent: int = 80, charging: int = 0, made: int = 0) -> dict[str, Any]:
        body = codec.Status(*self.header(ms), percent, 3900, charging, 2500, 50000, 60000, 5, 500, made, 5, 0, 0, 0)
        return self.raw(body.encode(), ms)

    def event(self, event_type: int, ms: int, subject: int = 0, value: int = 0) -> dict[str, Any]:
        event_time = 0 if self.unset else wire(ms)
        body = codec.Event(*self.header(ms), event_type, event_time, subject, value, b"")
        return self.raw(body.encode(), ms, alarm=True)

    def reading(self, ms: int, tac: int, ir_mv: int = 1000, quality: int = 0, celsius: float = 33.0) -> dict[str, Any]:
        measured = 0 if self.unset else wire(ms)
        body = codec.AlcoholReading(*self.header(ms), measured, tac, ir_mv, int(celsius * 100), 3, quality)
        return self.raw(body.encode(), ms)

    def fixes(self, *fixes: tuple[int, float, float, int, int]) -> dict[str, Any]:
        """Each fix: unix ms, latitude, longitude, precision in m (-1 unknown), mechanism."""
        rows = [
            (wire(ms), round(latitude * 1e6), round(longitude * 1e6), 40, 90, precision, 9, 9, mechanism)
            for ms, latitude, longitude, precision, mechanism in fixes
        ]
        body = codec.PositionBlock(*self.header(fixes[-1][0]), bytes(positions.encode_block(rows, positions.ALL)))
        return self.raw(body.encode(), fixes[-1][0])

    def presence(
        self,
        beacon: int,
        start_ms: int,
        heard: bool = True,
        duration_s: int = 60,
        listened_s: int | None = None,
        authenticity: int | None = None,
        strap: int = constants.STRAP_CLOSED,
        battery: int = 90,
        first_s: int = 1,
        last_s: int | None = None,
    ) -> dict[str, Any]:
        listened = duration_s if listened_s is None else listened_s
        last = duration_s - 1 if last_s is None else last_s
        judged = constants.AUTHENTICITY_AUTHENTIC if heard else constants.AUTHENTICITY_UNKNOWN
        if authenticity is not None:
            judged = authenticity
        body = codec.Presence(
            *self.header(start_ms + duration_s * 1000),
            beacon,
            judged,
            wire(start_ms),
            duration_s,
            listened,
            duration_s - listened,
            6 if heard else 0,
            *((first_s, last, -80, -70, -60, battery, strap) if heard else (65535, 65535, 127, 127, 127, 255, 255)),
        )
        return self.raw(body.encode(), start_ms + duration_s * 1000)


def batch(records: list[dict[str, Any]], number: int = 1, uploaded_ms: int | None = None) -> dict[str, Any]:
    if uploaded_ms is None:
        uploaded_ms = max((record["receivedTimeMs"] for record in records), default=0) + 500
    return {
        "batchId": f"batch-{number}",
        "gatewayId": "gateway-1",
        "uploadedDateMs": uploaded_ms,
        "records": records,
    }


def minutes(count: float) -> int:
    """Minutes as milliseconds."""
    return int(timedelta(minutes=count).total_seconds() * 1000)


ANKLE, HOME, ALCOHOL, PID = 11, 12, 13, 14

ORDERS = """
[[wearers]]
personId = "P1"

[[activations]]
deviceActivationId = "A-ankle"
deviceId = 11
personId = "P1"
deviceActivationDate = 2026-03-01T00:00:00Z

[[activations]]
deviceActivationId = "A-home"
deviceId = 12
personId = "P1"
deviceActivationDate = 2026-03-01T00:00:00Z
curfewAddress = "PRIMARY"

[[activations]]
deviceActivationId = "A-alcohol"
deviceId = 13
personId = "P1"
deviceActivationDate = 2026-03-01T00:00:00Z

[[activations]]
deviceActivationId = "A-pid"
deviceId = 14
personId = "P1"
deviceActivationDate = 2026-03-01T00:00:00Z

[[orders]]
orderId = "O1"
personId = "P1"
orderType = "COMMUNITY"
startDate = 2026-03-01
endDate = 2026-11-30
timezone = "Europe/London"

[orders.curfew]
[[orders.curfew.timetable]]
dayOfWeek = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]
startTime = "19:00"
endTime = "07:00"

[[orders.enforcementZones]]
zoneId = "Z1"
zoneType = "EXCLUSION"
name = "High Street"
geometry = { type = "Circle", center = [-0.1, 51.5], radiusMetres = 300 }

[orders.alcohol]
monitoringType = "ALCOHOL_ABSTINENCE"
"""
