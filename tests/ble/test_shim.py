"""The simulated `bluetooth` module on MicroPython against bleak's own API, over HCI."""

import asyncio

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError
from emgate.links.ble_bumble import BumbleAdapter
from emrig.air import Air, HciServer
from emrig.clock import VirtualClock

TAG = 0x0A0B0C0D
ADDRESS = "C0:00:0A:0B:0C:0D"
BATTERY = "00002a19-0000-1000-8000-00805f9b34fb"
OTHER = "00002a1a-0000-1000-8000-00805f9b34fb"


@pytest.fixture
async def adapter(bench):
    server = await bench.hci()
    adapter = BumbleAdapter(f"unix:{server.path}")
    await adapter.open()
    yield adapter
    await adapter.close()


async def found(bench, adapter):
    scanner_backend, _ = adapter.backends()
    async with BleakScanner(backend=scanner_backend) as scanner:
        await bench.run(until=lambda: ADDRESS in scanner.discovered_devices_and_advertisement_data)
        return scanner.discovered_devices_and_advertisement_data[ADDRESS]


async def alongside(bench, work):
    """Run virtual time while something real happens."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda _: bench.rig._woken.set())
    await bench.run(until=task.done)
    return task.result()


async def test_the_module_and_a_central(bench, adapter):
    await bench.device("shim", TAG, "shim")
    await bench.run(until=lambda: bool(bench.reported("shim", "ready")))
    device, advertisement = await found(bench, adapter)
    assert advertisement.local_name == "AB" and advertisement.rssi == -60
    _, client_backend = adapter.backends()
    client = BleakClient(device, backend=client_backend)
    await alongside(bench, client.connect())
    assert client.mtu_size == 100
    handles = bench.reported("shim", "ready")[0]
    battery = client.services.get_characteristic(BATTERY)
    assert battery.handle == handles[0] and set(battery.properties) == {"read", "write"}
    assert client.services.get_characteristic(OTHER).handle == handles[2]
    assert handles[1] in [descriptor.handle for descriptor in battery.descriptors]
    assert await alongside(bench, client.read_gatt_char(BATTERY)) == b"hello"
    await alongside(bench, client.write_gatt_char(BATTERY, b"0123456789" * 4, response=True))
    got = []
    await alongside(bench, client.start_notify(OTHER, lambda _, data: got.append(bytes(data))))
    with pytest.raises(BleakError):
        await alongside(bench, client.write_gatt_char(OTHER, b"x", response=True))  # not writable
    await alongside(bench, client.disconnect())
    assert not client.is_connected
    await bench.run(until=lambda: bool(bench.reported("shim", "done")))
    (events,) = bench.reported("shim", "events")
    codes = [event for event, _ in events]
    # Connected, MTU, one write; no interrupt for the subscription; disconnected.
    assert codes == [1, 21, 3, 2]
    assert events[0][1][0] == events[3][1][0] and events[1][1][1] == 100
    assert events[2][1] == [events[0][1][0], handles[0]]
    # The buffer was set to 30 bytes: what was longer is cut.
    assert bench.reported("shim", "value") == ["012345678901234567890123456789"]


async def test_connecting_to_a_device_that_is_not_there(bench, adapter):
    _, client_backend = adapter.backends()
    for _ in range(2):  # the second attempt finds no request left behind by the first
        client = BleakClient(ADDRESS, backend=client_backend, timeout=0.2)
        with pytest.raises(TimeoutError):
            await client.connect()
    await bench.device("shim", TAG, "shim")
    client = BleakClient(ADDRESS, backend=client_backend)
    await alongside(bench, client.connect())
    assert client.is_connected


async def test_a_connection_attempt_is_cancelled(bench, adapter):
    _, client_backend = adapter.backends()
    task = asyncio.ensure_future(BleakClient(ADDRESS, backend=client_backend).connect())
    await asyncio.sleep(0.05)  # the request is with the controller
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(c.pending_le_connection for c in bench.air.link.controllers)


async def test_the_peer_vanishes_during_a_request(bench, adapter):
    await bench.device("shim", TAG, "shim")
    _, client_backend = adapter.backends()
    gone = asyncio.Event()
    client = BleakClient(ADDRESS, lambda _: gone.set(), backend=client_backend)
    await alongside(bench, client.connect())
    bench.air.remove_device(TAG)
    with pytest.raises(BleakError):
        await client.read_gatt_char(BATTERY)
    await gone.wait()
    assert not client.is_connected


async def test_a_second_host_displaces_the_first(bench, adapter):
    second = BumbleAdapter(f"unix:{bench.server.path}")
    await second.open()
    await adapter.lost.wait()
    scanner_backend, _ = adapter.backends()
    with pytest.raises(BleakError):
        await BleakScanner(backend=scanner_backend).start()
    await second.close()


async def test_a_central_that_never_writes_is_sent_away(bench, adapter):
    """A tag serves gateways: who connects and stays silent keeps others out, and is disconnected."""
    await bench.device("tag", TAG, "echo", sizes=[10])
    _, client_backend = adapter.backends()
    gone = asyncio.Event()
    client = BleakClient(ADDRESS, lambda _: gone.set(), backend=client_backend)
    await alongside(bench, client.connect())
    assert client.is_connected
    await alongside(bench, gone.wait())
    assert 9_000 < bench.clock.now_ms() < 30_000
    device, _ = await found(bench, adapter)  # advertises again
    assert device.address == ADDRESS


async def test_no_controller_at_the_other_end(tmp_path):
    with pytest.raises(OSError, match="unix:"):
        await BumbleAdapter(f"unix:{tmp_path}/nothing").open()


async def test_a_folder_with_a_long_name(tmp_path):
    folder = tmp_path / ("long" * 20) / ("longer" * 20)
    folder.mkdir(parents=True)
    server = HciServer(Air(VirtualClock(0)), folder / "hci")
    await server.start()
    adapter = BumbleAdapter(f"unix:{server.path}")
    await adapter.open()
    await adapter.close()
    await server.close()
    assert not server.path.parent.exists()


async def test_something_else_at_the_other_end(tmp_path, monkeypatch):
    """A socket that never answers."""
    monkeypatch.setattr("emgate.links.ble_bumble.OPEN_TIMEOUT_S", 0.2)
    server = await asyncio.start_unix_server(lambda reader, writer: None, str(tmp_path / "mute"))
    with pytest.raises(OSError, match="no answer"):
        await BumbleAdapter(f"unix:{tmp_path}/mute").open()
    server.close()
