# The ankle tag with satellite receiver and cellular modem: a trail of positions, strap and case, over MQTT.
from common.device import Device
from common.wait import Signal
from drivers import fixes
from drivers.gnss import Gnss
from drivers.modem import ModemLink
from emwire import constants

from tags import trail

# Cold start under open sky is at most 2 min (NIJ 1004.00 §5.3.1); a receiver switched off for minutes starts hot.
COLD_TIMEOUT_MS = 120000
HOT_TIMEOUT_MS = 40000
# Satellite orbit data serve for 4 h (u-blox M8 data sheet); later starts are cold.
HOT_FOR_MS = 4 * 3600000
# A sentence is out within half a second of the second it describes, at 1 Hz and 9600 Bd.
GNSS_TIME_UNCERTAINTY_MS = 500
# Without satellites the network's coarse position is asked for this often: over 5 min between points count as missing
# data, and it is looked at after an attempt, the longest of which takes 2 min.
CELL_POSITION_INTERVAL_MS = 180000
# Repeated while the receiver stays faulty.
FAULT_REPEAT_MS = 3600000
UNKNOWN = -1


async def run(board):
    """The whole device, for ever."""
    await AnkleGps(board).run()


class AnkleGps:
    """Wiring of the model: what feeds what."""

    def __init__(self, board):
        self.device = device = Device(
            board,
            constants.MODEL_ANKLE_GPS,
            constants.CAPABILITY_GNSS
            | constants.CAPABILITY_CELLULAR
            | constants.CAPABILITY_STRAP
            | constants.CAPABILITY_CASE
            | constants.CAPABILITY_VIBRATION,
        )
        broker = board.identity.get("mqtt", {})
        self.modem = ModemLink(
            board.uart("modem"),
            board.pin_out("modem_power"),
            device.device_id,
            device.clock,
            broker.get("host", "localhost"),
            broker.get("port", 1883),
            board.log,
        )
        self.gnss = Gnss(board.uart("gnss"), board.pin_out("gnss_power"), board.clock, board.log)
        self._fixes = []
        self._no_fix = trail.NoFix()
        self._now = Signal()
        self._report_due_ms = 0
        self._fault_ms = None
        self._cell_ms = None
        device.link_over(self.modem, periodic=True)
        device.tamper.on_strap = self._on_strap

    async def run(self):
        self.device.start("trail", self._follow)
        self.device.start("settings", self.device.settings.on_change, self._now.set)
        await self.device.run()

    async def _follow(self):
        device = self.device
        self._report_due_ms = device.ticks_ms() + device.settings.report_interval_s * 1000
        while True:
            begun = device.ticks_ms()
            await self._take_fix(begun)
            now = device.ticks_ms()
            if len(self._fixes) >= trail.MAXIMUM_FIXES or now >= self._report_due_ms:
                self._report()
            await self._now.wait(max(0, begun + device.settings.fix_interval_s * 1000 - now))

    async def _take_fix(self, now):
        last = self.gnss.fix_ticks_ms
        hot = last is not None and now - last < HOT_FOR_MS
        fix = await self.gnss.fix(HOT_TIMEOUT_MS if hot else COLD_TIMEOUT_MS)
        device = self.device
        if fix is None:
            await self._without_fix()
            return
        self._fault_ms = None
        ticks = self.gnss.fix_ticks_ms
        if fix.time_s is not None:
            device.clock.observe(
                constants.CLOCK_GNSS, fix.time_s * 1000 + fix.millisecond, GNSS_TIME_UNCERTAINTY_MS, ticks
            )
        if fix.time_s is None or fix.time_s < 0:
            # No date, or an impossible one: the tag's own clock says when it was heard, if it can.
            time_s = device.clock.time_at(ticks)
            if not time_s:
                return
            fix = fix._replace(time_s=time_s, millisecond=0)
        self._fixes.append(fixes.to_position(fix))
        self._tell_no_fix(self._no_fix.fixed(device.ticks_ms()))

    async def _without_fix(self):
        device = self.device
        now = device.ticks_ms()
        if self.gnss.fault:
            if self._fault_ms is None or now - self._fault_ms >= FAULT_REPEAT_MS:
                self._fault_ms = now
                device.records.event(constants.EVENT_GNSS_FAULT, self.gnss.outcome)
            return
        self._tell_no_fix(self._no_fix.failed(now, device.clock.time_s(), self.gnss.cause))
        if self._cell_ms is None or now - self._cell_ms >= CELL_POSITION_INTERVAL_MS:
            self._cell_ms = now
            await self._ask_network()

    async def _ask_network(self):
        try:
            found = await self.modem.cell_position()
        except OSError:
            return
        time_s = self.device.clock.time_s()
        if found is not None and time_s:
            latitude, longitude, precision_m = found
            self._fixes.append(
                (time_s, latitude, longitude, UNKNOWN, UNKNOWN, precision_m, UNKNOWN, UNKNOWN, constants.MECHANISM_LBS)
            )

    def _tell_no_fix(self, event):
        if event is not None:
            value, since_s, evidence = event
            self.device.records.event(constants.EVENT_NO_FIX, value, evidence=evidence, event_time_s=since_s)

    def _report(self):
        device = self.device
        self._report_due_ms = device.ticks_ms() + device.settings.report_interval_s * 1000
        if self._fixes:
            for block in trail.blocks(self._fixes):
                device.records.position_block(block)
            self._fixes = []

    def _on_strap(self, is_open):
        # Where it happened matters now: what is known goes out at once, and a fresh fix is taken.
        self._report()
        self._report_due_ms = self.device.ticks_ms()
        self._now.set()
