"""A GNSS receiver as bytes on a UART: synthetic NMEA or UBX-NAV-PVT from a position, or a recording."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from emrig.clock import Timer
from emrig.gnss_replay import recorded_bytes
from emrig.micropython import rig_wire as w
from emrig.parts import OutputPin
from emrig.rig import Rig
from emrig.target import Device

# Time to first fix after power-on: u-blox M8 data sheet, hot 1 s, cold 26 s (a start after more than 4 h off).
HOT_START_MS = 2_000
COLD_START_MS = 26_000
EPHEMERIS_VALID_MS = 4 * 3_600_000
KNOTS_PER_KPH = 1 / 1.852


@dataclass(frozen=True, slots=True)
class Sky:
    """What a receiver would find out at a moment; degrees, km/h. `fix` False: no view of the sky."""

    latitude: float
    longitude: float
    speed_kph: float = 0.0
    direction: float = 0.0
    satellites: int = 11
    hdop: float = 0.9
    fix: bool = True


class SyntheticReceiver:
    """Sends an epoch a second while powered."""

    def __init__(self, rig: Rig, device: Device, sky: Callable[[], Sky], protocol: str = "nmea") -> None:
        self._rig, self._device, self._sky = rig, device, sky
        self._epoch = {"nmea": nmea_epoch, "ubx": ubx_epoch}[protocol]
        self._timer: Timer | None = None
        self._ready_ms = 0
        self._last_fix_ms = -EPHEMERIS_VALID_MS
        OutputPin(device, "gnss_power", self._on_power)
        device.parts["gnss"] = self

    def output(self, kind: int, payload: bytes) -> None:
        """Configuration from the device: this receiver is set up as it comes."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """A UART has no calls."""
        return b""

    def _on_power(self, level: int) -> None:
        now = self._rig.clock.now_ms()
        if level:
            cold = now - self._last_fix_ms >= EPHEMERIS_VALID_MS
            self._ready_ms = now + (COLD_START_MS if cold else HOT_START_MS)
            self._timer = self._rig.clock.call_at(self._next_second(), self._tick)
        elif self._timer:
            self._timer.cancel()
            self._timer = None

    def _next_second(self) -> int:
        unix = self._rig.clock.unix_ms()
        return self._rig.clock.now_ms() + 1000 - unix % 1000

    def _tick(self) -> None:
        now = self._rig.clock.now_ms()
        sky = self._sky()
        fix = sky.fix and now >= self._ready_ms
        if fix:
            self._last_fix_ms = now
        self._device.feed("gnss", w.DATA, self._epoch(self._rig.clock.unix_ms(), sky, fix))
        self._timer = self._rig.clock.call_at(self._next_second(), self._tick)


class RecordedReceiver:
    """Sends a recording's bytes as they came, an epoch a second of virtual time, then falls silent."""

    def __init__(self, rig: Rig, device: Device, path: Path) -> None:
        self._rig, self._device = rig, device
        self._epochs = list(split_epochs(recorded_bytes(path.read_bytes())))
        self._powered = False
        self._sent = 0
        OutputPin(device, "gnss_power", self._on_power)
        device.parts["gnss"] = self

    @property
    def finished(self) -> bool:
        """Whether the last byte has been sent."""
        return self._sent >= len(self._epochs)

    def output(self, kind: int, payload: bytes) -> None:
        """Configuration from the device: a recording cannot follow it."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """A UART has no calls."""
        return b""

    def _on_power(self, level: int) -> None:
        if level and not self._powered:
            self._rig.clock.call_later(1000, self._tick)
        self._powered = bool(level)

    def _tick(self) -> None:
        # The recording waits while the receiver is off, so that none of it is lost to a tag that sleeps between fixes.
        if self._powered and not self.finished:
            self._device.feed("gnss", w.DATA, self._epochs[self._sent])
            self._sent += 1
            self._rig.clock.call_later(1000, self._tick)


def split_epochs(data: bytes) -> Iterator[bytes]:
    """Cut a receiver's bytes before each sentence or message that starts an epoch (GGA or RMC, NAV-PVT), if any.

    The first kind of sentence seen leads every epoch; binary recordings are cut before each NAV-PVT.
    """
    leads = [lead for lead in (b"\xb5b\x01\x07", *_first_sentence(data)) if lead in data]
    if not leads:
        yield data
        return
    start = 0
    while (end := data.find(leads[0], start + 1)) >= 0:
        yield data[start:end]
        start = end
    yield data[start:]


def _first_sentence(body: bytes) -> Iterator[bytes]:
    for index in range(len(body) - 6):
        if body[index : index + 1] == b"$" and body[index + 3 : index + 6] in (b"GGA", b"RMC", b"GNS"):
            yield body[index : index + 6]
            return


def nmea_epoch(unix_ms: int, sky: Sky, fix: bool) -> bytes:
    """RMC, GGA and GSA of one second (NMEA 0183 version 4.1)."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    clock, date = f"{moment:%H%M%S}.{moment.microsecond // 10000:02d}", f"{moment:%d%m%y}"
    if not fix:
        return _sentence(f"GNRMC,{clock},V,,,,,,,{date},,,N") + _sentence(f"GNGGA,{clock},,,,,0,00,99.99,,,,,,")
    latitude, longitude = _nmea_degrees(sky.latitude, 2, "NS"), _nmea_degrees(sky.longitude, 3, "EW")
    speed = sky.speed_kph * KNOTS_PER_KPH
    return (
        _sentence(f"GNRMC,{clock},A,{latitude},{longitude},{speed:.3f},{sky.direction:.2f},{date},,,A")
        + _sentence(f"GNGGA,{clock},{latitude},{longitude},1,{sky.satellites:02d},{sky.hdop:.2f},35.0,M,47.0,M,,")
        + _sentence(f"GNGSA,A,3,01,02,03,04,05,06,07,08,09,10,11,,1.60,{sky.hdop:.2f},1.30")
    )


def ubx_epoch(unix_ms: int, sky: Sky, fix: bool) -> bytes:
    """One UBX-NAV-PVT (u-blox M8 protocol specification, 92 bytes of payload)."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    payload = struct.pack(
        "<IHBBBBBBIiBBBBiiiiIIiiiiiIIHHIiI",
        unix_ms % 604_800_000,
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        0x07,
        50,
        moment.microsecond * 1000,
        3 if fix else 0,
        0x01 if fix else 0,
        0,
        sky.satellites if fix else 0,
        round(sky.longitude * 1e7) if fix else 0,
        round(sky.latitude * 1e7) if fix else 0,
        82_000,
        35_000,
        round(sky.hdop * 2_500),
        4_000,
        0,
        0,
        0,
        round(sky.speed_kph / 3.6 * 1000),
        round(sky.direction * 1e5),
        200,
        500_000,
        round(sky.hdop * 170),
        0,
        0,
        0,
        0,
    )
    body = b"\x01\x07" + struct.pack("<H", len(payload)) + payload
    first = second = 0
    for byte in body:
        first = (first + byte) & 0xFF
        second = (second + first) & 0xFF
    return b"\xb5b" + body + bytes((first, second))


def _sentence(body: str) -> bytes:
    checksum = 0
    for byte in body.encode():
        checksum ^= byte
    return f"${body}*{checksum:02X}\r\n".encode()


def _nmea_degrees(degrees: float, digits: int, hemispheres: str) -> str:
    # To 1e-5 minute, as receivers give it, without a minute of 60.
    total = round(abs(degrees) * 6_000_000)
    whole, rest = divmod(total, 6_000_000)
    return f"{whole:0{digits}d}{rest // 100_000:02d}.{rest % 100_000:05d},{hemispheres[degrees < 0]}"
