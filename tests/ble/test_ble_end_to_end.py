"""A tag on MicroPython and a gateway in its own process, through real HCI, ATT and GATT."""

import pytest
from emrig.air import GATEWAY

SIZES = [1, 13, 14, 20, 240, 241, 242, 243, 500, 1016]
TAG = 0x12345678


@pytest.mark.parametrize("mtu", [23, 100, 247])
async def test_frames_of_every_size_both_ways(bench, gateways, mtu):
    await bench.hci()
    gateway = await gateways()
    await gateway.wait("up")
    await bench.device("tag", TAG, "echo", sizes=SIZES, mtu=mtu)
    await bench.run(until=lambda: bool(bench.reported("tag", "done")))
    assert bench.reported("tag", "connected") == [mtu]
    assert not bench.reported("tag", "wrong")
    assert gateway.said("size") == SIZES
    assert set(gateway.said("device")) == {TAG}
    told = await gateway.counters()
    assert told["counters"].get("fragments_interrupted", 0) == 0
    assert told["statistics"]["connections"] == 1


async def test_gateway_is_killed_and_comes_back(bench, gateways):
    server = await bench.hci()
    gateway = await gateways()
    await gateway.wait("up")
    await bench.device("tag", TAG, "echo", sizes=[300] * 12, pause_ms=500)
    for echoes in (3, 6, 9):
        await bench.run(until=lambda echoes=echoes: len(bench.reported("tag", "echoed")) >= echoes)
        await gateway.kill()
        await server.detached_event.wait()
        await bench.run(until=lambda echoes=echoes: len(bench.reported("tag", "lost")) >= echoes // 3)
        gateway = await gateways()
        await gateway.wait("up")
    await bench.run(until=lambda: bool(bench.reported("tag", "done")))
    assert bench.reported("tag", "connections") == [4]
    assert server.attachments == 4
    assert not bench.reported("tag", "wrong")


async def test_tag_loses_power_while_connected(bench, gateways):
    await bench.hci()
    gateway = await gateways(back_off_ms=10, pause_ms=10)
    device = await bench.device("tag", TAG, "echo", sizes=[100] * 6, pause_ms=500)
    await bench.run(until=lambda: len(bench.reported("tag", "echoed")) >= 2)
    device.kill()
    # The supervision timeout in virtual time tells the gateway.
    await bench.run(hours=0.01)
    assert not any(c.le_connections for c in bench.air.link.controllers)
    bench.rig.start(device)
    await bench.run(until=lambda: bool(bench.reported("tag", "done")))
    told = await gateway.counters()
    assert told["statistics"]["connections"] == 2


async def test_out_of_range_and_back(bench, gateways):
    await bench.hci()
    await gateways(back_off_ms=10, pause_ms=10)
    near = [True]
    bench.air.rssi_dbm = lambda transmitter, receiver, now_ms: -70 if near[0] else None
    await bench.device("tag", TAG, "echo", sizes=[100] * 6, pause_ms=500)
    await bench.run(until=lambda: len(bench.reported("tag", "echoed")) >= 2)
    near[0] = False
    await bench.run(until=lambda: bool(bench.reported("tag", "lost")))
    await bench.run(hours=1)
    assert len(bench.reported("tag", "connected")) == 1
    near[0] = True
    await bench.run(until=lambda: bool(bench.reported("tag", "done")))
    assert not bench.reported("tag", "wrong")


async def test_idle_connection_ends_when_the_tag_leaves(bench, gateways):
    """Nothing is sent: only the supervision timeout can tell."""
    await bench.hci()
    await gateways()
    near = [True]
    bench.air.rssi_dbm = lambda transmitter, receiver, now_ms: -70 if near[0] else None
    await bench.device("tag", TAG, "echo", sizes=[10, 10], pause_ms=3_000_000)
    await bench.run(until=lambda: bool(bench.reported("tag", "echoed")))
    near[0] = False
    await bench.run(hours=0.01)
    assert not any(c.le_connections for c in bench.air.link.controllers)


async def test_notifications_wait_for_buffers(bench, gateways):
    await bench.hci()
    gateway = await gateways(silent=True)
    await bench.device("tag", TAG, "push", count=20, size=1000)
    bench.air.radios[TAG].refuse_notifications = 7
    await bench.run(until=lambda: bool(bench.reported("tag", "done")))
    assert bench.reported("tag", "refused")[0] >= 7
    while len(gateway.said("first")) < 20:
        async with gateway.news:
            await gateway.news.wait()
    assert gateway.said("first") == list(range(20))


async def test_adapter_is_unplugged(bench, gateways):
    server = await bench.hci()
    gateway = await gateways()
    await gateway.wait("up")
    server.drop()
    assert "the adapter is gone" in await gateway.wait("lost")


async def test_gateway_without_adapter(bench, gateways):
    await bench.hci()
    bench.server.path.unlink()
    gateway = await gateways()
    assert "unix:" in await gateway.wait("lost")


async def test_several_tags_share_the_slots(bench, gateways):
    await bench.hci()
    gateway = await gateways(idle_ms=200, pause_ms=100)
    names = [f"tag{number}" for number in range(7)]
    for number, name in enumerate(names):
        await bench.device(name, TAG + number, "echo", sizes=[200, 30])
    await bench.run(until=lambda: all(bench.reported(name, "done") for name in names))
    assert set(gateway.said("device")) == {TAG + number for number in range(7)}
    assert not any(bench.reported(name, "wrong") for name in names)


async def test_a_peripheral_that_is_no_tag_of_ours_is_left_alone(bench, gateways):
    """It has no such service: it is not connected to."""
    await bench.hci()
    gateway = await gateways()
    await gateway.wait("up")
    await bench.device("shim", 0x77, "shim")
    await bench.run(hours=0.01)
    assert (await gateway.counters())["statistics"].get("connections", 0) == 0


async def test_rssi_that_a_gateway_sees_does_not_matter_to_other_radios(bench, gateways):
    """Out of the gateway's range only: never connected, although the air is not empty."""
    await bench.hci()
    gateway = await gateways()
    await gateway.wait("up")
    bench.air.rssi_dbm = lambda transmitter, receiver, now_ms: None if GATEWAY in (transmitter, receiver) else -50
    await bench.device("tag", TAG, "echo", sizes=[10])
    await bench.run(hours=0.5)
    assert not bench.reported("tag", "connected")
