# The BLE drivers with interrupts as on a board, in real time: asyncio.ThreadSafeFlag instead of asyncio.Event.
import asyncio
import time

import bluetooth
from drivers import ble_events, ble_link
from drivers.beacon_radio import BeaconScanner
from drivers.ble_link import BleLink
from emwire import fragments


class Clock:
    def ticks_ms(self):
        return time.ticks_ms()


async def until(holds):
    """Let the others run until it holds; whoever asserts it afterwards says what did not."""
    for _ in range(5000):
        if holds():
            return
        await asyncio.sleep_ms(1)


async def link():
    ble = bluetooth.BLE()
    link = BleLink(ble, 0x01020304, "board")
    assert isinstance(link._flag._flag, asyncio.ThreadSafeFlag)
    connecting = asyncio.create_task(link.connect())
    await until(lambda: ble.advertising)
    _, data, response, connectable = ble.advertising
    assert connectable and len(data) == 28
    assert data[5:21] == bytes(reversed(bytes.fromhex(ble_link.SERVICE_UUID.replace("-", ""))))
    assert b"board" in data + response
    # Connected, but nobody is ready: writes of others and for other values do not count.
    ble.interrupt(1, (64, 0, memoryview(bytes(6))))
    await asyncio.sleep_ms(20)
    ble.write(64, 13, b"x")
    ble.write(65, 11, b"x")
    await asyncio.sleep_ms(20)
    assert not connecting.done()
    try:
        await link.send(b"early")
        raise AssertionError
    except OSError as error:
        assert error.args[0] == 107
    ble.interrupt(21, (64, 100))
    ble.write(64, 11, b"")
    await asyncio.wait_for_ms(connecting, 1000)
    assert link.mtu == 100
    # Down: fragments of up to the MTU, one interrupt each.
    frame = bytes(range(250))
    for part in fragments.fragment(b"\x04\x03\x02\x01" + frame, 97):
        ble.write(64, 11, part)
        await asyncio.sleep_ms(1)
    assert await asyncio.wait_for_ms(link.receive(), 1000) == frame
    for part in fragments.fragment(b"\x05\x03\x02\x01" + frame, 97):
        ble.write(64, 11, part)
        await asyncio.sleep_ms(1)
    # Up, with a stack that is out of buffers for a while.
    ble.refuse = 3
    await link.send(frame)
    assert link.notify_refused == 3
    assembled = fragments.Reassembler()
    parts = [part for connection, handle, part in ble.notified if (connection, handle) == (64, 13)]
    assert max(len(part) for part in parts) == 97
    assert [d for d in (assembled.feed(part) for part in parts) if d] == [b"\x04\x03\x02\x01" + frame]
    # A disconnection wakes the receiver.
    receiving = asyncio.create_task(link.receive())
    await asyncio.sleep_ms(20)
    ble.interrupt(2, (64, 0, memoryview(bytes(6))))
    try:
        await asyncio.wait_for_ms(receiving, 1000)
        raise AssertionError
    except OSError as error:
        assert error.args[0] == 107
    assert link.foreign == 1
    # Cancelled while it advertises: silent.
    ble.advertising = None
    connecting = asyncio.create_task(link.connect())
    await until(lambda: ble.advertising)
    assert ble.advertising
    connecting.cancel()
    await until(lambda: ble.advertising is None)
    assert ble.advertising is None
    # A buffer that never comes free.
    ble_link.SEND_TIMEOUT_MS = 60
    connecting = asyncio.create_task(link.connect())
    await asyncio.sleep_ms(20)
    ble.interrupt(1, (64, 0, memoryview(bytes(6))))
    ble.write(64, 11, b"")
    await asyncio.wait_for_ms(connecting, 1000)
    ble.refuse = 1000
    try:
        await link.send(b"x")
        raise AssertionError
    except OSError as error:
        assert error.args[0] == 110
    # Faster than it is read: bounded and counted.
    for _ in range(80):
        ble.write(64, 11, b"\x00x")
        await asyncio.sleep_ms(0)
    assert link.writes_dropped == 80 - ble_link.MAXIMUM_FRAGMENTS, link.writes_dropped
    await link.close()
    assert ble.disconnected == [64]
    ble_events.unlisten(link._on_irq)


async def scanner():
    ble = bluetooth.BLE()
    heard = []
    scanner = BeaconScanner(ble, Clock())
    scanner.start(lambda *what: heard.append(what), accept=lambda data: data[0] == 1)
    await until(lambda: ble.scan)
    assert ble.scan == (60000, 100000, 100000, False)
    data = bytearray(b"\x01one")
    ble.interrupt(5, (1, memoryview(b"abcdef"), 3, -50, memoryview(data)))
    await until(lambda: len(heard) == 1)
    data[:] = b"\x01two"  # the stack takes its buffer back
    ble.interrupt(5, (1, memoryview(b"abcdef"), 3, 42, memoryview(data)))
    ble.interrupt(5, (1, memoryview(b"abcdef"), 3, -50, memoryview(b"\x02not ours")))
    await until(lambda: len(heard) == 2)
    assert heard == [(b"abcdef", -50, b"\x01one"), (b"abcdef", 127, b"\x01two")], heard
    assert scanner.rssi_rejected == 1
    # The stack ends the scan early: started again.
    ble.scan = None
    ble.interrupt(6, ())
    await until(lambda: ble.scan)
    assert ble.scan and scanner.restarts == 1
    for _ in range(100):
        ble.handler(5, (1, memoryview(b"abcdef"), 3, -50, memoryview(b"\x01x")))
    assert scanner.dropped == 100 - 32
    await asyncio.sleep_ms(60)
    scanner.stop()
    total = scanner.listened_ms() + scanner.deaf_ms()
    assert total >= 60 and scanner.deaf_ms() <= total // 2, (scanner.listened_ms(), scanner.deaf_ms())
    await asyncio.sleep_ms(30)
    assert scanner.listened_ms() + scanner.deaf_ms() == total
    assert ble.scan is None


class RefusingRadio(bluetooth.BLE):
    def gap_scan(self, duration_ms, interval_us=0, window_us=0, active=False):
        if duration_ms is not None:
            raise OSError(5)


async def deaf():
    scanner = BeaconScanner(RefusingRadio(), Clock())
    scanner.start(print)
    await asyncio.sleep_ms(50)
    assert scanner.listened_ms() == 0 and scanner.deaf_ms() >= 50 and scanner.refused == 1
    scanner.stop()


for check in (link, scanner, deaf):
    asyncio.run(check())
    asyncio.new_event_loop()
print("ok")
