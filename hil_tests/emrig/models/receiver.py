"""A GNSS receiver as bytes on a UART: synthetic NMEA or UBX-NAV-PVT from a position, or a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from emrig.clock import Timer
from emrig.gnss_replay import recorded_bytes
from emrig.micropython import rig_wire as w
from emrig.models.parts import OutputPin
from emrig.models.ublox import Commands, Sky, ubx_epoch
from emrig.rig import Rig
from emrig.target import Device

# Time to first fix after power-on: u-blox M8 data sheet, hot 1 s, cold 26 s (a start after more than 4 h off).
HOT_START_MS = 2_000
COLD_START_MS = 26_000
EPHEMERIS_VALID_MS = 4 * 3_600_000
KNOTS_PER_KPH = 1 / 1.852
# u-blox M8 receiver description, power management: woken by an edge it loses what comes at first; without a fix it
# gives up a search after a while.
WAKE_DEAF_MS = 100
ACQUISITION_MS = 60_000


class SyntheticReceiver:
    """Sends an epoch a second while powered.

    `protocol`: "nmea" ignores what it is told; "ubx" is a u-blox receiver, `generation` "m8" or "m10": it sends NMEA
    until it is told otherwise, answers every message, reports interference, and can sleep between positions.
    """

    def __init__(
        self, rig: Rig, device: Device, sky: Callable[[], Sky], protocol: str = "nmea", generation: str = "m8"
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.jamming = (1, 12)
        """Jamming state (0 unknown, 1 none, 2 warning, 3 critical) and indicator (0 to 255), as it would report."""
        self._rig, self._device, self._sky = rig, device, sky
        self._ublox = Commands(generation) if protocol == "ubx" else None
        self._timer: Timer | None = None
        self._powered = False
        self._awake_since_ms: int | None = None
        self._awake_ms = 0
        self._ready_ms = 0
        self._epochs = 0
        self._last_fix_ms = -EPHEMERIS_VALID_MS
        self.on_state: Callable[[str], None] = lambda state: None
        """Told "off", "asleep", "acquiring" or "tracking" whenever that changes: what its current goes with."""
        OutputPin(device, "gnss_power", self._on_power)
        device.parts["gnss"] = self

    @property
    def awake_ms(self) -> int:
        """Time that it searched or tracked, so far: what its energy goes with."""
        since = self._awake_since_ms
        return self._awake_ms + (0 if since is None else self._rig.clock.now_ms() - since)

    def restart(self) -> None:
        """A dip of its supply: it starts anew and has forgotten what it was told."""
        if self._powered:
            self._on_power(0)
            self._on_power(1)

    def output(self, kind: int, payload: bytes) -> None:
        """Bytes from the device. An edge wakes a sleeping receiver, which does not understand them."""
        if self._ublox is None or not self._powered:
            return
        if self._awake_since_ms is None:
            self.counters["woken"] += 1
            self._wake()
            return
        if self._rig.clock.now_ms() - self._awake_since_ms < WAKE_DEAF_MS:
            self.counters["bytes_lost"] += len(payload)
            return
        answers = self._ublox.feed(payload)
        if answers:
            self._device.feed("gnss", w.DATA, answers)

    def call(self, operation: int, argument: bytes) -> bytes:
        """A UART has no calls."""
        return b""

    def _on_power(self, level: int) -> None:
        self._sleep()
        self._powered = bool(level)
        if self._ublox is not None:
            self._ublox.forget()
        if level:
            self._wake()
        else:
            self.on_state("off")

    def _wake(self) -> None:
        now = self._rig.clock.now_ms()
        if self._timer:
            self._timer.cancel()
        cold = now - self._last_fix_ms >= EPHEMERIS_VALID_MS
        self._ready_ms = now + (COLD_START_MS if cold else HOT_START_MS)
        self._awake_since_ms = now
        self.counters["starts"] += 1
        self.on_state("acquiring")
        self._timer = self._rig.clock.call_at(self._next_second(), self._tick)

    def _sleep(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._awake_ms = self.awake_ms
        self._awake_since_ms = None

    def _next_second(self) -> int:
        unix = self._rig.clock.unix_ms()
        return self._rig.clock.now_ms() + 1000 - unix % 1000

    def _tick(self) -> None:
        now = self._rig.clock.now_ms()
        sky = self._sky()
        fix = sky.fix and now >= self._ready_ms
        if fix:
            self._last_fix_ms = now
        self.on_state("tracking" if fix else "acquiring")
        self._epochs += 1
        out = self._epoch(sky, fix)
        if out:
            self._device.feed("gnss", w.DATA, out)
        self._timer = self._rig.clock.call_at(self._next_second(), self._tick)
        if self._ublox is not None and self._ublox.power_save:
            self._sleep_if_done(now, fix)

    def _epoch(self, sky: Sky, fix: bool) -> bytes:
        unix_ms = self._rig.clock.unix_ms()
        if self._ublox is None:
            return nmea_epoch(unix_ms, sky, fix)
        out = nmea_epoch(unix_ms, sky, fix) if self._ublox.nmea else b""
        if self._ublox.solutions:
            out += ubx_epoch(unix_ms, sky, fix)
        every = self._ublox.interference_every
        if every and self._epochs % every == 0:
            out += self._ublox.interference(*self.jamming)
            self.counters["interference_reports"] += 1
        return out

    def _sleep_if_done(self, now: int, fix: bool) -> None:
        assert self._ublox is not None and self._awake_since_ms is not None
        begun = self._awake_since_ms
        if fix:
            # On the grid of whole periods, so that every tag of this period wakes in the same second.
            again = now + self._ublox.period_ms - self._rig.clock.unix_ms() % self._ublox.period_ms
        elif now - begun >= ACQUISITION_MS:
            again = now + self._ublox.search_ms
        else:
            return
        self._sleep()
        self.on_state("asleep")
        self._timer = self._rig.clock.call_at(max(again, now + 1000), self._wake)


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
