"""Recorded advertisements of one beacon as heard by fixed receivers, replayed as "heard, and how loudly" over time.

File format (Position-Annotated BLE RSSI Dataset): CSV without header: unix time in s, receiver, beacon, RSSI in dBm,
then the beacon's true position, which is not used. Corrupt RSSI values are passed on: rejecting them is the firmware's
task.
"""

import bisect
import csv
from collections import Counter
from pathlib import Path
from statistics import median

# RSSI is a signed octet in HCI (Core Specification Vol 4, Part E, 7.7.65.2).
RSSI_RANGE = range(-128, 128)


class BeaconRecording:
    """What one receiver heard of the beacon. Times are ms since the recording's first line (of any receiver)."""

    def __init__(self, receiver: str, samples: list[tuple[int, int]], duration_ms: int) -> None:
        if not samples:
            raise ValueError("no advertisement")
        self.receiver = receiver
        self.samples = samples
        self.duration_ms = max(duration_ms, 1)
        self._times_ms = [time_ms for time_ms, _ in samples]
        spacings_ms = [b - a for a, b in zip(self._times_ms, self._times_ms[1:], strict=False)]
        self.spacing_ms = int(median(spacings_ms)) if spacings_ms else self.duration_ms
        """The beacon's interval as far as it was heard."""

    @classmethod
    def read(cls, path: Path, receiver: str | None = None) -> "BeaconRecording":
        """Read a file and keep one receiver, by default the one with most lines. ValueError names a bad line."""
        rows: list[tuple[float, str, int]] = []
        with path.open(newline="", encoding="ascii", errors="replace") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                try:
                    time_s, name, rssi_dbm = float(row[0]), row[1], int(row[3])
                    if rssi_dbm not in RSSI_RANGE:
                        raise ValueError
                except (ValueError, IndexError):
                    raise ValueError(f"{path}: line {number} is not time,receiver,beacon,RSSI,…") from None
                rows.append((time_s, name, rssi_dbm))
        if not rows:
            raise ValueError(f"{path}: no advertisement")
        counts = Counter(name for _, name, _ in rows)
        if receiver is None:
            # Sorted, so that a tie does not depend on the order of lines.
            receiver = min(counts, key=lambda name: (-counts[name], name))
        elif receiver not in counts:
            raise ValueError(f"{path}: no receiver {receiver}; it has {', '.join(sorted(counts))}")
        start_s = min(time_s for time_s, _, _ in rows)
        end_s = max(time_s for time_s, _, _ in rows)
        samples = sorted((round((t - start_s) * 1000), rssi) for t, name, rssi in rows if name == receiver)
        return cls(receiver, samples, round((end_s - start_s) * 1000))

    def rssi_dbm(self, offset_ms: int) -> int | None:
        """RSSI of an advertisement sent at this moment: the recorded one within half an interval; None = missed."""
        at = bisect.bisect_left(self._times_ms, offset_ms)
        nearest = min(
            self.samples[max(0, at - 1) : at + 1], key=lambda sample: abs(sample[0] - offset_ms), default=None
        )
        if nearest is None or abs(nearest[0] - offset_ms) * 2 > self.spacing_ms:
            return None
        return nearest[1]

    def repeated_rssi_dbm(self, offset_ms: int) -> int | None:
        """The same, with the recording played again and again."""
        return self.rssi_dbm(offset_ms % self.duration_ms)
