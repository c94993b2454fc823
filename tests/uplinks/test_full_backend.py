"""A local backend has a bound on the disk: above it nothing is deleted and nothing is lost, and everybody is told."""

import asyncio
import json
from pathlib import Path

import aiohttp
from emgate.backend.ingest import Backend
from emgate.clock import SystemClock
from emgate.operation import running
from gateway_kit import (
    DEVICE,
    PATIENCE_S,
    GatewayProcess,
    Port,
    Tag,
    event_record,
    identities,
    over_serial,
    status_record,
    toml,
)

FULL = 1_000_000


def filled(path: Path) -> int:
    """A database that is a little larger than it may be; how many records it has."""
    backend, made = Backend(path, SystemClock(1)), 0
    while backend.bytes_in_use() <= FULL:
        records = [
            {"deviceId": 5, "epoch": 1, "sequence": made + number, "alarm": False, "receivedTimeMs": 1, "link": "ble",
             "payload": status_record(number).hex()}
            for number in range(100)
        ]  # fmt: skip
        made += backend.ingest({"batchId": "b", "gatewayId": "gw", "uploadedDateMs": 1, "records": records})
    backend.close()
    return made


async def ask(socket: Path, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get(f"http://gateway{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_a_full_backend_takes_alarms_for_a_while_and_the_store_keeps_the_rest(tmp_path: Path) -> None:
    before = filled(tmp_path / "small.sqlite")
    port, tag = Port(), Tag(tmp_path / "tag")
    text = toml(
        links=f'[[serial]]\nport = "{port.path}"',
        uplink=f'[uplink]\ndatabase = "small.sqlite"\nmaximum_bytes = {FULL}\n[http]\nsocket = "http"',
    )
    gateway = GatewayProcess(tmp_path, text)
    await gateway.start()
    async with over_serial(tag, port):
        for number in range(20):
            tag.record(status_record(number))
        alarm = tag.record(event_record(20), alarm=True)
        await tag.until(lambda: len(tag.told) == 21)  # stored, all of them
        async with asyncio.timeout(PATIENCE_S):
            while len(identities(tmp_path / "small.sqlite")) < before + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        status, words = await ask(tmp_path / "http", "/readyz")
        assert status == 503 and "small.sqlite has" in words and "raise it, or move the database away" in words
        facts = json.loads((await ask(tmp_path / "http", "/status"))[1])
        (target,) = facts["uplink"]
        assert target["no_room"] > 0 and FULL < target["databaseBytes"] < FULL * 9 / 8
        assert facts["store"]["routine_waiting"] >= 20 and facts["store"]["alarms_waiting"] == 0
        metrics = (await ask(tmp_path / "http", "/metrics"))[1]
        assert 'emtag_uplink_database_bytes{uplink="uplink"} 1.0' in metrics
        assert identities(tmp_path / "small.sqlite")[before:] == [(DEVICE, 1, alarm)], "nothing of it was deleted"
        gateway.config.write_text(text.replace(str(FULL), str(2 * FULL)))
        assert await asyncio.to_thread(running.reload, gateway.config) == 0
        await tag.until_delivered()
        assert (await ask(tmp_path / "http", "/readyz"))[0] == 200
    assert await gateway.stop() == 0
    assert len(identities(tmp_path / "small.sqlite")) == before + 21
    assert (tmp_path / "log").read_text().count("the backend takes no more") == 1
