# Shielding and jamming suspected, by what satellites and cell were like before and how they went. Sans-IO.
#
# Ordinary loss is no event: one of the two alone, one long before the other (a house, then its cellar), a cell that was
# weak before (the country), loss in fast travel for as long as a tunnel lasts, a receiver or modem that is faulty,
# asleep or switched off.
import struct

DBM_UNKNOWN = -128
# seconds without satellites u16, seconds without cell u16, dBm before i8 (-128 unknown), km/h at the last position u16,
# satellites then u8 (255 unknown), cause of no fix u8 (drivers.fixes)
EVIDENCE_FORMAT = "<HHbHBB"
# jamming state u8, indicator u8, noise u16, gain control u16, as the receiver reports them (drivers.ubx)
JAMMING_FORMAT = "<BBHH"


class Shielding:
    """Tell it what is seen; check() gives (begins, seconds, evidence) when it begins or ends, else None."""

    def __init__(self):
        self._fix_ms = None
        self._kph = 0
        self._satellites = 255
        self._sky_ms = None  # the attempt that failed first
        self._cause = 0
        self._cell_ms = None
        self._dbm = DBM_UNKNOWN
        self._begun_ms = None

    def fixed(self, now_ms: int, kph: int, satellites: int):
        self._fix_ms = now_ms
        self._kph = max(kph, 0)
        self._satellites = satellites if 0 <= satellites < 255 else 255
        self._sky_ms = None

    def failed(self, now_ms: int, cause: int):
        """The receiver works and has no fix."""
        self._cause = cause
        if self._sky_ms is None and self._fix_ms is not None:
            self._sky_ms = now_ms

    def faulty(self):
        """The receiver does not work: nothing can be said until it has a fix again."""
        self._sky_ms = self._fix_ms = None

    def cell(self, now_ms: int, registered: "bool | None", dbm: int = DBM_UNKNOWN):
        """None: asleep, off or faulty, so that nothing can be said."""
        if registered is False:
            if self._cell_ms is None:
                self._cell_ms = now_ms
            return
        if registered is None:
            # Under suspicion the driver may restart the modem: that ends nothing.
            if self._begun_ms is None:
                self._cell_ms = None
                self._dbm = DBM_UNKNOWN
            return
        self._cell_ms = None
        if dbm != DBM_UNKNOWN:
            self._dbm = dbm

    def due_ms(self, settings) -> "int | None":
        """When check() should be called at the latest, if it may begin by then."""
        if (
            self._begun_ms is not None
            or self._sky_ms is None
            or self._cell_ms is None
            or not self._unordinary(settings)
        ):
            return None
        wait_s = settings.shielding_travel_s if self._kph > settings.shielding_travel_kph else settings.shielding_s
        return max(self._sky_ms, self._cell_ms) + wait_s * 1000

    def may_begin(self, now_ms: int, settings) -> bool:
        """Whether it still matters how the cell is: satellites that were lost longer ago were lost alone."""
        return self._sky_ms is not None and now_ms - self._sky_ms <= settings.shielding_together_s * 1000

    def check(self, now_ms: int, settings):
        lost = self._sky_ms is not None and self._cell_ms is not None
        if self._begun_ms is not None:
            if lost:
                return None
            seconds = (now_ms - self._begun_ms) // 1000
            self._begun_ms = None
            return False, seconds, b""
        due = self.due_ms(settings)
        if due is None or now_ms < due:
            return None
        self._begun_ms = max(self._sky_ms, self._cell_ms)
        evidence = struct.pack(
            EVIDENCE_FORMAT,
            min((now_ms - self._sky_ms) // 1000, 65535),
            min((now_ms - self._cell_ms) // 1000, 65535),
            self._dbm,
            min(self._kph, 65535),
            self._satellites,
            self._cause,
        )
        return True, (now_ms - self._begun_ms) // 1000, evidence

    def _unordinary(self, settings):
        together_ms = settings.shielding_together_s * 1000
        # The satellites went somewhere between the last fix and the end of the attempt that failed.
        together = self._fix_ms - together_ms <= self._cell_ms <= self._sky_ms + together_ms
        return together and self._dbm >= settings.shielding_least_dbm


class Suspicion:
    """Something seen `needed` times in a row, or for so long, begins; as often or long not seen, it ends."""

    def __init__(self, needed: int):
        self.needed = needed
        self._count = 0
        self._since_ms = 0
        self.begun = False
        self._begun_ms = 0

    def judge(self, now_ms: int, seen: bool, least_ms: int = 0):
        """(begins, seconds since it was first seen, or that it lasted) when it begins or ends, else None."""
        if seen == self.begun:
            self._count = 0
            return None
        if not self._count:
            self._since_ms = now_ms
        self._count += 1
        if self._count < self.needed or now_ms - self._since_ms < least_ms:
            return None
        self._count = 0
        self.begun = seen
        if seen:
            self._begun_ms = self._since_ms
            return True, (now_ms - self._since_ms) // 1000
        return False, (now_ms - self._begun_ms) // 1000


def jammed(interference: tuple, level: int) -> bool:
    """drivers.ubx.interference(): critical by the receiver's own word, or a continuous wave above the level."""
    return interference[0] == 3 or interference[1] >= level


def cell_jammed(registered: "bool | None", dbm: int, strong_dbm: int) -> bool:
    """A carrier so strong (+CSQ of 3GPP TS 27.007: -113 to -51 dBm) has a cell that can be read."""
    return registered is False and dbm >= strong_dbm
