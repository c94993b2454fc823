# The contact rule of an alcohol tag: off its own baseline for ten hours is a loss of contact, and told once. Sans-IO.
import struct

from common.slots import Slots

# baseline u16 mV, contact now u16 mV
EVIDENCE_FORMAT = "<HH"
_KEPT = "<IB"  # time it was lost (0 unknown), told


class Contact:
    """Feed every reading; gives (lost, seconds) when that is to be told. Kept over a reset by wall time."""

    def __init__(self, storage_path: str, settings):
        """settings: contact_lost_s."""
        self._settings = settings
        self._slots = Slots(storage_path + "/contact.")
        self._since_ms: "int | None" = None
        self._since_s = 0
        self.told = False
        value = self._slots.value
        self._restored = value is not None and len(value) == struct.calcsize(_KEPT)
        if self._restored:
            self._since_s, told = struct.unpack(_KEPT, value)
            self.told = bool(told)
            self._restored = self._since_s != 0 or self.told

    def reading(self, now_ms: int, now_s: int, off: bool):
        """now_s: 0 = clock unknown. (True, seconds off), (False, seconds it lasted), or None."""
        if not off:
            lasted = self._lasted_s(now_ms, now_s)
            told, self.told = self.told, False
            if self._since_ms is not None or self._restored:
                self._since_ms = None
                self._since_s = 0
                self._restored = False
                self._keep()
            return (False, lasted) if told else None
        if self._since_ms is None:
            self._since_ms = now_ms
            if not self._restored:
                self._since_s = now_s
                self._keep()
        lasted = self._lasted_s(now_ms, now_s)
        # Strictly more: "for more than 10 h".
        if not self.told and lasted > self._settings.contact_lost_s:
            self.told = True
            self._keep()
            return True, lasted
        return None

    def _lasted_s(self, now_ms, now_s):
        if self._since_ms is None:
            return now_s - self._since_s if now_s > self._since_s > 0 else 0
        lasted = (now_ms - self._since_ms) // 1000
        # Over a reset only the wall clock knows; it never shortens what this boot has seen.
        if now_s > self._since_s > 0:
            lasted = max(lasted, now_s - self._since_s)
        return lasted

    def _keep(self):
        try:
            self._slots.write(struct.pack(_KEPT, self._since_s, 1 if self.told else 0))
        except OSError:
            pass  # after a reset it would be told once more, or later
