# Alerts the wearer by vibration: what the gateway asks for, and prompts to charge, the latter not at night.
import asyncio
import struct

from emwire import constants

# Patterns: (on, off) in ms. Long enough to be felt through clothing, short enough to cost little.
SHORT = 1
LONG = 2
UNTIL_ACKNOWLEDGED = 3
_PATTERNS = {SHORT: ((300, 300),) * 2, LONG: ((1000, 500),) * 3}
# Until it is acknowledged by the charger: again every so often, and not for ever.
AGAIN_MS = 30000
TIMES = 20
# Reasons of a prompt, in the evidence of WEARER_PROMPTED.
BATTERY_LOW = 1
BATTERY_CRITICAL = 2
COMMANDED = 3


def quiet(minute: int, start_minute: int, end_minute: int) -> bool:
    """Whether a minute of the day is in quiet hours, which may cross midnight; equal bounds: never."""
    if start_minute <= end_minute:
        return start_minute <= minute < end_minute
    return minute >= start_minute or minute < end_minute


class Wearer:
    """Prompts of a device with CAPABILITY_VIBRATION."""

    def __init__(self, device):
        self._device = device
        self._motor = device.board.pin_out("vibration")
        self._busy = False
        self._prompted_ms = None
        self._prompted_reason = 0
        device.commands.register(constants.COMMAND_NOTIFY_WEARER, self._notify)
        device.self_tests["vibration"] = self._test

    @property
    def quiet_now(self) -> bool:
        """Night by the order's local time; while nobody knows the time, nobody is woken, either."""
        device = self._device
        settings = device.settings
        if settings.quiet_start_minute == settings.quiet_end_minute:
            return False
        now_s = device.clock.time_s()
        if not now_s:
            return True
        if device.order is not None:
            now_s += device.order.offset_s(now_s)
        return quiet(now_s // 60 % 1440, settings.quiet_start_minute, settings.quiet_end_minute)

    def prompt(self, reason: int):
        """Ask the wearer to charge: at once when it gets worse, else every prompt interval; never at night."""
        device = self._device
        now = device.ticks_ms()
        worse = reason > self._prompted_reason
        if self._prompted_ms is not None and not worse:
            if now - self._prompted_ms < device.settings.prompt_interval_s * 1000:
                return
        if self._busy or self.quiet_now:
            return
        self._prompted_ms = now
        self._prompted_reason = reason
        asyncio.create_task(self._alert(LONG if reason == BATTERY_CRITICAL else SHORT, reason))

    def charged(self):
        """The charger is connected: the next low battery is a new one."""
        self._prompted_ms = None
        self._prompted_reason = 0

    async def _alert(self, pattern, reason):
        device = self._device
        device.records.event(constants.EVENT_WEARER_PROMPTED, pattern, evidence=struct.pack("<B", reason))
        await self._vibrate(pattern)

    async def _vibrate(self, pattern):
        self._busy = True
        self._device.shaken_ms = self._device.ticks_ms()
        try:
            for on_ms, off_ms in _PATTERNS[pattern]:
                self._motor.value(1)
                await asyncio.sleep_ms(on_ms)
                self._motor.value(0)
                await asyncio.sleep_ms(off_ms)
        finally:
            self._motor.value(0)
            self._busy = False

    async def _test(self):
        # Whoever tests it does not know that it is night; NOTIFY_WEARER is obeyed.
        if self._busy or self.quiet_now:
            return "not judged: it is in use, or the wearer's night"
        await self._vibrate(SHORT)
        return "not judged: the wearer has to feel it"

    async def _notify(self, pattern):
        # A command is obeyed at any hour: whoever sends it knows the time.
        pattern = pattern or SHORT
        if pattern not in (SHORT, LONG, UNTIL_ACKNOWLEDGED):
            return constants.OUTCOME_REFUSED, 0, b"pattern 1, 2 or 3"
        if self._busy:
            return constants.OUTCOME_REFUSED, 0, b"vibrating already"
        await self._alert(LONG if pattern == UNTIL_ACKNOWLEDGED else pattern, COMMANDED)
        if pattern != UNTIL_ACKNOWLEDGED:
            return constants.OUTCOME_DONE, pattern, b""
        for times in range(2, TIMES + 1):
            if self._device.health.charging:
                return constants.OUTCOME_DONE, times - 1, b""
            await asyncio.sleep_ms(AGAIN_MS)
            await self._vibrate(LONG)
        return constants.OUTCOME_FAILED, TIMES, b"not acknowledged"
