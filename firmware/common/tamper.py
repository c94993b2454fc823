# Strap and case of a device as events. A strap has a conductor and, where fitted, an optical fibre: either opens it.
# Which level of a contact means closed is the board's wiring.
import struct

from drivers import strap
from drivers.fibre import Fibre
from emwire import constants

from common.told import Told

# Which part of the strap is open, in evidence.
CONDUCTOR = 1
FIBRE = 2
# Beside them, in what was told.
_CASE = 4
# Of STRAP_CUT and STRAP_RESTORED: parts open (mask), the light now and as last looked at before, in ADC counts
# (0 without a fibre), debounced changes and raw edges of this episode.
EVIDENCE_FORMAT = "<BHHHH"


class _Inverted:
    # The case switch is open-circuit (0) while the case is closed.
    def __init__(self, pin):
        self._pin = pin

    def value(self):
        return 1 - self._pin.value()

    def on_change(self, callback):
        self._pin.on_change(lambda level: callback(1 - level))


class Tamper:
    """Tasks "strap", "fibre" and "case" of a device that has them.

    on_strap(open) and on_case(open) are called after the event is on record."""

    def __init__(self, device):
        self._device = device
        self._parts = {}  # CONDUCTOR, FIBRE: strap.Contact
        self._told = Told(device.board.storage_path + "/tamper.")
        self._open = self._told.mask & (CONDUCTOR | FIBRE)  # parts that were found open
        self._told_open = self._open != 0
        self._case = None
        self._fibre = None
        self.on_strap = None
        self.on_case = None

    @property
    def strap_open(self) -> bool:
        """As the contacts show it now, before any confirmation."""
        return any(contact.level == 0 for contact in self._parts.values())

    @property
    def case_open(self) -> bool:
        return self._case is not None and self._case.level == 0

    def start(self):
        device = self._device
        board = device.board
        if device.has(constants.CAPABILITY_STRAP):
            self._watch("strap", board.pin_in("strap"), CONDUCTOR)
            # Fitted or not is the device's, not the board's.
            if device.identity.get("fibre"):
                try:
                    self._fibre = Fibre(board.adc("fibre_light"), device.settings)
                    self._watch("fibre", board.pin_in("fibre"), FIBRE)
                except ValueError:
                    # A board without the part: the conductor is watched on.
                    self._tell(constants.EVENT_STRAP_FAULT, device.ticks_ms(), 0, bytes(4) + bytes((FIBRE,)))
        if self._fibre is None:
            self._open &= ~FIBRE  # told before a reset of one that is not fitted any more
            self._told_open = self._open != 0
        if device.has(constants.CAPABILITY_CASE):
            pin = _Inverted(board.pin_in("case"))
            device.start(
                "case", strap.watch, pin, device.ticks_ms, self._case_event, device.settings, self._take_case,
                lambda: self._told.mask & _CASE != 0,
            )  # fmt: skip

    def look(self):
        """Now and then, with the battery: how the fibre ages."""
        if self._fibre is not None and FIBRE in self._parts and self._parts[FIBRE].quiet:
            self._fibre.look()

    def _watch(self, name, pin, part):
        device = self._device

        def report(kind, since_ms, value, evidence):
            self._strap_event(part, kind, since_ms, value, evidence)

        def take(contact):
            self._parts[part] = contact

        device.start(
            name, strap.watch, pin, device.ticks_ms, report, device.settings, take, lambda: self._open & part != 0
        )

    def _take_case(self, contact):
        self._case = contact

    def _strap_event(self, part, kind, since_ms, value, evidence):
        if kind == strap.FAULT:
            self._tell(constants.EVENT_STRAP_FAULT, since_ms, value, evidence + bytes((part,)))
            return
        if kind == strap.OPENED and part == FIBRE and self._faded():
            # The conductor is whole, and the light was going already: dirt or an old lamp, no cut.
            if not value:
                counts = struct.pack("<HH", self._fibre.now(), self._fibre.light)
                self._tell(constants.EVENT_STRAP_FAULT, since_ms, 0, counts + bytes((part,)))
            return
        first = self._open & -self._open
        if kind == strap.OPENED:
            self._open |= part
            # One event for both parts of a strap, and its daily repetition by the first of them.
            if self._told_open and (not value or part != first):
                self._keep()
                return
        else:
            if not self._open & part:
                return
            self._open &= ~part
            if self._open:
                self._keep()
                return
        self._told_open = kind == strap.OPENED
        event = constants.EVENT_STRAP_CUT if self._told_open else constants.EVENT_STRAP_RESTORED
        self._tell(event, since_ms, value, self._evidence())
        self._keep()
        if self.on_strap:
            self.on_strap(self._told_open)

    def _keep(self):
        self._told.note(CONDUCTOR | FIBRE, self._open)

    def _faded(self):
        if self._told_open or self._parts[CONDUCTOR].level == 0:
            return False
        return self._fibre.faded

    def _evidence(self):
        mask = changes = edges = 0
        for part, contact in self._parts.items():
            if contact.level == 0:
                mask |= part
            changes += contact.changes
            edges += contact.edges
        light = before = 0
        if self._fibre is not None:
            light, before = self._fibre.now(), self._fibre.light or 0
        return struct.pack(EVIDENCE_FORMAT, mask, light, before, min(changes, 65535), min(edges, 65535))

    def _tell(self, event, since_ms, value, evidence):
        device = self._device
        device.records.event(event, value, evidence=evidence, event_time_s=device.clock.time_at(since_ms))

    def _case_event(self, kind, since_ms, value, evidence):
        device = self._device
        if kind == strap.FAULT:
            device.records.event(constants.EVENT_SELF_TEST_FAILED, value, evidence=b"case " + evidence)
        else:
            event = constants.EVENT_CASE_OPEN if kind == strap.OPENED else constants.EVENT_CASE_CLOSED
            self._tell(event, since_ms, value, b"")
            self._told.note(_CASE, _CASE if kind == strap.OPENED else 0)
            if self.on_case:
                self.on_case(kind == strap.OPENED)
