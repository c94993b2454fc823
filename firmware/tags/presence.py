# What a home unit heard of one pid: windows of presence, and copies of its beacon. Sans-IO.
import struct

try:
    from typing import Callable
except ImportError:
    pass
from array import array

from emwire import beacon, constants
from emwire.beacon import BeaconWatch
from emwire.errors import WireError

# RSSI that a receiver in a home can measure; what lies outside is corrupt (receivers have reported +42 dBm).
RSSI_LOWEST_DBM = -120
RSSI_HIGHEST_DBM = 20
NOT_HEARD_S = 65535
NOT_HEARD_DBM = 127
# One event for a run of copies; another after this much time without one.
COPY_REPEAT_MS = 3600000
# address (6), token's counter u32, newest counter u32, RSSI i8, authenticity u8
EVIDENCE_FORMAT = "<6sIIbB"


class Heard:
    """One judgement's share of a window."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.count = 0
        self.first_ms = self.last_ms = 0
        # A histogram is exact and bounded, however many beacons come.
        self._rssi = None
        self._rssi_count = 0
        self.lowest_dbm = self.highest_dbm = NOT_HEARD_DBM

    def add(self, now_ms, rssi_dbm):
        if not self.count:
            self.first_ms = now_ms
        self.last_ms = now_ms
        self.count += 1
        if not RSSI_LOWEST_DBM <= rssi_dbm <= RSSI_HIGHEST_DBM:
            return False
        if self._rssi is None:
            self._rssi = array("H", bytes(2 * (RSSI_HIGHEST_DBM - RSSI_LOWEST_DBM + 1)))
            self.lowest_dbm = self.highest_dbm = rssi_dbm
        index = rssi_dbm - RSSI_LOWEST_DBM
        if self._rssi[index] < 65535:
            self._rssi[index] += 1
            self._rssi_count += 1
        self.lowest_dbm = min(self.lowest_dbm, rssi_dbm)
        self.highest_dbm = max(self.highest_dbm, rssi_dbm)
        return True

    def median_dbm(self):
        if not self._rssi_count:
            return NOT_HEARD_DBM
        below = 0
        for index, count in enumerate(self._rssi):
            below += count
            if 2 * below >= self._rssi_count:
                break
        return index + RSSI_LOWEST_DBM


class Presence:
    """One beacon's window. heard() judges an advertisement's token, close() gives the record's fields."""

    def __init__(self, beacon_id: int, decrypt: "Callable[[bytes], bytes]", newest_counter: int = -1, where=None):
        """where: the pid's tags.whereabouts.Whereabouts, which also says what is in range."""
        self.beacon_id = beacon_id
        self.watch = BeaconWatch(beacon_id, newest_counter=newest_counter)
        self.present = False
        self.rejected_rssi = 0
        self._decrypt = decrypt
        self._authentic = Heard()
        self._doubtful = Heard()
        self._doubt = constants.AUTHENTICITY_UNKNOWN
        self._battery_percent = 255
        self._strap = constants.STRAP_UNKNOWN
        self._copy_ms: "int | None" = None
        self.where = where
        self.far = 0  # authentic, but out of the range that is set
        self.strap_open = False
        self.last_battery_percent = 255
        self.faulty = self.strap_faulty = False  # by its own word

    def heard(self, now_ms: int, address: bytes, rssi_dbm: int, token: bytes, listened_ms: int = 0):
        """None if it is not this pid's; else (news that cannot wait, evidence of a copy to report now or None)."""
        try:
            counter, status, battery_percent = beacon.open_token(self._decrypt, self.beacon_id, token)
        except WireError:
            return None
        judgement = self.watch.heard(counter, now_ms)
        if judgement == constants.AUTHENTICITY_AUTHENTIC:
            self._battery_percent = self.last_battery_percent = battery_percent
            strap_open = status & beacon.STATUS_STRAP_OPEN != 0
            self._strap = constants.STRAP_OPEN if strap_open else constants.STRAP_CLOSED
            self.faulty = status & beacon.STATUS_FAULT != 0
            self.strap_faulty = status & beacon.STATUS_STRAP_FAULT != 0
            # A strap that opens is news wherever the pid is heard.
            news = strap_open != self.strap_open
            self.strap_open = strap_open
            if self.where is not None and not self.where.heard(now_ms, listened_ms, rssi_dbm, counter):
                self.far += 1
                return news, None
            if not self._authentic.add(now_ms, rssi_dbm):
                self.rejected_rssi += 1
            news = news or not self.present
            self.present = True
            return news, None
        if self.where is not None:
            self.where.doubted(now_ms)
        if not self._doubtful.add(now_ms, rssi_dbm):
            self.rejected_rssi += 1
        # A copy is the graver judgement of the two.
        if self._doubt != constants.AUTHENTICITY_COPIED:
            self._doubt = judgement
        fresh = self._copy_ms is None or now_ms - self._copy_ms >= COPY_REPEAT_MS
        self._copy_ms = now_ms
        if not fresh:
            return False, None
        rssi_dbm = max(-128, min(127, rssi_dbm))
        evidence = struct.pack(EVIDENCE_FORMAT, bytes(address), counter, self.watch.newest_counter, rssi_dbm, judgement)
        return False, evidence

    def close(self, start_ms: int, now_ms: int, start_s: int, listened_ms: int, deaf_ms: int) -> tuple:
        """Fields of the window's presence record, and begin the next. Doubtful beacons never make a wearer present."""
        seen = self._authentic
        authenticity = constants.AUTHENTICITY_AUTHENTIC
        if not seen.count:
            # Not heard, or not by the pid itself.
            self.present = False
            authenticity = self._doubt
            seen = self._doubtful
        first = last = NOT_HEARD_S
        if seen.count:
            first = min((seen.first_ms - start_ms) // 1000, NOT_HEARD_S - 1)
            last = min((seen.last_ms - start_ms) // 1000, NOT_HEARD_S - 1)
        fields = (
            self.beacon_id,
            authenticity,
            start_s,
            min((now_ms - start_ms + 500) // 1000, 65535),
            min((listened_ms + 500) // 1000, 65535),
            min((deaf_ms + 500) // 1000, 65535),
            min(seen.count, 65535),
            first,
            last,
            seen.lowest_dbm,
            seen.median_dbm(),
            seen.highest_dbm,
            self._battery_percent,
            self._strap,
        )
        self._authentic.clear()
        self._doubtful.clear()
        self._doubt = constants.AUTHENTICITY_UNKNOWN
        self._battery_percent = 255
        self._strap = constants.STRAP_UNKNOWN
        return fields
