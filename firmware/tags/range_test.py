# Range test of a home unit, before activation: each beacon with its RSSI while somebody walks the dwelling.
import asyncio
import struct

from emwire import constants

DEFAULT_S = 60
LONGEST_S = 600
# Of each beacon: id u32, heard u8 (255 = as many or more), weakest, median and strongest i8: 8 beacons are 64 bytes.
DETAIL_FORMAT = "<IBbbb"
NOT_HEARD_DBM = 127
# RSSI values kept of a beacon: the median of the last minutes is enough.
KEPT = 120


class RangeTest:
    """Handler of the command RANGE_TEST; heard() for every authentic beacon, in range or not."""

    def __init__(self, device, beacons):
        """beacons() -> the ids that are listened for."""
        self._device = device
        self._beacons = beacons
        self._heard = None

    def heard(self, beacon_id: int, rssi_dbm: int):
        if self._heard is not None:
            values = self._heard.setdefault(beacon_id, [])
            values.append(rssi_dbm)
            del values[:-KEPT]

    async def run(self, seconds):
        """(outcome, beacons heard, detail)."""
        seconds = seconds or DEFAULT_S
        if not 0 < seconds <= LONGEST_S:
            return constants.OUTCOME_REFUSED, 0, b"1 to 600 seconds"
        if self._heard is not None:
            return constants.OUTCOME_REFUSED, 0, b"a test is running"
        self._heard = {}
        try:
            await asyncio.sleep_ms(seconds * 1000)
            heard = self._heard
        finally:
            self._heard = None
        parts = []
        for beacon_id in self._beacons():
            values = sorted(heard.get(beacon_id, ()))
            known = [value for value in values if value != NOT_HEARD_DBM]
            if known:
                levels = known[0], known[len(known) // 2], known[-1]
            else:
                levels = NOT_HEARD_DBM, NOT_HEARD_DBM, NOT_HEARD_DBM
            parts.append(struct.pack(DETAIL_FORMAT, beacon_id, min(len(values), 255), *levels))
        return constants.OUTCOME_DONE, len(heard), b"".join(parts)
