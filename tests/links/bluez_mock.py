# ruff: noqa: F821, F722 - annotations are D-Bus signatures
"""A small org.bluez on a private D-Bus: one adapter, tags with the Nordic UART service, and what goes wrong with them.

Enough of BlueZ's D-Bus interface for bleak's own backend. What a tag sends and gets is its own affair: `Tag` of the kit
speaks the real frames. Adverts are heard only while the adapter discovers, as on a radio.
"""

import asyncio
import contextlib
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from dbus_fast import DBusError, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property, method
from emwire import fragments

SERVICE = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
RX = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
TX = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"
ADAPTER_PATH = "/org/bluez/hci0"
READ = PropertyAccess.READ
CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>"""


@contextlib.asynccontextmanager
async def private_bus() -> AsyncIterator[str]:
    """A dbus-daemon of our own; the address of its socket."""
    with tempfile.TemporaryDirectory(prefix="emtag-bus-") as folder:  # short: a socket's path has at most 107 bytes
        configuration, socket = Path(folder) / "bus.conf", Path(folder) / "socket"
        configuration.write_text(CONFIGURATION.format(socket=socket))
        daemon = await asyncio.create_subprocess_exec(
            shutil.which("dbus-daemon") or "dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile",
            "--print-address", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert daemon.stdout is not None
        async with asyncio.timeout(20):
            assert await daemon.stdout.readline(), "dbus-daemon does not start"
        try:
            yield f"unix:path={socket}"
        finally:
            daemon.kill()
            await daemon.wait()


class Adapter(ServiceInterface):
    """org.bluez.Adapter1."""

    def __init__(self, world: "World") -> None:
        super().__init__("org.bluez.Adapter1")
        self.world = world
        self.powered = True
        self.discovering = False
        self.wanted = False  # somebody has a discovery session
        self.services: list[str] = []  # that it is filtered by; none: everybody is heard
        self.refuse_discovery = 0  # so many times, until the next power cycle
        self.power_changes: list[bool] = []
        self.removed: list[str] = []

    @dbus_property(access=READ)
    def Address(self) -> "s":
        return "F0:F0:F0:F0:F0:F0"

    @dbus_property(access=READ)
    def Name(self) -> "s":
        return "mock"

    @dbus_property()
    def Powered(self) -> "b":
        return self.powered

    @Powered.setter
    def Powered(self, on: "b") -> None:
        self.power_changes.append(on)
        self.power(on)

    def power(self, on: bool) -> None:
        if on == self.powered:
            return
        self.powered = on
        self.refuse_discovery = 0
        self.emit_properties_changed({"Powered": on})
        if not on:
            self.wanted = False
            self.listen(False)
            for device in self.world.devices:
                device.drop()

    @dbus_property(access=READ)
    def Discovering(self) -> "b":
        return self.discovering

    @dbus_property(access=READ)
    def Roles(self) -> "as":
        return ["central"]

    @method()
    def SetDiscoveryFilter(self, properties: "a{sv}"):
        self.services = properties["UUIDs"].value if "UUIDs" in properties else []

    @method()
    def StartDiscovery(self):
        if self.refuse_discovery:
            self.refuse_discovery -= 1
            raise DBusError("org.bluez.Error.Failed", "the controller does not answer")
        self.wanted = True
        self.listen(True)

    @method()
    def StopDiscovery(self):
        self.wanted = False
        self.listen(False)

    def listen(self, on: bool) -> None:
        """What the kernel does; also in the middle of a session."""
        if on != self.discovering:
            self.discovering = on
            self.emit_properties_changed({"Discovering": on})

    @method()
    def RemoveDevice(self, device: "o"):
        self.removed.append(device)
        for each in self.world.devices:
            if each.path == device:
                each.paired = each.peer_lost_bond = False
                each.emit_properties_changed({"Paired": False, "Bonded": False})


class Device(ServiceInterface):
    """org.bluez.Device1, and its GATT server."""

    def __init__(self, world: "World", number: int, mtu: int, services: list[str]) -> None:
        super().__init__("org.bluez.Device1")
        self.services = services
        self.world = world
        self.number = number
        self.address = f"C0:00:00:00:{number >> 8:02X}:{number & 255:02X}"
        self.path = f"{ADAPTER_PATH}/dev_{self.address.replace(':', '_')}"
        self.mtu = mtu
        self.advertises = True
        self.connected = False
        self.resolved = False
        self.paired = False
        self.trusted = False
        self.peer_lost_bond = False
        self.refuses_connections = False
        self.given_up: asyncio.Event | None = None  # never answers, until that
        self.attempts = 0
        self.connections = 0
        self.rssi = -60
        self.exported = False
        self.gatt = False
        self.ready = asyncio.Event()  # the gateway has subscribed and written
        self.arrived: Callable[[bytes], None] = lambda datagram: None
        self.written_sizes: list[int] = []
        self.tx = Characteristic(self, TX, ["notify"])
        self.rx = Characteristic(self, RX, ["write", "write-without-response"])
        self._reassembler = fragments.Reassembler()

    @dbus_property(access=READ)
    def Address(self) -> "s":
        return self.address

    @dbus_property(access=READ)
    def AddressType(self) -> "s":
        return "random"

    @dbus_property(access=READ)
    def Alias(self) -> "s":
        return self.address.replace(":", "-")

    @dbus_property(access=READ)
    def Adapter(self) -> "o":
        return ADAPTER_PATH

    @dbus_property(access=READ)
    def Paired(self) -> "b":
        return self.paired

    @dbus_property()
    def Trusted(self) -> "b":
        return self.trusted

    @Trusted.setter
    def Trusted(self, trusted: "b") -> None:
        self.trusted = trusted

    @dbus_property(access=READ)
    def Bonded(self) -> "b":
        return self.paired

    @dbus_property(access=READ)
    def Connected(self) -> "b":
        return self.connected

    @dbus_property(access=READ)
    def ServicesResolved(self) -> "b":
        return self.resolved

    @dbus_property(access=READ)
    def RSSI(self) -> "n":
        return self.rssi

    @dbus_property(access=READ)
    def UUIDs(self) -> "as":
        return self.services

    @method()
    async def Connect(self):
        self.attempts += 1
        if self.given_up is not None:
            await self.given_up.wait()
            self.given_up.clear()
            raise DBusError("org.bluez.Error.Failed", "Operation aborted")
        if self.refuses_connections:
            raise DBusError("org.bluez.Error.Failed", "le-connection-abort-by-remote")
        if self.peer_lost_bond:
            raise DBusError("org.bluez.Error.AuthenticationFailed", "Authentication Failed")
        self._connect()

    @method()
    async def Pair(self):
        self.paired = True
        self.emit_properties_changed({"Paired": True, "Bonded": True})
        self._connect()

    @method()
    def Disconnect(self):
        if self.given_up is not None:
            self.given_up.set()
        self.drop()

    def _connect(self) -> None:
        self.connections += 1
        self.connected = True
        self.world.most_connected = max(self.world.most_connected, sum(d.connected for d in self.world.devices))
        self.emit_properties_changed({"Connected": True})
        if not self.gatt:
            self.gatt = True
            bus = self.world.bus
            bus.export(f"{self.path}/service0010", Service(self))
            bus.export(f"{self.path}/service0010/char0011", self.rx)
            bus.export(f"{self.path}/service0010/char0013", self.tx)
        self.resolved = True
        self.emit_properties_changed({"ServicesResolved": True})

    def drop(self) -> None:
        """Out of range, or hung up."""
        if not self.connected:
            return
        self.connected = self.resolved = self.tx.notifying = False
        self.ready.clear()
        self._reassembler.reset()
        self.emit_properties_changed({"ServicesResolved": False, "Connected": False})

    def written(self, value: bytes) -> None:
        self.ready.set()
        if not value:
            return
        self.written_sizes.append(len(value))
        datagram = self._reassembler.feed(value)
        if datagram is not None:
            self.arrived(datagram)

    def send(self, device_id: int, frame: bytes) -> None:
        """Up: as notifications."""
        if not self.ready.is_set():
            raise OSError("nobody listens")
        for part in fragments.fragment(struct.pack("<I", device_id) + frame, self.mtu - 3):
            self.tx.notify(part)


class Service(ServiceInterface):
    """org.bluez.GattService1."""

    def __init__(self, device: Device) -> None:
        super().__init__("org.bluez.GattService1")
        self.device = device

    @dbus_property(access=READ)
    def UUID(self) -> "s":
        return SERVICE

    @dbus_property(access=READ)
    def Primary(self) -> "b":
        return True

    @dbus_property(access=READ)
    def Device(self) -> "o":
        return self.device.path


class Characteristic(ServiceInterface):
    """org.bluez.GattCharacteristic1."""

    def __init__(self, device: Device, uuid: str, flags: list[str]) -> None:
        super().__init__("org.bluez.GattCharacteristic1")
        self.device = device
        self.uuid = uuid
        self.flags = flags
        self.value = b""
        self.notifying = False

    @dbus_property(access=READ)
    def UUID(self) -> "s":
        return self.uuid

    @dbus_property(access=READ)
    def Service(self) -> "o":
        return f"{self.device.path}/service0010"

    @dbus_property(access=READ)
    def Flags(self) -> "as":
        return self.flags

    @dbus_property(access=READ)
    def Value(self) -> "ay":
        return self.value

    @dbus_property(access=READ)
    def Notifying(self) -> "b":
        return self.notifying

    @dbus_property(access=READ)
    def MTU(self) -> "q":
        return self.device.mtu

    @method()
    def WriteValue(self, value: "ay", options: "a{sv}"):
        if len(value) > self.device.mtu - 3:
            raise DBusError("org.bluez.Error.InvalidValueLength", "Invalid Length")
        self.device.written(bytes(value))

    @method()
    def StartNotify(self):
        self.notifying = True

    @method()
    def StopNotify(self):
        self.notifying = False

    def notify(self, value: bytes) -> None:
        if self.notifying:
            self.value = value
            self.emit_properties_changed({"Value": value})


class World:
    """The mock's side: its bus, its adapter, its tags."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.adapter = Adapter(self)
        self.devices: list[Device] = []
        self.most_connected = 0
        bus.export(ADAPTER_PATH, self.adapter)
        self._advertising = asyncio.create_task(self._advertise())

    def add(self, number: int, mtu: int = 247) -> Device:
        device = Device(self, number, mtu, [SERVICE])
        self.devices.append(device)
        return device

    def add_stranger(self, number: int) -> Device:
        """Somebody's telephone."""
        device = Device(self, number, 23, [])
        self.devices.append(device)
        return device

    def _heard(self, device: Device) -> bool:
        wanted = self.adapter.services
        return self.adapter.discovering and (not wanted or bool(set(wanted) & set(device.services)))

    async def _advertise(self) -> None:
        while True:
            for device in self.devices:
                if self._heard(device) and device.advertises and not device.connected:
                    device.rssi = -60 - (device.rssi + 1) % 7
                    if device.exported:
                        device.emit_properties_changed({"RSSI": device.rssi})
                    else:
                        device.exported = True
                        self.bus.export(device.path, device)
            await asyncio.sleep(0.05)

    def close(self) -> None:
        self._advertising.cancel()
        self.bus.disconnect()


@contextlib.asynccontextmanager
async def bluez(address: str) -> AsyncIterator[World]:
    """bluetoothd, as far as anybody can see."""
    bus = await MessageBus(bus_address=address).connect()
    world = World(bus)
    await bus.request_name("org.bluez")
    try:
        yield world
    finally:
        world.close()


async def pump(tag: Any, device: Device) -> None:
    """Join the kit's Tag to a device of the mock: real journal, real link, over GATT. Each connection anew."""

    def arrived(datagram: bytes) -> None:
        tag.arrived(datagram[4:])

    device.arrived = arrived
    while True:
        device.advertises = True
        await device.ready.wait()
        with contextlib.suppress(OSError):
            await tag.pump(lambda frame: device.send(tag.device_id, frame))
