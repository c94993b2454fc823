# The device's tunables: one table of them all, what the gateway sent over the defaults, kept over a reset by
# power-safe writes. A new tunable is a member of PARAMETER in the catalogue and a row here.
import asyncio
import json
from binascii import hexlify, unhexlify

from emwire import constants

from common.slots import Slots

# Name (as PARAMETER_… in lower case), default, lowest, highest; the source of the default beside it.
# Shorter or lower than the bounds is a mistake, not a wish: it would empty the battery or flood the link.
TABLE = (
    ("report_interval_s", 300, 10, 65535),  # well inside the 4 min plus upload that an agency may wait
    ("fix_interval_s", 60, 5, 65535),  # NIJ 1004.00: a point a minute
    ("presence_window_s", 300, 10, 65535),  # as long as the report
    ("sample_interval_s", 1800, 60, 65535),  # SCRAM: every 30 min
    ("status_interval_s", 3600, 10, 65535),  # a battery's hour is a percent or less
    ("raised_sample_interval_s", 900, 60, 65535),  # twice as often as in ordinary use
    ("raised_for_s", 10800, 0, 604800),  # alcohol leaves the skin hours after the blood: three without any
    ("alcohol_threshold_ug_per_l", 200000, 10000, 10000000),  # SCRAM: TAC above 0.02 g/dL is to be detected
    ("contact_deviation_mv", 500, 50, 3300),  # field rule: 0.5 V from its own baseline
    ("contact_lost_s", 36000, 600, 604800),  # field rule: 10 h (8 h in some reports)
    ("interferent_rise_ug_per_l", 3500000, 100000, 50000000),  # recorded drinking: 0.28 g/dL between readings
    ("wet_spread_ug_per_l", 200000, 10000, 10000000),  # the detection limit
    ("cell_check_interval_s", 86400, 3600, 604800),  # daily
    ("strap_debounce_ms", 50, 5, 1000),  # contacts bounce for 1 to 20 ms; a hundredth of the 5 s of NIJ 1004.00 §5.4.1
    # NIJ 1004.00 §5.4.1: stamped within 5 s. Nobody refits a cut strap so fast, a loose contact closes again.
    ("strap_confirm_ms", 2000, 100, 4000),
    ("strap_quiet_s", 60, 10, 3600),  # a loose contact speaks again within a minute of walking
    ("strap_flicker_changes", 4, 2, 100),  # a cut and a refit are two changes; so quickly nobody does it thrice
    ("strap_repeat_s", 86400, 3600, 604800),  # field rule: re-raised every 24 h
    ("battery_low_percent", 20, 5, 90),  # a day's use is left of a 72 h charge
    ("battery_critical_percent", 10, 1, 50),  # hours are left
    ("battery_interval_s", 300, 10, 3600),  # a lithium cell moves slowly
    ("charge_failed_s", 3600, 600, 86400),  # a wearer charges for an hour a day: no gain in one is a fault
    ("prompt_interval_s", 3600, 300, 86400),  # four at most between low and critical of a 72 h charge
    ("quiet_start_minute", 1320, 0, 1439),  # 22:00
    ("quiet_end_minute", 420, 0, 1439),  # 07:00, the end of the usual curfew
    ("watchdog_s", 900, 60, 7200),  # three times the longest pause between two looks at the battery
    ("range_profile", 3, 1, 3),  # SCRAM House Arrest: 35, 75, 150 ft; the widest until a range test set another
    # Free space from -59 dBm at 1 m, what beacons of 0 dBm show: 10.7 m, 22.9 m; a range test sets the dwelling's own.
    ("range_short_dbm", -80, -120, 0),
    ("range_middle_dbm", -86, -120, 0),
    ("range_long_dbm", -120, -120, 0),  # whatever a receiver can open
    ("range_hysteresis_db", 6, 0, 40),  # fading of a body turned round
    ("absent_after_beacons", 12, 3, 1000),  # two minutes of a pid's 10 s
    ("absent_after_s", 120, 10, 7200),  # a walk to the bins is no absence
    ("listening_interval_s", 3600, 60, 65535),  # once an hour, as the status
    ("deaf_event_s", 60, 10, 65535),  # a fifth of a window
    ("moved_together_s", 120, 10, 3600),  # field rule: within 2 min
    ("mains_debounce_ms", 1000, 50, 60000),  # shorter dips do not even reset a computer's supply
    ("wan_lost_s", 900, 120, 86400),  # three reports that nobody answered
    ("battery_listen_percent", 60, 10, 100),  # the backend wants half of a window listened to
    ("curfew_grace_s", 300, 0, 3600),  # one presence window
    ("clock_bound_ms", 2500, 100, 60000),  # half of the 5 s within which a strap cut must be stamped
    ("strap_light_percent", 150, 105, 300),  # a lamp that still shows half more than the comparator needs is sound
    ("curfew_address", 1, 1, 3),  # PRIMARY
    ("skin_lowest_c", 15, -40, 40),  # recorded bracelets show 18.6 to 38.4 degrees while worn
    ("skin_highest_c", 42, 20, 85),
    ("cell_response_percent", 20, 5, 90),  # a cell ages by losing sensitivity: a fifth either way is still a reading
    ("cell_zero_drift_ug_per_l", 50000, 10000, 200000),  # a quarter of the detection limit
    ("charge_gain_mv", 10, 1, 200),  # in charge_failed_s; an ADC of 12 bits resolves 1.6 mV
    ("uplink_stuck_s", 7200, 1800, 86400),  # back-off ends at 5 min, and a modem's longest attempt is minutes
    ("violation_fix_interval_s", 15, 5, 600),  # 3M/California: every 15 s while in a zone violation
    ("violation_report_interval_s", 60, 10, 600),  # NIJ 1004.00 §5.3.5: within 4 min
    # Of so many, N count: an isolated wrong position must neither make nor end a violation (field notes §2).
    ("zone_window_points", 3, 1, 8),
    ("zone_dwell_s", 0, 0, 3600),  # the order's points_inside alone decide
    ("still_after_s", 300, 60, 86400),  # traffic lights and bus stops are shorter
    ("still_fix_interval_s", 240, 30, 3600),  # MoJ: a gap of more than 5 min between points is missing data
    ("gnss_back_off_s", 180, 15, 3600),  # with an attempt of 40 s still a point of the network in 5 min
    ("gnss_cold_timeout_s", 120, 30, 600),  # NIJ 1004.00 §5.3.1: cold start within 2 min
    ("gnss_hot_timeout_s", 40, 5, 300),  # u-blox M8: 1 s hot, 26 s if it has lost its orbits after all
    ("locate_limit_s", 180, 10, 180),  # NIJ draft: on-demand location within 3 min
    ("teleport_kph", 300, 100, 2000),  # faster than any land vehicle a wearer rides
    ("motion_without_fix_s", 600, 60, 3600),  # field rule: 10 min of motion
    ("motion_window_s", 3600, 600, 14400),  # within 60 min
    ("motion_grace_s", 600, 0, 3600),  # then 10 min grace
    ("shielding_s", 120, 30, 3600),  # field rule: more than 2 min
    ("shielding_together_s", 90, 10, 600),  # a fix a minute and an attempt of up to 40 s say when
    ("shielding_least_dbm", -100, -113, -51),  # 3GPP TS 27.007: CSQ 6; below it any wall ends a call
    ("shielding_travel_kph", 30, 5, 300),  # faster than a runner
    ("shielding_travel_s", 1200, 120, 7200),  # 20 min: the longest rail tunnels of the UK at their line speed
    ("gnss_jamming_level", 150, 50, 255),  # of 255; u-blox calls indoor noise below 50
    ("cellular_jamming_s", 120, 30, 3600),  # as shielding
    ("cell_position_interval_s", 180, 30, 3600),  # under the 5 min of MoJ with the attempt before it
    ("dock_check_interval_s", 300, 30, 3600),  # as a presence window
    ("dock_listen_s", 20, 5, 300),  # two tokens of a beacon of 10 s
    ("gnss_power_save", 1, 0, 1),
    ("modem_sleep", 0, 0, 1),  # asleep it cannot be asked where it is within 3 min
    ("gnss_jamming_reports", 2, 1, 20),  # a passing lorry with a jammer is heard once
    ("cellular_jamming_dbm", -75, -113, -51),  # 3GPP TS 27.007: -51 is the strongest; tags/shielding.py
    ("gnss_patient_failures", 3, 0, 100),  # a bridge, a bus, a doorway
    ("modem_look_s", 1800, 60, 86400),  # how the cell was before it was lost is known from the last look
    ("dock_misses", 2, 1, 20),  # one collision in the air is no departure
    ("zone_separation_s", 3600, 60, 65535),  # an hour apart they say nothing of one visit
    ("update_confirm_s", 3600, 60, 86400),  # common/update.py
    ("update_trial_s", 86400, 300, 604800),  # common/update.py
    ("update_battery_percent", 30, 0, 100),  # common/update.py
)
# The first of each pair is never above the second: a rule would hold always or never.
ORDERED = (
    ("skin_lowest_c", "skin_highest_c"),
    ("motion_without_fix_s", "motion_window_s"),
    ("battery_critical_percent", "battery_low_percent"),
    ("range_long_dbm", "range_middle_dbm"),
    ("range_middle_dbm", "range_short_dbm"),
)
# Intervals of the configuration message, in its order.
_CONFIGURED = ("report_interval_s", "fix_interval_s", "presence_window_s", "sample_interval_s", "status_interval_s")
_PREFIX = "PARAMETER_"
# Regular work is done so much earlier when the processor is awake anyway, and put off by a fifth of what is left of
# its interval, at most, until it is.
EARLY_MS = 5000
LATE_PART = 5


# A row costs RAM: the image builder puts two functions in the place of these that read the table from flash
# (emrig/images/tunables.py).
def _named(name):
    """Row of TABLE, or None."""
    for row in TABLE:
        if row[0] == name:
            return row
    return None


def _numbered(parameter):
    """The same, by the wire's number, which the catalogue alone has."""
    for row in TABLE:
        if getattr(constants, _PREFIX + row[0].upper()) == parameter:
            return row
    return None


def newer(version: int, than: int) -> bool:
    """In serial-number arithmetic (RFC 1982), so that a u16 may wrap; anything is newer than 0."""
    return not than or 0 < ((version - than) & 0xFFFF) < 0x8000


class Settings:
    """Attributes named as in TABLE; beacons: {device id: key}; versions of configuration and parameters."""

    def __init__(self, storage_path: str, overrides: "dict | None" = None):
        """overrides: what this device's identity says instead of the defaults, same names."""
        self._set = {}  # what was sent, by name
        self._overrides = overrides or {}
        self.version = 0
        self.parameters_version = 0
        self.beacons = {}
        self.write_failures = 0
        self._changed = asyncio.Event()
        self._look = asyncio.Event()
        self.late_ms = 0  # regular work may wait so long for awake(); 0 = nobody calls it
        self._slots = Slots(storage_path + "/settings.")
        self._load()

    def __getattr__(self, name):
        # Looked up when it is asked for: most of them no model's code ever does.
        row = _named(name)
        if row is None:
            raise AttributeError(name)
        return self._set[name] if name in self._set else self._overrides.get(name, row[1])

    def apply(self, version: int, intervals, beacon_ids) -> bool:
        """intervals: in the message's order, 0 = as before; beacon_ids: ((id, key), …). False if not newer."""
        if not newer(version, self.version):
            return False
        self.version = version
        for name, value in zip(_CONFIGURED, intervals):
            if value:
                self._take(name, max(value, self._bounds(name)[0]))
        if beacon_ids:
            self.beacons = {number: bytes(key) for number, key in beacon_ids}
        self._keep()
        return True

    def apply_parameters(self, version: int, parameters) -> bytes:
        """parameters: ((number, value), …), all or none. The numbers that are refused: unknown, out of bounds, against
        ORDERED; b"" = taken."""
        refused = []
        numbers = {}
        given = {}
        for number, value in parameters:
            row = _numbered(number)
            if row is None or not row[2] <= value <= row[3]:
                refused.append(number)
            else:
                numbers[row[0]] = number
                given[row[0]] = value
        for pair in ORDERED:
            lower, upper = [given[name] if name in given else getattr(self, name) for name in pair]
            if lower > upper:
                refused += [numbers[name] for name in pair if name in given and numbers[name] not in refused]
        if refused:
            return bytes(refused)
        self.parameters_version = version
        for name, value in given.items():
            self._take(name, value)
        self._keep()
        return b""

    def set(self, name: str, value: int) -> bool:
        """Change one here, as a command does; False if it is out of bounds."""
        lowest, highest = self._bounds(name)
        if not lowest <= value <= highest:
            return False
        self._take(name, value)
        self._keep()
        return True

    async def on_change(self, callback) -> None:
        """Task: callback() after every change."""
        while True:
            await self._changed.wait()
            callback()

    async def sleep(self, ticks_ms, since_ms: int, name: str) -> None:
        """Sleep until the interval of that name has passed since since_ms, whatever it is changed to meanwhile."""
        await self._sleep(ticks_ms, lambda: since_ms + getattr(self, name) * 1000)

    async def sleep_until(self, ticks_ms, due_ms: int) -> None:
        """As sleep(), to a moment."""
        await self._sleep(ticks_ms, lambda: due_ms)

    def awake(self) -> None:
        """The processor is awake for something else: who is due, or nearly, goes on now, so that it wakes once."""
        self._look.set()
        self._look.clear()

    async def _sleep(self, ticks_ms, due_ms):
        early_ms = 0
        while True:
            remaining = due_ms() - ticks_ms()
            if remaining <= early_ms:
                return
            try:
                await asyncio.wait_for_ms(self._look.wait(), remaining + min(self.late_ms, remaining // LATE_PART))
            except asyncio.TimeoutError:
                return
            early_ms = min(EARLY_MS, self.late_ms)

    def _bounds(self, name):
        row = _named(name)
        return row and row[2:]

    def _take(self, name, value):
        self._set[name] = value

    def _keep(self):
        content = {
            "version": self.version,
            "parameters_version": self.parameters_version,
            "values": self._set,
            "beacons": [[number, hexlify(key).decode()] for number, key in self.beacons.items()],
        }
        try:
            self._slots.write(json.dumps(content).encode())
        except OSError:
            # In force all the same; after a reset the gateway sees the old version and sends it again.
            self.write_failures += 1
        self._changed.set()
        self._changed.clear()
        self.awake()

    def _load(self):
        if self._slots.value is None:
            return
        content = json.loads(self._slots.value)
        self.version = content["version"]
        self.parameters_version = content["parameters_version"]
        for name, value in content["values"].items():
            # Another firmware may have written it: what is unknown or out of bounds today stays at its default.
            bounds = self._bounds(name)
            if bounds is not None and bounds[0] <= value <= bounds[1]:
                self._take(name, value)
        self.beacons = {number: unhexlify(key) for number, key in content["beacons"]}
