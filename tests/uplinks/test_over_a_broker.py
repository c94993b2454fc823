"""From a backend's command line through a real broker and a gateway process to a device, and back."""

import asyncio
import json
from pathlib import Path

import pytest
from emgate.brokers import broker as brokers
from emwire import constants
from gateway_kit import DEVICE, GatewayProcess, Tag, over_mqtt, status_record, toml
from uplink_kit import BackendProcess, Done, commands_of, emtag, result_record


@pytest.fixture
def broker():
    if not brokers.available():
        pytest.skip("needs mosquitto or amqtt")
    with brokers.start_broker() as started:
        yield started


async def test_a_backends_command_is_carried_out_and_its_result_recorded(tmp_path: Path, broker) -> None:
    settings = f'host = "{broker.host}"\nport = {broker.port}'
    gateway = GatewayProcess(
        tmp_path / "gateway", toml(links=f"[mqtt]\n{settings}", uplink=f'[[uplink]]\nkind = "mqtt"\n{settings}')
    )
    backend = BackendProcess(tmp_path / "backend", f"[mqtt]\n{settings}\n")
    await backend.start()
    await gateway.start()
    tag = Tag(tmp_path / "tag")

    async def serve() -> None:
        """As the firmware does: carry out a command, answer it."""
        await tag.until(lambda: bool(commands_of(tag)))
        number, kind, argument, _ = commands_of(tag)[0]
        tag.record(result_record(number, kind, constants.OUTCOME_DONE, argument * 2))

    asked = ("command", str(DEVICE), "locate-now", "--argument", "21", "--database", str(backend.database))
    async with over_mqtt(tag, broker.host, broker.port):
        tag.record(status_record(1))
        await tag.until_delivered()
        serving = asyncio.create_task(serve())
        done: Done = await emtag("backend", *asked, "--wait", "40s", "--json", "--id", "once")
        await serving
        assert done.returncode == 0, done
        facts = json.loads(done.stdout)
        assert (facts["state"], facts["result"]["outcome"], facts["result"]["value"]) == ("answered", "DONE", 42)
        assert facts["gatewayId"] == "gw-test"
        again = await emtag("backend", *asked, "--json", "--id", "once")
        assert json.loads(again.stdout)["number"] == facts["number"]
        # By the gateway's own socket, at the same time as the backend's way.
        local = asyncio.create_task(
            emtag("gateway", "command", str(DEVICE), "SELF_TEST", "--config", str(gateway.config), "--wait", "40s")
        )
        await tag.until(lambda: len(commands_of(tag)) == 2)
        number, kind, _, _ = commands_of(tag)[1]
        assert number % 2 == 1 and number != facts["number"]
        tag.record(result_record(number, kind, constants.OUTCOME_FAILED))
        done = await local
        assert (done.returncode, "answered" in done.stdout) == (1, True), done
        listed = json.loads((await emtag("gateway", "requests", "--config", str(gateway.config), "--json")).stdout)
        assert [each["state"] for each in listed] == ["answered", "answered"]
    assert len(commands_of(tag)) == 2, "each was carried out once"
    assert await gateway.stop() == 0
    assert await backend.stop() == 0


async def test_a_command_that_the_gateway_does_not_take_is_refused_with_its_reason(tmp_path: Path, broker) -> None:
    settings = f'host = "{broker.host}"\nport = {broker.port}'
    gateway = GatewayProcess(
        tmp_path / "gateway", toml(links=f"[mqtt]\n{settings}", uplink=f'[uplink]\nkind = "mqtt"\n{settings}')
    )
    backend = BackendProcess(tmp_path / "backend", f"[mqtt]\n{settings}\n")
    await backend.start()
    await gateway.start()
    tag = Tag(tmp_path / "tag")
    async with over_mqtt(tag, broker.host, broker.port):
        tag.record(status_record(1))
        await tag.until_delivered()
    done = await emtag("gateway", "device", "list", "--config", str(gateway.config))
    assert str(DEVICE) in done.stdout
    text = gateway.config.read_text().replace("[[devices]]", "[[devices]]\nrevoked = true")
    gateway.config.write_text(text)
    assert (await emtag("gateway", "reload", "--config", str(gateway.config))).returncode == 0
    done = await emtag(
        "backend", "command", str(DEVICE), "REBOOT", "--database", str(backend.database), "--wait", "40s", "--json"
    )
    facts = json.loads(done.stdout)
    assert (facts["state"], "registry" in facts["result"]["reason"]) == ("refused", True)
    await gateway.stop()
    await backend.stop()


async def test_without_a_gateway_the_command_says_so(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, toml(links='[mqtt]\nhost = "localhost"'))
    done = await emtag("gateway", "command", str(DEVICE), "REBOOT", "--config", str(gateway.config))
    assert (done.returncode, "start it first" in done.stderr) == (3, True)
    done = await emtag("gateway", "command", "x", "REBOOT", "--config", str(gateway.config))
    assert (done.returncode, "no device" in done.stderr) == (2, True)
