# Strap and case of a device as events. Both are contacts; which level means closed is the board's wiring.
from drivers import strap
from emwire import constants


class _Inverted:
    # The case switch is open-circuit (0) while the case is closed.
    def __init__(self, pin):
        self._pin = pin

    def value(self):
        return 1 - self._pin.value()

    def on_change(self, callback):
        self._pin.on_change(lambda level: callback(1 - level))


class Tamper:
    """Tasks "strap" and "case" of a device that has them. on_strap(open) is called after the event is on record."""

    def __init__(self, device):
        self._device = device
        self._strap = None
        self._case = None
        self.on_strap = None

    @property
    def strap_open(self) -> bool:
        """As the contact shows it now, before any confirmation."""
        return self._strap is not None and self._strap.level == 0

    @property
    def case_open(self) -> bool:
        return self._case is not None and self._case.level == 0

    def start(self):
        device = self._device
        if device.has(constants.CAPABILITY_STRAP):
            pin = device.board.pin_in("strap")
            device.start("strap", strap.watch, pin, device.ticks_ms, self._strap_event, self._take_strap)
        if device.has(constants.CAPABILITY_CASE):
            pin = _Inverted(device.board.pin_in("case"))
            device.start("case", strap.watch, pin, device.ticks_ms, self._case_event, self._take_case)

    def _take_strap(self, contact):
        self._strap = contact

    def _take_case(self, contact):
        self._case = contact

    def _strap_event(self, kind, since_ms, value, evidence):
        event = {
            strap.OPENED: constants.EVENT_STRAP_CUT,
            strap.CLOSED: constants.EVENT_STRAP_RESTORED,
            strap.FAULT: constants.EVENT_STRAP_FAULT,
        }[kind]
        device = self._device
        device.records.event(event, value, evidence=evidence, event_time_s=device.clock.time_at(since_ms))
        if self.on_strap and kind != strap.FAULT:
            self.on_strap(kind == strap.OPENED)

    def _case_event(self, kind, since_ms, value, evidence):
        device = self._device
        if kind == strap.OPENED:
            device.records.event(constants.EVENT_CASE_OPEN, value, event_time_s=device.clock.time_at(since_ms))
        elif kind == strap.FAULT:
            device.records.event(constants.EVENT_SELF_TEST_FAILED, value, evidence=b"case " + evidence)
