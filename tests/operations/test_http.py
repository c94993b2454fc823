"""Metrics, health and status over HTTP: what they say is what is so."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from emgate.config import HttpSection
from emgate.operation import http_server
from gateway_kit import PATIENCE_S, GatewayProcess, Port, Tag, event_record, over_serial, status_record, toml
from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
        yield session


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """What another process brings about is looked for, there is nothing to await."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with http.get(url) as response:
                    return response.status, await response.text()
            except aiohttp.ClientConnectorError:  # it is served a moment after the start
                await asyncio.sleep(0.05)


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def alarms() -> list[tuple[str, str, str]]:
    """(metric, label, its value) of each series that the operator's page sets an alarm on."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.split("### Alarms to set", 1)[1].split("\n#", 1)[0]
    found = re.findall(r"\b(emtag_\w+)(?:\{(\w+)=~?\"([^\"]+)\"\})?", table)
    series = [(metric, label, value) for metric, label, values in found for value in values.split("|")]
    assert {"given_up", "alarm", "authentication"} <= {value for _, _, value in series}
    return series


def there(series: tuple[str, str, str], text: str) -> bool:
    metric, label, value = series
    labelled = rf"{metric}\{{[^}}]*{label}=\"{value}\""
    wanted = labelled if label else rf"{metric}(_bucket)?[{{ ]"
    return re.search(f"^{wanted}", text, re.MULTILINE) is not None


async def test_metrics_tell_what_happened(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    number, port, tag = free_port(), Port(), Tag(tmp_path / "tag")
    stranger = Tag(tmp_path / "stranger", device_id=99)
    text = toml(links=f'[ble]\n[[serial]]\nport = "{port.path}"\n[[serial]]\nport = "{tmp_path}/absent"')
    gateway = GatewayProcess(tmp_path, text + f"[http]\nport = {number}\n")
    await gateway.start()
    base = f"http://127.0.0.1:{number}"
    first = (await get(http, base + "/metrics"))[1]
    assert [each for each in alarms() if not there(each, first)] == [], "an increase from nothing is none"
    async with over_serial(tag, port):
        for count in range(10):
            tag.record(event_record(count) if count == 3 else status_record(count), count == 3)
        await tag.until_delivered()
    async with over_serial(stranger, port):
        stranger.record(status_record(0))

        async def refused() -> bool:
            found = samples((await get(http, base + "/metrics"))[1])
            return ("emtag_frames_refused_total", "unknown_device") in found

        await until(refused)
    status, body = await get(http, base + "/metrics")
    assert status == 200
    found = samples(body)
    serial = f"serial:{port.path}"
    assert found["emtag_link_up", serial] == 1
    assert found["emtag_link_up", f"serial:{tmp_path}/absent"] == 0
    assert found["emtag_link_restarts_total", f"serial:{tmp_path}/absent", "enoent"] >= 1
    assert found["emtag_link_total", "bytes", serial] > 0
    assert found["emtag_sessions_total", "stored"] == found["emtag_sessions_total", "delivered"] == 10
    assert found["emtag_store_records",] >= 10
    assert found["emtag_store_waiting", "alarm"] + found["emtag_store_waiting", "routine"] >= 0
    assert found["emtag_store_commit_seconds_count",] == found["emtag_store_commit_seconds_bucket", "+Inf"] > 0
    assert found["emtag_store_commit_seconds_sum",] > 0
    assert found["emtag_store_bytes",] > 0 and found["emtag_disk_free_bytes",] > 0
    assert found["emtag_resident_bytes",] > 1_000_000
    assert found["emtag_ready",] == 1
    # Every number of the status is a metric, under its link or by its name: both come of one source.
    facts = json.loads((await get(http, base + "/status"))[1])
    for link in facts["links"]:
        for name, value in link.items():
            if isinstance(value, int) and not isinstance(value, bool):
                assert ("emtag_link_total", name, link["name"]) in found
    for name in facts["sessions"]:
        assert ("emtag_sessions_total", name) in found
    assert await gateway.stop() == 0


async def test_live_and_ready_mean_different_things(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    number, port = free_port(), Port()
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"') + f"[http]\nport = {number}\n")
    await gateway.start()
    base = f"http://127.0.0.1:{number}"
    assert await get(http, base + "/livez") == (200, "live\n")
    assert await get(http, base + "/readyz") == (200, "ready\n")
    port.attach()
    port.unplug()

    async def not_ready() -> bool:
        return await get(http, base + "/readyz") == (503, "no link is up\n")

    await until(not_ready)
    assert (await get(http, base + "/livez"))[0] == 200
    assert await get(http, base + "/else") == (404, "/livez /readyz /metrics /status\n")
    assert await gateway.stop() == 0


async def test_a_loop_that_does_not_turn_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "ANSWER_S", 0.2)
    number = free_port()

    async def status() -> dict[str, Any]:
        return {}

    async def health() -> list[str]:
        raise RuntimeError("a defect")

    server = http_server.HttpServer(HttpSection(port=number), status, health)
    serving = asyncio.create_task(server.run())
    await asyncio.sleep(0)  # it has opened its port
    answers: list[tuple[int, str]] = []

    def ask(path: str) -> None:
        connection = HTTPConnection("127.0.0.1", number, timeout=PATIENCE_S)
        connection.request("GET", path)
        response = connection.getresponse()
        answers.append((response.status, response.read().decode()))
        connection.close()

    asking = threading.Thread(target=ask, args=("/livez",))
    asking.start()
    asking.join()  # this loop stands still until the answer has come
    assert answers.pop() == (503, "the event loop does not answer\n")
    await asyncio.to_thread(ask, "/livez")
    assert answers.pop() == (200, "live\n")
    await asyncio.to_thread(ask, "/readyz")
    assert answers.pop() == (503, "cannot be told now\n")
    serving.cancel()
    await asyncio.wait([serving])


async def test_a_unix_socket_and_nothing_on_the_network(tmp_path: Path) -> None:
    port, path = Port(), tmp_path / "made" / "http.sock"
    gateway = GatewayProcess(
        tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"') + '[http]\nsocket = "made/http.sock"\n'
    )
    await gateway.start()

    async def served() -> bool:
        return path.exists()

    await until(served)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        assert await get(http, "http://gateway/readyz") == (200, "ready\n")
    assert await gateway.stop() == 0
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text("somebody's")

    async def never() -> Any: ...

    server = http_server.HttpServer(HttpSection(socket=file), never, never)
    with pytest.raises(OSError):
        server._open(asyncio.get_running_loop())
    assert file.read_text() == "somebody's"


async def test_a_taken_port_keeps_nothing_from_running(tmp_path: Path) -> None:
    port, tag = Port(), Tag(tmp_path / "tag")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = GatewayProcess(
            tmp_path,
            toml(links=f'[[serial]]\nport = "{port.path}"') + f"[http]\nport = {taken.getsockname()[1]}\n",
        )
        await gateway.start()
        async with over_serial(tag, port):
            tag.record(status_record(1))
            await tag.until_delivered()
        assert await gateway.stop() == 0
    assert re.search("http cannot be served; trying again", (tmp_path / "log").read_text())
