# What the tag concludes from satellites, cell and motion together, as events: shielding, jamming, motion without fix.
import struct

from drivers.modem import DBM_UNKNOWN
from emwire import constants

from tags import geometry, shielding
from tags.motion import MotionWithoutFix

# Positions of a tag that lies still wander by this much beyond their confidence circles (multipath at a window).
STILL_METRES = 100
# The tag's own motor: its longest pattern, and the sensor's 41 s until it says "still" (drivers/lis2dw12.py).
SHAKEN_MS = 46000


class Rules:
    """Fed by the trail; raises the events itself."""

    def __init__(self, device, modem, motion):
        self._device = device
        self._modem = modem
        self._motion = motion
        self._shielding = shielding.Shielding()
        self._jamming = shielding.Suspicion(1)
        self._cell_jamming = shielding.Suspicion(1)
        self._without = MotionWithoutFix(device.ticks_ms())
        self._place = None
        self._looked_ms = None
        self._dbm = DBM_UNKNOWN
        self._faulty = False

    def fixed(self, now_ms: int, kph: int, satellites: int):
        self._faulty = False
        self._shielding.fixed(now_ms, kph, satellites)
        seconds = self._without.fixed(now_ms)
        if seconds:
            self._device.records.event(constants.EVENT_MOTION_GNSS_RESTORED, seconds)

    async def failed(self, now_ms: int, cause: int):
        """No fix, and no fault: what about the cell?"""
        self._faulty = False
        self._shielding.failed(now_ms, cause)
        if self._shielding.may_begin(now_ms, self._device.settings):
            await self._look(now_ms)
        self.cell(self._device.ticks_ms())

    async def _look(self, now_ms):
        registered, self._dbm = await self._modem.look()
        if registered:
            self._looked_ms = now_ms

    def receiver_faulty(self, now_ms: int):
        """Nothing can be said of a wearer whose receiver does not work."""
        self._faulty = True
        self._shielding.faulty()
        self._without.forget(now_ms)

    def cell(self, now_ms: int):
        """The modem's present word about the network."""
        registered = self._modem.registered
        self._shielding.cell(now_ms, registered, self._dbm if registered else DBM_UNKNOWN)

    def interference(self, report: tuple):
        """As the receiver reported it last; only receivers that do can be judged."""
        device = self._device
        seen = shielding.jammed(report, device.settings.gnss_jamming_level)
        self._jamming.needed = device.settings.gnss_jamming_reports
        change = self._jamming.judge(device.ticks_ms(), seen)
        if change is not None:
            begins, seconds = change
            device.records.event(
                constants.EVENT_GNSS_JAMMING_SUSPECTED if begins else constants.EVENT_GNSS_JAMMING_ENDED,
                report[1] if begins else seconds,
                evidence=struct.pack(shielding.JAMMING_FORMAT, *report),
            )

    def doubted(self, time_s: int, kph: int, metres: int, seconds: int):
        evidence = struct.pack("<II", metres, min(seconds, 0xFFFFFFFF))
        self._device.records.event(constants.EVENT_POSITION_DOUBTED, kph, evidence=evidence, event_time_s=time_s)

    def moved(self, latitude: int, longitude: int, precision_m: int) -> bool:
        """Whether a tag that claims to lie still is clearly elsewhere than when it last was asked."""
        place, self._place = self._place, (latitude, longitude, max(precision_m, 0))
        if place is None or not self._motion.still(self._device.ticks_ms(), 60000):
            return False
        apart = geometry.distance_m(place[0], place[1], latitude, longitude)
        return apart > STILL_METRES + place[2] + max(precision_m, 0)

    def moves(self, since_ms: int) -> bool:
        """Whether the sensor says so now, of anything but the tag's own motor since then."""
        shaken_ms = self._device.shaken_ms
        return self._motion.level == 1 and (shaken_ms is None or shaken_ms + SHAKEN_MS <= since_ms)

    def motion_changes(self, now_ms: int):
        """Called before the sensor's new level is taken."""
        device = self._device
        settings = device.settings
        seconds = self._without.advance(
            now_ms,
            not self._faulty and self.moves(self._without.counted_ms),
            settings.motion_without_fix_s * 1000,
            settings.motion_window_s * 1000,
            settings.motion_grace_s * 1000,
        )
        if seconds:
            device.records.event(constants.EVENT_MOTION_WITHOUT_GNSS, seconds)

    def due_ms(self):
        """When check() has something to say at the latest."""
        return self._shielding.due_ms(self._device.settings)

    async def check(self):
        device = self._device
        now = device.ticks_ms()
        registered = self._modem.registered
        look_ms = device.settings.modem_look_s * 1000  # and when satellites have just been lost
        if registered is False or (registered and (self._looked_ms is None or now - self._looked_ms >= look_ms)):
            await self._look(now)
        self.cell(now)
        change = self._shielding.check(now, device.settings)
        if change is not None:
            begins, seconds, evidence = change
            event = constants.EVENT_SHIELDING_SUSPECTED if begins else constants.EVENT_SHIELDING_ENDED
            device.records.event(event, seconds, evidence=evidence)
        change = None
        if self._modem.registered is not None:  # else it restarts, or sleeps
            seen = shielding.cell_jammed(self._modem.registered, self._dbm, device.settings.cellular_jamming_dbm)
            change = self._cell_jamming.judge(now, seen, device.settings.cellular_jamming_s * 1000 if seen else 0)
        if change is not None:
            begins, seconds = change
            event = constants.EVENT_CELLULAR_JAMMING_SUSPECTED if begins else constants.EVENT_CELLULAR_JAMMING_ENDED
            device.records.event(event, seconds, evidence=struct.pack("<b", self._dbm))
        self.motion_changes(now)
