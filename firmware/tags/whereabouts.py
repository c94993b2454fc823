# Home, out, or not to be told: what a home unit makes of one pid's beacons. Silence is not absence. Sans-IO.

HOME = 1
OUT = 2
UNKNOWN = 0
# Why it is thought so.
CAUSE_HEARD = 0
CAUSE_SILENT = 1  # listened, heard nothing
CAUSE_FAR = 2  # heard, but weaker than the range that is set
CAUSE_DEAF = 3  # did not listen long enough to tell
CAUSE_DOUBTFUL = 4  # heard only what may be a copy
# A beacon's interval until it is learned, and what can be one: pids send every 10 s; a broken counter is no interval.
INTERVAL_MS = 10000
SHORTEST_MS = 500
LONGEST_MS = 120000
# Learned from beacons at most so many apart, each moving it by an eighth.
MOST_MISSED = 20
WEIGHT_SHIFT = 3
RSSI_UNKNOWN = 127
# What a receiver can measure (tags/presence.py): outside it is corrupt, and says nothing of the distance.
RSSI_LOWEST_DBM = -120
RSSI_HIGHEST_DBM = 20


class Whereabouts:
    """Of one pid. Times are the device's ms; listened_ms counts only time in which it could have been heard."""

    def __init__(self, settings, now_ms: int, listened_ms: int):
        self._settings = settings
        self.state = UNKNOWN
        self.cause = CAUSE_DEAF
        self.interval_ms = INTERVAL_MS
        self.last_ms: "int | None" = None  # last heard in range
        self.rssi_dbm = RSSI_UNKNOWN
        self._since_ms = now_ms
        self._since_listened_ms = listened_ms
        self._far_ms: "int | None" = None
        self._doubt_ms: "int | None" = None
        self._counter: "int | None" = None
        self._counter_ms = 0

    def _threshold_dbm(self):
        settings = self._settings
        by_profile = settings.range_short_dbm, settings.range_middle_dbm, settings.range_long_dbm
        threshold = by_profile[settings.range_profile - 1]
        return threshold - settings.range_hysteresis_db if self.state == HOME else threshold

    def heard(self, now_ms: int, listened_ms: int, rssi_dbm: int, counter: int) -> bool:
        """An authentic beacon; True if it is in range. An RSSI that the radio does not know is."""
        self._learn(now_ms, counter)
        self.rssi_dbm = rssi_dbm
        if RSSI_LOWEST_DBM <= rssi_dbm <= RSSI_HIGHEST_DBM and rssi_dbm < self._threshold_dbm():
            self._far_ms = now_ms
            return False
        self.last_ms = self._since_ms = now_ms
        self._since_listened_ms = listened_ms
        self.state = HOME
        self.cause = CAUSE_HEARD
        return True

    def doubted(self, now_ms: int):
        """A beacon that may be a copy."""
        self._doubt_ms = now_ms

    def limit_ms(self) -> int:
        """How much listening without a beacon makes a pid out."""
        settings = self._settings
        return max(settings.absent_after_beacons * self.interval_ms, settings.absent_after_s * 1000)

    def judge(self, now_ms: int, listened_ms: int) -> int:
        """HOME, OUT or UNKNOWN now."""
        limit = self.limit_ms()
        passed = now_ms - self._since_ms
        listened = listened_ms - self._since_listened_ms
        if passed < limit:
            return self.state
        if 2 * listened < passed:
            self.state, self.cause = UNKNOWN, CAUSE_DEAF
        elif listened >= limit:
            if self._doubt_ms is not None and self._doubt_ms > self._since_ms:
                self.state, self.cause = UNKNOWN, CAUSE_DOUBTFUL
            else:
                far = self._far_ms is not None and self._far_ms > self._since_ms
                self.state, self.cause = OUT, CAUSE_FAR if far else CAUSE_SILENT
        return self.state

    def _learn(self, now_ms, counter):
        # Counters tell how many beacons lie between two that were heard. The first repeat of a token counts.
        if self._counter is not None and counter == self._counter:
            return
        if self._counter is not None and 0 < counter - self._counter <= MOST_MISSED:
            interval = (now_ms - self._counter_ms) // (counter - self._counter)
            interval = max(SHORTEST_MS, min(LONGEST_MS, interval))
            self.interval_ms += (interval - self.interval_ms) >> WEIGHT_SHIFT
        self._counter = counter
        self._counter_ms = now_ms
