"""A real broker with client certificates and our access list: hostile clients, gateways that share a fleet."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import aiomqtt
import pytest
from certificates import Authority
from emgate import config as configuration
from emgate.brokers import broker as brokers
from emgate.brokers.access import access_list, print_access_list
from emgate.config import MqttSection
from emgate.devices.counter_share import CounterShare
from emgate.links import mqtt, mqtt_connection, mqtt_group
from emgate.links.mqtt import MqttLink
from emgate.links.mqtt_group import Group
from emwire import constants, envelope, topics
from gateway_kit import DEVICE, GatewayProcess, Tag, identities, status_record, toml
from links_kit import PATIENCE_S, Heard, supervised, until, up
from lying_broker import lying_broker
from test_serial_link import Taker
from uplink_kit import BackendProcess, commands_of, emtag

if "mosquitto" not in brokers.available():
    pytest.skip("needs mosquitto", allow_module_level=True)

MOSQUITTO = """\
listener {{port}} 127.0.0.1
cafile {folder}/ca.pem
certfile {folder}/broker.crt
keyfile {folder}/broker.key
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/acl
persistence {{persistence}}
{{location}}
max_queued_messages 0
max_inflight_messages 100
{{user}}
"""


def context(authority: Authority, name: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.file))
    made.load_cert_chain(authority.folder / f"{name}.crt", authority.folder / f"{name}.key")
    return made


def section(authority: Authority, name: str, port: int, **more: object) -> str:
    folder = authority.folder
    lines = [
        "[mqtt]", 'host = "localhost"', f"port = {port}", f'ca_file = "{authority.file}"',
        f'certificate_file = "{folder}/{name}.crt"', f'key_file = "{folder}/{name}.key"',
    ]  # fmt: skip
    lines += [f"{key} = {value!r}".replace("'", '"') for key, value in more.items()]
    return "\n".join(lines)


def uplink(authority: Authority, name: str, port: int) -> str:
    """Over the devices' broker, by the same certificate."""
    return section(authority, name, port).replace("[mqtt]", '[uplink]\nkind = "mqtt"\n[uplink.broker]')


HIGHEST = 150_000_000_000  # a down counter of 2028
DEVICES = [f"{DEVICE + number:08x}" for number in range(8)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "certificates", "ca")
    for name in ("broker", "gw-a", "gw-b", "backend", *DEVICES):
        authority.issue(name)
    return authority


@contextlib.contextmanager
def guarded(authority: Authority, folder: Path, monkeypatch, *gateways: str):
    """Mosquitto with our access list for these gateways."""
    lists = []
    for name in gateways:
        config = folder / f"{name}.toml"
        links = section(authority, name, 1, shared_group="fleet", shared_place=0)
        config.write_text(toml(links=links, uplink=uplink(authority, name, 1)).replace("gw-test", name))
        lists.append(access_list(configuration.load(config)))
    (authority.folder / "acl").write_text("\n".join(lists))
    monkeypatch.setattr(brokers, "MOSQUITTO_CONFIGURATION", MOSQUITTO.format(folder=authority.folder))
    with brokers.start_broker("mosquitto", log_file=folder / "broker.log") as broker:
        yield broker


@contextlib.asynccontextmanager
async def device_client(authority: Authority, name: str, port: int, identifier: str | None = None):
    async with aiomqtt.Client(
        "localhost", port, identifier=identifier or f"tag-{name}", tls_context=context(authority, name)
    ) as client:
        yield client


@contextlib.asynccontextmanager
async def over_tls(tag: Tag, authority: Authority, port: int, heard: list[bytes] | None = None):
    async with device_client(authority, f"{tag.device_id:08x}", port) as client:
        await client.subscribe(topics.down(tag.device_id), qos=1)

        async def listen() -> None:
            async for message in client.messages:
                tag.arrived(message.payload)
                if heard is not None:
                    heard.append(message.payload)

        pumping = [
            asyncio.create_task(listen()),
            asyncio.create_task(tag.pump(lambda frame: client.publish(topics.up(tag.device_id), frame, qos=1))),
        ]
        try:
            yield
        finally:
            for task in pumping:
                task.cancel()
            await asyncio.wait(pumping)


def broker_section(authority: Authority, name: str, port: int, protocol: str) -> configuration.Broker:
    folder = authority.folder
    return configuration.Broker(
        host="localhost", port=port, ca_file=authority.file, certificate_file=folder / f"{name}.crt",
        key_file=folder / f"{name}.key", protocol=protocol,
    )  # fmt: skip


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_a_hostile_client_has_its_own_topics_only(authority, tmp_path: Path, monkeypatch, protocol) -> None:
    honest, hostile = DEVICES[0], DEVICES[1]
    with guarded(authority, tmp_path, monkeypatch, "gw-a") as broker:
        taker = Taker()
        link = MqttLink(broker_section(authority, "gw-a", broker.port, protocol), "gw-a", taker)
        async with (
            supervised(link),
            device_client(authority, honest, broker.port) as good,
            device_client(authority, hostile, broker.port) as bad,
        ):
            await up(link)
            await until(lambda: link._probes >= 1)  # the access list lets the gateway prove that it hears
            await good.subscribe(topics.down(int(honest, 16)), qos=1)
            for topic in ("#", topics.UP_FILTER, topics.DOWN_FILTER, topics.down(int(honest, 16)), "emtag/v1/group/#"):
                await bad.subscribe(topic, qos=1)
            await bad.subscribe(topics.down(int(hostile, 16)), qos=1)
            for topic in (topics.up(int(honest, 16)), topics.down(int(honest, 16)), "emtag/v1/gateway/gw-a/probe"):
                # Some brokers cut who tries that: each attempt comes with a connection of its own.
                with contextlib.suppress(aiomqtt.MqttError):
                    async with device_client(authority, hostile, broker.port, "forger") as forger:
                        await forger.publish(topic, b"forged", qos=1)
            await bad.publish(topics.up(int(hostile, 16)), b"its own", qos=1)
            await good.publish(topics.up(int(honest, 16)), b"honest", qos=1)
            await taker.until(2)
            assert sorted(taker.frames) == [(int(honest, 16), b"honest"), (int(hostile, 16), b"its own")]
            assert await link.send(int(honest, 16), b"for the honest one")
            assert await link.send(int(hostile, 16), b"for the hostile one")
            async with asyncio.timeout(PATIENCE_S):
                assert (await anext(aiter(good.messages))).payload == b"for the honest one"
                assert (await anext(aiter(bad.messages))).payload == b"for the hostile one"
            assert len(bad.messages) == 0, "and nothing of anybody else"


async def test_no_other_client_comes_under_the_gateway_s_id(authority, tmp_path: Path, monkeypatch) -> None:
    """A broker ends a connection when another client takes its id, whatever its certificate. Records go to a backend
    over this broker too: the access list lets them."""
    tag, hostile = Tag(tmp_path / "tag"), DEVICES[1]
    with guarded(authority, tmp_path, monkeypatch, "gw-a") as broker:
        links = section(authority, "gw-a", broker.port)
        text = toml(links=links, uplink=uplink(authority, "gw-a", broker.port)).replace("gw-test", "gw-a")
        gateway = GatewayProcess(tmp_path / "gw-a", text)
        backend = BackendProcess(tmp_path / "backend", section(authority, "backend", broker.port) + "\n")
        await backend.start()
        await gateway.start()
        kept = gateway.folder / "state" / "mqtt-client"
        name = kept.read_text()
        async with (
            over_tls(tag, authority, broker.port),
            device_client(authority, hostile, broker.port, "emtag-gateway-gw-a") as bad,
        ):
            tag.record(status_record(1))
            await tag.until_delivered()
            await bad.publish(topics.up(int(hostile, 16)), b"nobody took the connection back", qos=1)
            assert '"event": "down"' not in (gateway.folder / "log").read_text()
            await gateway.kill()
            await gateway.start()
            assert kept.read_text() == name, "or the session would be lost"
            tag.record(status_record(2))
            await tag.until_delivered()
            for topic in (topics.backend_ack("gw-a"), topics.backend_down("gw-a"), topics.BACKEND_BATCH_FILTER):
                await bad.subscribe(topic, qos=1)
            asked = ("command", str(DEVICE), "locate-now", "--database", str(backend.database))
            assert (await emtag("backend", *asked)).returncode == 0
            await tag.until(lambda: bool(commands_of(tag)))
            assert len(bad.messages) == 0, "of what goes to the backend and back"
        assert (await gateway.stop(), await backend.stop()) == (0, 0)


@pytest.fixture
def impatient(monkeypatch) -> None:
    make_client = mqtt_connection.make_client

    def make(*arguments, **options):
        client = make_client(*arguments, **options)
        client.timeout = 1.0  # an answer takes milliseconds; there will be none
        return client

    monkeypatch.setattr(mqtt_connection, "make_client", make)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("name", "said"), [(None, "did not return a certificate"), ("gw-b", "CERTIFICATE_REVOKED")])
async def test_without_a_certificate_that_counts_nobody_gets_in(
    authority, tmp_path, monkeypatch, caplog, name, said
) -> None:
    """None at all, or one that was taken back after the gateway was stolen; the broker says why, the others go on."""
    authority.take_back("gw-b")
    monkeypatch.setitem(globals(), "MOSQUITTO", MOSQUITTO + "crlfile {folder}/crl\n")
    with guarded(authority, tmp_path, monkeypatch, "gw-a", "gw-b") as broker:
        stolen = configuration.Broker(host="localhost", port=broker.port, ca_file=authority.file)
        if name is not None:
            stolen = broker_section(authority, name, broker.port, "3.1.1")
        link = MqttLink(stolen, "gw-x", Taker())
        honest = MqttLink(broker_section(authority, "gw-a", broker.port, "3.1.1"), "gw-a", Taker())
        async with supervised(link) as supervisor, supervised(honest):
            await up(honest)
            await until(lambda: bool(supervisor.restarts))
            assert supervisor.last_reason and not link.up.is_set()
            await until(lambda: said in (tmp_path / "broker.log").read_text() + caplog.text)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("wrong", "said"), [("authority", "certificate verify failed"), ("host", "Hostname mismatch")])
async def test_a_broker_that_is_another_is_told_nothing(authority, tmp_path, monkeypatch, wrong, said) -> None:
    """Whoever stands between has a certificate of another authority, or the right one's for a host of his own."""
    theirs = authority
    if wrong == "authority":
        theirs = Authority(tmp_path / "theirs", "ca")
        theirs.issue("gw-a")
    theirs.issue("broker", host="localhost" if wrong == "authority" else "elsewhere")
    with guarded(theirs, tmp_path, monkeypatch, "gw-a") as broker:
        link = MqttLink(broker_section(authority, "gw-a", broker.port, "5"), "gw-a", Taker())
        async with supervised(link) as supervisor:
            await until(lambda: said in (supervisor.last_reason or ""))  # on a busy machine it may be impatient first
            assert not link.up.is_set()


async def test_a_frame_on_another_devices_topic_is_refused_by_the_gateway_itself(tmp_path: Path) -> None:
    """A broker without an access list: device B publishes on A's topic. Only A's key opens what is A's."""
    tag_a, tag_b = Tag(tmp_path / "a"), Tag(tmp_path / "b", device_id=DEVICE + 1, key=bytes(16))
    with brokers.start_broker("mosquitto") as broker:
        gateway = GatewayProcess(tmp_path, toml(links=f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}'))
        await gateway.start()
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            tag_b.record(status_record(1))
            tag_b.link.opened(0)
            while (frame := tag_b.link.poll(0)) is not None:
                await client.publish(topics.up(tag_a.device_id), frame, qos=1)
            await client.subscribe(topics.down(tag_a.device_id), qos=1)

            async def listen() -> None:
                async for message in client.messages:
                    tag_a.arrived(message.payload)

            tasks = [
                asyncio.create_task(listen()),
                asyncio.create_task(tag_a.pump(lambda frame: client.publish(topics.up(DEVICE), frame, qos=1))),
            ]
            made = [(DEVICE, 1, tag_a.record(status_record(2)))]
            await tag_a.until_delivered()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert await gateway.stop() == 0
        assert identities(gateway.store) == made


async def test_two_gateways_share_a_fleet_and_one_may_die(authority, tmp_path: Path, monkeypatch) -> None:
    tags = [Tag(tmp_path / f"tag{n}", device_id=DEVICE + n) for n in range(6)]
    made = []
    heard: list[list[bytes]] = [[] for _ in tags]
    with guarded(authority, tmp_path, monkeypatch, "gw-a", "gw-b") as broker:
        gateways = []
        for place, name in enumerate(("gw-a", "gw-b")):
            links = section(
                authority, name, broker.port, shared_group="fleet", shared_place=place, protocol="5", keepalive_s=5
            )
            text = toml(links=links, devices=6).replace("gw-test", name)
            gateways.append(GatewayProcess(tmp_path / name, text))
            await gateways[-1].start()
        async with contextlib.AsyncExitStack() as connections:
            for tag, frames in zip(tags, heard, strict=True):
                await connections.enter_async_context(over_tls(tag, authority, broker.port, frames))

            def make(first: int, count: int) -> None:
                for tag in tags:
                    made.extend((tag.device_id, 1, tag.record(status_record(n))) for n in range(first, first + count))

            make(0, 15)
            for tag in tags:
                await tag.until_delivered()
            shares = [{identity[0] for identity in identities(gateway.store)} for gateway in gateways]
            assert all(shares) and not shares[0] & shares[1], "each device has one gateway at a time"
            make(15, 5)
            await gateways[0].kill()
            make(20, 10)
            for tag in tags:
                await tag.until_delivered()  # also those that were the dead one's: down frames still reach them
            await gateways[0].start()
            make(30, 5)
            for tag in tags:
                await tag.until_delivered()
            assert await gateways[1].stop() == 0  # in good order: it says goodbye itself
            make(35, 5)
            for tag in tags:
                await tag.until_delivered()
            refused = [tag.link.refused for tag in tags]  # what two of them sent while the device changed hands
            make(40, 5)
            for tag in tags:
                await tag.until_delivered()
            assert [tag.link.refused for tag in tags] == refused, (
                "down frames repeat no counter, nor come from the past"
            )
        assert await gateways[0].stop() == 0
    found = set(identities(gateways[0].store)) | set(identities(gateways[1].store))
    assert found == set(made)
    for frames in heard:  # a broker may deliver one twice
        by_counter = {frame[: envelope.HEADER_SIZE]: frame for frame in frames}
        assert len(by_counter) == len(set(frames)), "no two down frames have one counter"


def test_a_member_that_goes_moves_only_its_own_devices() -> None:
    group = Group("fleet", "gw-a")
    for name in ("gw-b", "gw-c"):
        assert group.presence(f"emtag/v1/group/fleet/member/{name}", b"1", 0)
    before = {device: group.owner(device) for device in range(300)}
    assert set(before.values()) == {"gw-a", "gw-b", "gw-c"}
    assert group.presence("emtag/v1/group/fleet/member/gw-c", b"", 1)
    after = {device: group.owner(device) for device in range(300)}
    assert all(after[device] == owner for device, owner in before.items() if owner != "gw-c")
    other = Group("fleet", "gw-b")
    other.presence("emtag/v1/group/fleet/member/gw-a", b"1", 0)
    assert all(other.owner(device) == owner for device, owner in after.items()), "everybody works out the same"
    for number in range(100):  # a flood of names
        group.presence(f"emtag/v1/group/fleet/member/x{number}", b"1", 2)
    assert len(group.members) <= 16


def test_a_member_that_says_nothing_any_more_is_none_whatever_the_broker_keeps() -> None:
    group = Group("fleet", "gw-a")
    for second in (0, 30, 60):
        group.presence("emtag/v1/group/fleet/member/gw-b", b"1", second)
    group.presence("emtag/v1/group/fleet/member/gw-c", b"1", 60)
    theirs = [device for device in range(300) if group.owner(device) == "gw-b"]
    group.forget_silent(149)
    assert group.members == ("gw-a", "gw-b", "gw-c")
    group.presence("emtag/v1/group/fleet/member/gw-c", b"1", 149)
    group.forget_silent(150)
    assert group.members == ("gw-a", "gw-c")
    assert theirs and all(group.owner(device) != "gw-b" for device in theirs)


async def test_a_fleet_outlives_a_broker_and_a_gateway_killed_together(monkeypatch) -> None:
    """The broker saved that both were there, and neither will was ever sent."""
    monkeypatch.setattr(mqtt, "PRESENT_S", 0.03)
    monkeypatch.setattr(mqtt_group, "SILENT_S", 0.3)
    async with lying_broker() as broker:
        broker.retained["emtag/v1/group/fleet/member/gw-a"] = b"1"
        section = MqttSection(host="127.0.0.1", port=broker.port, shared_group="fleet", shared_place=1)
        heard, taker = Heard(), Taker()
        link = MqttLink(section, "gw-b", taker, heard)
        assert link.group is not None
        async with supervised(link, events=heard) as supervisor:
            await until(lambda: link.group.members == ("gw-a", "gw-b"))
            await until(lambda: link.group.members == ("gw-b",))
            for device in range(40):
                broker.give(topics.up(device + 1), b"frame")
            await taker.until(40)
            broker.give("emtag/v1/group/fleet/member/gw-a", b"1")  # it is back
            await until(lambda: len(heard.of(constants.EVENT_GATEWAY_GROUP_CHANGED)) >= 3)
            assert [value for value, _ in heard.of(constants.EVENT_GATEWAY_GROUP_CHANGED)][:3] == [2, 1, 2]
            assert not link.counters["handed_on"] and not supervisor.restarts


async def test_a_fleet_tells_each_other_how_far_its_counters_are(monkeypatch) -> None:
    """Also who comes later; and what nobody can have used is nothing."""
    monkeypatch.setattr(mqtt, "PRESENT_S", 0.03)
    topic = "emtag/v1/group/fleet/counter"
    shares = [CounterShare(place, 4) for place in range(2)]
    shares[0].used(HIGHEST)
    with brokers.start_broker("mosquitto") as broker:
        async with contextlib.AsyncExitStack() as running:
            for place, share in enumerate(shares):
                section = MqttSection(host="127.0.0.1", port=broker.port, shared_group="fleet", shared_place=place)
                link = MqttLink(section, f"gw-{place}", Taker(), counter_share=share)
                await running.enter_async_context(supervised(link))
                await until(lambda: shares[0].to_tell() is None)
            await until(lambda: shares[1].at_least(500_000_000, 0) > HIGHEST)
            client = await running.enter_async_context(aiomqtt.Client("127.0.0.1", broker.port))
            for nonsense in (b"", b"-1", b"1e3", b"9" * 20, b"9" * 13, b"%d" % (HIGHEST + 100_000)):
                await client.publish(topic, nonsense, qos=1)
            await until(lambda: shares[1].at_least(500_000_000, 0) > HIGHEST + 100_000)
            assert shares[1].at_least(500_000_000, 0) < HIGHEST + 200_000


def test_the_command_prints_the_list_or_says_why_not(tmp_path: Path, capsys) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(toml(links='[mqtt]\nhost = "h"\nusername = "gateway-7"'))
    assert print_access_list(config) == 0
    printed = capsys.readouterr().out
    assert "pattern write emtag/v1/up/%u\npattern read emtag/v1/down/%u" in printed
    assert "user gateway-7\ntopic read emtag/v1/up/+\ntopic write emtag/v1/down/+" in printed
    config.write_text(toml(links='[[serial]]\nport = "/dev/x"'))
    assert print_access_list(config) == 2
    assert "no [mqtt] in the configuration" in capsys.readouterr().err
