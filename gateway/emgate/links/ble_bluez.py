"""The adapter under bleak's own BlueZ backend: what bluetoothd says of it, and how it is switched off and on.

bleak scans and connects; whether the radio listens at this moment, has vanished, or must be reset, it does not say.
That is on D-Bus: org.bluez.Adapter1's Discovering and Powered. A long discovery is no steady one: the kernel ends it
after about 10 s, and bluetoothd begins it again 5 s later.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from bleak.args.bluez import BlueZScannerArgs
from dbus_fast import BusType, Message, MessageType, Variant, unpack_variants
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
PROPERTIES = "org.freedesktop.DBus.Properties"
CALL_S = 10.0
"""bluetoothd answers within milliseconds; powering an adapter up takes a second or two."""
RULES = (
    f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{ADAPTER}'",
    f"type='signal',sender='{BLUEZ}',interface='org.freedesktop.DBus.ObjectManager',member='InterfacesRemoved'",
    f"type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{BLUEZ}'",
)


class BluezAdapter:
    """One adapter of bluetoothd: the named one (hci0), or the first there is."""

    steady = False
    """Listens only while `discovering`."""

    def __init__(self, name: str | None, changed: Callable[[], None]) -> None:
        self.lost = asyncio.Event()
        self.reason = "the adapter is gone"
        self.discovering = False
        self._name = name
        self._changed = changed
        self._path = ""
        self._bus: MessageBus | None = None
        self._watching: asyncio.Task[None] | None = None
        self._resetting = False

    @property
    def scanner_arguments(self) -> BlueZScannerArgs:
        """For BleakScanner's and BleakClient's `bluez=`."""
        return {"adapter": self._path.rpartition("/")[2]}

    def backends(self) -> tuple[None, None]:
        """Bleak's own."""
        return (None, None)

    async def open(self) -> None:
        """Find the adapter and switch it on; OSError says what is missing."""
        bus = MessageBus(bus_type=BusType.SYSTEM)
        try:
            async with asyncio.timeout(CALL_S):
                await bus.connect()
            self._bus = bus
            self._watching = asyncio.create_task(self._watch(bus))
            bus.add_message_handler(self._signal)
            for rule in RULES:
                await self._call(
                    "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", [rule]
                )
            await self._find()
            await self._power(True)
        except (OSError, EOFError, DBusFastError, TimeoutError) as error:
            await self.close()
            reason = str(error) or "no answer"
            raise OSError(f"BlueZ cannot be used: {reason}; see that bluetoothd runs and has an adapter") from None

    async def close(self) -> None:
        """Let go of the bus."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.disconnect()
        if self._watching is not None:
            await asyncio.wait([self._watching])
            self._watching = None

    async def _watch(self, bus: MessageBus) -> None:
        with contextlib.suppress(Exception):  # replays what ended it
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._lose("the connection to D-Bus is gone")

    async def reset(self) -> None:
        """Switch it off and on; OSError when it does not come back."""
        self._resetting = True
        try:
            await self._power(False)
            await self._power(True)
        finally:
            self._resetting = False

    async def forget(self, address: str) -> None:
        """Remove a device and its bond, so that pairing begins anew."""
        with contextlib.suppress(OSError):
            await self._call(
                BLUEZ, self._path, ADAPTER, "RemoveDevice", "o", [f"{self._path}/dev_{address.replace(':', '_')}"]
            )

    async def _find(self) -> None:
        (objects,) = await self._call(BLUEZ, "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        adapters = {path: interfaces[ADAPTER] for path, interfaces in sorted(objects.items()) if ADAPTER in interfaces}
        wanted = [path for path in adapters if self._name in (None, path.rpartition("/")[2])]
        if not wanted:
            there = ", ".join(path.rpartition("/")[2] for path in adapters) or "none"
            raise OSError(f"no adapter {self._name or 'at all'}; there is {there}")
        self._path = wanted[0]
        self.discovering = bool(unpack_variants(adapters[self._path]).get("Discovering", False))

    async def _power(self, on: bool) -> None:
        await self._call(BLUEZ, self._path, PROPERTIES, "Set", "ssv", [ADAPTER, "Powered", Variant("b", on)])

    async def _call(
        self, to: str, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> list[Any]:
        bus = self._bus
        if bus is None or not bus.connected:
            raise OSError("the bus is gone")
        message = Message(
            destination=to, path=path, interface=interface, member=member, signature=signature, body=body or []
        )
        try:
            async with asyncio.timeout(CALL_S):
                reply = await bus.call(message)
        except TimeoutError:
            raise OSError(f"{member}: no answer from bluetoothd") from None
        except (EOFError, DBusFastError) as error:
            raise OSError(f"{member}: {error}") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            said = f"{reply.error_name} {' '.join(map(str, reply.body))}" if reply else "no reply"
            raise OSError(f"{member}: {said}")
        return reply.body

    def _signal(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "NameOwnerChanged" and message.body[0] == BLUEZ:
            self._lose("bluetoothd has ended" if not message.body[2] else "bluetoothd has been started anew")
        elif message.member == "InterfacesRemoved" and message.body[0] == self._path and ADAPTER in message.body[1]:
            self._lose("the adapter was unplugged")
        elif message.member == "PropertiesChanged" and message.path == self._path and message.body[0] == ADAPTER:
            changed = unpack_variants(message.body[1])
            if "Discovering" in changed:
                self.discovering = bool(changed["Discovering"])
                self._changed()
            if changed.get("Powered") is False and not self._resetting:
                self._lose("somebody has switched the adapter off")

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.discovering = False
            self.lost.set()
