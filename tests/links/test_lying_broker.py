"""A broker that lies: nothing is lost by it, and it is found out where that can be."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from emgate.config import Broker
from emgate.links import mqtt, mqtt_connection
from emgate.links.mqtt import MqttLink
from emwire import constants, topics
from gateway_kit import DEVICE, GatewayProcess, Tag, identities, over_mqtt, status_record, toml
from links_kit import Heard, supervised, until, up
from lying_broker import lying_broker, packet, publish
from test_serial_link import Taker


@pytest.fixture
async def liar():
    async with lying_broker() as broker:
        yield broker


both_protocols = pytest.mark.parametrize("protocol", ["3.1.1", "5"])


def link_to(liar, taker, protocol="3.1.1") -> MqttLink:
    return MqttLink(Broker(host="127.0.0.1", port=liar.port, protocol=protocol), "gw", taker)


async def test_one_that_takes_subscriptions_and_delivers_nothing_is_found_out(liar, monkeypatch) -> None:
    monkeypatch.setattr(mqtt, "PROBE_PATIENCE_S", 0.1)
    liar.delivers = False
    heard, taker = Heard(), Taker()
    link = link_to(liar, taker)
    async with supervised(link, events=heard) as supervisor:
        await until(lambda: supervisor.restarts["eproto"] >= 2)
        assert link.counters["probe_lost"] >= 2
        assert b"the broker delivers nothing" in heard.of(constants.EVENT_GATEWAY_LINK_LOST)[0][1]
        liar.delivers = True
        await until(lambda: link._probes >= 1)
        liar.give(topics.up(DEVICE), b"at last")
        await taker.until(1)


async def test_a_broker_that_stops_delivering_later_is_found_out_too(liar, monkeypatch) -> None:
    monkeypatch.setattr(mqtt, "PROBE_PATIENCE_S", 0.1)
    monkeypatch.setattr(mqtt, "PROBE_EACH_S", 0.02)
    link = link_to(liar, Taker())
    async with supervised(link) as supervisor:
        await until(lambda: link._probes >= 3)
        assert not supervisor.restarts
        liar.delivers = False
        await until(lambda: supervisor.restarts["eproto"] >= 1)


async def test_a_backlog_in_front_of_the_message_to_ourselves_is_proof_enough(liar, monkeypatch) -> None:
    monkeypatch.setattr(mqtt, "PROBE_PATIENCE_S", 0.1)
    monkeypatch.setattr(mqtt, "PROBE_EACH_S", 0.02)
    taker = Taker()
    link, liar.late_probes = link_to(liar, taker), True
    async with supervised(link) as supervisor:
        await until(link.up.is_set)

        async def backlog() -> None:
            while True:
                liar.give(topics.up(DEVICE), b"one of many")
                await asyncio.sleep(0.01)

        coming = asyncio.create_task(backlog())
        await until(lambda: link._probes >= 4)
        assert taker.frames and not supervisor.restarts
        coming.cancel()
        await until(lambda: supervisor.restarts["eproto"] >= 1)


@contextlib.asynccontextmanager
async def gateway_and_tag(folder: Path, liar, protocol="3.1.1"):
    tag = Tag(folder / "tag")
    links = f'[mqtt]\nhost = "127.0.0.1"\nport = {liar.port}\nprotocol = "{protocol}"'
    gateway = GatewayProcess(folder, toml(links=links))
    await gateway.start()
    async with over_mqtt(tag, "127.0.0.1", liar.port):
        made = [(DEVICE, 1, tag.record(status_record(number))) for number in range(40)]
        yield tag
        await tag.until_delivered()
    assert await gateway.stop() == 0
    assert identities(gateway.store) == made
    assert identities(gateway.backend) == made


async def test_acknowledged_and_forgotten_is_sent_again_by_the_device(tmp_path: Path, liar) -> None:
    liar.forgets = 30
    async with gateway_and_tag(tmp_path, liar):
        pass
    assert liar.forgets == 0


async def test_what_comes_twice_is_stored_once(tmp_path: Path, liar) -> None:
    liar.twice = True
    async with gateway_and_tag(tmp_path, liar):
        pass


async def test_an_end_in_the_middle_of_a_packet_loses_nothing(tmp_path: Path, liar) -> None:
    liar.cuts = 3
    async with gateway_and_tag(tmp_path, liar, "5"):
        pass
    assert liar.cuts == 0
    assert liar.connections >= 5, "device, gateway, and the gateway again three times"


@both_protocols
async def test_rubbish_of_every_kind_is_counted_acknowledged_and_goes_no_further(liar, protocol) -> None:
    taker = Taker()
    liar.on_subscribe = [
        publish("emtag/v1/up/zz", b"x", 901, protocol=protocol),
        publish("other/topic", b"x", 902, protocol=protocol),
        publish(topics.down(DEVICE), b"x", 903, protocol=protocol),
        publish(topics.up(DEVICE), b"left here by somebody", 904, retain=True, protocol=protocol),
        publish(topics.up(DEVICE), bytes(5000), 905, protocol=protocol),
        publish(topics.up(DEVICE), b"good", 906, protocol=protocol),
    ]
    link = link_to(liar, taker, protocol)
    async with supervised(link) as supervisor:
        await taker.until(1)
        assert taker.frames == [(DEVICE, b"good")]
        assert (link.counters["bad_topic"], link.counters["retained"], link.counters["too_long"]) == (3, 1, 1)
        await until(lambda: liar.acknowledged[:6] == [901, 902, 903, 904, 905, 906])
        assert not supervisor.restarts


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x30\xff\xff\xff\x7f",  # a PUBLISH of 256 MB
        b"\x30\xff\xff\xff\xff\xff",  # a length that never ends
        packet(3, b"\x00\xffshort"),  # a topic longer than its packet
        b"\xf0\x00",  # a packet type that does not exist
    ],
)
async def test_malformed_packets_end_the_connection_and_nothing_else(liar, bytes_sent) -> None:
    taker = Taker()
    liar.on_subscribe = [bytes_sent]
    link = link_to(liar, taker)
    async with supervised(link) as supervisor:
        await until(lambda: sum(supervisor.restarts.values()) >= 1)
        assert not supervisor.restarts["defect"]
        liar.on_subscribe = []
        await up(link)
        liar.give(topics.up(DEVICE), b"after")
        await taker.until(1)


async def test_one_that_never_answers_a_subscription_is_left(liar, monkeypatch) -> None:
    liar.silent_subscribe = True
    link = link_to(liar, Taker())
    make_client = mqtt_connection.make_client

    def impatient(*arguments, **options):
        client = make_client(*arguments, **options)
        client.timeout = 0.2
        return client

    monkeypatch.setattr(mqtt_connection, "make_client", impatient)
    running = asyncio.create_task(link.run())
    done, _ = await asyncio.wait([running], timeout=20)
    assert done and isinstance(running.exception(), OSError)


@both_protocols
async def test_reading_stops_while_too_much_waits_for_its_commit(liar, monkeypatch, protocol) -> None:
    monkeypatch.setattr(mqtt, "UNDER_WAY", 50)
    taker = Taker(holding=True)
    link = link_to(liar, taker, protocol)
    async with supervised(link):
        await until(lambda: link._probes >= 1)
        for number in range(500):
            liar.give(topics.up(DEVICE), b"%d" % number)
        await until(lambda: link.counters["paced"] >= 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert 50 <= len(taker.frames) <= 60
        taker.holding = False
        for future in taker.futures:
            future.set_result(True)
        await taker.until(500)
        assert [frame for _, frame in taker.frames] == [b"%d" % number for number in range(500)]
