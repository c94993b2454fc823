# The RF curfew base station: hears pids, watches its mains and whether it is moved, reports over a serial line.
import struct
from binascii import unhexlify

from common import transports
from common.device import Device
from common.wait import Signal
from emwire import beacon, constants

from tags.counters import Counters
from tags.curfew import Curfews
from tags.ears import Ears
from tags.moved import Moved
from tags.presence import Presence
from tags.range_test import RangeTest
from tags.whereabouts import Whereabouts

try:
    from cryptolib import aes
except ImportError:
    from common.aes import aes  # type: ignore[assignment]

# Newest counters are written down after so much progress of any: two hours at one token in 10 s. What a thief
# recorded in the last two hours would be believed for as long after a reset, while the pid itself is not heard.
COUNTERS_EVERY = 720
# RECEIVER_DEAF again, while it lasts; each presence record carries its window's share anyway.
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
        self._ears = Ears(device, self._on_advertisement, _is_beacon)
        self._moved = Moved(device)
        self._moved.on_mains = self._on_mains
        self._curfews = Curfews(
            device, lambda: [(number, window.presence.where) for number, window in self._windows.items()]
        )
        self._range_test = RangeTest(device, self._windows_now)
        self._battery_low = set()
        self._faulty = set()
        self._strap_faulty = set()
        self._windows = {}
        self._counters = Counters(board.storage_path + "/heard.", COUNTERS_EVERY)
        self._signal = Signal()
        self._look = Signal()
        self._listening = False
        self._deaf_told_ms = None
        self._spared_ms = 0
        device.link_over(*transports.of(device))

    async def run(self):
        self._listen_for()
        self._moved.start()
        device = self.device
        device.start("presence", self._watch)
        device.start("ledger", self._keep_ledger)
        device.start("curfew", self._judge_curfew)
        device.start("settings", device.settings.on_change, self._on_settings)
        device.on_order(self._look.set)
        device.self_tests["radio"] = self._test_radio
        device.commands.register(constants.COMMAND_RANGE_TEST, self._range_test.run)
        device.commands.register(constants.COMMAND_SET_PROFILE, self._set_profile)
        await device.run()

    def _windows_now(self):
        return self._windows

    async def _set_profile(self, argument):
        if not self.device.settings.set("range_profile", argument):
            return constants.OUTCOME_REFUSED, argument, b"profile 1, 2 or 3"
        return constants.OUTCOME_DONE, argument, b""

    async def _test_radio(self):
        # It is in use: it works if it listened in the last period, and nobody refused it.
        return None if self._ears.listened_ms() else "does not listen"

    def _on_mains(self, level):
        # On the battery the receiver is what costs: it listens for a share of the time, and the ledger says so.
        if self._listening:
            self._ears.start(self._duty_percent())

    def _duty_percent(self):
        return 100 if self._moved.mains else self.device.settings.battery_listen_percent

    async def _keep_ledger(self):
        device = self.device
        while True:
            begun = device.ticks_ms()
            await device.settings.sleep(device.ticks_ms, begun, "listening_interval_s")
            device.records.listening(*self._ears.ledger())

    async def _judge_curfew(self):
        while True:
            self._curfews.tick(self._ears.listened_ms())
            await self._look.wait(Curfews.TICK_MS)

    def _on_settings(self):
        self._listen_for()
        if self._listening and self._duty_percent() != self._ears.duty_percent:
            self._ears.start(self._duty_percent())
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
                where = Whereabouts(self.device.settings, now, self._ears.listened_ms())
                windows[beacon_id] = _Window(beacon_id, key, newest, now, self._ears.listened_ms(), where)

    async def _watch(self):
        device = self.device
        self._listening = True
        self._ears.start(self._duty_percent())
        try:
            while True:
                now = device.ticks_ms()
                if self._windows:
                    device.watchdog.expect("presence", 3000 * device.settings.presence_window_s)
                else:
                    device.watchdog.done("presence")  # nothing to listen for yet
                due = None
                for window in self._windows.values():
                    end = window.start_ms + device.settings.presence_window_s * 1000
                    if window.returned or end <= now:
                        self._close(window, now)
                        end = now + device.settings.presence_window_s * 1000
                    due = end if due is None else min(due, end)
                await self._signal.wait(None if due is None else due - now)
        finally:
            self._listening = False
            self._ears.stop()

    def _on_advertisement(self, address, rssi_dbm, data):
        token = beacon.find(data)
        if token is None:
            return
        now = self.device.ticks_ms()
        for window in self._windows.values():
            outcome = window.presence.heard(now, address, rssi_dbm, token, self._ears.listened_ms())
            if outcome is None:
                continue
            news, copy = outcome
            if copy is None:
                self._range_test.heard(window.presence.beacon_id, rssi_dbm)
            if news:
                window.returned = True
                self._signal.set()
                self._look.set()
            if copy is not None:
                self.device.records.event(
                    constants.EVENT_BEACON_COPIED, window.presence.watch.copied, window.presence.beacon_id, copy
                )
            return

    def _close(self, window, now):
        device = self.device
        listened = self._ears.listened_ms()
        # Whatever was not listening was deaf: refused scans, restarts, this task itself.
        heard_ms = min(max(0, listened - window.listened_ms), now - window.start_ms)
        deaf_ms = now - window.start_ms - heard_ms
        start_s = device.clock.time_at(window.start_ms)
        device.records.presence(*window.presence.close(window.start_ms, now, start_s, heard_ms, deaf_ms))
        window.begin(now, listened)
        self._look_at_pid(window.presence)
        self._counters.save([window.presence.watch for window in self._windows.values()])
        # Deaf on purpose is in the ledger, and no fault.
        spared_ms, self._spared_ms = self._ears.spared_ms() - self._spared_ms, self._ears.spared_ms()
        if deaf_ms - spared_ms < device.settings.deaf_event_s * 1000:
            self._deaf_told_ms = None
        elif self._deaf_told_ms is None or now - self._deaf_told_ms >= DEAF_REPEAT_MS:
            self._deaf_told_ms = now
            evidence = struct.pack("<HH", *self._ears.troubles())
            device.records.event(constants.EVENT_RECEIVER_DEAF, deaf_ms // 1000, evidence=evidence)

    def _look_at_pid(self, presence):
        percent, number = presence.last_battery_percent, presence.beacon_id
        if percent <= self.device.settings.battery_low_percent:
            if number not in self._battery_low:
                self._battery_low.add(number)
                self.device.records.event(constants.EVENT_BEACON_BATTERY_LOW, percent, number)
        elif percent != 255:
            self._battery_low.discard(number)
        self._tell_begun(presence.faulty, self._faulty, constants.EVENT_SELF_TEST_FAILED, number)
        self._tell_begun(presence.strap_faulty, self._strap_faulty, constants.EVENT_STRAP_FAULT, number)

    def _tell_begun(self, is_so, told, event, number):
        if not is_so:
            told.discard(number)
        elif number not in told:
            told.add(number)
            self.device.records.event(event, 0, number, b"pid")


class _Window:
    def __init__(self, beacon_id, key, newest_counter, now, listened_ms, where):
        self.key = key
        self.presence = Presence(beacon_id, aes(key, _ECB).decrypt, newest_counter, where)
        self.begin(now, listened_ms)

    def begin(self, now, listened_ms):
        self.start_ms = now
        self.listened_ms = listened_ms
        self.returned = False


def _is_beacon(data):
    return beacon.find(data) is not None
