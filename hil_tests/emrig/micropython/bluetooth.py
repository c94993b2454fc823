"""MicroPython's `bluetooth` module for the simulated board: the same interface, carried by the rig's virtual air.

The unix port has no Bluetooth. Names, defaults, errors and interrupt data are those of MicroPython's
documentation and of its NimBLE port; what the firmware must not rely on there fails here as well (20-byte
value buffers until `gatts_set_buffer`, memoryviews that are valid only inside the handler, no interrupt
when a central subscribes).
"""

import struct

import ble_wire as _w

FLAG_BROADCAST = 0x0001
FLAG_READ = 0x0002
FLAG_WRITE_NO_RESPONSE = 0x0004
FLAG_WRITE = 0x0008
FLAG_NOTIFY = 0x0010
FLAG_INDICATE = 0x0020
FLAG_AUTHENTICATED_SIGNED_WRITE = 0x0040

# Interrupts come in the event loop, not between two byte codes: drivers may use asyncio.Event.
IRQ_IN_LOOP = True

_DEFAULT_BUFFER = 20  # MP_BLUETOOTH_DEFAULT_ATTR_LEN
_MAX_ADVERTISEMENT = 31  # legacy advertising
_CHANNEL = "ble"


class UUID:
    """A 16-, 32- or 128-bit UUID. (The real one has the buffer protocol, which no class in Python can have.)"""

    def __init__(self, value):
        if isinstance(value, int):
            if not 0 <= value <= 0xFFFF:
                raise ValueError("invalid UUID")
            self.octets = struct.pack("<H", value)
        elif isinstance(value, str):
            digits = value.replace("-", "")
            if len(digits) != 32:
                raise ValueError("invalid UUID")
            self.octets = bytes(int(digits[i : i + 2], 16) for i in range(30, -2, -2))
        else:
            value = bytes(value)
            if len(value) not in (2, 4, 16):
                raise ValueError("invalid UUID")
            self.octets = value

    def __eq__(self, other):
        return isinstance(other, UUID) and self.octets == other.octets

    def __hash__(self):
        return hash(self.octets)

    def __repr__(self):
        text = "".join("%02x" % b for b in reversed(self.octets))
        if len(text) == 32:
            return "UUID('%s-%s-%s-%s-%s')" % (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
        return "UUID(0x%s)" % text


class _Value:
    """A characteristic's or descriptor's value as the device sees it."""

    def __init__(self):
        self.data = b""
        self.size = _DEFAULT_BUFFER
        self.append = False

    def write(self, data):
        # NimBLE truncates silently to the buffer, so does this.
        self.data = (self.data + data if self.append else data)[: self.size]


class BLE:
    """The radio. A singleton, as on a board."""

    _only = None

    def __new__(cls):
        if cls._only is None:
            cls._only = object.__new__(cls)
            cls._only._begin()
        return cls._only

    def _begin(self):
        # Not before it is used: where this is frozen into an image, it is there before the firmware.
        global _wire
        from boards.sim import wire as _wire

        self._handler = None
        self._address_type = 0
        self._address = bytes(6)
        self._configuration = {"gap_name": b"MPY BTSTACK", "rxbuf": 256, "mtu": 256, "addr_mode": 0, "le_secure": False}
        self._reset()
        _wire.on(_CHANNEL, self._interrupt)

    def _reset(self):
        self._active = False
        self._values = {}
        self._advertisement = b""
        self._response = b""

    def _call(self, operation, payload=b"", even_off=False):
        if not self._active and not even_off:
            raise OSError(_w.ENODEV)
        answer = _wire.call(_CHANNEL, operation, payload)
        if answer[0]:
            raise OSError(answer[0])
        return answer[1:]

    # -- configuration --------------------------------------------------------------------------------------

    def active(self, on=None):
        if on is not None:
            on = bool(on)
            if on != self._active:
                answer = self._call(_w.CALL_ACTIVE, bytes((on,)), True)
                self._reset()
                self._active = on
                self._address_type = answer[0]
                self._address = answer[1:7]
                if on:
                    self._call(_w.CALL_MTU, struct.pack("<H", self._configuration["mtu"]))
        return self._active

    def config(self, *names, **values):
        if names:
            if len(names) != 1 or values:
                raise TypeError("can't specify pos and kw args")
            if names[0] == "mac":
                if not self._active:
                    raise OSError(_w.ENODEV)
                return (self._address_type, self._address)
            if names[0] not in self._configuration:
                raise ValueError("unknown config param")
            return self._configuration[names[0]]
        for name, value in values.items():
            if name not in self._configuration and name not in ("bond", "mitm", "io", "addr_mode"):
                raise ValueError("unknown config param")
            if name == "mtu":
                if not 23 <= value <= 517:
                    raise OSError(_w.EINVAL)
                if self._active:
                    self._call(_w.CALL_MTU, struct.pack("<H", value))
            if name == "addr_mode" and self._active:
                answer = self._call(_w.CALL_ADDRESS_MODE, bytes((value,)))
                self._address_type = answer[0]
                self._address = answer[1:7]
            if name == "gap_name" and isinstance(value, str):
                value = value.encode()
            self._configuration[name] = value
        return None

    def irq(self, handler):
        self._handler = handler

    # -- advertising and scanning ---------------------------------------------------------------------------

    def gap_advertise(self, interval_us, adv_data=None, resp_data=None, connectable=True):
        if interval_us is None:
            self._call(_w.CALL_ADVERTISE_STOP)
            return
        for data in (adv_data, resp_data):
            if data is not None and len(data) > _MAX_ADVERTISEMENT:
                raise OSError(_w.EINVAL)
        if adv_data is not None:
            self._advertisement = bytes(adv_data)
        if resp_data is not None:
            self._response = bytes(resp_data)
        payload = _w.pack_advertise(interval_us, connectable, self._advertisement, self._response)
        self._call(_w.CALL_ADVERTISE, payload)

    def gap_scan(self, duration_ms, interval_us=1280000, window_us=11250, active=False):
        if duration_ms is None:
            self._call(_w.CALL_SCAN_STOP)
        else:
            self._call(_w.CALL_SCAN, struct.pack(_w.SCAN, duration_ms, interval_us, window_us, bool(active)))

    def gap_connect(self, *arguments, **named):
        # No model is a central; the board's own radio may be one.
        raise OSError(_w.EOPNOTSUPP)

    def gap_disconnect(self, conn_handle):
        try:
            self._call(_w.CALL_DISCONNECT, struct.pack(_w.CONNECTION, conn_handle))
        except OSError as error:
            if error.args[0] == _w.ENOTCONN:
                return False
            raise
        return True

    # -- GATT server ----------------------------------------------------------------------------------------

    def gatts_register_services(self, services_definition):
        items = []
        shape = []
        for service_uuid, characteristics in services_definition:
            items.append((_w.ITEM_SERVICE, 0, service_uuid.octets))
            count = 0
            for characteristic in characteristics:
                items.append((_w.ITEM_CHARACTERISTIC, characteristic[1], characteristic[0].octets))
                count += 1
                for descriptor in characteristic[2] if len(characteristic) > 2 else ():
                    items.append((_w.ITEM_DESCRIPTOR, descriptor[1], descriptor[0].octets))
                    count += 1
            shape.append(count)
        answer = self._call(_w.CALL_REGISTER, _w.pack_items(items))
        handles = struct.unpack("<%dH" % (len(answer) // 2), answer)
        self._values = {handle: _Value() for handle in handles}
        groups = []
        at = 0
        for count in shape:
            groups.append(tuple(handles[at : at + count]))
            at += count
        return tuple(groups)

    def _value(self, handle):
        if not self._active:
            raise OSError(_w.ENODEV)
        if handle not in self._values:
            raise OSError(_w.EINVAL)
        return self._values[handle]

    def gatts_read(self, value_handle):
        value = self._value(value_handle)
        data = value.data
        if value.append:
            value.data = b""
        return data

    def gatts_write(self, value_handle, data, send_update=False):
        value = self._value(value_handle)
        value.size = max(value.size, len(data))
        value.data = bytes(data)
        self._call(_w.CALL_VALUE, struct.pack(_w.VALUE, value_handle) + bytes((bool(send_update),)) + value.data)

    def gatts_notify(self, conn_handle, value_handle, data=None):
        self._send(_w.CALL_NOTIFY, conn_handle, value_handle, data)

    def gatts_indicate(self, conn_handle, value_handle, data=None):
        self._send(_w.CALL_INDICATE, conn_handle, value_handle, data)

    def _send(self, operation, conn_handle, value_handle, data):
        value = self._value(value_handle)
        if data is None:
            data = value.data
        self._call(operation, struct.pack(_w.VALUE_TO, conn_handle, value_handle) + bytes(data))

    def gatts_set_buffer(self, value_handle, len, append=False):
        value = self._value(value_handle)
        value.size = len
        value.append = append
        value.data = value.data[:len]

    # -- interrupts -----------------------------------------------------------------------------------------

    def _interrupt(self, event, payload):
        if not self._active:
            return
        if event == _w.IRQ_GATTS_WRITE:
            connection, handle = struct.unpack_from(_w.WRITE, payload, 0)
            if handle not in self._values:
                return
            self._values[handle].write(payload[4:])
            data = (connection, handle)
        elif event in (_w.IRQ_CENTRAL_CONNECT, _w.IRQ_CENTRAL_DISCONNECT):
            connection, address_type, address = struct.unpack(_w.CONNECTION_EVENT, payload)
            data = (connection, address_type, memoryview(address))
        elif event == _w.IRQ_SCAN_RESULT:
            address_type, address, kind, rssi = struct.unpack_from(_w.SCAN_RESULT, payload, 0)
            data = (address_type, memoryview(address), kind, rssi, memoryview(payload)[9:])
        elif event == _w.IRQ_SCAN_DONE:
            data = ()
        elif event == _w.IRQ_MTU_EXCHANGED:
            data = struct.unpack(_w.MTU_EXCHANGED, payload)
        elif event == _w.IRQ_GATTS_INDICATE_DONE:
            data = struct.unpack(_w.INDICATE_DONE, payload)
        else:
            return
        if self._handler:
            self._handler(event, data)
