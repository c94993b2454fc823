"""The whole gateway process, end to end: real device link, real transports, real backend."""

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest
from emgate.brokers import broker as brokers
from emrig.mortal import mortal
from gateway_kit import (
    DEVICE,
    PATIENCE_S,
    GatewayProcess,
    Port,
    Tag,
    event_record,
    identities,
    over_mqtt,
    over_serial,
    status_record,
    toml,
)


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request, tmp_path):
    if request.param not in brokers.available():
        pytest.skip(f"needs {request.param}")
    with brokers.start_broker(request.param, log_file=tmp_path / "broker.log") as running:
        yield running


async def test_serial_records_arrive_stored_delivered_and_acknowledged(tmp_path: Path) -> None:
    tag = Tag(tmp_path / "tag")
    port = Port()
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"'))
    facts = await gateway.start()
    assert facts["links"] == {f"serial:{port.path}": "up"}
    async with over_serial(tag, port):
        made = [
            (DEVICE, 1, tag.record(event_record(n) if n % 7 == 0 else status_record(n), n % 7 == 0)) for n in range(50)
        ]
        await tag.until_delivered()
    assert await gateway.stop() == 0
    assert identities(gateway.store) == made
    assert identities(gateway.backend) == made
    assert [message for message in tag.messages if message[0] == 0x81 and message[3] == 7], "time with its uncertainty"
    status = json.loads((gateway.folder / "state" / "status.json").read_text())
    assert status["stored"] == status["delivered"] == 50
    assert status["devices"][0]["batteryPercent"] == 80


async def test_sigkill_at_any_moment_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """A tag on a serial port and one on MQTT report without pause while the gateway is killed and restarted."""
    if "mosquitto" not in brokers.available():
        pytest.skip("needs mosquitto")
    chance = random.Random(7)
    port = Port()
    with brokers.start_broker("mosquitto") as broker:
        links = f'[[serial]]\nport = "{port.path}"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}'
        gateway = GatewayProcess(tmp_path, toml(links=links, devices=2))
        tags = [Tag(tmp_path / "a"), Tag(tmp_path / "b", device_id=DEVICE + 1)]
        made = []
        await gateway.start()
        async with over_serial(tags[0], port), over_mqtt(tags[1], "127.0.0.1", broker.port):
            for _ in range(8):
                for tag in tags:
                    for _ in range(40):
                        alarm = chance.random() < 0.1
                        payload = event_record(len(made)) if alarm else status_record(len(made))
                        made.append((tag.device_id, 1, tag.record(payload, alarm)))
                # A moment given by progress: after so many more sealed frames have come down to a tag.
                wanted = chance.randrange(0, 6)
                for _ in range(wanted):
                    tags[0].changed.clear()
                    async with asyncio.timeout(PATIENCE_S):
                        await tags[0].changed.wait()
                await gateway.kill()
                assert tags[0].told | tags[1].told <= set(identities(gateway.store)), (
                    "acknowledged as stored and not in the store"
                )
                await gateway.start()
            for tag in tags:
                await tag.until_delivered()
        assert await gateway.stop() == 0
    assert identities(gateway.store) == sorted(made)
    assert identities(gateway.backend) == sorted(made)
    assert all(tag.link.refused == 0 for tag in tags), "no down frame was refused: none repeated a counter"


async def test_the_mqtt_uplink_delivers_to_a_backend_process(tmp_path: Path, broker) -> None:
    port, tag = Port(), Tag(tmp_path / "tag")
    uplink = f'[uplink]\nkind = "mqtt"\nhost = "{broker.host}"\nport = {broker.port}'
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"', uplink=uplink))
    database = tmp_path / "central.sqlite"
    command = [sys.executable, "-m", "emgate.cli", "backend", "run", "--database", str(database)]
    command += ["--host", broker.host, "--port", str(broker.port)]
    await gateway.start()
    async with over_serial(tag, port):
        made = [(DEVICE, 1, tag.record(status_record(n))) for n in range(30)]
        await tag.until(lambda: tag.link.idle)  # stored, and not delivered: the backend is not there yet
        assert tag.journal.undelivered
        backend = await asyncio.create_subprocess_exec(*mortal(*command), stdout=asyncio.subprocess.PIPE)
        await tag.until_delivered()
        backend.terminate()
        assert await backend.wait() == 0
    assert await gateway.stop() == 0
    assert identities(database) == made


async def test_mqtt_records_arrive_stored_delivered_and_acknowledged(tmp_path: Path, broker) -> None:
    tag = Tag(tmp_path / "tag")
    gateway = GatewayProcess(tmp_path, toml(links=f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}'))
    await gateway.start()
    async with over_mqtt(tag, broker.host, broker.port):
        made = [(DEVICE, 1, tag.record(status_record(n))) for n in range(50)]
        await tag.until_delivered()
    assert await gateway.stop() == 0
    assert identities(gateway.store) == made
    assert identities(gateway.backend) == made
