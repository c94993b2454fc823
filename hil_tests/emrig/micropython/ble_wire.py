"""What the simulated `bluetooth` module and the virtual air say to each other; imported by MicroPython and CPython.

A device calls (operation >= 64, answered at once): the reply is `errno u8` (0 = done) followed by the result.
The air calls back with an interrupt: the operation is MicroPython's own IRQ code. All integers little endian.
"""

import struct

# Interrupts, numbered as in MicroPython's documentation of bluetooth.BLE.irq.
IRQ_CENTRAL_CONNECT = 1  # connection
IRQ_CENTRAL_DISCONNECT = 2  # connection
IRQ_GATTS_WRITE = 3  # write
IRQ_SCAN_RESULT = 5  # scan result
IRQ_SCAN_DONE = 6  # empty
IRQ_GATTS_INDICATE_DONE = 20  # INDICATE_DONE
IRQ_MTU_EXCHANGED = 21  # MTU_EXCHANGED

# Calls.
CALL_ACTIVE = 64  # on u8                                   -> address type u8, address 6 B
CALL_ADVERTISE = 65  # advertise                            -> -
CALL_ADVERTISE_STOP = 66  # empty                           -> -
CALL_SCAN = 67  # SCAN                                      -> -
CALL_SCAN_STOP = 68  # empty                                -> -
CALL_REGISTER = 69  # services                              -> handles u16 each, flat
CALL_VALUE = 70  # VALUE + data (what a central reads)      -> -
CALL_NOTIFY = 71  # VALUE_TO + data                         -> -
CALL_INDICATE = 72  # VALUE_TO + data                       -> -
CALL_DISCONNECT = 73  # CONNECTION                          -> -
CALL_MTU = 74  # mtu u16: the largest this device accepts   -> -
CALL_ADDRESS_MODE = 75  # mode u8, as BLE.config(addr_mode=…) -> address type u8, address 6 B

# Address modes of MicroPython's documentation. NRPA: a new random address that nobody can resolve.
ADDRESS_RANDOM = 1
ADDRESS_NRPA = 3

CONNECTION = "<H"  # connection handle
CONNECTION_EVENT = "<HB6s"  # connection handle, address type, address (most significant byte first)
WRITE = "<HH"  # connection handle, value handle; then the data
SCAN_RESULT = "<B6sBb"  # address type, address, advertisement type, RSSI dBm; then the data
INDICATE_DONE = "<HHB"  # connection handle, value handle, status
MTU_EXCHANGED = "<HH"  # connection handle, MTU
ADVERTISE = "<IB"  # interval us, connectable; then data and response, each with a length byte
SCAN = "<IIIB"  # duration ms (0 = until stopped), interval us, window us, active
VALUE = "<H"  # value handle
VALUE_TO = "<HH"  # connection handle, value handle

# errno as MicroPython has them (py/mperrno.h).
ENOMEM = 12
ENODEV = 19
EINVAL = 22
ENOTCONN = 107
EOPNOTSUPP = 95

# Advertisement types as HCI counts them, seen in IRQ_SCAN_RESULT.
ADV_IND = 0
ADV_SCAN_IND = 2
ADV_NONCONN_IND = 3
SCAN_RSP = 4

# What is in a services description: a service begins, a characteristic, a descriptor of the last characteristic.
ITEM_SERVICE = 0
ITEM_CHARACTERISTIC = 1
ITEM_DESCRIPTOR = 2
_ITEM = "<BHB"  # item, flags, length of the UUID (2, 4 or 16); then the UUID, little endian


def pack_advertise(interval_us: int, connectable: bool, data: bytes, response: bytes) -> bytes:
    """Payload of CALL_ADVERTISE."""
    head = struct.pack(ADVERTISE, interval_us, 1 if connectable else 0)
    return head + bytes((len(data),)) + data + bytes((len(response),)) + response


def unpack_advertise(payload: bytes) -> "tuple[int, bool, bytes, bytes]":
    """(interval us, connectable, data, response)."""
    interval_us, connectable = struct.unpack_from(ADVERTISE, payload, 0)
    at = struct.calcsize(ADVERTISE)
    data = payload[at + 1 : at + 1 + payload[at]]
    at += 1 + len(data)
    return interval_us, bool(connectable), data, payload[at + 1 : at + 1 + payload[at]]


def pack_items(items: "list[tuple[int, int, bytes]]") -> bytes:
    """Payload of CALL_REGISTER from (item, flags, UUID little endian)."""
    out = b""
    for item, flags, uuid in items:
        out += struct.pack(_ITEM, item, flags, len(uuid)) + uuid
    return out


def unpack_items(payload: bytes) -> "list[tuple[int, int, bytes]]":
    """The items of CALL_REGISTER."""
    items = []
    at = 0
    while at < len(payload):
        item, flags, length = struct.unpack_from(_ITEM, payload, at)
        at += struct.calcsize(_ITEM)
        items.append((item, flags, payload[at : at + length]))
        at += length
    return items
