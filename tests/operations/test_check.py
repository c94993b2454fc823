"""`emtag gateway check`: what is wrong is found before a start, with its line and what to do."""

import asyncio
import json
import os
import re
import socket
import sqlite3
from pathlib import Path

import pytest
from emgate import config, key_source
from emgate.check import check
from emgate.errors import ConfigError
from emgate.toml_lines import Lines
from gateway_kit import KEY, GatewayProcess, Port, toml
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*config.ENVIRONMENT, *(name + "_FILE" for name in config.ENVIRONMENT), key_source.PASSPHRASE):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def found(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    status = check(path, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"] is (status == 0)
    return status, facts["findings"]


def errors(findings: list[dict[str, str]]) -> list[str]:
    return [f"{each['place']}: {each['problem']}: {each['remedy']}" for each in findings if each["level"] == "error"]


def test_lines_of_statements() -> None:
    text = """# a comment
registry = "a.toml"

[gateway]
id = "x" # another
state_directory = \"\"\"
over
lines\"\"\"
[store]
[[serial]]
port = "a"
[[serial]]
match = { serial_number = "1", location = "2" }
[[devices]]
device_id = 1
[devices.configuration]
version = 1
beacons = [
  { beacon_id = 1 },
  { beacon_id = 2 },
]
[[devices]]
"device_id" = 2
configuration.version = 3
"""
    lines = Lines(text)
    for location, line in (
        (("registry",), 2), (("gateway",), 4), (("gateway", "state_directory"), 6), (("gateway", "absent"), 4),
        (("store", "x"), 9), (("serial", 0, "port"), 11), (("serial", 1), 12), (("serial", 1, "match", "location"), 13),
        (("devices", 0, "device_id"), 15), (("devices", 0, "configuration", "version"), 17),
        (("devices", 0, "configuration", "beacons", 1, "beacon_id"), 18), (("devices", 1, "device_id"), 23),
        (("devices", 1, "configuration", "version"), 24), (("devices", 1, "key"), 22), (("absent",), None), ((), None),
    ):  # fmt: skip
        assert lines.of(location) == line, location


KEYS = st.text("abcdefgh", min_size=1, max_size=3)
VALUES = st.recursive(
    st.integers(0, 9) | st.text("ab\"'#[]{}=\n\\", max_size=6),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6, unique_by=lambda pair: pair[0]), st.randoms(use_true_random=False))
def test_every_key_of_any_file_has_the_line_it_begins_in(pairs, random) -> None:
    text, expected = "", {}
    for key, value in pairs:
        text += random.choice(["", "\n", "# x = [1\n"])
        expected[key] = text.count("\n") + 1
        body = json.dumps(value)
        if isinstance(value, list):
            body = body.replace(", ", random.choice([", ", ",\n "])) if '"' not in body else body
        text += f"{key} = {body}\n"
    lines = Lines(text)
    assert {key: lines.of((key,)) for key in expected} == expected


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = Port()
    path = write(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"'))
    status, findings = found(path, capsys)
    assert status == 0
    assert [each["place"] for each in findings] == ["protection"], "warned that nothing is sealed"
    assert check(path) == 0
    assert "warning: protection: nothing is sealed at rest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"gw-test"', '"gw/test"', r"line 3: gateway.id: .*match pattern"),
        ("[gateway]", "[gatewy]", r"line 2: gatewy: unknown key: did you mean 'gateway'\?"),
        ("ankle_gps", "ankel", r"line \d+: devices\[0\].model"),
        (KEY.hex(), "abcd", r"line \d+: devices\[0\].key: 2 bytes long"),
        ('id = "gw-test"\n', "", r"line 2: gateway.id: missing: add it"),
        ("[clock]", "[clock", r"not valid TOML: .*line \d+"),
    ],
)
def test_every_error_names_line_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    path = write(tmp_path, toml(links='[[serial]]\nport = "/dev/null"').replace(old, new))
    status, findings = found(path, capsys)
    assert status == 2
    assert any(re.search(words, error) for error in errors(findings)), errors(findings)


def test_the_machine_is_looked_at_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
        gone.close()
        text = toml(
            links=f'[[serial]]\nport = "{tmp_path}/absent"\n[[serial]]\nport = "{tmp_path}/gateway.toml"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {closed}\npassword_file = "password"\n'
        )
        text += f"[http]\nport = {taken.getsockname()[1]}\n[store]\nalarm_reserve_bytes = {1 << 60}\n"
        path = write(tmp_path, 'registry = "devices.toml"\n' + text)
        path.chmod(0o644)
        (tmp_path / "devices.toml").write_text(f'[[devices]]\ndevice_id = 9\nmodel = "pid"\nkey = "{KEY.hex()}"\n')
        (tmp_path / "password").write_text("secret\n")
        (tmp_path / "state").mkdir(mode=0o755)
        sqlite3.connect(tmp_path / "state" / "store.sqlite").execute("PRAGMA user_version = 99")
        status, findings = found(path, capsys)
    assert status == 2
    wrong = "\n".join(errors(findings))
    for words in ("is not a serial port", "its schema 99 is newer", "MB are free on its disk", "cannot be served"):
        assert words in wrong, words
    warned = "\n".join(f"{each['problem']}: {each['remedy']}" for each in findings if each["level"] == "warning")
    for words in (
        "there is no such port now: plug", "does not answer", "password_file holds secrets", "chmod 700",
        "the registry holds secrets", "the configuration holds secrets",
    ):  # fmt: skip
        assert words in warned, words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[http]\nport = 9410\naddress = '0.0.0.0'\n", "not a loopback address"),
        ("[http]\n", "give one of port = 9410 and socket"),
        ("[http]\nport = 1\nsocket = 'a'\n", "give one of port = 9410 and socket"),
    ],
)
def test_http_is_for_this_machine(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, toml(links='[[serial]]\nport = "/dev/null"') + text)
    with pytest.raises(ConfigError, match=words):
        config.load(path)


def test_a_missing_secret_and_an_unreadable_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = toml(links='[[serial]]\nport = "/dev/null"') + '[protection]\nat_rest = "required"\n'
    status, findings = found(write(tmp_path, 'registry = "absent.toml"\n' + text), capsys)
    assert status == 2
    assert any("no secret to open the keys at rest: give a systemd credential" in each for each in errors(findings))
    assert any("cannot read the device registry" in each for each in errors(findings))


def test_uplinks_are_looked_at_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
    text = toml(links='[[serial]]\nport = "/dev/null"') + (
        f'[[uplink]]\nname = "a"\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {closed}\n'
        f'[[uplink]]\nname = "b"\nkind = "https"\n[uplink.https]\nurl = "https://127.0.0.1:{closed}/x"\n'
        'token_file = "token"\n'
    )
    path = write(tmp_path, text)
    status, findings = found(path, capsys)
    assert status == 2
    assert any("uplink b" in each and "cannot read the token" in each for each in errors(findings))
    (tmp_path / "token").write_text("0123456789abcdef\n")
    warned = [f"{each['place']}: {each['problem']}" for each in found(path, capsys)[1] if each["level"] == "warning"]
    for words in ("uplink a: 127.0.0.1", "uplink b: 127.0.0.1", "the file holds secrets"):
        assert any(words in each for each in warned), (words, warned)


async def test_a_running_gateways_port_is_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    port = Port()
    gateway = GatewayProcess(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"') + f"[http]\nport = {number}\n")
    await gateway.start()
    try:
        status, findings = await asyncio.to_thread(found, gateway.config, capsys)
        assert (status, errors(findings)) == (0, [])
    finally:
        assert await gateway.stop() == 0


# -- secrets from the environment -----------------------------------------------------------------------------

BROKERS = toml(
    links='[mqtt]\nhost = "localhost"\nusername = "g"',
    uplink='[uplink]\nkind = "mqtt"\n[uplink.broker]\nhost = "localhost"\n',
)


def test_passwords_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, BROKERS)
    (tmp_path / "file").write_text("from a file\nmore")
    monkeypatch.setenv("EMTAG_MQTT_PASSWORD", "from the environment")
    monkeypatch.setenv("EMTAG_UPLINK_PASSWORD_FILE", str(tmp_path / "file"))
    loaded = config.load(path)
    assert loaded.mqtt is not None and loaded.mqtt.read_password() == "from the environment"
    assert loaded.uplink[0].mqtt().read_password() == "from a file"
    for text in (repr(loaded), str(loaded), loaded.model_dump_json()):
        assert "from the environment" not in text
    monkeypatch.setenv("EMTAG_UPLINK_PASSWORD_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent: cannot read the password"):
        config.load(path).uplink[0].mqtt().read_password()


def test_a_password_does_not_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, BROKERS.replace('username = "g"', 'password = "hunter2"'))
    with pytest.raises(
        ConfigError, match=r"line \d+: mqtt\.password: a password does not stand in this file"
    ) as caught:
        config.load(path)
    assert "hunter2" not in str(caught.value)
    assert "EMTAG_MQTT_PASSWORD" in str(caught.value)
    assert os.environ.get("EMTAG_MQTT_PASSWORD") is None
