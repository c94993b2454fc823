"""The whole gateway process, end to end: real device link, real transports, real backend."""

import json
from pathlib import Path

import pytest
from emgate import broker as brokers
from gateway_kit import (
    DEVICE,
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
