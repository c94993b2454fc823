# The ankle tag with satellite receiver and cellular modem: a trail of positions, zones, strap and case, over MQTT.
from common import transports
from common.device import Device
from common.wait import Signal
from drivers import fixes
from drivers.gnss import Gnss
from drivers.nmea import day_number
from emwire import constants

from tags import locate, trail
from tags.dock import Dock
from tags.fix_log import FixLog
from tags.motion import Motion
from tags.rules import Rules
from tags.teleport import Teleport
from tags.zones import Zones

# Satellite orbit data serve for 4 h (u-blox M8 data sheet); later starts are cold.
HOT_FOR_MS = 4 * 3600000
# A sentence is out within half a second of the second it describes, at 1 Hz and 9600 Bd.
GNSS_TIME_UNCERTAINTY_MS = 500
# A receiver that slept says first that it has no position yet; hot it has one within so long.
ANNOUNCED_MS = 2000
# A position comes some seconds sooner or later than the one before: what goes by intervals does not wait for another.
EARLY_MS = 5000
# Repeated while the receiver stays faulty.
FAULT_REPEAT_MS = 3600000
# Value of a GNSS_FAULT beside the driver's: positions, of another time than the clock's by more than leap seconds make.
OUTCOME_MISDATED = 5
MISDATED_S = 60
# No true date is earlier: a receiver whose week count rolled over is put right for 19.6 years from here.
NOT_BEFORE_DAY = day_number(2026, 1, 1)
# u-blox: shorter periods than 10 s do not pay in on/off operation; longer ones lose the orbits of passing satellites.
SHORTEST_PERIOD_S = 10
LONGEST_PERIOD_S = 1800
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
            | constants.CAPABILITY_BEACON_RECEIVER
            | constants.CAPABILITY_STRAP
            | constants.CAPABILITY_CASE
            | constants.CAPABILITY_VIBRATION
            | constants.CAPABILITY_MOTION,
        )
        self.modem, periodic = transports.of(device, lambda: device.settings.modem_sleep)
        self.gnss = Gnss(
            board.uart("gnss"),
            board.pin_out("gnss_power"),
            board.clock,
            board.log,
            board.identity.get("not_before_day", NOT_BEFORE_DAY),
            configure=True,
        )
        self.gnss.on_awake = self._expect_position
        device.settings.late_ms = 1000 * device.settings.fix_interval_s
        self.log = FixLog(board.storage_path, device.epoch, device.journal.has)
        self.zones = Zones(device.settings)
        self.motion = Motion()
        self.dock = Dock(device, lambda: self.rules.moves(device.ticks_ms()))
        self.rules = Rules(device, self.modem, self.motion)
        self._teleport = Teleport()
        self._no_fix = trail.NoFix()
        self._now = Signal()
        self._locate = locate.Locate(device, self.hasten, self._known)
        self.gnss.limit_ms = self._locate.until_ms
        self._last = None  # newest position, as in blocks
        self._failures = 0
        self._reported_ms = 0
        self._fault_ms = None
        self._cell_ms = None
        self.undated = 0  # fixes without any date, which the clock could not give either
        device.link_over(self.modem, periodic)
        # Asleep the modem cannot be asked where it is within the 3 min of NIJ's draft.
        device.uplink.stays = lambda: not device.settings.modem_sleep
        device.tamper.on_strap = self._on_strap

    async def _test_gnss(self):
        return "gives no sense" if self.gnss.fault else None

    async def _test_modem(self):
        registered, _ = await self.modem.look()
        self.modem.rest()
        return None if registered is not None else "does not answer, or is off"

    async def run(self):
        device = self.device
        pin = device.board.pin_in("motion")
        self.motion.changed(pin.value(), device.ticks_ms())
        pin.on_change(self._on_motion)
        device.on_order(self._on_order)
        self._on_order()
        device.health.on_charging = self._on_charging
        self.modem.on_registration = self._on_registration
        device.commands.register(constants.COMMAND_LOCATE_NOW, self._locate.command)
        # In use by their own tasks, which nobody may disturb.
        device.self_tests["gnss"] = self._test_gnss
        device.self_tests["modem"] = self._test_modem
        device.start("trail", self._follow)
        device.start("settings", device.settings.on_change, self.hasten)
        await device.run()

    def hasten(self):
        """Something has changed: look at it now."""
        self._now.set()
        self.gnss.hurry()

    # -- the trail ------------------------------------------------------------------------------------------

    async def _follow(self):
        device = self.device
        self._reported_ms = device.ticks_ms()
        if self.log.damaged_bytes:
            device.records.event(constants.EVENT_POSITIONS_DAMAGED, self.log.damaged_bytes)
        if self.log.recovered:
            # Taken before the reset, and in no record yet.
            self._report()
        while True:
            begun = device.ticks_ms()
            if not self._locate.wanted and await self.dock.rests():
                self.gnss.off()
                wait_ms = device.settings.dock_check_interval_s * 1000
            else:
                found = await self._attempt(begun)
                wait_ms = begun + self._pause_s(found) * 1000 - device.ticks_ms()
            device.settings.awake()
            now = device.ticks_ms()
            due = len(self.log.fixes) >= trail.MAXIMUM_FIXES or self._report_due(EARLY_MS)
            if not (due and self._report()):
                self.modem.rest()
            # Twice the longest of what comes now, and a cold start.
            device.watchdog.expect("trail", 2 * max(wait_ms, 0) + 1000000 + 4000 * self.gnss.period_s)
            if not self.gnss.period_s and not self._locate.wanted:
                due = self.rules.due_ms()
                if due is not None:
                    wait_ms = min(wait_ms, due - now)
                await self._now.wait(max(0, wait_ms))

    def _expect_position(self):
        """The receiver has woken; its position is a second away, and a modem that has to report it takes a moment."""
        if self._report_due(EARLY_MS + ANNOUNCED_MS):
            self.modem.rouse()

    def _report_due(self, ahead_ms):
        return self.device.ticks_ms() + ahead_ms >= self._reported_ms + self._report_interval_ms()

    def _interval_s(self):
        """Between positions as it is now; the shortest of what applies."""
        device = self.device
        settings = device.settings
        order = device.order
        if self.zones.suspected:
            return (order and order.violation_fix_interval_s) or settings.violation_fix_interval_s
        interval = (order and order.fix_interval_s) or settings.fix_interval_s
        if self.motion.still(device.ticks_ms(), settings.still_after_s * 1000):
            return max(interval, settings.still_fix_interval_s)
        return interval

    def _report_interval_ms(self):
        order = self.device.order
        settings = self.device.settings
        if not self.zones.violated:
            self.device.uplink.interval_s = 0
            return settings.report_interval_s * 1000
        interval = (order and order.violation_report_interval_s) or settings.violation_report_interval_s
        self.device.uplink.interval_s = min(interval, settings.report_interval_s)
        return self.device.uplink.interval_s * 1000

    def _pause_s(self, found):
        """From the beginning of one attempt to the next."""
        interval = self._interval_s()
        patient = self.device.settings.gnss_patient_failures
        if found or self._failures <= patient or self.zones.violated:
            return interval
        # Indoors: ever more patiently, until something changes.
        longest = max(interval, self.device.settings.gnss_back_off_s)
        return min(interval << min(self._failures - patient, 8), longest)

    async def _attempt(self, now):
        """One position, or what there is instead of it; True if satellites gave one."""
        settings = self.device.settings
        last = self.gnss.fix_ticks_ms
        hot = last is not None and now - last < HOT_FOR_MS
        timeout_ms = 1000 * (settings.gnss_hot_timeout_s if hot else settings.gnss_cold_timeout_s)
        until_ms = self._locate.until_ms()
        if until_ms is not None:
            timeout_ms = until_ms - now
        period_s = self._interval_s()
        if not settings.gnss_power_save or not SHORTEST_PERIOD_S <= period_s <= LONGEST_PERIOD_S:
            period_s = 0
        patient = not (self.zones.suspected or self._locate.wanted)
        fix = await self.gnss.fix(timeout_ms, period_s=period_s, patient=patient)
        receiver = self.gnss.receiver
        if receiver is not None and receiver.interference is not None:
            self.rules.interference(receiver.interference)
            receiver.interference = None  # judged: asleep it reports at every fifth position only
        if fix is None:
            await self._without_fix()
        else:
            self._failures = 0
            position = self._dated(fix)
            if position is not None:
                self._take(position)
        await self.rules.check()
        await self._answer(fix is not None)
        return fix is not None

    def _dated(self, fix):
        """The fix as blocks have it; its time is the tag's own clock's if the receiver's is none, or refused by it."""
        clock = self.device.clock
        ticks = self.gnss.fix_ticks_ms
        said_s = fix.time_s
        refused = clock.rejected
        if said_s is not None:
            clock.observe(constants.CLOCK_GNSS, said_s * 1000 + fix.millisecond, GNSS_TIME_UNCERTAINTY_MS, ticks)
        own_s = None
        if said_s is None or clock.rejected != refused:
            own_s = clock.time_at(ticks)
            if not own_s:
                self.undated += 1
                return None
        if own_s and said_s is not None and abs(said_s - own_s) > MISDATED_S:
            self._tell_fault(OUTCOME_MISDATED)
        else:
            self._fault_ms = None
        return fixes.to_position(fix, constants.MECHANISM_GPS, own_s)

    def _take(self, position):
        device = self.device
        self._keep(position)
        now = device.ticks_ms()
        time_s, latitude, longitude, speed_decikph, _, precision_m, satellites = position[:7]
        self._tell_no_fix(self._no_fix.fixed(now))
        self.rules.fixed(now, speed_decikph // 10, satellites)
        doubt = self._teleport.judge(time_s, latitude, longitude, precision_m, device.settings.teleport_kph)
        if doubt is not None:
            self.rules.doubted(time_s, *doubt)
            return
        if self.motion.still(now, 0) and self.rules.moved(latitude, longitude, precision_m):
            self.motion.contradicted()
            device.health.keep_motion(True)
        was = self.zones.violated
        self._tell_zones(self.zones.judge(time_s, latitude, longitude, precision_m))
        if self.zones.violated != was:
            # The trail up to here goes with the alarm.
            self._report()

    def _keep(self, position):
        self._last = position
        self.log.append(position)

    async def _without_fix(self):
        device = self.device
        now = device.ticks_ms()
        if self.gnss.fault:
            self.rules.receiver_faulty(now)
            self._tell_fault(self.gnss.outcome)
        else:
            self._failures += 1
            self._tell_no_fix(self._no_fix.failed(now, device.clock.time_s(), self.gnss.cause))
            await self.rules.failed(now, self.gnss.cause)
        interval_ms = device.settings.cell_position_interval_s * 1000
        due = self._cell_ms is None or now + EARLY_MS - self._cell_ms >= interval_ms
        if due and not self._locate.wanted:  # which asks when its satellites' time is up
            await self._ask_network()

    def _tell_fault(self, outcome):
        now = self.device.ticks_ms()
        if self._fault_ms is None or now - self._fault_ms >= FAULT_REPEAT_MS:
            self._fault_ms = now
            self.device.records.event(constants.EVENT_GNSS_FAULT, outcome)

    async def _ask_network(self):
        self._cell_ms = self.device.ticks_ms()
        try:
            found = await self.modem.cell_position()
        except OSError:
            return
        time_s = self.device.clock.time_s()
        if found is None or not time_s:
            return
        latitude, longitude, precision_m = found
        self._keep(
            (time_s, latitude, longitude, UNKNOWN, UNKNOWN, precision_m, UNKNOWN, UNKNOWN, constants.MECHANISM_LBS)
        )

    def _report(self):
        """All positions into records, for which the modem is roused; False if there are none."""
        device = self.device
        self._reported_ms = device.ticks_ms()
        if not self.log.fixes:
            return False
        for count, block in trail.blocks(self.log.fixes):
            self.log.into_record(count, device.journal.next_sequence)
            device.records.position_block(block)
            self.log.recorded(count, not device.journal.waiting)
        return True

    # -- what else happens ----------------------------------------------------------------------------------

    async def _answer(self, found):
        """Position on demand: at once when there is one, else the network's when the satellites' time is up."""
        now = self.device.ticks_ms()
        until_ms = self._locate.until_ms()
        if until_ms is None or not (found or until_ms <= now):
            return
        if not found:
            await self._ask_network()
        self._locate.answer(self.gnss.fix_ticks_ms if found else None, now)

    def _known(self):
        self._report()
        return self._last

    def _on_order(self):
        order = self.device.order
        now_s = self.device.clock.time_s()
        was = self.zones.violated
        self._tell_zones(self.zones.take(order.version if order else 0, order.zones if order else (), now_s))
        if order is not None or was:
            self.hasten()

    def _tell_zones(self, events):
        for kind, number, time_s, evidence in events:
            self.device.records.event(kind, number, evidence=evidence, event_time_s=time_s)

    def _tell_no_fix(self, event):
        if event is not None:
            value, since_s, evidence = event
            self.device.records.event(constants.EVENT_NO_FIX, value, evidence=evidence, event_time_s=since_s)

    def _on_motion(self, level):
        device = self.device
        now = device.ticks_ms()
        rested = self.motion.still(now, device.settings.still_after_s * 1000) or self.dock.docked
        self.rules.motion_changes(now)
        self.motion.changed(level, now)
        patient = device.settings.gnss_patient_failures
        if level and (rested or self._failures > patient):
            self._failures = min(self._failures, patient)
            self.hasten()

    def _on_registration(self):
        self.rules.cell(self.device.ticks_ms())
        if self._failures and not self.gnss.period_s:
            self._now.set()

    def _on_charging(self):
        if self.dock.docked or (self.device.health.charging and self.dock.possible):
            self.hasten()

    def _on_strap(self, is_open):
        # Where it happened matters now: what is known goes out at once, and a fresh fix is taken.
        self._report()
        self._reported_ms = self.device.ticks_ms() - self._report_interval_ms()
        self.hasten()
