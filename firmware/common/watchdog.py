# Feeds the hardware watchdog while every task that promised a sign of life gives one; a hung task resets the device.
from emwire import constants

from common import safe_mode

# Looked at three times within the watchdog's own time; a board may bound that (boards/__init__.py).
FEEDS = 3


class Watchdog:
    """Task "watchdog" of a device; expect() from the tasks that matter."""

    def __init__(self, device):
        self._device = device
        self._due = {}
        self._hardware = None
        self.stuck = None  # name of the task that did not answer

    def expect(self, name: str, within_ms: int):
        """This task calls again within so long, or the device is reset."""
        self._due[name] = self._device.ticks_ms() + within_ms

    def done(self, name: str):
        """This task owes no more signs of life."""
        self._due.pop(name, None)

    async def run(self):
        device = self._device
        make = getattr(device.board, "watchdog", None)
        if make is None:
            return
        # Fixed once started, on every board: a change of the setting counts from the next boot.
        timeout_ms = device.settings.watchdog_s * 1000
        self._hardware = make(timeout_ms)
        while True:
            begun = device.ticks_ms()
            self._look()
            if self.stuck is None:
                self._hardware.feed()
            await device.settings.sleep_until(device.ticks_ms, begun + timeout_ms // FEEDS)

    def _look(self):
        if self.stuck is not None:
            return
        device = self._device
        now = device.ticks_ms()
        for name, due in self._due.items():
            if now > due:
                self.stuck = name
        if device.link is not None and device.link.reboot_wanted:
            # Sequences or counters run out: a new boot epoch has new ones.
            safe_mode.forgive()
            device.board.restart()
        uplink = device.uplink
        if uplink is not None and uplink.stuck_ms(now) > device.settings.uplink_stuck_s * 1000:
            self.stuck = "uplink"
        if self.stuck is not None:
            device.log("task %s is stuck" % self.stuck)
            device.records.event(constants.EVENT_TASK_STUCK, evidence=self.stuck.encode())
