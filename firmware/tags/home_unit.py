# The RF curfew base station: hears pids, watches its mains and whether it is moved, reports over a serial line.
import struct
from binascii import unhexlify

from common.device import Device
from common.slots import Slots
from common.wait import Signal
from cryptolib import aes
from drivers.beacon_radio import BeaconScanner
from drivers.serial_link import SerialLink
from emwire import beacon, constants

from tags.moved import Moved
from tags.presence import Presence

# Newest counters are written down after so much progress of any: two hours at one token in 10 s. What a thief
# recorded in the last two hours would be believed for as long after a reset, while the pid itself is not heard.
COUNTERS_EVERY = 720
# A receiver deaf for so much of a window is worth an event of its own.
DEAF_EVENT_MS = 60000
# While it lasts; each presence record carries its window's share anyway.
DEAF_REPEAT_MS = 3600000
MAXIMUM_BEACONS = 8
_ECB = 1


async def run(board):
    """The whole device, for ever."""
    await HomeUnit(board).run()


class HomeUnit:
    """Wiring of the model."""

    def __init__(self, board):
        self.device = device = Device(
            board,
            constants.MODEL_HOME_UNIT,
            constants.CAPABILITY_SERIAL
            | constants.CAPABILITY_BEACON_RECEIVER
            | constants.CAPABILITY_CASE
            | constants.CAPABILITY_MAINS
            | constants.CAPABILITY_MOTION,
        )
        self._scanner = BeaconScanner(board.ble(), board.clock)
        self._windows = {}
        self._counters = Counters(board.storage_path)
        self._signal = Signal()
        self._deaf_told_ms = None
        device.link_over(SerialLink(board.uart("host"), device.device_id))

    async def run(self):
        self._listen_for()
        moved = Moved(self.device)
        moved.start()
        self.device.start("presence", self._watch)
        self.device.start("settings", self.device.settings.on_change, self._on_settings)
        await self.device.run()

    def _on_settings(self):
        self._listen_for()
        self._signal.set()

    def _listen_for(self):
        wanted = dict(self.device.settings.beacons)
        if not wanted:
            for entry in self.device.identity.get("beacons", ()):
                wanted[entry["beacon_id"]] = unhexlify(entry["key"])
        windows = self._windows
        for beacon_id in list(windows):
            if windows[beacon_id].key != wanted.get(beacon_id):
                del windows[beacon_id]
        now = self.device.ticks_ms()
        for beacon_id, key in list(wanted.items())[:MAXIMUM_BEACONS]:
            if beacon_id not in windows:
                newest = self._counters.newest(beacon_id)
                windows[beacon_id] = _Window(beacon_id, key, newest, now, self._scanner.listened_ms())

    async def _watch(self):
        device = self.device
        self._scanner.start(self._on_advertisement, accept=_is_beacon)
        for window in self._windows.values():
            window.listened_ms = 0
        try:
            while True:
                now = device.ticks_ms()
                due = None
                for window in self._windows.values():
                    end = window.start_ms + device.settings.presence_window_s * 1000
                    if window.returned or end <= now:
                        self._close(window, now)
                        end = now + device.settings.presence_window_s * 1000
                    due = end if due is None else min(due, end)
                await self._signal.wait(None if due is None else due - now)
        finally:
            self._scanner.stop()

    def _on_advertisement(self, address, rssi_dbm, data):
        token = beacon.find(data)
        if token is None:
            return
        now = self.device.ticks_ms()
        for window in self._windows.values():
            outcome = window.presence.heard(now, address, rssi_dbm, token)
            if outcome is None:
                continue
            returned, copy = outcome
            if returned:
                window.returned = True
                self._signal.set()
            if copy is not None:
                self.device.records.event(
                    constants.EVENT_BEACON_COPIED, window.presence.watch.copied, window.presence.beacon_id, copy
                )
            return

    def _close(self, window, now):
        device = self.device
        listened = self._scanner.listened_ms()
        # Whatever was not listening was deaf: refused scans, restarts, this task itself.
        heard_ms = min(max(0, listened - window.listened_ms), now - window.start_ms)
        deaf_ms = now - window.start_ms - heard_ms
        start_s = device.clock.time_at(window.start_ms)
        device.records.presence(*window.presence.close(window.start_ms, now, start_s, heard_ms, deaf_ms))
        window.begin(now, listened)
        self._counters.save(self._windows.values())
        if deaf_ms < DEAF_EVENT_MS:
            self._deaf_told_ms = None
        elif self._deaf_told_ms is None or now - self._deaf_told_ms >= DEAF_REPEAT_MS:
            self._deaf_told_ms = now
            evidence = struct.pack("<HH", self._scanner.refused & 0xFFFF, self._scanner.restarts & 0xFFFF)
            device.records.event(constants.EVENT_RECEIVER_DEAF, deaf_ms // 1000, evidence=evidence)


class _Window:
    def __init__(self, beacon_id, key, newest_counter, now, listened_ms):
        self.key = key
        self.presence = Presence(beacon_id, aes(key, _ECB).decrypt, newest_counter)
        self.begin(now, listened_ms)

    def begin(self, now, listened_ms):
        self.start_ms = now
        self.listened_ms = listened_ms
        self.returned = False


class Counters:
    """The newest counter heard of each beacon, over a reset."""

    def __init__(self, storage_path):
        self._slots = Slots(storage_path + "/heard.")
        self._saved = {}
        value = self._slots.value or b""
        for at in range(0, len(value), 8):
            beacon_id, counter = struct.unpack("<II", value[at : at + 8])
            self._saved[beacon_id] = counter

    def newest(self, beacon_id: int) -> int:
        """-1 if nothing is known."""
        return self._saved.get(beacon_id, -1)

    def save(self, windows):
        """Write them down if any is far enough ahead."""
        ahead = False
        newest = {}
        for window in windows:
            watch = window.presence.watch
            if watch.newest_counter >= 0:
                newest[watch.device_id] = watch.newest_counter
                ahead = ahead or watch.newest_counter - self.newest(watch.device_id) >= COUNTERS_EVERY
        if ahead:
            try:
                self._slots.write(b"".join(struct.pack("<II", *item) for item in newest.items()))
            except OSError:
                return  # tried again at the next window
            self._saved = newest


def _is_beacon(data):
    return beacon.find(data) is not None
