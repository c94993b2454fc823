# Mains, wide area link and motion of a home unit: what is lost and restored, and whether it is being carried off.
import asyncio

from common.told import Told
from common.wait import Signal
from emwire import constants

# Motion alone is somebody dusting; motion within moved_together_s of power or link going or coming is a move.
# A link is known as lost wan_lost_s after: for so long, and moved_together_s before it, motion is remembered, as spans:
# one shake of a vibration switch is many edges, and an accelerometer holds its line while it is moved. By default 76
# spans fill that time; of more the oldest go.
SPANS = 80
SPAN_GAP_MS = 15000
# What was told and not yet told to be back.
_TOLD_MAINS = 1
_TOLD_WAN = 2
# Without a word for a third of wan_lost_s the gateway is asked for one.
ASKS = 3
# While the link is lost its return is looked for this often: motion within two minutes of it is a move.
LOST_LOOK_MS = 30000


class Moved:
    """Tasks "mains" and "wan" of a device. on_mains(level) is told of every change."""

    def __init__(self, device):
        self._device = device
        self._mains_pin = device.board.pin_in("mains")
        self._motion_pin = device.board.pin_in("motion")
        self._changed = Signal()
        self._told = Told(device.board.storage_path + "/moved.")
        self._mains = 0 if self._told.mask & _TOLD_MAINS else 1
        self._motions = []  # spans [from, until; None = still], oldest first
        self._change_ms = None
        self._told_ms = None
        self.on_mains = None
        self.wan_lost = self._told.mask & _TOLD_WAN != 0

    def start(self):
        self._motion_pin.on_change(self._on_motion)
        self._on_motion(self._motion_pin.value())
        self._device.start("mains", self._watch)
        self._device.start("wan", self._watch_wan)

    @property
    def mains(self) -> bool:
        return self._mains == 1

    def _on_motion(self, level):
        now = self._device.ticks_ms()
        spans = self._motions
        last = spans[-1] if spans else None
        if not level:
            if last is not None and last[1] is None:
                last[1] = now
            return
        if last is not None and last[1] is None:
            return
        if last is not None and now - last[1] <= SPAN_GAP_MS:
            last[1] = None
        else:
            spans.append([now, None])
            del spans[:-SPANS]
        if self._change_ms is not None:
            self._judge(now, self._change_ms)

    async def _watch(self):
        device = self._device
        self._mains_pin.on_change(lambda level: self._changed.set())
        while True:
            level = self._mains_pin.value()
            if level != self._mains:
                since = device.ticks_ms()
                if await self._changed.wait(device.settings.mains_debounce_ms):
                    continue
                self._mains = level
                event = constants.EVENT_MAINS_RESTORED if level else constants.EVENT_MAINS_LOST
                device.records.event(event, device.health.battery.percent, event_time_s=device.clock.time_at(since))
                self._told.note(_TOLD_MAINS, 0 if level else _TOLD_MAINS)
                if self.on_mains:
                    self.on_mains(level)
                self._lost_or_back(since)
            else:
                await self._changed.wait()

    async def _watch_wan(self):
        # Lost is what no authentic word of the gateway came over for so long; a cable that is plugged in says nothing.
        device = self._device
        uplink = device.uplink
        begun = self._wan_ms = device.ticks_ms()  # lost before a reset: for how long nobody knows, so since the boot
        while True:
            now = device.ticks_ms()
            limit_ms = device.settings.wan_lost_s * 1000
            word_ms = begun if uplink.word_ms is None else uplink.word_ms
            silent_ms = now - word_ms
            if self.wan_lost:
                if uplink.word_ms is not None and word_ms > self._wan_ms:
                    self.wan_lost = False
                    device.records.event(
                        constants.EVENT_WAN_RESTORED,
                        (word_ms - self._wan_ms) // 1000,
                        event_time_s=device.clock.time_at(word_ms),
                    )
                    self._told.note(_TOLD_WAN, 0)
                    self._lost_or_back(word_ms)
            elif silent_ms >= limit_ms:
                self.wan_lost = True
                self._wan_ms = word_ms
                device.records.event(
                    constants.EVENT_WAN_LOST, silent_ms // 1000, event_time_s=device.clock.time_at(word_ms)
                )
                self._told.note(_TOLD_WAN, _TOLD_WAN)
                self._lost_or_back(word_ms)
            if silent_ms >= limit_ms // ASKS and not device.link.time_wanted:
                device.link.ask()
                uplink.wake()
            await asyncio.sleep_ms(LOST_LOOK_MS if self.wan_lost else limit_ms // ASKS)

    def _lost_or_back(self, change_ms):
        self._change_ms = change_ms
        for since_ms, until_ms in reversed(self._motions):
            motion_ms = max(since_ms, change_ms)
            if self._judge(motion_ms if until_ms is None else min(motion_ms, until_ms), change_ms):
                return

    def _judge(self, motion_ms, change_ms):
        together_ms = self._device.settings.moved_together_s * 1000
        if abs(motion_ms - change_ms) > together_ms:
            return False
        now = max(motion_ms, change_ms)
        # Being carried is one event, however often it shakes.
        if self._told_ms is None or now - self._told_ms > together_ms:
            self._device.records.event(
                constants.EVENT_HOME_UNIT_MOVED,
                (motion_ms - change_ms) // 1000,
                event_time_s=self._device.clock.time_at(min(motion_ms, change_ms)),
            )
        self._told_ms = now
        return True
