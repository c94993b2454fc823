"""One link of a running gateway fails: the others do not notice, and the backend hears of it."""

import ast
import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
from emgate import supervisor
from emgate.brokers import broker as brokers
from emgate.gateway_number import device_id_of
from emgate.supervisor import first_of
from gateway_kit import DEVICE, GatewayProcess, Port, Tag, identities, over_mqtt, over_serial, status_record, toml
from links_kit import until


def told(database: Path) -> list[tuple[str, str]]:
    """(event code, evidence) of the gateway's own events in a backend."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT event_type_code, evidence FROM events WHERE device_id = ? ORDER BY record_id",
            (device_id_of("gw-test"),),
        ).fetchall()
    return [(code, bytes(evidence).decode()) for code, evidence in rows]


def test_what_is_lost_is_told_from_a_defect() -> None:
    lost = BrokenPipeError()
    assert first_of(BaseExceptionGroup("", [ExceptionGroup("", [lost]), EOFError()]), OSError, EOFError) is lost
    assert first_of(ExceptionGroup("", [ExceptionGroup("", [lost, ValueError()])]), OSError) is None


def test_nothing_is_raised_in_an_except_star() -> None:
    """It would come out in a group on Debian 12's Python 3.11.2: every broker lost would be a defect."""
    for path in Path(supervisor.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.TryStar):
                inside = [each for handler in node.handlers for each in ast.walk(handler)]
                assert not any(isinstance(each, ast.Raise) for each in inside), f"{path}:{node.lineno}"


async def test_a_link_is_restarted_alone_and_the_backend_hears_of_it(tmp_path: Path) -> None:
    if not brokers.available():
        pytest.skip("needs mosquitto or amqtt")
    name = tmp_path / "tty-home-unit"
    first, second = Port(), Port()
    name.symlink_to(first.path)
    tags = [Tag(tmp_path / "a"), Tag(tmp_path / "b", device_id=DEVICE + 1)]
    made = []

    def make(number: int) -> None:
        made.extend((tag.device_id, 1, tag.record(status_record(number))) for tag in tags)

    with brokers.start_broker() as broker:
        links = f'[[serial]]\nport = "{name}"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}'
        gateway = GatewayProcess(tmp_path, toml(links=links, devices=2))
        await gateway.start()
        async with over_mqtt(tags[1], "127.0.0.1", broker.port):
            async with over_serial(tags[0], first):
                make(1)
                for tag in tags:
                    await tag.until_delivered()
            name.unlink()
            os.close(first.master)
            await until(lambda: "EV_GATEWAY_LINK_LOST" in [code for code, _ in told(gateway.backend)], every_s=0.05)
            made.append((DEVICE + 1, 1, tags[1].record(status_record(2))))
            await tags[1].until_delivered()  # the other link works on
            name.symlink_to(second.path)
            async with over_serial(tags[0], second):
                made.append((DEVICE, 1, tags[0].record(status_record(2))))
                await tags[0].until_delivered()
            await until(lambda: "EV_GATEWAY_LINK_RESTORED" in [code for code, _ in told(gateway.backend)], every_s=0.05)
        assert await gateway.stop() == 0
    events = told(gateway.backend)
    assert events[0] == ("EV_GATEWAY_STARTED", "gw-test")
    lost = next(evidence for code, evidence in events if code == "EV_GATEWAY_LINK_LOST")
    assert lost.startswith(f"serial:{name}"[:64])
    assert not [evidence for _, evidence in events if evidence.startswith("mqtt:")]
    status = json.loads((tmp_path / "state" / "status.json").read_text())
    restarts = {link["name"].split(":")[0]: sum(link["restarts"].values()) for link in status["links"]}
    assert restarts["serial"] >= 1 and restarts["mqtt"] == 0
    assert identities(gateway.backend) == sorted(made)


async def test_events_made_while_the_uplink_is_away_are_delivered_later(tmp_path: Path) -> None:
    if not brokers.available():
        pytest.skip("needs mosquitto or amqtt")
    with brokers.start_broker() as broker:
        links = f'[[serial]]\nport = "{tmp_path}/not-there"'
        uplink = f'[uplink]\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {broker.port}'
        gateway = GatewayProcess(tmp_path, toml(links=links, uplink=uplink))
        await gateway.start()
        assert await gateway.stop() == 0  # nobody has taken the batch

    def waiting() -> list[int]:
        with contextlib.closing(sqlite3.connect(f"file:{gateway.store}?mode=ro", uri=True)) as connection:
            return [payload[12] for (payload,) in connection.execute("SELECT payload FROM records ORDER BY row_id")]

    assert waiting()[0] == 90 and 91 in waiting()
    gateway.config.write_text(toml(links=links))
    await gateway.start()
    await until(lambda: gateway.backend.exists() and len(told(gateway.backend)) >= 4, every_s=0.05)
    assert [code for code, _ in told(gateway.backend)].count("EV_GATEWAY_STARTED") == 2
    assert await gateway.stop() == 0
