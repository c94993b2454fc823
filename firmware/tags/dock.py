# At home in its dock: on the charger, still, and the dock's authenticated beacon heard. Then no positions are needed.
from binascii import unhexlify

from common.wait import Signal
from drivers.beacon_radio import RSSI_UNKNOWN, BeaconScanner
from emwire import beacon, constants
from emwire.beacon import BeaconWatch
from emwire.errors import WireError

from tags.counters import Counters

try:
    from cryptolib import aes
except ImportError:
    from common.aes import aes  # type: ignore[assignment]

CAUSE_DOCK = 1  # taken off the charger, or moved
CAUSE_BEACON = 2  # the beacon is not heard any more
CAUSE_ORDER = 3  # no beacon is configured any more
NOT_HEARD_S = 65535
# Newest counters are kept over a reset after so much progress: an hour at one token in 10 s.
COUNTERS_EVERY = 360
_ECB = 1


class Dock:
    """rests() says whether the tag may rest now. Uses the radio only while on the charger."""

    def __init__(self, device, moving):
        """moving(): whether the accelerometer says so: what moves is not in its dock, whatever it hears."""
        self._device = device
        self._moving = moving
        # What a thief recorded since they were written down is believed after a reset: on the charger, and still.
        self._counters = Counters(device.board.storage_path + "/dock.", COUNTERS_EVERY)
        self._scanner = None
        self._radio_on = False
        self._beacons = {}  # device id: (key, decrypt, watch)
        self._heard = Signal()
        self._found = None  # (device id, RSSI, battery, strap) of the token just heard
        self._since_ms = None  # docked
        self._beacon_id = 0
        self._misses = 0
        self._window_ms = 0  # start of the presence window
        self._checked_ms = None

    @property
    def docked(self) -> bool:
        return self._since_ms is not None

    @property
    def possible(self) -> bool:
        """Whether it is known what to listen for."""
        self._take_beacons()
        return bool(self._beacons)

    async def rests(self) -> bool:
        """Listen if that is due; True while docked with the beacon heard."""
        device = self._device
        self._take_beacons()
        if not self._beacons or not device.health.charging or self._moving():
            self._leave(CAUSE_DOCK if self._beacons else CAUSE_ORDER)
            self._checked_ms = None
            self._silence()
            return False
        now = device.ticks_ms()
        if self._checked_ms is not None and now - self._checked_ms < device.settings.dock_check_interval_s * 1000:
            return self.docked
        self._checked_ms = now
        heard = await self._listen()
        if not device.health.charging:
            self._leave(CAUSE_DOCK)
        elif heard:
            self._misses = 0
            self._arrive(now)
        elif self.docked:
            self._misses += 1
            if self._misses >= device.settings.dock_misses:
                self._leave(CAUSE_BEACON)
        return self.docked

    def _silence(self):
        # On battery a radio that is on keeps some processors from sleeping.
        if self._radio_on:
            self._radio_on = False
            self._device.board.ble().active(False)

    def _take_beacons(self):
        wanted = self._device.settings.beacons
        if not wanted:
            wanted = {}
            for entry in self._device.identity.get("beacons", ()):
                wanted[entry["beacon_id"]] = unhexlify(entry["key"])
        for number in list(self._beacons):
            if wanted.get(number) != self._beacons[number][0]:
                del self._beacons[number]
        for number, key in wanted.items():
            if number not in self._beacons:
                watch = BeaconWatch(number, newest_counter=self._counters.newest(number))
                self._beacons[number] = key, aes(key, _ECB).decrypt, watch

    async def _listen(self):
        """Until an authentic token is heard or the time is up; a presence record tells the outcome."""
        device = self._device
        if self._scanner is None:
            self._scanner = BeaconScanner(device.board.ble(), device.board.clock)
        self._radio_on = True
        begun = device.ticks_ms()
        self._found = None
        self._heard.clear()
        self._scanner.start(self._on_advertisement, accept=_is_beacon)
        try:
            await self._heard.wait(device.settings.dock_listen_s * 1000)
        finally:
            self._scanner.stop()
        if self.docked or self._found:
            self._record(begun, device.ticks_ms())
        self._counters.save([entry[2] for entry in self._beacons.values()])
        return self._found is not None

    def _on_advertisement(self, address, rssi_dbm, data):
        token = beacon.find(data)
        if token is None:
            return
        for number, (_, decrypt, watch) in self._beacons.items():
            try:
                counter, status, battery = beacon.open_token(decrypt, number, token)
            except WireError:
                continue
            if watch.heard(counter, self._device.ticks_ms()) == constants.AUTHENTICITY_AUTHENTIC:
                strap = constants.STRAP_OPEN if status & beacon.STATUS_STRAP_OPEN else constants.STRAP_CLOSED
                self._found = number, rssi_dbm, battery, strap
                self._heard.set()
            return

    def _record(self, begun, now):
        """Presence from the end of the record before to now; only while it listened could it hear."""
        device = self._device
        start = self._window_ms if self.docked else begun
        self._window_ms = now
        number, rssi, battery, strap = self._found or (self._beacon_id, RSSI_UNKNOWN, 255, constants.STRAP_UNKNOWN)
        duration = min((now - start + 500) // 1000, 65535)
        listened = min((self._scanner.listened_ms() + 500) // 1000, duration)
        when = min((now - start) // 1000, NOT_HEARD_S - 1) if self._found else NOT_HEARD_S
        device.records.presence(
            number,
            constants.AUTHENTICITY_AUTHENTIC if self._found else constants.AUTHENTICITY_UNKNOWN,
            device.clock.time_at(start),
            duration,
            listened,
            duration - listened,
            1 if self._found else 0,
            when,
            when,
            rssi,
            rssi,
            rssi,
            battery,
            strap,
        )

    def _arrive(self, now):
        self._beacon_id = self._found[0]
        if not self.docked:
            self._since_ms = now
            self._device.records.event(constants.EVENT_DOCKED, 0, self._beacon_id)

    def _leave(self, cause):
        if self.docked:
            seconds = (self._device.ticks_ms() - self._since_ms) // 1000
            self._since_ms = None
            self._misses = 0
            self._device.records.event(constants.EVENT_UNDOCKED, seconds, self._beacon_id, bytes((cause,)))


def _is_beacon(data):
    return beacon.find(data) is not None
