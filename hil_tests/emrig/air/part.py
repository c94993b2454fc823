"""The Bluetooth of a simulated device as a part of the rig, and virtual time held while connections carry something."""

from __future__ import annotations

import asyncio

from emrig.air.air import Air
from emrig.micropython import ble_wire, rig_wire
from emrig.rig import Rig
from emrig.target import Device

HOLD_KEY = "air"


class BlePart:
    """What is wired to a device's channel "ble"."""

    def __init__(self, device: Device, air: Air, device_id: int) -> None:
        self._device, self._air, self._device_id = device, air, device_id
        self._boots = 0

    @classmethod
    async def add(cls, device: Device, air: Air, device_id: int) -> BlePart:
        """Give the device a radio on this air."""
        part = cls(device, air, device_id)
        await air.add_device(device_id, part._deliver, part._powered)
        device.parts["ble"] = part
        return part

    def output(self, kind: int, payload: bytes) -> None:
        """Nothing: everything on this channel is a call."""

    def call(self, operation: int, argument: bytes) -> bytes:
        """Pass a call of the device's `bluetooth` module on."""
        if operation == ble_wire.CALL_ACTIVE:
            self._boots = self._device.boots
        return self._air.handle_call(self._device_id, operation, argument)

    def _deliver(self, device_id: int, operation: int, payload: bytes) -> None:
        if self._powered():
            self._device.feed("ble", rig_wire.NOTIFY, bytes((operation,)) + payload)

    def _powered(self) -> bool:
        # A device that was killed is off the air; one that boots again is, until it turns its radio on.
        return self._device.running and self._boots == self._device.boots


def hold_while_busy(rig: Rig, air: Air) -> None:
    """Hold the rig's virtual time from a packet on a connection until the air has been quiet for `air.busy_s`."""
    checking: list[asyncio.TimerHandle] = []

    def check() -> None:
        checking.clear()
        if air.busy:
            checking.append(asyncio.get_running_loop().call_later(air.busy_s, check))
        else:
            rig.release(HOLD_KEY)

    def activity() -> None:
        rig.hold(HOLD_KEY)
        if not checking:
            checking.append(asyncio.get_running_loop().call_later(air.busy_s, check))

    air.on_activity = activity
