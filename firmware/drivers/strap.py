# A closed contact (strap, case): debounces it, tells an opening from a flicker, and repeats one that stays open.
# Contact decides and is sans-IO; watch() ties it to a pin.
import struct

try:
    from typing import Callable
except ImportError:
    pass

from common.wait import Signal

# An opening is raised once it has lasted strap_confirm_ms. An episode is a run of edges without a quiet time
# (strap_quiet_s). More changes in one than strap_flicker_changes are a faulty contact, and so are edges too dense to
# debounce: one clean cut bounces some 20 times. What stays open, or never ends, is told again (strap_repeat_s).
FLICKER_EDGES = 60

OPENED = 1
CLOSED = 2
FAULT = 3

EVIDENCE_FORMAT = "<HHII"  # debounced changes, raw edges (both saturating), ms open, ms the episode has lasted


class Contact:
    """State of one contact. Feed edge(); call due() after it and at deadline()."""

    def __init__(self, now_ms: int, level: int, settings, was_open: bool = False):
        """settings: common.settings, whose names begin with strap_. was_open: as reported before a reset."""
        self._settings = settings
        self.raw = level
        self.level = level
        self.open = was_open  # as last reported
        self.glitches = 0
        self._raw_ms = self._level_ms = now_ms
        self._raised_ms = now_ms
        self._minute_ms = now_ms
        self._edges_of_minute = 0
        self._begin(now_ms)
        if (level == 0) == was_open:
            self._episode_ms = None
        else:
            self._changes.append(now_ms)
            self._change_count = 1

    def edge(self, now_ms: int, level: int) -> None:
        """The pin shows level (1 = closed)."""
        if level == self.raw:
            return
        self._debounce(now_ms)
        if self._episode_ms is None:
            self._begin(now_ms)
        self.raw = level
        self._raw_ms = now_ms
        self._edge_count += 1
        self._edges_of_minute += 1
        if now_ms - self._minute_ms >= self._quiet_ms:
            self._minute_ms = now_ms
            self._edges_of_minute = 1
        if self._edges_of_minute > FLICKER_EDGES:
            self._flickering = True

    def deadline(self) -> "int | None":
        """When due() has something to decide, or None while nothing is under way."""
        times = []
        if self.open:
            times.append(self._raised_ms + self._repeat_ms)
        if self._episode_ms is not None:
            times.append(self._raw_ms + self._quiet_ms)
            if self.raw != self.level:
                times.append(self._raw_ms + self._settings.strap_debounce_ms)
            if self._flickering:
                times.append(self._fault_due_ms())
            elif self._news():
                times.append(self._level_ms + self._settings.strap_confirm_ms)
        return min(times) if times else None

    def due(self, now_ms: int) -> list:
        """What is to be recorded now: (kind, since_ms, value, evidence); value = s open so far, or changes counted."""
        out = []
        if self._episode_ms is not None:
            self._debounce(now_ms)
            if self._flickering:
                if now_ms >= self._fault_due_ms():
                    self._fault(now_ms, out)
            elif self._news() and now_ms - self._level_ms >= self._settings.strap_confirm_ms:
                self._settle(now_ms, out)
            if now_ms - self._raw_ms >= self._quiet_ms:
                self._end(now_ms, out)
        if self.open and now_ms - self._raised_ms >= self._repeat_ms:
            self._raised_ms = now_ms
            out.append((OPENED, self._level_ms, (now_ms - self._level_ms) // 1000, b""))
        return out

    @property
    def _quiet_ms(self):
        return self._settings.strap_quiet_s * 1000

    @property
    def _repeat_ms(self):
        return self._settings.strap_repeat_s * 1000

    @property
    def quiet(self) -> bool:
        """Closed, and no edge for a whole quiet time."""
        return self._episode_ms is None and self.level == 1

    @property
    def changes(self) -> int:
        """Debounced changes of this episode, or of the last."""
        return self._change_count

    @property
    def edges(self) -> int:
        """Raw edges of it."""
        return self._edge_count

    def _news(self):
        return self.raw == self.level and self.open == (self.level == 1)

    def _begin(self, now_ms):
        self._episode_ms = self._minute_ms = now_ms
        self._changes = []  # times of the last strap_flicker_changes + 1
        self._change_count = self._edge_count = self._edges_of_minute = 0
        self._open_ms = 0
        self._flickering = False
        self._explained = False
        self._fault_ms = None

    def _debounce(self, now_ms):
        if self.raw == self.level or now_ms - self._raw_ms < self._settings.strap_debounce_ms:
            return
        if self.level == 0:
            self._open_ms += self._raw_ms - max(self._level_ms, self._episode_ms)
        self.level = self.raw
        self._level_ms = self._raw_ms
        self._change_count += 1
        self._changes.append(self._raw_ms)
        if len(self._changes) > self._settings.strap_flicker_changes:
            if self._raw_ms - self._changes[0] < self._quiet_ms:
                self._flickering = True
            self._changes.pop(0)

    def _fault_due_ms(self):
        return self._episode_ms + self._quiet_ms if self._fault_ms is None else self._fault_ms + self._repeat_ms

    def _fault(self, now_ms, out):
        self._fault_ms = now_ms
        open_ms = self._open_ms
        if self.level == 0:
            open_ms += now_ms - max(self._level_ms, self._episode_ms)
        evidence = struct.pack(
            EVIDENCE_FORMAT,
            min(self._change_count, 65535),
            min(self._edge_count, 65535),
            min(open_ms, 0xFFFFFFFF),
            min(now_ms - self._episode_ms, 0xFFFFFFFF),
        )
        out.append((FAULT, self._episode_ms, self._change_count, evidence))

    def _settle(self, now_ms, out):
        if not self._news():
            return
        self._explained = True
        self.open = not self.open
        self._raised_ms = now_ms
        out.append((OPENED if self.open else CLOSED, self._level_ms, 0, b""))

    def _end(self, now_ms, out):
        if self._flickering:
            if self._fault_ms is None:
                self._fault(now_ms, out)
        elif self._change_count and not self._explained:
            self._fault(now_ms, out)  # opened too briefly to be a cut: said once, as a fault
        elif not self._change_count:
            self.glitches += 1
        # After a whole quiet minute the contact is believed again, whatever it did before.
        self._settle(now_ms, out)
        self._episode_ms = None


async def watch(pin, ticks_ms: "Callable[[], int]", report, settings, on_start=None, was_open=None):
    """Follow a pin for ever: report(kind, since_ms, value, evidence). on_start(contact) hands the state out, was_open()
    says what was reported before a reset."""
    changed = Signal()
    contact = Contact(ticks_ms(), pin.value(), settings, was_open is not None and was_open())

    def on_change(level):
        contact.edge(ticks_ms(), level)
        changed.set()

    pin.on_change(on_change)
    if on_start:
        on_start(contact)
    while True:
        for item in contact.due(ticks_ms()):
            report(*item)
        deadline = contact.deadline()
        await changed.wait(None if deadline is None else max(0, deadline - ticks_ms()))
        # Interrupts can be missed; the pin itself is the truth.
        contact.edge(ticks_ms(), pin.value())
