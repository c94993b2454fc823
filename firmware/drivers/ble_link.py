# The uplink's transport over BLE: a GATT peripheral (Nordic UART) that advertises until a gateway connects.
#
# A gateway is ready when it wrote anything to RX: it writes an empty value once it has subscribed to TX, because
# MicroPython raises no interrupt for a subscription.
import asyncio
import struct

from emwire import fragments

from drivers import ble_events

SERVICE_UUID = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
RX_UUID = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
TX_UUID = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"

# An ATT PDU of 247 bytes and its L2CAP header fill one Link Layer PDU of 251.
MTU = 247
DEFAULT_MTU = 23
ATT_HEADER = 3
# Apple's and Android's scanners find a 1 s advertiser within a few seconds; ten times less radio than 100 ms.
ADVERTISING_INTERVAL_US = 1000000
# Discovery and subscription take a gateway under 2 s; a central that needs longer is none, and keeps others out.
READY_TIMEOUT_MS = 10000
# A connection event empties the stack's buffers every 30 to 50 ms; after 5 s without one the central is gone.
RETRY_MS = 20
SEND_TIMEOUT_MS = 5000
# Largest datagram in fragments of the default MTU (1026 bytes by 19), and one more.
MAXIMUM_FRAGMENTS = 56

EAGAIN = 11
ENOMEM = 12
EBUSY = 16
ENOTCONN = 107
ETIMEDOUT = 110

_FLAGS = b"\x02\x01\x06"  # general discoverable, BR/EDR not supported
_COMPLETE_SERVICES_128 = 0x07
_COMPLETE_NAME = 0x09
_ADVERTISEMENT = 31


class BleLink:
    """Transport of common.uplink. One task at a time may connect() or receive()."""

    # Nobody hangs while no gateway is near.
    waits_for_gateway = True

    def __init__(self, ble, device_id: int, name: str):
        self._ble = ble
        self._device_id = struct.pack("<I", device_id)
        self._name = name.encode()
        self._flag = ble_events.Flag()
        self._sending = asyncio.Lock()
        self._reassembler = fragments.Reassembler()
        self._writes = []
        self._tx = self._rx = None
        self._connection = None
        self._ready = False
        self._mtu = DEFAULT_MTU
        self.connections = 0
        self.notify_refused = 0  # notifications that found no buffer and were tried again
        self.writes_dropped = 0  # fragments that came faster than they were read
        self.foreign = 0  # datagrams for another device
        ble_events.listen(ble, self._on_irq)

    # -- transport ------------------------------------------------------------------------------------------

    async def connect(self):
        """Advertise until a gateway is connected and ready."""
        self._open_radio()
        try:
            while True:
                if self._connection is None:
                    self._advertise()
                    await self._flag.wait()
                elif self._ready:
                    self.connections += 1
                    return
                elif not await self._flag.wait(READY_TIMEOUT_MS) and not self._ready:
                    self._hang_up()
                    # The interrupt of the disconnection, or of one that the stack forgot.
                    await self._flag.wait(READY_TIMEOUT_MS)
        except BaseException:
            self._stop_advertising()
            raise

    async def send(self, frame: bytes):
        """One frame as notifications; returns when the stack has taken them all."""
        async with self._sending:
            connection = self._connection
            if connection is None or not self._ready:
                raise OSError(ENOTCONN)
            datagram = self._device_id + frame
            for fragment in fragments.fragment(datagram, self._mtu - ATT_HEADER):
                await self._notify(connection, fragment)

    async def receive(self) -> bytes:
        """The next frame for this device."""
        while True:
            while self._writes:
                datagram = self._reassembler.feed(self._writes.pop(0))
                if datagram is not None:
                    if datagram[:4] == self._device_id:
                        return datagram[4:]
                    self.foreign += 1
            if self._connection is None or not self._ready:
                raise OSError(ENOTCONN)
            await self._flag.wait()

    async def close(self):
        """Disconnect and stop advertising."""
        self._stop_advertising()
        self._hang_up()
        self._forget()

    @property
    def mtu(self) -> int:
        """ATT MTU of this connection."""
        return self._mtu

    # -- radio ----------------------------------------------------------------------------------------------

    def _open_radio(self):
        if self._tx is not None and self._ble.active():
            return
        import bluetooth

        self._ble.active(True)
        try:
            self._ble.config(mtu=MTU)
        except OSError:
            pass  # Zephyr's is set when it is built; what the exchange gives is what counts
        rx = (bluetooth.UUID(RX_UUID), bluetooth.FLAG_WRITE | bluetooth.FLAG_WRITE_NO_RESPONSE)
        tx = (bluetooth.UUID(TX_UUID), bluetooth.FLAG_NOTIFY)
        ((self._rx, self._tx),) = self._ble.gatts_register_services(((bluetooth.UUID(SERVICE_UUID), (rx, tx)),))
        # Without this a write is cut to 20 bytes.
        self._ble.gatts_set_buffer(self._rx, MTU - ATT_HEADER)

    def _advertise(self):
        uuid = bytes(int(SERVICE_UUID.replace("-", "")[i : i + 2], 16) for i in range(30, -2, -2))
        data = _FLAGS + _field(_COMPLETE_SERVICES_128, uuid)
        name = _field(_COMPLETE_NAME, self._name[: _ADVERTISEMENT - 2])
        response = b""
        if len(data) + len(name) <= _ADVERTISEMENT:
            data += name
        else:
            response = name
        self._ble.gap_advertise(ADVERTISING_INTERVAL_US, adv_data=data, resp_data=response, connectable=True)

    def _stop_advertising(self):
        try:
            self._ble.gap_advertise(None)
        except OSError:
            pass  # the radio is off

    def _hang_up(self):
        if self._connection is not None:
            try:
                self._ble.gap_disconnect(self._connection)
            except OSError:
                self._forget()

    def _forget(self):
        self._connection = None
        self._ready = False
        self._mtu = DEFAULT_MTU
        self._writes = []
        self._reassembler.reset()

    async def _notify(self, connection, fragment):
        waited_ms = 0
        while True:
            if self._connection != connection:
                raise OSError(ENOTCONN)
            try:
                self._ble.gatts_notify(connection, self._tx, fragment)
                return
            except OSError as error:
                if error.args[0] not in (EAGAIN, ENOMEM, EBUSY):
                    raise
            self.notify_refused += 1
            if waited_ms >= SEND_TIMEOUT_MS:
                raise OSError(ETIMEDOUT)
            # There is no interrupt for "buffer free" after a notification.
            await asyncio.sleep_ms(RETRY_MS)
            waited_ms += RETRY_MS

    def _on_irq(self, event, data):
        if event == ble_events.IRQ_GATTS_WRITE:
            connection, handle = data
            if connection != self._connection or handle != self._rx:
                return
            # Read at once: the next write replaces the value.
            value = self._ble.gatts_read(handle)
            self._ready = True
            if value:
                if len(self._writes) < MAXIMUM_FRAGMENTS:
                    self._writes.append(bytes(value))
                else:
                    self.writes_dropped += 1
        elif event == ble_events.IRQ_CENTRAL_CONNECT:
            self._forget()
            self._connection = data[0]
        elif event == ble_events.IRQ_CENTRAL_DISCONNECT:
            if data[0] != self._connection:
                return
            # What came before stays readable.
            self._connection = None
            self._ready = False
        elif event == ble_events.IRQ_MTU_EXCHANGED:
            if data[0] != self._connection:
                return
            self._mtu = max(DEFAULT_MTU, min(data[1], MTU))
        else:
            return
        self._flag.set()


def _field(kind, data):
    return bytes((len(data) + 1, kind)) + data
