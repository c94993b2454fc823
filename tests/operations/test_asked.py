"""Commands that ask the running gateway need its state directory and nothing else: not its secrets, no good file."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from emgate import config
from emgate.brokers.access import print_access_list
from emgate.commands import device_commands, request_commands, status_view
from emgate.commands.check import check
from emgate.errors import ConfigError
from emgate.operation import running
from gateway_kit import DEVICE, KEY, GatewayProcess, Port, Tag, over_serial, status_record, toml

TOKEN = "0123456789abcdef-token"
BACKEND = '[uplink]\nkind = "https"\n[uplink.https]\nurl = "https://127.0.0.1:9"\n'
LOCATE = {"kind": "command", "command": "LOCATE_NOW", "argument": 0}


async def test_whatever_the_file_and_the_environment_have_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, tag = Port(), Tag(tmp_path / "tag")
    text = toml(links=f'[[serial]]\nport = "{port.path}"', uplink=BACKEND, devices=0)
    gateway = GatewayProcess(tmp_path, 'registry = "state/devices.toml"\n' + text)
    (tmp_path / "state").mkdir(mode=0o700)
    registry = tmp_path / "state" / "devices.toml"
    registry.write_text(f'[[devices]]\ndevice_id = {DEVICE}\nmodel = "pid"\nkey = "{KEY.hex()}"\n')

    async def done(command: Any, *arguments: Any, **named: Any) -> tuple[int, str]:
        capsys.readouterr()
        status = await asyncio.to_thread(command, gateway.config, *arguments, **named)
        return status, "".join(capsys.readouterr())

    async def says() -> dict[str, Any]:
        status, said = await done(status_view.show, as_json=True)
        assert status == 0, said
        return dict(json.loads(said))

    assert (await done(device_commands.show_list, True))[0] == 0, "nor when none runs"
    assert (await done(check))[0] == 2, "the service may have no token either"
    monkeypatch.setenv("EMTAG_UPLINK_TOKEN", TOKEN)
    await gateway.start()
    monkeypatch.delenv("EMTAG_UPLINK_TOKEN")
    assert (await done(check))[0] == 0, "the running gateway has it"
    assert await done(running.reload) == (0, "reloaded: nothing has changed\n")
    gateway.config.write_text("unknown = 1\n" + gateway.config.read_text())
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until(lambda: len(tag.told) == 1)
        assert (await done(device_commands.add, "5", "pid", None, None))[0] == 0
        assert await done(device_commands.set_revoked, str(DEVICE), True) == (
            0,
            f"device {DEVICE} is revoked: its frames go to quarantine\n",
        )
        tag.record(status_record(2))
        async with asyncio.timeout(20):
            while not (facts := await says())["refused"].get("revoked"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert [device["deviceId"] for device in facts["devices"]] == [5], "in force at once"
    _, said = await done(device_commands.show_list, True)
    assert {row["deviceId"]: row["state"] for row in json.loads(said)} == {DEVICE: "revoked", 5: "active"}
    # A request is told by the gateway's clock when it expires, and the same line again is the same request.
    for _ in range(2):
        status, said = await done(request_commands.submit_to_gateway, "5", LOCATE, None, "1h", "a1", True)
        assert status == 0, said
    status, said = await done(request_commands.list_of_gateway, None, True)
    (asked,) = json.loads(said)
    assert status == 0 and asked["expiresMs"] == pytest.approx(facts["timeMs"] + 3_600_000, abs=20_000)
    # The gateway itself refuses the file, and says so wherever it is looked for.
    status, said = await done(running.reload)
    assert status == 2 and "unknown: unknown key" in said
    assert (await says())["reload"]["refused"] == 1
    assert await gateway.stop() == 0
    for command in (status_view.show, check):
        status, said = await done(command)
        assert status == 2 and "unknown: unknown key" in said, "it may be what keeps it from running"
    assert (await done(running.reload))[0] == 3
    port.unplug()


async def test_one_that_hangs_or_was_killed_is_told_from_one_that_never_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a runtime directory, as under systemd: while it runs there is no status in the state directory."""
    monkeypatch.setattr(running, "ANSWER_S", 0.3)
    run = tmp_path / "run of it"
    run.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(run))
    gateway = GatewayProcess(tmp_path, toml(links='[[serial]]\nport = "/dev/null"'))
    await gateway.start()
    assert gateway.process is not None
    while not (run / "status.json").exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    gateway.process.send_signal(signal.SIGSTOP)
    assert status_view.show(gateway.config, once=True) == 3
    assert f"RUNS AS PID {gateway.process.pid} AND DOES NOT ANSWER" in " ".join(capsys.readouterr().out.split())
    assert status_view.show(gateway.config, as_json=True) == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["running"], facts["stuckPid"], facts["gatewayId"]) == (False, gateway.process.pid, "gw-test")
    await gateway.kill()
    assert status_view.show(gateway.config, as_json=True) == 3
    assert json.loads(capsys.readouterr().out)["stuckPid"] is None
    (run / "status.json").unlink()  # systemd takes the whole folder away
    assert status_view.show(gateway.config) == 2
    assert "it was killed, or could not write it" in capsys.readouterr().err


def test_the_access_list_takes_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(toml(links='[mqtt]\nhost = "h"\n', uplink=BACKEND, protection=""))
    assert print_access_list(path) == 0


def test_what_does_not_say_where_the_gateway_is(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    for text, words in (
        ("", "gateway: missing"),
        ("[gateway]\nid = 5\n", "line 1: gateway.state_directory: missing"),
        ("[gateway]\n\nstate_directory = 5\n", "line 3: gateway.state_directory: "),
        ("[gateway", "not valid TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            config.state_directory(path)
    with pytest.raises(ConfigError, match="give its path by --config"):
        config.state_directory(tmp_path / "absent")
