# The device's configuration: defaults, what the gateway sent over them, kept over a reset by power-safe writes.
import asyncio
import json
from binascii import hexlify, unhexlify

from common.slots import Slots

# Defaults from the field: a point a minute (NIJ), a reading every 30 min (SCRAM), reports well inside the 4 min
# plus upload that an agency may wait; presence windows as long as the report. See docs for all of them.
DEFAULTS = {
    "report_interval_s": 300,
    "fix_interval_s": 60,
    "presence_window_s": 300,
    "sample_interval_s": 1800,
    "status_interval_s": 3600,
}
# Shorter is a mistake, not a wish: it would empty the battery or flood the link.
LOWEST = {
    "report_interval_s": 10,
    "fix_interval_s": 5,
    "presence_window_s": 10,
    "sample_interval_s": 60,
    "status_interval_s": 10,
}
_NAMES = ("report_interval_s", "fix_interval_s", "presence_window_s", "sample_interval_s", "status_interval_s")


class Settings:
    """Attributes named as the fields of the configuration message; beacons: {device id: key}."""

    def __init__(self, storage_path: str, overrides: "dict | None" = None):
        """overrides: what this device's identity says instead of DEFAULTS, same names."""
        self.version = 0
        self.beacons = {}
        self.write_failures = 0
        self._changed = asyncio.Event()
        self._slots = Slots(storage_path + "/settings.")
        for name in _NAMES:
            setattr(self, name, (overrides or {}).get(name, DEFAULTS[name]))
        self._load()

    def apply(self, version: int, intervals, beacon_ids) -> bool:
        """intervals: in the message's order, 0 = as before; beacon_ids: ((id, key), …). False if not newer."""
        # Newer in serial-number arithmetic (RFC 1982), so that the u16 may wrap.
        if self.version and not 0 < ((version - self.version) & 0xFFFF) < 0x8000:
            return False
        self._take(version, intervals, beacon_ids)
        self._store()
        self._changed.set()
        self._changed.clear()
        return True

    async def changed(self, timeout_ms: "int | None" = None) -> bool:
        """Wait for the next change; False after timeout_ms. Every waiter sees every change."""
        if timeout_ms is None:
            await self._changed.wait()
            return True
        try:
            await asyncio.wait_for_ms(self._changed.wait(), timeout_ms)
        except asyncio.TimeoutError:
            return False
        return True

    async def on_change(self, callback) -> None:
        """Task: callback() after every change."""
        while True:
            await self._changed.wait()
            callback()

    async def sleep(self, ticks_ms, since_ms: int, name: str) -> None:
        """Sleep until the interval of that name has passed since since_ms, whatever it is changed to meanwhile."""
        while True:
            remaining = since_ms + getattr(self, name) * 1000 - ticks_ms()
            if remaining <= 0 or not await self.changed(remaining):
                return

    def _take(self, version, intervals, beacon_ids):
        self.version = version
        for name, value in zip(_NAMES, intervals):
            if value:
                setattr(self, name, max(value, LOWEST[name]))
        if beacon_ids:
            self.beacons = {number: bytes(key) for number, key in beacon_ids}

    def _store(self):
        content = {
            "version": self.version,
            "intervals": [getattr(self, name) for name in _NAMES],
            "beacons": [[number, hexlify(key).decode()] for number, key in self.beacons.items()],
        }
        try:
            self._slots.write(json.dumps(content).encode())
        except OSError:
            # In force all the same; after a reset the gateway sees the old version and sends it again.
            self.write_failures += 1

    def _load(self):
        if self._slots.value is not None:
            content = json.loads(self._slots.value)
            beacons = [(number, unhexlify(key)) for number, key in content["beacons"]]
            self._take(content["version"], content["intervals"], beacons)
