"""A bleak backend over bumble: BLE without BlueZ, through any HCI transport (a virtual controller's socket, a dongle).

`BumbleAdapter` opens the transport and hands out the two backend classes that bleak takes as `backend=`. Bumble is
imported only when this module is (extra `rig`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from bleak.args import SizedBuffer
from bleak.args.bluez import BlueZScannerArgs
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError
from bumble import core, hci
from bumble.core import UUID, AdvertisingData
from bumble.device import Advertisement, Connection, Device, DeviceConfiguration, Peer
from bumble.gatt_client import CharacteristicProxy, DescriptorProxy, ServiceProxy
from bumble.transport import open_transport
from bumble.transport.common import Transport

logger = logging.getLogger(__name__)
T = TypeVar("T")

# An ATT PDU of 247 bytes and its L2CAP header fill one Link Layer PDU of 251 (Core Specification Vol 6, Part B, 2.4).
PREFERRED_MTU = 247
# Reset and set-up are some 25 HCI commands; a controller that takes longer than this for them is not there.
OPEN_TIMEOUT_S = 10.0

_SERVICE_LISTS = (
    AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
)
_NAMES = (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME)


class BumbleAdapter:
    """One HCI transport and the host on top of it. Raises OSError or BleakError, as bleak's callers expect."""

    steady = True
    """Scanning, it listens without a pause."""
    reason = "the adapter is gone"
    scanner_arguments: BlueZScannerArgs = {}

    def __init__(self, transport: str) -> None:
        self.transport_name = transport
        self.discovering = True
        self.lost = asyncio.Event()
        """Set once the transport has gone; a lost adapter stays lost."""
        self.connecting = asyncio.Lock()
        self._transport: Transport | None = None
        self._device: Device | None = None
        self._backends: tuple[type[BaseBleakScanner], type[BaseBleakClient]] | None = None

    @property
    def device(self) -> Device:
        """The host; BleakError when the adapter is closed or lost."""
        if self._device is None or self.lost.is_set():
            raise BleakError(f"{self.transport_name}: the adapter is gone")
        return self._device

    async def open(self) -> None:
        """Open the transport and bring the controller up; OSError when that fails."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                self._transport = await open_transport(self.transport_name)
                source, sink = self._transport.source, self._transport.sink
                # A static random address of its own for each start: nothing is bonded to it.
                config = DeviceConfiguration(name="emtag gateway", address=hci.Address.generate_static_address())
                device = Device.from_config_with_hci(config, source, sink)
                source.terminated.add_done_callback(self._terminated)
                self._device = device
                await self.call(device.power_on())
        except TimeoutError:
            await self.close()
            raise OSError(f"{self.transport_name}: no answer from the controller") from None
        except (core.BaseBumbleError, BleakError, OSError) as error:
            await self.close()
            raise OSError(f"{self.transport_name}: {error}") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of the transport."""
        self.lost.set()
        transport, self._transport = self._transport, None
        if transport is not None:
            with contextlib.suppress(Exception):  # whatever a dead transport says on closing, it is closed
                await transport.close()

    async def reset(self) -> None:
        """Opening the transport anew resets the controller: OSError makes the link do so."""
        raise OSError(f"{self.transport_name}: the controller is stuck")

    async def forget(self, address: str) -> None:
        """Nothing is bonded."""

    def _terminated(self, future: "asyncio.Future[None]") -> None:
        if not future.cancelled():
            future.exception()  # fetched, so that asyncio does not complain
        self.lost.set()

    async def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a call of bumble's, ending with BleakError when it fails, the adapter is lost, or TimeoutError.

        Bumble cancels pending operations when a connection goes; here that must not look like our own cancellation."""
        task = asyncio.ensure_future(work)
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((task, lost), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                if lost.done():
                    raise BleakError(f"{self.transport_name}: the adapter is gone")
                raise TimeoutError
            if task.cancelled():
                raise BleakError("the connection is gone")
            try:
                return task.result()
            except (core.BaseBumbleError, TimeoutError) as error:
                raise BleakError(str(error) or type(error).__name__) from error
        finally:
            lost.cancel()
            if not task.done():
                task.cancel()
                with contextlib.suppress(BaseException):
                    await asyncio.wait((task,), timeout=1)
            elif not task.cancelled():
                task.exception()

    def backends(self) -> tuple[type[BaseBleakScanner], type[BaseBleakClient]]:
        """Backend classes bound to this adapter: BleakScanner(backend=…), BleakClient(backend=…)."""
        if self._backends is None:
            adapter = self

            class Scanner(BumbleScanner):
                _adapter = adapter

            class Client(BumbleClient):
                _adapter = adapter

            self._backends = (Scanner, Client)
        return self._backends


def uuid_text(uuid: UUID) -> str:
    """The 128-bit form in lower case that bleak uses."""
    digits = uuid.to_bytes(force_128=True)[::-1].hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class BumbleScanner(BaseBleakScanner):
    """Scanning through a BumbleAdapter."""

    _adapter: BumbleAdapter

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None = None,
        service_uuids: list[str] | None = None,
        scanning_mode: str = "active",
        **_: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._active = scanning_mode == "active"

    async def start(self) -> None:
        """Start scanning."""
        self.seen_devices = {}
        device = self._adapter.device
        device.on("advertisement", self._on_advertisement)
        try:
            await self._adapter.call(device.start_scanning(active=self._active))
        except BaseException:
            device.remove_listener("advertisement", self._on_advertisement)
            raise

    async def stop(self) -> None:
        """Stop scanning."""
        device = self._adapter.device
        device.remove_listener("advertisement", self._on_advertisement)
        await self._adapter.call(device.stop_scanning())

    def _on_advertisement(self, advertisement: Advertisement) -> None:
        data = advertisement.data
        service_uuids = [
            uuid_text(uuid)
            for kind in _SERVICE_LISTS
            for found in data.get_all(kind)
            for uuid in cast(list[UUID], found)
        ]
        manufacturer = data.get(AdvertisingData.MANUFACTURER_SPECIFIC_DATA)
        name = next((n for kind in _NAMES if isinstance(n := data.get(kind), str)), None)
        parsed = AdvertisementData(
            local_name=name,
            manufacturer_data={manufacturer[0]: bytes(manufacturer[1])} if manufacturer else {},
            service_data={},
            service_uuids=service_uuids,
            tx_power=None,
            rssi=advertisement.rssi,
            platform_data=(advertisement,),
        )
        address = advertisement.address.to_string(False)
        known = self.create_or_update_device(address, address, parsed.local_name, advertisement.address, parsed)
        if self.is_allowed_uuid(service_uuids):
            self.call_detection_callbacks(known, parsed)


class BumbleClient(BaseBleakClient):
    """A connection through a BumbleAdapter."""

    _adapter: BumbleAdapter

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        *,
        disconnected_callback: Callable[[], None] | None,
        timeout: float,
        **_: Any,
    ) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout)
        details = address_or_ble_device.details if isinstance(address_or_ble_device, BLEDevice) else None
        self._peer_address = details if isinstance(details, hci.Address) else hci.Address(self.address)
        self._connection: Connection | None = None
        self._mtu = 23
        self._subscribers: dict[int, Callable[[bytes], None]] = {}

    @property
    def name(self) -> str:
        """The address: names are not read."""
        return self.address

    @property
    def mtu_size(self) -> int:
        """Negotiated ATT MTU."""
        return self._mtu

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up."""
        return self._connection is not None and not self._adapter.lost.is_set()

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        """Connect, agree on the MTU, discover everything. TimeoutError when the device does not answer."""
        adapter = self._adapter
        async with asyncio.timeout(self._timeout):
            async with adapter.connecting:  # a controller has one connection request at a time
                connection = await self._establish(adapter.device)
            self._connection = connection
            connection.on("disconnection", self._on_disconnection)
            try:
                peer = Peer(connection)
                self._mtu = await adapter.call(peer.request_mtu(PREFERRED_MTU))
                self.services = await self._discover(peer)
            except BaseException:
                await self._abandon(connection)
                raise

    async def _establish(self, device: Device) -> Connection:
        try:
            # The time-out is ours: bumble's own would leave the request pending on cancellation.
            return await self._adapter.call(device.connect(self._peer_address, timeout=None))
        except BaseException:
            if not self._adapter.lost.is_set():
                # Either the request is cancelled, or it succeeded meanwhile and the connection is not wanted.
                with contextlib.suppress(BleakError, TimeoutError, OSError):
                    cancel = device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command())
                    await self._adapter.call(cancel, timeout_s=1)
                stray = device.find_connection_by_bd_addr(self._peer_address)
                if stray is not None:
                    await self._abandon(stray)
            raise

    async def _abandon(self, connection: Connection) -> None:
        with contextlib.suppress(BleakError, TimeoutError, OSError):
            await self._adapter.call(connection.disconnect(), timeout_s=1)

    async def _discover(self, peer: Peer) -> BleakGATTServiceCollection:
        call = self._adapter.call
        collection = BleakGATTServiceCollection()
        await call(peer.discover_services())
        services: list[ServiceProxy] = peer.services
        for service in services:
            await call(peer.discover_characteristics(service=service))
            known = BleakGATTService(service, service.handle, uuid_text(service.uuid))
            collection.add_service(known)
            for proxy in service.characteristics:
                characteristic = BleakGATTCharacteristic(
                    proxy,
                    proxy.handle,
                    uuid_text(proxy.uuid),
                    list(gatt_char_props_to_strs(int(proxy.properties))),
                    lambda: self._mtu - 3,
                    known,
                )
                collection.add_characteristic(characteristic)
                await call(peer.discover_descriptors(characteristic=proxy))
                for descriptor in proxy.descriptors:
                    collection.add_descriptor(
                        BleakGATTDescriptor(descriptor, descriptor.handle, uuid_text(descriptor.type), characteristic)
                    )
        return collection

    def _on_disconnection(self, reason: int) -> None:
        self._connection = None
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        """Disconnect; nothing happens when that has happened already."""
        connection = self._connection
        if connection is not None and not self._adapter.lost.is_set():
            await self._adapter.call(connection.disconnect(), timeout_s=self._timeout)

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        """Frames are sealed end to end: pairing is not used."""
        raise NotImplementedError

    async def unpair(self) -> None:
        """Pairing is not used."""
        raise NotImplementedError

    def _connected(self) -> None:
        if self._connection is None:
            raise BleakError("not connected")

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        """Read a value."""
        self._connected()
        proxy = cast("CharacteristicProxy[bytes]", characteristic.obj)
        return bytearray(await self._adapter.call(proxy.read_value()))

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        """Read a descriptor."""
        self._connected()
        return bytearray(await self._adapter.call(cast(DescriptorProxy, descriptor.obj).read_value()))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool) -> None:
        """Write a value, waiting for the peer's answer if `response`."""
        self._connected()
        proxy = cast("CharacteristicProxy[bytes]", characteristic.obj)
        await self._adapter.call(proxy.write_value(bytes(data), with_response=response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        """Write a descriptor."""
        self._connected()
        await self._adapter.call(cast(DescriptorProxy, descriptor.obj).write_value(bytes(data), with_response=True))

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **kwargs: Any
    ) -> None:
        """Subscribe."""
        self._connected()

        def notified(value: bytes) -> None:
            callback(bytearray(value))

        self._subscribers[characteristic.handle] = notified
        await self._adapter.call(cast("CharacteristicProxy[bytes]", characteristic.obj).subscribe(notified))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        """Unsubscribe."""
        notified = self._subscribers.pop(characteristic.handle, None)
        if notified is not None and self._connection is not None:
            await self._adapter.call(cast("CharacteristicProxy[bytes]", characteristic.obj).unsubscribe(notified))
