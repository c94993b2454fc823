"""The air of one rig: its radios, what they hear of each other, and whether they are busy."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from emrig.air.controller import AirLink
from emrig.air.peripheral import Deliver, DeviceRadio

GATEWAY = 0
"""Radio id of the gateway's adapter; devices use their device id."""

# How far apart two radios are when nobody said anything: in the same room.
DEFAULT_RSSI_DBM = -60

# BLE's default supervision timeout is 4 s (720 ms to 4 s in use): how often connections are checked for range.
SUPERVISION_MS = 4000

# How long, in real time, the air counts as busy after a packet: the gateway must answer within it (it commits
# to disk before it acknowledges).
BUSY_S = 0.1


class Handle(Protocol):
    """Something scheduled."""

    def cancel(self) -> None:
        """Do not call it any more."""
        ...


class Clock(Protocol):
    """The rig's virtual time."""

    def now_ms(self) -> int:
        """Virtual milliseconds since the rig's start."""
        ...

    def call_at(self, when_ms: int, callback: Callable[[], None], /) -> Handle:
        """Call it once virtual time reaches `when_ms`; at once in the order of time, never early."""
        ...


Rssi = Callable[[int, int, int], int | None]
"""(transmitter id, receiver id, virtual ms) -> RSSI in dBm as the receiver reports it; None = not heard."""


class Air:
    """Radios by id. Everything runs in the rig's asyncio loop."""

    def __init__(self, clock: Clock, busy_s: float = BUSY_S) -> None:
        self.clock = clock
        self.busy_s = busy_s
        self.rssi_dbm: Rssi = lambda transmitter_id, receiver_id, now_ms: DEFAULT_RSSI_DBM
        self.on_activity: Callable[[], None] = lambda: None
        self.link = AirLink(self._reach, self._activity)
        self.radios: dict[int, DeviceRadio] = {}
        self._busy_until_s = 0.0
        self._supervision: Handle | None = None

    def _reach(self, transmitter_id: int, receiver_id: int) -> int | None:
        for radio_id in (transmitter_id, receiver_id):
            radio = self.radios.get(radio_id)
            if radio is not None and not radio.powered():
                return None
        return self.rssi_dbm(transmitter_id, receiver_id, self.clock.now_ms())

    def _activity(self) -> None:
        self._busy_until_s = asyncio.get_running_loop().time() + self.busy_s
        self.on_activity()
        if self._supervision is None:
            self._supervision = self.clock.call_at(self.clock.now_ms() + SUPERVISION_MS, self._supervise)

    def _supervise(self) -> None:
        self._supervision = None
        if self.link.check_range():
            self._supervision = self.clock.call_at(self.clock.now_ms() + SUPERVISION_MS, self._supervise)

    @property
    def busy(self) -> bool:
        """Whether a connection carried something within the last `busy_s` of real time: hold virtual time meanwhile."""
        return asyncio.get_running_loop().time() < self._busy_until_s

    async def add_device(
        self, device_id: int, deliver: Deliver, powered: Callable[[], bool] = lambda: True
    ) -> DeviceRadio:
        """A radio for a device; deliver(device_id, operation, payload) carries its interrupts. Replaces an earlier one.

        While `powered` says no, nobody hears the device and its connections time out."""
        self.remove_device(device_id)
        radio = DeviceRadio(device_id, self.link, self.clock, deliver, powered)
        self.radios[device_id] = radio
        await radio.power_on()
        return radio

    def remove_device(self, device_id: int) -> None:
        """The device lost power: peers see its connections time out."""
        radio = self.radios.pop(device_id, None)
        if radio is not None:
            radio.remove()

    def handle_call(self, device_id: int, operation: int, payload: bytes) -> bytes:
        """What a device's `bluetooth` module asks (ble_wire.CALL_…); the answer begins with an errno byte."""
        return self.radios[device_id].handle_call(operation, payload)
