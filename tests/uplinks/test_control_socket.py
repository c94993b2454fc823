"""The control socket: its rights, its answers, and clients that mean no good."""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from emgate.commands.request_commands import submit_to_gateway
from emgate.operation import control_socket
from emgate.operation.control_client import ControlClient
from emgate.operation.control_socket import MOST_CLIENTS, ControlSocket
from gateway_kit import DEVICE, Tag, toml
from uplink_kit import Site, commands_of, result_record

REBOOT = {"requestId": "r", "deviceId": DEVICE, "kind": "command", "command": "REBOOT"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.start()
    server = ControlSocket(tmp_path / "control.sock", made.requests)
    serving = asyncio.create_task(server.run())
    async with asyncio.timeout(10):
        await server.up.wait()
    yield made
    serving.cancel()
    await asyncio.wait([serving])
    assert not (tmp_path / "control.sock").exists()
    await made.stop()


class Client:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 22)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, line: object) -> dict[str, Any]:
        self.writer.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            found: dict[str, Any] = json.loads(await self.reader.readline())
        return found


async def test_only_its_user_may_use_it(site: Site, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600


async def test_a_client_that_waits_is_told_every_change(site: Site, tmp_path: Path) -> None:
    async with Client(tmp_path / "control.sock") as client, site.joined(Tag(tmp_path / "tag")) as tag:
        await tag.until(lambda: bool(tag.messages))
        states = [await client.ask({"do": "submit", "request": REBOOT, "waitS": 20})]
        await tag.until(lambda: bool(commands_of(tag)))
        number, kind, _, _ = commands_of(tag)[0]
        tag.record(result_record(number, kind))
        while states[-1]["more"]:
            states.append(await client.answer())
        assert [each["request"]["state"] for each in states] == ["queued", "sent", "answered"]
        shown = await client.ask({"do": "show", "requestId": "r"})
        assert shown["request"] == states[-1]["request"]
        assert (await client.ask({"do": "list", "deviceId": DEVICE}))["requests"] == [shown["request"]]
        assert (await client.ask({"do": "list", "deviceId": 1}))["requests"] == []


async def test_nonsense_is_answered_and_the_next_line_is_taken(site: Site, tmp_path: Path) -> None:
    async with Client(tmp_path / "control.sock") as client:
        for line in (
            b"", b"{", b"[" * 200_000, b"[]", b"5", b'"\xff"', b"{}", {"do": "shutdown"}, {"do": "submit"},
            {"do": "submit", "request": REBOOT, "waitS": -1}, {"do": "submit", "request": REBOOT, "waitS": True},
            {"do": "submit", "request": {"requestId": ["r"]}}, {"do": "show"}, {"do": "list", "deviceId": "x"},
            {"do": "submit", "request": {**REBOOT, "deviceId": True}},
            {"do": "submit", "request": {**REBOOT, "kind": []}}, {"do": "submit", "request": {**REBOOT, "kind": ["x"]}},
        ):  # fmt: skip
            answer = await client.ask(line)
            assert not answer["ok"] and answer["reason"], line
        assert (await client.ask({"do": "submit", "request": REBOOT}))["ok"]


async def test_a_line_without_end_ends_the_connection(site: Site, tmp_path: Path) -> None:
    async with Client(tmp_path / "control.sock") as client:
        answer = await client.ask(b"x" * (control_socket.LONGEST_LINE * 2))
        assert "at most" in answer["reason"]
        with contextlib.suppress(ConnectionResetError):  # what it had not read yet
            assert await client.reader.read() == b""


async def test_many_clients_are_bounded_and_places_come_free(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    clients = [Client(path) for _ in range(MOST_CLIENTS)]
    for client in clients:
        await client.__aenter__()
        assert (await client.ask({"do": "list"}))["ok"]
    async with Client(path) as client:
        assert "too many" in (await client.answer())["reason"]
    waiting = {**REBOOT, "requestId": "long"}
    assert (await clients[0].ask({"do": "submit", "request": waiting, "waitS": 3000}))["more"]
    for each in clients:
        each.writer.close()  # also the one that waits
    async with asyncio.timeout(10):
        answered = False
        while not answered:
            async with Client(path) as client:
                answered = (await client.ask({"do": "list"}))["ok"]


async def test_a_silent_client_is_let_go(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "IDLE_S", 0.1)
    async with asyncio.timeout(10), Client(tmp_path / "control.sock") as client:
        assert await client.reader.read() == b""


async def test_a_command_does_not_wait_longer_than_the_gateway_would(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(toml(links='[mqtt]\nhost = "localhost"').replace('"state"', '"."'))
    asked = (config, str(DEVICE), {"kind": "command", "command": "REBOOT"}, "30d", None, None, False)
    assert await asyncio.to_thread(submit_to_gateway, *asked) == 2
    assert "--wait 30d is too long: a gateway is asked for 1h at most" in capsys.readouterr().err


def test_a_client_says_when_nobody_listens_answers_or_stays(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError, match=r"control\.sock: No such file"):
        ControlClient(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        with ControlClient(tmp_path, 0.01) as client, pytest.raises(TimeoutError, match="look into its log"):
            client.ask(do="status")
        left = ControlClient(tmp_path)
    with left, pytest.raises(ConnectionResetError, match="went away"):
        left.ask(do="status")
