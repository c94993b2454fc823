# Beacons: a non-connectable advertiser, and a scanner that knows how long it listened and how long it was deaf.
import asyncio

from drivers import ble_events

try:
    from typing import Callable
except ImportError:
    pass

# The range of RSSI in HCI (Core Specification Vol 4, Part E, 7.7.65.2): -127 to +20 dBm, 127 = not available.
# Receivers are known to report values beyond it, such as +42.
RSSI_MINIMUM_DBM = -127
RSSI_MAXIMUM_DBM = 20
RSSI_UNKNOWN = 127

# A scan is started anew this often, so that one that a stack ended without saying so does not stay unnoticed.
SCAN_DURATION_MS = 60000
SCAN_GRACE_MS = 2000
# While the radio refuses to scan; it is counted as deaf.
RETRY_MS = 1000
# Interval and window of 100 ms: listening all the time, changing the channel (37, 38, 39) ten times a second.
SCAN_INTERVAL_MS = 100
# Advertisements that wait for the task; in a busy place 500 arrive in a second, most of them not ours.
MAXIMUM_WAITING = 32


# MicroPython's BLE.config(addr_mode=…), drawn anew each time it is set: a non-resolvable private address (NimBLE), else
# a static random one (BTstack knows no other). Zephyr's binding sets none: there the address stays, which the wearer's
# privacy suffers from (docs/ble.md), the curfew does not.
ADDRESS_MODES = (3, 1)


class Advertiser:
    """Non-connectable advertising, under a new random address whenever the data changes: nothing links the two.

    .same_address counts the times that the stack drew none."""

    def __init__(self, ble):
        self._ble = ble
        self.same_address = 0

    def advertise(self, interval_ms: int, advertisement_data: bytes):
        """Advertise this from now on; calling it again replaces the data. OSError: the radio refused."""
        if not self._ble.active():
            self._ble.active(True)
        # A controller takes no new address while it advertises.
        self._ble.gap_advertise(None)
        if not self._draw_address():
            self.same_address += 1
        self._ble.gap_advertise(interval_ms * 1000, adv_data=advertisement_data, resp_data=b"", connectable=False)

    def _draw_address(self):
        for mode in ADDRESS_MODES:
            try:
                self._ble.config(addr_mode=mode)
                return True
            except OSError:
                pass
        return False

    def stop(self):
        if self._ble.active():
            self._ble.gap_advertise(None)


class BeaconScanner:
    """Listens for advertisements. listened_ms() + deaf_ms() is the time since start(), to the millisecond."""

    def __init__(self, ble, clock):
        self._ble = ble
        self._clock = clock
        self._flag = ble_events.Flag()
        self._task = None
        self._callback = None
        self._accept = None
        self._waiting = []
        self._done = False
        self._duty_percent = 100
        self._started_ms = None  # of the scan under way; None = deaf
        self._since_ms = None
        self._scanned_ms = 0
        self._stopped_after_ms = 0
        self.restarts = 0  # scans that the radio ended before their time
        self.refused = 0  # scans that the radio refused
        self.dropped = 0  # advertisements that came faster than they were handled
        self.rssi_rejected = 0  # impossible RSSI values, handed on as RSSI_UNKNOWN
        ble_events.listen(ble, self._on_irq)

    def start(
        self,
        callback: "Callable[[bytes, int, bytes], None]",
        duty_percent: int = 100,
        accept: "Callable[[memoryview], bool] | None" = None,
    ):
        """callback(address, rssi_dbm, advertisement_data) for every advertisement, in a task.

        rssi_dbm is RSSI_UNKNOWN where the radio reported an impossible one. accept(data) runs in the interrupt and
        keeps foreign advertisements out; it must be quick. duty_percent below 100 saves power and is deaf between."""
        self.stop()
        self._callback = callback
        self._accept = accept
        self._duty_percent = max(1, min(100, duty_percent))
        self._scanned_ms = 0
        self._since_ms = self._clock.ticks_ms()
        self._task = asyncio.create_task(self._run())

    def stop(self):
        """Stop listening; the accounts stay as they are."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        self._account()
        self._stopped_after_ms = self._clock.ticks_ms() - self._since_ms
        self._since_ms = None
        self._waiting = []
        self._silence()

    def forget(self):
        """After stop(): begin the accounts of time anew."""
        self._scanned_ms = self._stopped_after_ms = 0

    def listened_ms(self) -> int:
        """Time that the receiver was on since start(): between windows it is not."""
        return (self._scanned_ms + self._present_scan_ms()) * self._duty_percent // 100

    def deaf_ms(self) -> int:
        """The rest of the time since start()."""
        if self._since_ms is None:
            return self._stopped_after_ms - self.listened_ms()
        return self._clock.ticks_ms() - self._since_ms - self.listened_ms()

    # -- the task -------------------------------------------------------------------------------------------

    def _present_scan_ms(self):
        # Never more than was asked for: a scan whose end was not reported is not known to go on.
        return 0 if self._started_ms is None else min(self._clock.ticks_ms() - self._started_ms, SCAN_DURATION_MS)

    def _account(self):
        self._scanned_ms += self._present_scan_ms()
        self._started_ms = None

    def _silence(self):
        try:
            self._ble.gap_scan(None)
        except OSError:
            pass  # the radio is off

    async def _run(self):
        while True:
            if not self._begin():
                await asyncio.sleep_ms(RETRY_MS)
                continue
            due_ms = self._started_ms + SCAN_DURATION_MS
            while not self._done:
                left_ms = due_ms + SCAN_GRACE_MS - self._clock.ticks_ms()
                if left_ms <= 0 or not await self._flag.wait(left_ms):
                    break
                self._hand_out()
            if self._clock.ticks_ms() < due_ms or not self._done:
                self.restarts += 1
            if not self._done:
                self._account()
                self._silence()
            self._hand_out()

    def _begin(self):
        self._done = False
        interval_us = SCAN_INTERVAL_MS * 1000
        try:
            if not self._ble.active():
                self._ble.active(True)
            self._ble.gap_scan(SCAN_DURATION_MS, interval_us, interval_us * self._duty_percent // 100, False)
        except OSError:
            self.refused += 1
            return False
        self._started_ms = self._clock.ticks_ms()
        return True

    def _hand_out(self):
        while self._waiting:
            address, rssi_dbm, data = self._waiting.pop(0)
            self._callback(address, rssi_dbm, data)

    def _on_irq(self, event, data):
        if self._since_ms is None:
            return
        if event == ble_events.IRQ_SCAN_RESULT:
            _, address, _, rssi_dbm, advertisement = data
            if self._accept is not None and not self._accept(advertisement):
                return
            if len(self._waiting) >= MAXIMUM_WAITING:
                self.dropped += 1
                return
            if not RSSI_MINIMUM_DBM <= rssi_dbm <= RSSI_MAXIMUM_DBM:
                self.rssi_rejected += 1
                rssi_dbm = RSSI_UNKNOWN
            # Copies: the stack takes its buffers back when this returns.
            self._waiting.append((bytes(address), rssi_dbm, bytes(advertisement)))
            self._flag.set()
        elif event == ble_events.IRQ_SCAN_DONE:
            if self._started_ms is not None:
                self._account()
                self._done = True
                self._flag.set()
