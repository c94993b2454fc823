"""The MQTT link and the MQTT uplink against real brokers."""

import asyncio
import contextlib
import json
import socket
from collections import Counter
from pathlib import Path

import aiomqtt
import pytest
from emgate.backend.ingest import Backend
from emgate.backend.service import BackendService
from emgate.brokers import broker as brokers
from emgate.clock import SystemClock
from emgate.config import Broker
from emgate.links.mqtt import MqttLink
from emgate.store.store import Record, Store
from emgate.supervisor import Supervisor
from emgate.uplinks.drain import Drain
from emgate.uplinks.mqtt import MqttUplink
from emwire import topics
from gateway_kit import DEVICE, PATIENCE_S, identities, status_record
from test_serial_link import Taker


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request, tmp_path):
    if request.param not in brokers.available():
        pytest.skip(f"needs {request.param}")
    with brokers.start_broker(request.param, log_file=tmp_path / "broker.log") as running:
        yield running


@contextlib.asynccontextmanager
async def supervised(what):
    supervisor = Supervisor(what, maximum_s=0.1)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait([task])


async def up(what) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await what.up.wait()


async def test_frames_go_both_ways(broker) -> None:
    await frames_both_ways(broker, "3.1.1")
    if broker.name == "mosquitto":  # amqtt speaks MQTT 3.1.1 only
        await frames_both_ways(broker, "5")


async def frames_both_ways(broker, protocol: str) -> None:
    taker = Taker()
    link = MqttLink(Broker(host=broker.host, port=broker.port, protocol=protocol), "gw", taker)
    async with supervised(link), aiomqtt.Client(broker.host, broker.port) as device:
        await up(link)
        assert link._connection is not None
        opened = link._connection._paho.socket()
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "no packet waits for the last to be heard of"
        await device.subscribe(topics.down(DEVICE), qos=1)
        for number in range(250):  # more than any window of messages in flight
            await device.publish(topics.up(DEVICE), b"frame %d" % number, qos=1)
        await taker.until(250)
        assert taker.frames == [(DEVICE, b"frame %d" % number) for number in range(250)]
        assert await link.send(DEVICE, b"down")
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(aiter(device.messages))).payload == b"down"
        await device.publish("emtag/v1/up/not-a-device", b"x", qos=1)
        await device.publish(topics.up(DEVICE), bytes(5000), qos=1)
        await device.publish(topics.up(DEVICE), b"last", qos=1)
        await taker.until(251)
        assert link.counters == Counter(bad_topic=1, too_long=1)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_what_was_not_dealt_with_comes_again_after_a_kill(protocol) -> None:
    """The broker hears only of what has been dealt with, so its persistent session brings the rest back."""
    if "mosquitto" not in brokers.available():
        pytest.skip("needs mosquitto")
    with brokers.start_broker("mosquitto") as broker:
        settings = Broker(host=broker.host, port=broker.port, protocol=protocol)
        holding, taker = Taker(holding=True), Taker()
        first = MqttLink(settings, "gw", holding)
        async with aiomqtt.Client(broker.host, broker.port) as device:
            async with supervised(first):
                await up(first)
                for number in range(5):
                    await device.publish(topics.up(DEVICE), b"%d" % number, qos=1)
                await holding.until(5)
                for future in holding.futures[:2]:
                    future.set_result(True)
                for _ in range(20):
                    await asyncio.sleep(0)
            await device.publish(topics.up(DEVICE), b"while it was away", qos=1)
            second = MqttLink(settings, "gw", taker)
            async with supervised(second):
                await taker.until(4)
                assert [frame for _, frame in taker.frames] == [b"2", b"3", b"4", b"while it was away"]


async def test_the_link_comes_back_after_the_broker(broker, tmp_path: Path) -> None:
    taker = Taker()
    link = MqttLink(Broker(host=broker.host, port=broker.port), "gw", taker)
    async with supervised(link) as supervisor:
        await up(link)
        broker.kill()
        async with asyncio.timeout(PATIENCE_S):
            while link.up.is_set():  # noqa: ASYNC110 - cleared by the code under test
                await asyncio.sleep(0.01)
        assert not await link.send(DEVICE, b"x")
        with brokers.start_broker(broker.name, port=broker.port, log_file=tmp_path / "second.log"):
            await up(link)
            async with aiomqtt.Client(broker.host, broker.port) as device:
                await device.publish(topics.up(DEVICE), b"again", qos=1)
                await taker.until(1)
        assert sum(supervisor.restarts.values()) >= 1


async def test_a_port_that_is_no_broker_is_a_reason_and_not_a_crash() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        link = MqttLink(Broker(host="127.0.0.1", port=closed.getsockname()[1]), "gw", Taker())
        async with supervised(link) as supervisor:
            async with asyncio.timeout(PATIENCE_S):
                await supervisor.tried.wait()
            assert "refused" in str(supervisor.last_reason)


# -- the uplink ------------------------------------------------------------------------------------------------


class Deliverer:
    """A store of 120 records, a drain and an uplink, as the daemon joins them."""

    def __init__(self, store: Store, uplink: MqttUplink) -> None:
        self.seen: list[Record] = []
        self.done = asyncio.Event()
        self.drain = Drain(store, "uplink", uplink, SystemClock(1), "gw", 10, self.delivered, lambda: [])

    def delivered(self, records: list[Record]) -> None:
        self.seen += records
        if len(self.seen) >= 120:
            self.done.set()


async def fill(store: Store) -> None:
    await asyncio.gather(
        *(
            store.append(Record(DEVICE, 1, n, n % 10 == 0, 1_780_000_000_000, "serial", status_record(n)))
            for n in range(120)
        )
    )


async def test_batches_are_ingested_and_acknowledged(broker, tmp_path: Path) -> None:
    settings = Broker(host=broker.host, port=broker.port)
    store = await Store.open(tmp_path / "store.sqlite")
    await fill(store)
    backend = Backend(tmp_path / "backend.sqlite", SystemClock(1))
    service, uplink = BackendService(backend, settings, SystemClock(1)), MqttUplink(settings, "gw")
    async with supervised(service), supervised(uplink):
        await up(service)
        await up(uplink)
        assert uplink._meter.counters["bytes_sent"] == 600, "the connection"
        deliverer = Deliverer(store, uplink)
        draining = asyncio.create_task(deliverer.drain.run())
        async with asyncio.timeout(PATIENCE_S):
            await deliverer.done.wait()
        draining.cancel()
        await asyncio.wait([draining])
    service.close()
    backend.close()
    assert identities(tmp_path / "backend.sqlite") == [(DEVICE, 1, n) for n in range(120)]
    assert await store.totals() == {"records": 120, "routine_waiting": 0, "alarms_waiting": 0}
    await store.close()


async def test_an_uplink_cut_between_batch_and_acknowledgement_delivers_exactly_once(
    broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every first acknowledgement is lost with the connection, after the backend has committed."""
    settings = Broker(host=broker.host, port=broker.port)
    store = await Store.open(tmp_path / "store.sqlite")
    await fill(store)
    backend = Backend(tmp_path / "backend.sqlite", SystemClock(1))
    ingested: Counter[str] = Counter()
    ingest = backend.ingest

    def counting(batch, pause=None):
        ingested[batch["batchId"]] += 1
        return ingest(batch, pause)

    monkeypatch.setattr(backend, "ingest", counting)
    uplink = MqttUplink(settings, "gw")
    acknowledged = uplink._acknowledged

    def losing(payload: bytes) -> None:
        if ingested[json.loads(payload)["batchId"]] == 1:
            raise OSError("cut")
        acknowledged(payload)

    monkeypatch.setattr(uplink, "_acknowledged", losing)
    service = BackendService(backend, settings, SystemClock(1))
    async with supervised(service), supervised(uplink):
        await up(service)
        deliverer = Deliverer(store, uplink)
        draining = asyncio.create_task(deliverer.drain.run())
        async with asyncio.timeout(60):
            await deliverer.done.wait()
        draining.cancel()
        await asyncio.wait([draining])
    service.close()
    backend.close()
    assert min(ingested.values()) >= 2, "each batch came twice at least"
    assert identities(tmp_path / "backend.sqlite") == [(DEVICE, 1, n) for n in range(120)]
    assert len(deliverer.seen) == 120
    await store.close()


async def test_a_batch_that_the_backend_refuses_stays_and_is_tried_again(tmp_path: Path, monkeypatch) -> None:
    if not brokers.available():
        pytest.skip("needs mosquitto or amqtt")
    monkeypatch.setattr("emgate.uplinks.mqtt.ACKNOWLEDGEMENT_FIRST_S", 0.05)
    with brokers.start_broker() as broker:
        settings = Broker(host=broker.host, port=broker.port)
        store = await Store.open(tmp_path / "store.sqlite")
        await fill(store)
        backend = Backend(tmp_path / "backend.sqlite", SystemClock(1))
        service, uplink = BackendService(backend, settings, SystemClock(1)), MqttUplink(settings, "gw")
        failures = iter([OSError("disk full")] * 3)
        ingest = backend.ingest

        def failing(batch, pause=None):
            for error in failures:
                raise error
            return ingest(batch, pause)

        monkeypatch.setattr(backend, "ingest", failing)
        async with supervised(service), supervised(uplink):
            await up(service)
            deliverer = Deliverer(store, uplink)
            draining = asyncio.create_task(deliverer.drain.run())
            async with asyncio.timeout(PATIENCE_S):
                await deliverer.done.wait()
            draining.cancel()
            await asyncio.wait([draining])
        service.close()
        backend.close()
        assert uplink.counters["batch_refused"] == 3
        assert identities(tmp_path / "backend.sqlite") == [(DEVICE, 1, n) for n in range(120)]
        await store.close()


async def test_a_clean_end_leaves_the_client_free_for_the_next(broker) -> None:
    for _ in range(3):
        link = MqttLink(Broker(host=broker.host, port=broker.port), "gw", Taker())
        async with supervised(link):
            await up(link)
