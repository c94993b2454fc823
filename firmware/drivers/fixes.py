# From observations to fixes: one fix per epoch of the receiver, from all that it said about that moment.
from collections import namedtuple

from drivers import nmea

# Why there is no position.
CAUSE_NONE = 0  # there is one
CAUSE_NOTHING_HEARD = 1  # no sentence or message about a position yet
CAUSE_VOID = 2  # the receiver says that it has no fix
CAUSE_ESTIMATED = 3  # it offers dead reckoning, not a measurement
CAUSE_CONTRADICTION = 4  # its sentences about one moment disagree
CAUSE_UNCONFIRMED = 5  # the other sentences that it usually sends were lost
CAUSE_NAMES = ("none", "nothing heard", "void", "estimated", "contradiction", "unconfirmed")

# One epoch's position. Unknown = None. time_s: seconds since 2010-01-01T00:00:00Z (negative before), with millisecond.
# weeks_added: what was added to the receiver's date, a multiple of 1024 (GPS week rollover), 0 if nothing.
Fix = namedtuple(
    "Fix",
    (
        "time_s",
        "millisecond",
        "latitude_microdegrees",
        "longitude_microdegrees",
        "mode",
        "speed_mm_per_s",
        "direction_centidegrees",
        "satellites",
        "hdop_hundredths",
        "precision_m",
        "weeks_added",
    ),
)

# Error of a range at 95 %, so that hdop times this is the radius at 95 %: what gpsd takes without differential
# corrections (H_UERE_NO_DGPS in libgpsd_core.c). Corrections do not remove multipath, so no smaller figure for them.
RANGE_ERROR_M = 15
PRECISION_UNKNOWN_M = 65535
# Sentences with 4 and with 5 decimals of a minute, one cut off and one rounded, differ by up to 1.7 microdegrees,
# and each is rounded to a whole one.
AGREEMENT_MICRODEGREES = 3
# NMEA writes hundredths of a second, NAV-PVT nanoseconds: nearer than this is the same epoch (receivers: up to 25 Hz).
SAME_EPOCH_MS = 10
# GSA need not come with every epoch; beyond this its mode, "no fix" too, is old.
MODE_HOLDS_MS = 10000
# An epoch that brought no date takes over that of an epoch at most this long before.
DATE_HOLDS_MS = 600000
# After so many epochs with a single position sentence the receiver is taken to send no more than one.
EPOCHS_TO_RELEARN = 5
# A receiver that sent GSA in so many epochs in a row sends it in all: one that lacks it may have lost its "no fix".
EPOCHS_WITH_GSA = 2
ROLLOVER_DAYS = 7 * 1024

_POSITION_KINDS = nmea.GGA | nmea.RMC | nmea.GNS | nmea.GLL


def to_position(fix: "Fix", mechanism: int = 1, time_s: "int | None" = None) -> tuple:
    """The fix as emwire.positions takes it (unknown = -1), mechanism 1 = GPS.

    time_s takes the place of the fix's time; it must be given where that is unknown.
    """
    return (
        fix.time_s + (1 if fix.millisecond >= 500 else 0) if time_s is None else time_s,
        fix.latitude_microdegrees,
        fix.longitude_microdegrees,
        -1 if fix.speed_mm_per_s is None else (fix.speed_mm_per_s * 9 + 125) // 250,
        -1 if fix.direction_centidegrees is None else (fix.direction_centidegrees + 50) // 100 % 360,
        -1 if fix.precision_m is None else min(fix.precision_m, PRECISION_UNKNOWN_M - 1),
        -1 if fix.satellites is None else min(fix.satellites, 63),
        -1 if fix.hdop_hundredths is None else (fix.hdop_hundredths + 5) // 10,
        mechanism,
    )


class Epochs:
    """Collects observations; fixes appear in the list `done` when their epoch is over."""

    def __init__(self, not_before_day: "int | None" = None):
        """not_before_day: no true date is earlier (day the firmware was built, since 2010-01-01)."""
        self.done = []
        self.cause = CAUSE_NOTHING_HEARD
        self.fixes = 0
        self.no_fix_epochs = 0
        self.voids = 0  # observations that say "no fix"
        self.contradictions = 0
        self.unconfirmed = 0
        self.late = 0  # observations about an epoch already given out
        self.bad_dates = 0
        self.date_jumps = 0
        self.rollovers = 0
        self._not_before_day = not_before_day
        self._usual = 1  # position sentences an epoch has, as far as learned
        self._singles = 0
        self._with_gsa = 0  # epochs in a row
        self._without_gsa = 0
        self._given_ms = None  # time of day of the last epoch given out
        self.newest_ms = None  # time of day of the last epoch of all, if it said
        self._dated_ms = self._dated_day = self._jumped_to = None
        self._mode = self._mode_ms = None
        self._weeks = 0
        self._open = False
        self._begin(None)
        self._open = False

    @property
    def pending(self) -> bool:
        """True while an epoch is open that may become a fix."""
        return self._open and self._positions > 0

    def _begin(self, time_ms):
        self._open = True
        self._time_ms = time_ms
        self._kinds = 0
        self._positions = 0
        self._refusal = CAUSE_NONE
        self._day = None
        self._date_bad = False
        self._latitude = self._longitude = self._decimals = 0
        self._speed = self._direction = None
        self._satellites = self._hdop = self._precision = None
        self._gsa_mode = 0
        self._mode_hint = 2

    def observe(self, seen: "nmea.Observation") -> None:
        """An NMEA sentence."""
        if seen.time_ms is not None:
            if not self._enter(seen.time_ms):
                self.late += 1
                return
        elif seen.status != nmea.SILENT:
            self._void_without_time(seen)
            return
        if not self._open:
            return
        self._kinds |= seen.kind
        if seen.status == nmea.VALID:
            self._place(seen)
        elif seen.status != nmea.SILENT:
            self._refuse(seen.status)
        self._merge(seen)

    def observe_pvt(self, seen: "nmea.Observation", hdop: "int | None") -> None:
        """A NAV-PVT: whole in itself, and better protected than the sentences about the same moment."""
        time_ms = seen.time_ms
        if time_ms is not None and self._near(time_ms, self._given_ms):
            self.late += 1
            return
        if self._open and time_ms is not None and self._near(time_ms, self._time_ms):
            hdop = self._hdop if hdop is None else hdop
        else:
            self.close()
        self._begin(time_ms)
        self._merge(seen)
        self._hdop = hdop
        if seen.status == nmea.VALID:
            self._latitude, self._longitude = seen.latitude, seen.longitude
            self._positions = self._usual
            self._gsa_mode = seen.mode
        else:
            self._refuse(seen.status)
        self._finish()

    def close(self) -> None:
        """The open epoch is over: the next began, or the receiver fell silent."""
        if not self._open:
            return
        if not self._positions and not self._refusal:
            self._open = False  # time alone
            return
        if (self._gsa_mode or self._held_mode()) == 1:
            self._refusal = self._refusal or CAUSE_VOID
        if not self._refusal:
            self._confirm()
        self._finish()

    def _enter(self, time_ms):
        """Make time_ms the open epoch; False if it was given out already."""
        if self._open and self._time_ms == time_ms:
            return True
        self.close()
        if self._near(time_ms, self._given_ms):
            return False
        self._begin(time_ms)
        return True

    def _near(self, time_ms, other_ms):
        return other_ms is not None and -SAME_EPOCH_MS < time_ms - other_ms < SAME_EPOCH_MS

    def _void_without_time(self, seen):
        # It belongs to the open epoch unless that has had its sentence of this kind: then it begins the next.
        if self._open and not self._kinds & seen.kind:
            self._kinds |= seen.kind
            self._refuse(seen.status)
            return
        self.close()
        self.voids += 1
        self.newest_ms = None
        self.cause = CAUSE_VOID if seen.status == nmea.VOID else CAUSE_ESTIMATED

    def _refuse(self, status):
        self.voids += 1
        self._refusal = CAUSE_VOID if status == nmea.VOID else CAUSE_ESTIMATED

    def _place(self, seen):
        if not self._positions:
            # The first stays: a sentence spliced by lost bytes can only be followed by the next epoch's.
            self._latitude, self._longitude, self._decimals = seen.latitude, seen.longitude, seen.decimals
            self._positions = 1
            return
        apart = max(abs(seen.latitude - self._latitude), abs(seen.longitude - self._longitude))
        if apart > AGREEMENT_MICRODEGREES:
            self._refusal = self._refusal or CAUSE_CONTRADICTION
        elif not apart or seen.decimals != self._decimals:
            self._positions += 1  # the same, as far as it goes, and so confirmed

    def _merge(self, seen):
        if seen.kind == nmea.GSA:
            # Of several systems, or of the next epoch whose first sentence was lost.
            self._gsa_mode = 1 if 1 in (self._gsa_mode, seen.mode) else max(self._gsa_mode, seen.mode)
            if self._hdop is None:
                self._hdop = seen.hdop
            return
        if seen.date_bad:
            self.bad_dates += 1
            self._date_bad = True
        elif seen.day is not None:
            if self._day is not None and self._day != seen.day:
                self._date_bad = True
            self._day = seen.day
        # RMC before VTG: it carries its time.
        if seen.speed is not None and (self._speed is None or seen.kind == nmea.RMC):
            self._speed = seen.speed
        if seen.direction is not None and (self._direction is None or seen.kind == nmea.RMC):
            self._direction = seen.direction
        # GNS counts the satellites of all systems, GGA may count one system's.
        if seen.satellites is not None:
            self._satellites = max(seen.satellites, self._satellites or 0)
        if seen.hdop is not None:
            self._hdop = seen.hdop
        if seen.precision is not None:
            self._precision = seen.precision
        if seen.mode is not None:
            self._mode_hint = max(self._mode_hint, seen.mode)

    def _confirm(self):
        if self._kinds & nmea.GSA:
            self._with_gsa = min(self._with_gsa + 1, EPOCHS_WITH_GSA)
            self._without_gsa = 0
        elif self._with_gsa == EPOCHS_WITH_GSA and self._without_gsa < EPOCHS_TO_RELEARN:
            self._without_gsa += 1
            self._refusal = CAUSE_UNCONFIRMED
        else:
            self._with_gsa = 0
        # NMEA's checksum misses one splice in 256. A receiver that sends a position several times per epoch must have
        # said this one at least twice.
        if self._positions > 1:
            self._usual = 2
            self._singles = 0
        elif self._usual > 1:
            self._singles += 1
            if self._singles > EPOCHS_TO_RELEARN:
                self._usual = 1
            else:
                self._refusal = CAUSE_UNCONFIRMED

    def _finish(self):
        self._open = False
        if self._refusal:
            self.cause = self._refusal
            if self._refusal == CAUSE_CONTRADICTION:
                self.contradictions += 1
            elif self._refusal == CAUSE_UNCONFIRMED:
                self.unconfirmed += 1
                return  # the rest of it may still come
            elif self._gsa_mode == 1:
                # Held as the others are: the next epoch's may be lost.
                self._mode = 1
                self._mode_ms = self._time_ms
            elif self._held_mode() != 1:
                self._mode = None
            self.no_fix_epochs += 1
        else:
            time_s = self._utc_s()
            self.done.append(
                Fix(
                    time_s,
                    None if time_s is None else self._time_ms % 1000,
                    self._latitude,
                    self._longitude,
                    self._mode_of_epoch(),
                    self._speed,
                    self._direction,
                    self._satellites,
                    self._hdop,
                    self._radius(),
                    0 if time_s is None else self._weeks,
                )
            )
            self.fixes += 1
            self.cause = CAUSE_NONE
        self._given_ms = self.newest_ms = self._time_ms

    def _mode_of_epoch(self):
        if self._gsa_mode > 1:
            self._mode = self._gsa_mode
            self._mode_ms = self._time_ms
            return self._mode
        return self._held_mode() or self._mode_hint

    def _held_mode(self):
        if self._mode is not None and self._mode_ms is not None and self._time_ms is not None:
            if (self._time_ms - self._mode_ms) % nmea.DAY_MS <= MODE_HOLDS_MS:
                return self._mode
        return None

    def _radius(self):
        if self._precision is not None:
            return min(self._precision, PRECISION_UNKNOWN_M - 1)
        if self._hdop is not None:
            return (self._hdop * RANGE_ERROR_M + 99) // 100
        return None

    def _utc_s(self):
        """Seconds since 2010 of the epoch, None if the receiver gave no date worth believing."""
        self._weeks = 0
        if self._time_ms is None or self._date_bad:
            return None
        day = self._day
        carried = self._carried_day()
        if day is None:
            day = carried
            if day is None:
                return None
        elif carried is not None and day != carried and day != self._jumped_to:
            # Said once it may be an error that the checksum missed; said twice it is what the receiver means.
            self.date_jumps += 1
            self._jumped_to = day
            return None
        self._jumped_to = None
        self._dated_day = day
        self._dated_ms = self._time_ms
        if self._not_before_day is not None:
            # A receiver's week count wraps every 1024 weeks: the true date is the one in the 19.6 years after the
            # firmware was built.
            true_day = self._not_before_day + (day - self._not_before_day) % ROLLOVER_DAYS
            if true_day != day:
                self.rollovers += 1
                self._weeks = (true_day - day) // 7
                day = true_day
        return day * 86400 + self._time_ms // 1000

    def _carried_day(self):
        if self._dated_day is None:
            return None
        since = self._time_ms - self._dated_ms
        if 0 <= since <= DATE_HOLDS_MS:
            return self._dated_day
        if since + nmea.DAY_MS <= DATE_HOLDS_MS:  # past midnight
            return self._dated_day + 1
        return None
