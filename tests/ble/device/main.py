# Firmware for the tests of BLE: what a device does is in its identity ("role" and its parameters); it reports by logs.
import asyncio
import json

from drivers import ble_link
from drivers.beacon_radio import Advertiser, BeaconScanner
from drivers.ble_link import BleLink


def report(board, **what):
    board.log(json.dumps(what))


def pattern(size, seed):
    return bytes((seed + 7 * i) & 0xFF for i in range(size))


async def echo(board):
    """Sends frames of the given sizes; each must come back. Connects again when the link is lost."""
    identity = board.identity
    ble_link.MTU = identity.get("mtu", ble_link.MTU)
    link = BleLink(board.ble(), identity["device_id"], identity.get("name", "TEST"))
    sizes = identity["sizes"]
    at = 0
    while at < len(sizes):
        await link.connect()
        report(board, connected=link.mtu, at=board.clock.ticks_ms())
        try:
            while at < len(sizes):
                frame = pattern(sizes[at], at)
                await link.send(frame)
                answer = await asyncio.wait_for_ms(link.receive(), 60000)
                if answer != frame:
                    report(board, wrong=at)
                at += 1
                report(board, echoed=at)
                if identity.get("pause_ms"):
                    await asyncio.sleep_ms(identity["pause_ms"])
        except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041  (two errors in MicroPython)
            report(board, lost=repr(error), at=at)
    report(board, done=True, refused=link.notify_refused, dropped=link.writes_dropped, connections=link.connections)
    await link.close()
    await asyncio.Event().wait()


async def push(board):
    """Sends numbered frames as fast as the stack takes them, without waiting for answers."""
    link = BleLink(board.ble(), board.identity["device_id"], "PUSH")
    await link.connect()
    for number in range(board.identity["count"]):
        await link.send(pattern(board.identity["size"], number))
    report(board, done=True, refused=link.notify_refused)
    await asyncio.Event().wait()


async def beacon(board):
    """Advertises a counter, renewed each interval."""
    advertiser = Advertiser(board.ble())
    number = 0
    while True:
        advertiser.advertise(board.identity["interval_ms"], b"\x07\xff\xff\xff" + number.to_bytes(4, "little"))
        number += 1
        await asyncio.sleep_ms(board.identity["interval_ms"])


async def scanner(board):
    """Counts what it hears, and reports each hour of device time."""
    # heard, distinct, last number, first RSSI values
    counts = [0, 0, None, []]

    def heard(address, rssi, data):
        number = int.from_bytes(data[4:8], "little")
        counts[0] += 1
        counts[1] += number != counts[2]
        counts[2] = number
        if len(counts[3]) < 5:
            counts[3].append(rssi)

    scanner = BeaconScanner(board.ble(), board.clock)
    scanner.start(heard, board.identity.get("duty_percent", 100))
    while True:
        await asyncio.sleep_ms(board.identity.get("report_ms", 3600000))
        report(
            board,
            heard=counts[0],
            distinct=counts[1],
            last=counts[2],
            rssi=counts[3],
            listened_ms=scanner.listened_ms(),
            deaf_ms=scanner.deaf_ms(),
            rejected=scanner.rssi_rejected,
            dropped=scanner.dropped,
            restarts=scanner.restarts,
            refused=scanner.refused,
        )
        counts[0] = counts[1] = 0
        counts[3] = []


async def shim(board):
    """Exercises the module itself; every expectation is an assertion here."""
    import bluetooth

    ble = board.ble()
    assert bluetooth.BLE() is ble
    assert not ble.active()
    for call in (lambda: ble.gap_advertise(100000), lambda: ble.gatts_read(1), lambda: ble.config("mac")):
        try:
            call()
        except OSError as error:
            assert error.args[0] == 19, error  # ENODEV
        else:
            raise AssertionError("worked although inactive")
    events = []

    def on_irq(event, data):
        events.append((event, tuple(bytes(x) if isinstance(x, memoryview) else x for x in data)))

    ble.irq(on_irq)
    assert ble.active(True) is True
    address_type, address = ble.config("mac")
    assert address_type == 1 and address == b"\xc0\x00" + board.identity["device_id"].to_bytes(4, "big")
    assert ble.config("mtu") == 256
    ble.config(mtu=100)
    assert ble.config("mtu") == 100
    uuid = bluetooth.UUID("6e400001-b5a3-f393-e0a9-e50e24dcca9e")
    assert repr(uuid) == "UUID('6e400001-b5a3-f393-e0a9-e50e24dcca9e')"
    assert bluetooth.UUID(0x180F) == bluetooth.UUID(b"\x0f\x18") and bluetooth.UUID(0x180F) != uuid
    flags = bluetooth.FLAG_READ | bluetooth.FLAG_WRITE
    handles = ble.gatts_register_services(
        (
            (
                uuid,
                ((bluetooth.UUID(0x2A19), flags, ((bluetooth.UUID(0x2901), bluetooth.FLAG_READ),)),),
            ),
            (bluetooth.UUID(0x180F), ((bluetooth.UUID(0x2A1A), bluetooth.FLAG_READ | bluetooth.FLAG_NOTIFY),)),
        )
    )
    assert len(handles) == 2 and len(handles[0]) == 2 and len(handles[1]) == 1
    flat = handles[0] + handles[1]
    assert list(flat) == sorted(set(flat))
    assert ble.gatts_read(handles[0][0]) == b""
    ble.gatts_write(handles[0][0], b"hello")
    assert ble.gatts_read(handles[0][0]) == b"hello"
    for code, call in (
        (22, lambda: ble.gatts_read(9999)),
        (107, lambda: ble.gatts_notify(5, handles[1][0], b"x")),
        (22, lambda: ble.gap_advertise(100000, adv_data=bytes(32))),
        (95, lambda: ble.gap_connect(0, bytes(6))),
    ):
        try:
            call()
        except OSError as error:
            assert error.args[0] == code, (code, error)
        else:
            raise AssertionError(code)
    assert ble.gap_disconnect(5) is False
    ble.gap_scan(2000, 100000, 100000)
    await asyncio.sleep_ms(1999)
    assert (6, ()) not in events
    await asyncio.sleep_ms(2)
    assert events == [(6, ())], events
    events.clear()
    ble.gatts_set_buffer(handles[0][0], 30)
    ble.gap_advertise(50000, adv_data=b"\x02\x01\x06", resp_data=b"\x03\x09AB")
    report(board, ready=list(flat))
    while not any(event == 2 for event, _ in events):
        await asyncio.sleep_ms(10)
    report(board, events=[[event, [x.hex() if isinstance(x, bytes) else x for x in data]] for event, data in events])
    report(board, value=ble.gatts_read(handles[0][0]).decode())
    ble.active(False)
    report(board, done=True)
    await asyncio.Event().wait()


async def run(board):
    await {"echo": echo, "push": push, "beacon": beacon, "scanner": scanner, "shim": shim}[board.identity["role"]](
        board
    )
