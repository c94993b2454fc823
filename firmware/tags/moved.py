# Mains and motion of a home unit: power lost and restored, and whether the unit is being carried off.
from common.wait import Signal
from emwire import constants

# Motion alone is somebody dusting; motion within 2 min of power going or coming is a move (field rule).
TOGETHER_MS = 120000
# Contact bounce and brown-outs of the mains detector; shorter dips do not even reset a computer's supply.
MAINS_DEBOUNCE_MS = 1000


class Moved:
    """Task "mains" of a device."""

    def __init__(self, device):
        self._device = device
        self._mains_pin = device.board.pin_in("mains")
        self._motion_pin = device.board.pin_in("motion")
        self._changed = Signal()
        self._mains = 1
        self._motion_ms = None
        self._mains_ms = None
        self._told_ms = None

    def start(self):
        self._motion_pin.on_change(self._on_motion)
        self._device.start("mains", self._watch)

    def _on_motion(self, level):
        if level:
            self._motion_ms = self._device.ticks_ms()
            self._judge()

    async def _watch(self):
        device = self._device
        self._mains_pin.on_change(lambda level: self._changed.set())
        while True:
            level = self._mains_pin.value()
            if level != self._mains:
                since = device.ticks_ms()
                if await self._changed.wait(MAINS_DEBOUNCE_MS):
                    continue
                self._mains = level
                self._mains_ms = since
                event = constants.EVENT_MAINS_RESTORED if level else constants.EVENT_MAINS_LOST
                device.records.event(event, device.health.battery.percent, event_time_s=device.clock.time_at(since))
                self._judge()
            else:
                await self._changed.wait()

    def _judge(self):
        if self._motion_ms is None or self._mains_ms is None:
            return
        if abs(self._motion_ms - self._mains_ms) > TOGETHER_MS:
            return
        now = max(self._motion_ms, self._mains_ms)
        # Being carried is one event, however often it shakes.
        if self._told_ms is None or now - self._told_ms > TOGETHER_MS:
            self._device.records.event(
                constants.EVENT_HOME_UNIT_MOVED,
                (self._motion_ms - self._mains_ms) // 1000,
                event_time_s=self._device.clock.time_at(min(self._motion_ms, self._mains_ms)),
            )
        self._told_ms = now
