"""No secret leaves a gateway by its log, its status, its metrics or an error, whatever happens to it."""

import asyncio
import base64
import os
import signal
from pathlib import Path

import pytest
from emgate.commands import status_view
from emgate.commands.check import check
from emgate.commands.run_commands import run_gateway
from emgate.keys import key_source
from gateway_kit import (
    DEVICE,
    PATIENCE_S,
    GatewayProcess,
    Port,
    Tag,
    event_record,
    hello_record,
    over_serial,
    status_record,
    toml,
)

DEVICE_KEY = os.urandom(16)
OTHER_KEY = os.urandom(16)
BEACON_KEY = os.urandom(16)
PASSWORD = "a password " + os.urandom(8).hex()
PASSPHRASE = "a passphrase " + os.urandom(8).hex()


def written(secret: bytes) -> list[bytes]:
    """As it would show when somebody prints it."""
    return [
        secret, secret.hex().encode(), secret.hex().upper().encode(), secret.hex(" ").encode(),
        base64.b64encode(secret), repr(secret).encode()[2:-1], str(list(secret)).encode(),
    ]  # fmt: skip


SECRETS = [
    *(form for key in (DEVICE_KEY, OTHER_KEY, BEACON_KEY) for form in written(key)),
    PASSWORD.encode(),
    PASSPHRASE.encode(),
]


def assert_no_secret(text: bytes) -> None:
    for secret in SECRETS:
        assert secret not in text, secret


async def logged(log: Path, words: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if words in await asyncio.to_thread(log.read_text):
                return
            await asyncio.sleep(0.05)


async def test_nothing_that_a_gateway_writes_for_people_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At log level debug, through all that makes a gateway talk: strangers, wrong keys, noise, refused reloads."""
    monkeypatch.setenv("EMTAG_MQTT_PASSWORD", PASSWORD)
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    port, port_2 = Port(), Port()
    links = f'[[serial]]\nport = "{port.path}"\n[[serial]]\nport = "{port_2.path}"\n'
    links += '[mqtt]\nhost = "127.0.0.1"\nport = 1\nusername = "gateway"\n'
    backend = "[uplink]\nguarded_disk = true"
    text = toml(links=links, uplink=backend, devices=0, extra='log_level = "debug"') + (
        f'[[devices]]\ndevice_id = {DEVICE}\nmodel = "home_unit"\nkey = "{DEVICE_KEY.hex()}"\n'
        f'next_key = "{OTHER_KEY.hex()}"\n'
        f'[devices.configuration]\nversion = 3\nbeacons = [{{ beacon_id = 7, key = "{BEACON_KEY.hex()}" }}]\n'
    )
    gateway = GatewayProcess(tmp_path, text)
    await gateway.start()
    tag = Tag(tmp_path / "tag", key=DEVICE_KEY)
    wrong, stranger = Tag(tmp_path / "wrong", key=OTHER_KEY), Tag(tmp_path / "stranger", device_id=1, key=OTHER_KEY)
    log = tmp_path / "log"
    async with over_serial(tag, port):
        tag.record(hello_record())
        for count in range(5):
            tag.record(event_record(count), True)
        await tag.until(lambda: any(message[0] == 0x82 for message in tag.messages))
    for bad, reason in ((wrong, "authentication"), (stranger, "unknown_device")):
        async with over_serial(bad, port_2):
            bad.record(status_record(1))
            port_2.write(os.urandom(200) + b"\0")
            await logged(log, f'"reason": "{reason}"')
    assert gateway.process is not None
    gateway.config.write_text(text.replace("device_id = ", "device_id = -"))
    gateway.process.send_signal(signal.SIGHUP)
    await logged(log, "refused; the old one stays")
    assert await asyncio.to_thread(check, gateway.config) == 2
    gateway.config.write_text(text)
    assert await asyncio.to_thread(check, gateway.config) == 0
    assert await gateway.stop() == 0
    said = capsys.readouterr()
    for words in ("authentication", "unknown_device", "refused; the old one stays"):
        assert words in log.read_text(), "it did talk of what happened"
    for path in (log, tmp_path / "state" / "status.json"):
        assert_no_secret(path.read_bytes())
    assert_no_secret((said.out + said.err).encode())


@pytest.mark.parametrize("command", [run_gateway, check, status_view.show])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(DEVICE_KEY.hex(), DEVICE_KEY.hex() + "0"),
        lambda text: text.replace("key = ", "kye = "),
        lambda text: text.replace(f'"{DEVICE_KEY.hex()}"', f'"{DEVICE_KEY.hex()}'),
    ],
)
def test_an_error_names_the_line_and_not_what_stands_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, command
) -> None:
    path = tmp_path / "gateway.toml"
    device = f'[[devices]]\ndevice_id = 5\nmodel = "pid"\nkey = "{DEVICE_KEY.hex()}"\n'
    path.write_text(spoil(toml(links='[[serial]]\nport = "/dev/null"', devices=0) + device))
    assert command(path) == 2
    said = capsys.readouterr()
    assert "line" in said.out + said.err
    assert_no_secret((said.out + said.err).encode())
