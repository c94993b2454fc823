"""A simulated device's radio: MicroPython's `bluetooth.BLE` calls on one side, bumble's host and controller beneath."""

import asyncio
import logging
import random
import struct
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from bumble import att, core, gatt, hci
from bumble.controller import LegacyAdvertiser
from bumble.device import AdvertisingType, Connection, Device
from bumble.device import LegacyAdvertiser as HostAdvertiser
from bumble.host import Host
from bumble.transport.common import AsyncPipeSink

from emrig.air.controller import Advertisement, AirController, AirLink
from emrig.micropython import ble_wire as wire

if TYPE_CHECKING:
    from emrig.air.air import Clock, Handle

Deliver = Callable[[int, int, bytes], None]
"""(device id, operation, payload): an interrupt for the device."""

logger = logging.getLogger(__name__)

# advDelay, Core Specification Vol 6, Part B, 4.4.2.2.1: each event is late by a pseudo-random 0 to 10 ms, so that two
# radios with the same interval do not stay in step.
ADVERTISING_DELAY_MS = 10
# What the specification allows (Vol 4, Part E, 7.8.5).
ADVERTISING_INTERVALS_US = range(20_000, 10_240_001)
# ATT PDUs a NimBLE port holds (12 blocks in its mbuf pool) before it answers ENOMEM.
TRANSMIT_BUFFERS = 12
# What NimBLE offers unless config(mtu=…) says otherwise.
DEFAULT_MTU = 256


def device_address(device_id: int) -> hci.Address:
    """The static random address of a simulated device: C0:00 and its device id."""
    return hci.Address("C0:00:" + ":".join(f"{octet:02X}" for octet in device_id.to_bytes(4, "big")))


def _wire_address(address: hci.Address) -> bytes:
    # Bumble keeps HCI's order, least significant byte first; MicroPython shows the other.
    return bytes(reversed(bytes(address)))


class VirtualAdvertiser(LegacyAdvertiser):
    """Advertising events in virtual time instead of the event loop's."""

    def __init__(self, controller: "DeviceController", clock: "Clock", seed: int) -> None:
        super().__init__(controller)
        self.own_address_type = hci.Address.RANDOM_DEVICE_ADDRESS
        self.kind = wire.ADV_IND
        self.interval_ms = 0.0
        self.events = 0
        self._clock = clock
        self._random = random.Random(seed)
        self._due_ms = 0.0
        self._scheduled: Handle | None = None

    def begin(self, interval_us: int, kind: int, data: bytes, response: bytes) -> None:
        """Advertise from now on, with this content."""
        self.stop()
        self.interval_ms = interval_us / 1000
        self.kind = kind
        self.advertising_data = data
        self.scan_response_data = response
        self.enabled = True
        self._due_ms = float(self._clock.now_ms())
        self._schedule()

    def start(self) -> None:
        """Bumble's own way in, through HCI: unused, this radio is driven by its device."""
        raise NotImplementedError

    def stop(self) -> None:
        """No further event."""
        self.enabled = False
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def _schedule(self) -> None:
        delay_ms = self._random.random() * ADVERTISING_DELAY_MS
        self._scheduled = self._clock.call_at(int(self._due_ms + delay_ms), self._event)

    def _event(self) -> None:
        self._scheduled = None
        if not self.enabled:
            return
        self.events += 1
        packet = Advertisement(self.address, self.advertising_data, self.kind, self.scan_response_data)
        self._due_ms += self.interval_ms
        self._schedule()
        self.controller.send_advertising_pdu(packet)


class DeviceController(AirController):
    """A device's controller: advertises in virtual time and hands what it hears to its device at that very moment."""

    def __init__(
        self, device_id: int, link: AirLink, clock: "Clock", heard: Callable[[Advertisement, int], None]
    ) -> None:
        super().__init__(f"device {device_id:08x}", link, device_id)
        self.random_address = device_address(device_id)
        self.advertiser = VirtualAdvertiser(self, clock, device_id)
        self.le_legacy_advertiser = self.advertiser
        self._heard = heard
        self.scanning = False

    @property
    def listening(self) -> bool:
        """Whether the device scans."""
        return self.scanning

    def on_advertisement(self, packet: Advertisement, rssi_dbm: int) -> None:
        """Not over HCI, whose events arrive later."""
        self._heard(packet, rssi_dbm)


class _Scan:
    """One gap_scan: deaf outside its windows, whose phase is the controller's own affair."""

    def __init__(
        self, start_ms: int, duration_ms: int, interval_us: int, window_us: int, active: bool, phase: float
    ) -> None:
        self.start_us = start_ms * 1000 - int(phase * interval_us)
        self.end_ms = start_ms + duration_ms if duration_ms else None
        self.interval_us = max(interval_us, 1)
        self.window_us = window_us
        self.active = active

    def listens(self, now_ms: int) -> bool:
        if self.end_ms is not None and now_ms >= self.end_ms:
            return False
        return (now_ms * 1000 - self.start_us) % self.interval_us < self.window_us


class DeviceRadio:
    """One device's Bluetooth."""

    def __init__(
        self, device_id: int, link: AirLink, clock: "Clock", deliver: Deliver, powered: Callable[[], bool]
    ) -> None:
        self.device_id = device_id
        self.powered = powered
        self.clock = clock
        self.controller = DeviceController(device_id, link, clock, self._on_advertisement)
        host = Host(self.controller, AsyncPipeSink(self.controller))
        self.device = Device(name=self.controller.name, address=device_address(device_id), host=host)
        self.device.on("connection", self._on_connection)
        self.refuse_notifications = 0
        """The next so many notifications find no buffer (ENOMEM): for tests of back-pressure."""
        self._deliver = deliver
        self._random = random.Random(~device_id)
        self._active = False
        self._scan: _Scan | None = None
        self._scan_end: Handle | None = None
        self._values: dict[int, bytes] = {}
        self._attributes: dict[int, att.Attribute[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[int, Callable[[bytes], bytes]] = {
            wire.CALL_ACTIVE: self._call_active,
            wire.CALL_ADVERTISE: self._call_advertise,
            wire.CALL_ADVERTISE_STOP: self._call_advertise_stop,
            wire.CALL_SCAN: self._call_scan,
            wire.CALL_SCAN_STOP: self._call_scan_stop,
            wire.CALL_REGISTER: self._call_register,
            wire.CALL_VALUE: self._call_value,
            wire.CALL_NOTIFY: self._call_notify,
            wire.CALL_INDICATE: self._call_indicate,
            wire.CALL_DISCONNECT: self._call_disconnect,
            wire.CALL_MTU: self._call_mtu,
            wire.CALL_ADDRESS_MODE: self._call_address_mode,
        }

    async def power_on(self) -> None:
        """Bring the host and controller up."""
        await self.device.power_on()

    def remove(self) -> None:
        """Vanish from the air; peers see a timeout."""
        self._off(hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
        self.controller.air_link.remove_controller(self.controller)
        for task in self._tasks:
            task.cancel()

    def handle_call(self, operation: int, payload: bytes) -> bytes:
        """Answer one call: errno, then the result."""
        call = self._calls.get(operation)
        if call is None:
            return bytes((wire.EOPNOTSUPP,))
        try:
            return b"\0" + call(payload)
        except OSError as error:
            return bytes((error.errno or wire.EINVAL,))
        except (struct.error, IndexError, core.InvalidArgumentError):
            return bytes((wire.EINVAL,))

    def _interrupt(self, operation: int, payload: bytes = b"") -> None:
        if self._active:
            self._deliver(self.device_id, operation, payload)

    # -- power, advertising, scanning -----------------------------------------------------------------------

    def _off(self, reason: int) -> None:
        self._active = False  # first, so that the device hears nothing of what follows
        self._stop_scan()
        self.controller.silence(reason)

    def _call_active(self, payload: bytes) -> bytes:
        self._off(hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR)
        self._register([])
        self._active = bool(payload[0])
        self.controller.random_address = device_address(self.device_id)
        return b"\1" + _wire_address(self.controller.random_address)

    def _call_address_mode(self, payload: bytes) -> bytes:
        # As NimBLE's port: each call in mode NRPA draws a new address, which a controller refuses while advertising.
        if self.controller.advertiser.enabled:
            raise OSError(wire.EINVAL, "advertising")
        if payload[0] == wire.ADDRESS_NRPA:
            # Core Specification Vol 6, Part B, 1.3.2.2: the two most significant bits of an NRPA are zero.
            octets = self._random.randrange(1, 1 << 46).to_bytes(6, "little")
            self.controller.random_address = hci.Address(octets, hci.Address.RANDOM_DEVICE_ADDRESS)
        elif payload[0] == wire.ADDRESS_RANDOM:
            self.controller.random_address = device_address(self.device_id)
        else:
            raise OSError(wire.EOPNOTSUPP, "public and resolvable addresses are not modelled")
        return b"\1" + _wire_address(self.controller.random_address)

    def _call_advertise(self, payload: bytes) -> bytes:
        interval_us, connectable, data, response = wire.unpack_advertise(payload)
        if interval_us not in ADVERTISING_INTERVALS_US:
            raise OSError(wire.EINVAL, "interval out of range")
        unconnectable = wire.ADV_SCAN_IND if response else wire.ADV_NONCONN_IND
        kind = wire.ADV_IND if connectable else unconnectable
        # What the host would have noted if it had started this: it knows its own address by it once connected.
        self.device.legacy_advertiser = HostAdvertiser(
            self.device,
            AdvertisingType.UNDIRECTED_CONNECTABLE_SCANNABLE,
            hci.OwnAddressType.RANDOM,
            hci.Address.ANY,
            auto_restart=False,
        )
        self.controller.advertiser.begin(interval_us, kind, data, response)
        return b""

    def _call_advertise_stop(self, payload: bytes) -> bytes:
        self.controller.advertiser.stop()
        return b""

    def _call_scan(self, payload: bytes) -> bytes:
        duration_ms, interval_us, window_us, active = struct.unpack(wire.SCAN, payload)
        if window_us > interval_us:
            raise OSError(wire.EINVAL, "window exceeds interval")
        self._stop_scan()
        now_ms = self.clock.now_ms()
        self.controller.scanning = True
        self._scan = _Scan(now_ms, duration_ms, interval_us, window_us, bool(active), self._random.random())
        if duration_ms:
            self._scan_end = self.clock.call_at(now_ms + duration_ms, self._end_scan)
        return b""

    def _call_scan_stop(self, payload: bytes) -> bytes:
        if self._scan is not None:
            self._end_scan()
        return b""

    def _stop_scan(self) -> None:
        self._scan = None
        self.controller.scanning = False
        if self._scan_end is not None:
            self._scan_end.cancel()
            self._scan_end = None

    def _end_scan(self) -> None:
        self._stop_scan()
        self._interrupt(wire.IRQ_SCAN_DONE)

    def _on_advertisement(self, packet: Advertisement, rssi_dbm: int) -> None:
        scan = self._scan
        if scan is None or not scan.listens(self.clock.now_ms()):
            return
        self._scan_result(packet.advertiser_address, packet.kind, rssi_dbm, packet.data)
        if scan.active and packet.scannable:
            self._scan_result(packet.advertiser_address, wire.SCAN_RSP, rssi_dbm, packet.response)

    def _scan_result(self, address: hci.Address, kind: int, rssi_dbm: int, data: bytes) -> None:
        head = struct.pack(wire.SCAN_RESULT, address.address_type, _wire_address(address), kind, rssi_dbm)
        self._interrupt(wire.IRQ_SCAN_RESULT, head + data)

    # -- GATT server ----------------------------------------------------------------------------------------

    def _call_register(self, payload: bytes) -> bytes:
        handles = self._register(wire.unpack_items(payload))
        return struct.pack(f"<{len(handles)}H", *handles)

    def _register(self, items: list[tuple[int, int, bytes]]) -> list[int]:
        server = self.device.gatt_server
        server.attributes = []
        server.attributes_by_handle = {}
        server.services = []
        server.subscribers = {}
        self._values = {}
        self._attributes = {}
        self.device.add_default_services()
        added: list[att.Attribute[bytes]] = []
        services: list[tuple[core.UUID, list[gatt.Characteristic[bytes]]]] = []
        descriptors: list[gatt.Descriptor] = []
        for item, flags, raw in items:
            uuid = core.UUID.from_bytes(raw)
            if item == wire.ITEM_SERVICE:
                services.append((uuid, []))
            elif item == wire.ITEM_CHARACTERISTIC:
                descriptors = []
                characteristic: gatt.Characteristic[bytes] = gatt.Characteristic(
                    uuid, gatt.Characteristic.Properties(flags & 0xFF), _permissions(flags), b"", descriptors
                )
                characteristic.value = gatt.CharacteristicValue(
                    self._reader(characteristic), self._writer(characteristic)
                )
                services[-1][1].append(characteristic)
                added.append(characteristic)
            else:
                descriptor = gatt.Descriptor(uuid, _permissions(flags), b"")
                descriptor.value = gatt.CharacteristicValue(self._reader(descriptor), self._writer(descriptor))
                descriptors.append(descriptor)
                added.append(descriptor)
        for uuid, characteristics in services:
            server.add_service(gatt.Service(uuid, characteristics))
        for attribute in added:
            self._values[attribute.handle] = b""
            self._attributes[attribute.handle] = attribute
        return [attribute.handle for attribute in added]

    def _reader(self, attribute: att.Attribute[bytes]) -> Callable[[Connection], bytes]:
        def read(connection: Connection) -> bytes:
            # Bumble's server checks for encryption only.
            if not attribute.permissions & att.Attribute.Permissions.READABLE:
                raise att.ATT_Error(att.ATT_READ_NOT_PERMITTED_ERROR, attribute.handle)
            return self._values.get(attribute.handle, b"")

        return read

    def _writer(self, attribute: att.Attribute[bytes]) -> Callable[[Connection, bytes], None]:
        def write(connection: Connection, value: bytes) -> None:
            if not attribute.permissions & att.Attribute.Permissions.WRITEABLE:
                raise att.ATT_Error(att.ATT_WRITE_NOT_PERMITTED_ERROR, attribute.handle)
            self._values[attribute.handle] = bytes(value)
            head = struct.pack(wire.WRITE, connection.handle, attribute.handle)
            self._interrupt(wire.IRQ_GATTS_WRITE, head + bytes(value))

        return write

    def _call_value(self, payload: bytes) -> bytes:
        (handle,) = struct.unpack_from(wire.VALUE, payload)
        if handle not in self._attributes:
            raise OSError(wire.EINVAL, "no such value")
        update, data = payload[2], payload[3:]
        self._values[handle] = data
        if update:
            self._spawn(self.device.gatt_server.notify_subscribers(self._attributes[handle], data))
        return b""

    def _connection(self, payload: bytes) -> Connection:
        connection: Connection | None = self.device.connections.get(struct.unpack_from("<H", payload)[0])
        if connection is None:
            raise OSError(wire.ENOTCONN, "not connected")
        return connection

    def _call_notify(self, payload: bytes) -> bytes:
        connection = self._connection(payload)
        _, handle = struct.unpack_from(wire.VALUE_TO, payload)
        if handle not in self._attributes:
            raise OSError(wire.EINVAL, "no such value")
        queue = self.device.host.le_acl_packet_queue
        if self.refuse_notifications > 0 or (queue is not None and queue.pending >= TRANSMIT_BUFFERS):
            self.refuse_notifications = max(0, self.refuse_notifications - 1)
            raise OSError(wire.ENOMEM, "no buffer")
        # As NimBLE does: to this connection, subscribed or not, cut to what a PDU holds.
        value = payload[4:][: connection.att_mtu - 3]
        pdu = att.ATT_Handle_Value_Notification(attribute_handle=handle, attribute_value=value)
        self.device.gatt_server.send_gatt_pdu(connection, bytes(pdu))
        return b""

    def _call_indicate(self, payload: bytes) -> bytes:
        connection = self._connection(payload)
        _, handle = struct.unpack_from(wire.VALUE_TO, payload)
        if handle not in self._attributes:
            raise OSError(wire.EINVAL, "no such value")
        self._spawn(self._indicate(connection, handle, payload[4:]))
        return b""

    async def _indicate(self, connection: Connection, handle: int, data: bytes) -> None:
        status = 0
        try:
            await self.device.gatt_server.indicate_subscriber(connection, self._attributes[handle], data, force=True)
        except (TimeoutError, core.BaseBumbleError):
            status = 13  # BLE_HS_ETIMEOUT
        self._interrupt(
            wire.IRQ_GATTS_INDICATE_DONE, struct.pack(wire.INDICATE_DONE, connection.handle, handle, status)
        )

    def _call_mtu(self, payload: bytes) -> bytes:
        (self.device.gatt_server.max_mtu,) = struct.unpack("<H", payload)
        return b""

    # -- connections ----------------------------------------------------------------------------------------

    def _on_connection(self, connection: Connection) -> None:
        event = struct.pack(
            wire.CONNECTION_EVENT,
            connection.handle,
            connection.peer_address.address_type,
            _wire_address(connection.peer_address),
        )
        connection.on("disconnection", lambda reason: self._interrupt(wire.IRQ_CENTRAL_DISCONNECT, event))
        connection.on(
            "connection_att_mtu_update",
            lambda: self._interrupt(
                wire.IRQ_MTU_EXCHANGED, struct.pack(wire.MTU_EXCHANGED, connection.handle, connection.att_mtu)
            ),
        )
        self._interrupt(wire.IRQ_CENTRAL_CONNECT, event)

    def _call_disconnect(self, payload: bytes) -> bytes:
        self._spawn(self._disconnect(self._connection(payload)))
        return b""

    async def _disconnect(self, connection: Connection) -> None:
        try:
            await connection.disconnect()
        except (core.BaseBumbleError, asyncio.CancelledError):
            logger.debug("%s: the connection was gone already", self.controller.name)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _permissions(flags: int) -> att.Attribute.Permissions:
    permissions = att.Attribute.Permissions(0)
    if flags & gatt.Characteristic.Properties.READ:
        permissions |= att.Attribute.Permissions.READABLE
    if flags & (gatt.Characteristic.Properties.WRITE | gatt.Characteristic.Properties.WRITE_WITHOUT_RESPONSE):
        permissions |= att.Attribute.Permissions.WRITEABLE
    return permissions
