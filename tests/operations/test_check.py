"""`emtag gateway check`: what is wrong is found before a start, with its line and what to do."""

import asyncio
import json
import os
import re
import socket
import sqlite3
import tempfile
from pathlib import Path

import pytest
from emgate import config, systemd
from emgate.commands import check as check_command
from emgate.commands import device_commands
from emgate.commands.check import check
from emgate.commands.run_commands import run_gateway
from emgate.errors import ConfigError
from emgate.gateway_number import device_id_of
from emgate.keys import key_source, secret_place, vault
from emgate.systemd import confines
from emgate.toml_lines import Lines
from gateway_kit import DEVICE, KEY, GatewayProcess, Port, toml
from hypothesis import given
from hypothesis import strategies as st

GATEWAYS_USER = 54321


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
    assert [each["place"] for each in findings] == [f"{path}: line 14: protection.at_rest"], (
        "warned that nothing is sealed"
    )
    assert check(path) == 0
    assert "protection.at_rest: nothing is sealed at rest" in capsys.readouterr().out


SERIAL = '[[serial]]\nport = "/dev/null"\n'
MQTT = '[mqtt]\nhost = "h"\n'
OWN_BROKER = "[uplink]\nkind = 'mqtt'\n[uplink.broker]\nhost = 'h'\nclient_id = '{}'\n"
GUARDED = "[uplink]\nguarded_disk = true"
UPLINK = '[[uplink]]\nname = "{}"\nkind = "mqtt"\nhost = "h"\n'
WRONG = [
    ("", "[clock", "not valid TOML"),
    ("[gatewy]\n", "", "gatewy: unknown key"),
    ("", "", "gateway: no link"),
    (f"{SERIAL}[[serial]]\nport = 7\n", "", r"serial\[1\].port: it should be a valid string"),
    (f"{SERIAL}{SERIAL}", "", r"serial\[1\]: serial port /dev/null is listed twice"),
    ('[serial]\nport = "/dev/null"\n', "", "serial: it should be a valid tuple"),
    ("serial = 5\n", "", "serial: it should be a valid tuple"),
    ("[[serial]]\n", "", r"serial\[0\]: no port"),
    ("[[serial]]\nmatch = {}\n", "", r"serial\[0\].match: nothing to match"),
    (f"{SERIAL}baud_rate = 5\n", "", "baud_rate: it should be greater"),
    (f"{SERIAL}baud_rate = 9600.5\n", "", "baud_rate: it should be a valid integer"),
    ("[mqtt]\n", "", "mqtt.host: missing"),
    ('[mqtt]\nhost = ""\n', "", "mqtt.host: "),
    (f"{MQTT}port = true\n", "", "mqtt.port: it should be a valid integer"),
    (f"{MQTT}port = 65536\n", "", "mqtt.port: it should be less"),
    (f"{MQTT}key_file = 'k'\n", "", "mqtt.key_file: key_file alone"),
    (f"{MQTT}certificate_file = 'c'\nkey_file = 'k'\n", "", "mqtt.certificate_file: no TLS without ca_file"),
    (f"{MQTT}ca_file = 5\n", "", "mqtt.ca_file: "),
    (f"{MQTT}protocol = '4'\n", "", "mqtt.protocol: it should be '3.1.1' or '5'"),
    (f"{MQTT}client_id = 'a/b'\n", "", "mqtt.client_id: no name"),
    (f"{MQTT}password_file = 'p'\n", "", "mqtt.password_file: a password without username is never sent"),
    (f"{MQTT}shared_group = 'a'\n", "", "mqtt: one of shared_group and shared_place alone"),
    (f"{MQTT}password = 'p'\n", "", "mqtt.password: a password does not stand in this file"),
    ("", "mqtt = 5\n", "mqtt: it should be"),
    ("[ble]\ntransport = 'nonsense'\n", "", "ble.transport: no adapter of BlueZ"),
    ("[ble]\nbackend = 'bumble'\ntransport = 'nonsense'\n", "", "ble.transport: no HCI transport"),
    ("[ble]\nbackend = 'bumble'\npair = true\n", "", "ble.pair: only BlueZ pairs"),
    ("[ble]\npair = 1\n", "", "ble.pair: it should be a valid boolean"),
    (SERIAL, "[limits]\nlink_frames_per_s = inf\n", "link_frames_per_s: it should be a finite number"),
    (SERIAL, "[limits]\nlink_frames_per_s = 0\n", "link_frames_per_s: it should be greater"),
    (SERIAL, "[limits]\nlink_frames_per_s = '1'\n", "link_frames_per_s: it should be a valid number"),
    (SERIAL, "[uplink]\nhost = 'h'\n", r'uplink.host: host is for kind = "mqtt"'),
    (SERIAL, "[uplink]\nkind = 'mqtt'\n", "uplink: .*needs host"),
    (SERIAL, "[uplink]\nkind = 'mqtt'\nhost = 'h'\n[uplink.broker]\nhost = 'h'\n", "uplink.host: host, and a table"),
    (SERIAL, "[uplink]\nkind = 'mqtt'\nport = 1883\n[uplink.broker]\nhost = 'h'\n", "uplink.port: port, and a table"),
    (f"{MQTT}client_id = 'a'\n", OWN_BROKER.format("a"), "uplink.broker.client_id: two clients of h are called 'a'"),
    (SERIAL, "[uplink]\nkind = 'https'\n", "uplink: .*needs its target"),
    (SERIAL, "[uplink]\nkind = 'https'\n[uplink.https]\nurl = 'https://h'\n", "uplink: the backend would not know us"),
    (SERIAL, "[uplink]\nkind = 'https'\n[uplink.https]\nurl = 'http://h'\n", "uplink.https.url: no address"),
    (SERIAL, "[uplink]\nkind = 'https'\n[uplink.https]\nurl = 'https://h'\nkey_file = 'k'\n", "key_file alone"),
    (SERIAL, "[uplink]\n[uplink.metered]\nbytes_per_day = 10000\n", "uplink.metered: .*costs nothing"),
    (SERIAL, "[uplink]\nkind = 'mqtt'\nhost = 'h'\n[uplink.metered]\n", "uplink.metered: no limit"),
    (SERIAL, "uplink = []\n", "uplink: .*at least 1 item"),
    (SERIAL, UPLINK.format("a") * 2, r"uplink\[1\]: two uplinks are called 'a'"),
    (SERIAL, "[uplink]\nrequired = false\n", "uplink.required: no uplink is required"),
    (SERIAL, "[http]\n", "http: no place to serve at"),
    (SERIAL, "[http]\nport = 9410\naddress = '0.0.0.0'\n", "http: address '0.0.0.0' is not a loopback address"),
    (SERIAL, "[protection]\nat_rest = 'no'\n", "protection.at_rest: "),
    (SERIAL, "[store]\nmaximum_bytes = 1\n", "store.maximum_bytes: "),
    (SERIAL, f"[[devices]]\ndevice_id = {DEVICE}\nmodel = 'pid'\nkey = '{KEY.hex()}'\n", "is listed twice"),
    (SERIAL, "[[devices]]\ndevice_id = 1\nmodel = 'pid'\nkey = 5\n", r"devices\[1\].key: not in quotes"),
    (SERIAL, "[[devices]]\ndevice_id = 1\nmodel = 'pid'\nkey = 'abcd'\n", r"devices\[1\].key: 2 bytes long"),
    (SERIAL, "[[devices]]\ndevice_id = 1\nmodel = 'pid'\nkey = 'x'\n", r"devices\[1\].key: not hexadecimal"),
    (SERIAL, "[[devices]]\ndevice_id = 1\nmodel = 'ankel'\n", r"devices\[1\].model: "),
    # What the file is right about, and the machine is not.
    (f'{MQTT}ca_file = "absent"\n', "", "mqtt.ca_file: .*cannot load the certificate"),
    (f'{MQTT}username = "g"\npassword_file = "absent"\n', "", "mqtt.password_file: .*cannot read the password"),
    (SERIAL, "[uplink]\nkind = 'https'\n[uplink.https]\nurl = 'https://h'\ntoken_file = 'x'\n", "https.token_file: "),
    (SERIAL, "[uplink]\ndatabase = 'gateway.toml/x'\n", "uplink.database: .*cannot be written to"),
    (SERIAL, "[http]\nsocket = 'gateway.toml/x'\n", "http.socket: .*cannot be written to"),
    (SERIAL, "[http]\nsocket = 'gateway.toml'\n", "http.socket: .*gateway.toml is there, and is no socket"),
    (SERIAL, "[protection]\n", "protection.at_rest: no secret to"),
    (SERIAL, "[protection]\nat_rest = 'required'\n", "protection.at_rest: no secret"),
    (SERIAL, "# [protection]\n", r"line 2: protection.at_rest \(by default\): no secret to"),
    ('[[serial]]\nport = "gateway.toml"\n', "", "is not a serial port"),
]  # fmt: skip


@pytest.mark.parametrize(("links", "more", "words"), WRONG, ids=[words for _, _, words in WRONG])
def test_every_error_names_line_and_remedy(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    links: str,
    more: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    protection = {} if "[protection]" not in more else {"protection": ""}
    path = write(tmp_path, toml(links="" if links.startswith("serial") else links, **protection) + more)
    if links.startswith("serial"):
        path.write_text(links + path.read_text())
    elif more.startswith(("uplink =", "mqtt =")):
        path.write_text(more + path.read_text().replace(more, ""))
    status, findings = found(path, capsys)
    assert status == 2
    for each in findings:
        if each["level"] == "error":
            assert re.search(r"line \d+", each["place"] + each["problem"]), each
            assert each["remedy"], each
    wrong = [f"{each['place']}: {each['problem']}" for each in findings]
    assert any(re.search(words, each) for each in wrong), wrong


@pytest.mark.parametrize(
    ("links", "more", "words"),
    [
        ("uncertainty_ms = 7", 'source = "shared"\npath = "absent"', "clock.path: cannot map"),
        ("[clock]", 'log_file = "gateway.toml/log"\n[clock]', "gateway.log_file: .*cannot be written to"),
        ("[clock]", 'ready_file = "gateway.toml/ready"\n[clock]', "gateway.ready_file: .*cannot be written to"),
        ('"state"', '"gateway.toml"', "gateway.state_directory: .*is no folder"),
        ('id = "gw-test"\n', "", "gateway.id: missing"),
        ('"gw-test"', '"gw/test"', "gateway.id: no name"),
        ("restart_maximum_s = 0.2", "restart_maximum_s = nan", "restart_maximum_s: it should be a finite number"),
        ('[gateway]', 'registry = "absent"\n[gateway]', "registry: cannot read the device registry"),
    ],
)  # fmt: skip
def test_so_does_one_that_would_only_show_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], links: str, more: str, words: str
) -> None:
    """Each of these was a traceback, or a gateway that never got ready."""
    path = write(tmp_path, toml(links=SERIAL).replace(links, more))
    status, findings = found(path, capsys)
    assert status == 2
    (wrong,) = [each for each in findings if each["level"] == "error"]
    assert re.search(words, f"{wrong['place']}: {wrong['problem']}") and "line " in wrong["place"] and wrong["remedy"]
    assert run_gateway(path) == 2
    said = capsys.readouterr().err
    assert "emtag gateway: " in said and "Traceback" not in said


def test_a_device_twice_in_files_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, 'registry = "devices.toml"\n' + toml(links=SERIAL))
    entry = f'[[devices]]\ndevice_id = {{}}\nmodel = "pid"\nkey = "{KEY.hex()}"\n'
    for text, words in (
        (entry.format(5) * 2, r"devices\.toml: line 6: devices\[1\].device_id: device 5 .* is listed twice: remove"),
        (entry.format(DEVICE), r"devices\.toml: device \d+ is listed in the configuration too: remove"),
    ):
        (tmp_path / "devices.toml").write_text(text)
        (wrong,) = errors(found(path, capsys)[1])
        assert re.search(words, wrong), wrong


def test_root_looks_with_the_gateways_eyes(capsys: pytest.CaptureFixture[str]) -> None:
    """What root writes is the gateway's, and what only root could read is an error."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # not below a folder that is root's alone
        folder = Path(made)
        folder.chmod(0o755)
        path = write(folder, 'registry = "devices.toml"\n' + toml(links=SERIAL, devices=0, protection=""))
        path.chmod(0o644)
        (folder / "state").mkdir(mode=0o700)
        os.chown(folder / "state", GATEWAYS_USER, GATEWAYS_USER)
        secret = folder / "passphrase"
        secret.write_text("correct horse battery")
        path.write_text(path.read_text() + '[protection]\npassphrase_file = "passphrase"\n')
        assert device_commands.add(path, "5", "pid", None, None) == 0
        for name in ("devices.toml", ".devices.toml.lock", "state/keys.json"):
            assert (folder / name).stat().st_uid == GATEWAYS_USER, name
        os.chown(secret, GATEWAYS_USER, GATEWAYS_USER)
        capsys.readouterr()
        findings = [each for each in found(path, capsys)[1] if "uplink" not in each["place"] + each["problem"]]
        assert errors(findings) == []
        os.chown(folder / "devices.toml", 0, 0)
        secret.chmod(0o600)
        os.chown(secret, 0, 0)
        wrong = "\n".join(errors(found(path, capsys)[1]))
        for name in ("devices.toml", "passphrase"):
            assert f"{name} cannot be read by the gateway's user: give it to" in wrong
        os.chown(secret, 0, GATEWAYS_USER)
        for mode, remedy in ((0o640, None), (0o644, f"chmod 640 {secret}"), (0o660, f"chmod 640 {secret}")):
            secret.chmod(mode)
            remedies = [each["remedy"] for each in found(path, capsys)[1] if "others may read it" in each["problem"]]
            assert remedies == ([] if remedy is None else [remedy]), oct(mode)


@pytest.mark.parametrize("tpm", [True, False])
def test_a_credential_is_worth_what_seals_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tpm: bool
) -> None:
    """Without a TPM the host's key opens it, which lies on the same card; a shell knows by keys.json what was given."""
    port = Port()
    path = write(tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"', protection=""))
    monkeypatch.setattr(secret_place, "has_tpm", lambda: tpm)
    (tmp_path / key_source.CREDENTIAL).write_bytes(bytes(32))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    def told() -> list[str]:
        return [each["problem"] for each in found(path, capsys)[1] if "host's key" in each["problem"]]

    assert told() == ([] if tpm else [secret_place.HOST_KEY])
    vault.open_vault(tmp_path / "state", create=True)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert told() == ([] if tpm else [secret_place.HOST_KEY])


def test_a_passphrase_on_the_disk_that_it_protects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_place, "has_tpm", lambda: False)
    if (elsewhere := Path("/dev/shm")).stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    port = Port()
    text = toml(links=f'[[serial]]\nport = "{port.path}"', protection="")
    for folder, beside in ((tmp_path, True), (elsewhere, False)):
        with tempfile.NamedTemporaryFile("w", dir=folder) as file:
            file.write("correct horse battery")
            file.flush()
            path = write(tmp_path, f'{text}\n[protection]\npassphrase_file = "{file.name}"\n')
            problem = f"{file.name} lies on the disk that it is to protect"
            assert (problem in [each["problem"] for each in found(path, capsys)[1]]) is beside
            path = write(tmp_path, text)
            monkeypatch.setenv(key_source.PASSPHRASE_FILE, file.name)
            assert (problem in [each["problem"] for each in found(path, capsys)[1]]) is beside
            monkeypatch.setenv(key_source.PASSPHRASE, "correct horse battery")
            assert problem not in [each["problem"] for each in found(path, capsys)[1]], "not read from there"
            monkeypatch.delenv(key_source.PASSPHRASE)
            monkeypatch.delenv(key_source.PASSPHRASE_FILE)


def test_the_machine_is_looked_at_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_command, "find_spec", lambda name: None)  # as the documented install is
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
        gone.close()
        text = toml(
            links=f'[[serial]]\nport = "{tmp_path}/absent"\n[[serial]]\nport = "{tmp_path}/gateway.toml"\n'
            '[[serial]]\nmatch = {serial_number = "TYPO"}\n'
            '[ble]\nbackend = "bumble"\ntransport = "serial:/dev/ttyACM0"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {closed}\nusername = "g"\npassword_file = "password"\n'
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
    for words in (
        "is not a serial port",
        "bumble is not installed: `PIPX_HOME",
        "its schema 99 is newer",
        "MB are free on its disk",
        "cannot be served",
    ):
        assert words in wrong, words
    warned = "\n".join(f"{each['problem']}: {each['remedy']}" for each in findings if each["level"] == "warning")
    for words in (
        f"there is no {tmp_path}/absent now: plug", "TYPO; there is", "does not answer", "chmod 700",
        "password_file holds secrets", "the registry holds secrets", "the configuration holds secrets",
    ):  # fmt: skip
        assert words in warned, words
    sqlite3.connect(tmp_path / "state" / "store.sqlite").execute("PRAGMA user_version = 4")
    assert "its schema 4 is an earlier one" in "\n".join(each["problem"] for each in found(path, capsys)[1])


def test_what_the_installed_unit_forbids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit as shipped, with the folders of the test instead of the machine's."""
    units, disk, home = tmp_path / "units", tmp_path / "disk", tmp_path / "home"
    for folder in (units / f"{confines.UNIT}.d", disk, home, tmp_path / "var" / "emtag"):
        folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(confines, "PLACES", (units,))
    monkeypatch.setattr(confines, "OWN", {"StateDirectory": str(tmp_path / "var")})
    monkeypatch.setattr(confines, "HOMES", (home,))
    monkeypatch.setattr(confines, "TEMPORARY", ())
    (home / "ca.pem").write_text("…")
    text = toml(
        links='[mqtt]\nhost = "127.0.0.1"\nca_file = "home/ca.pem"',
        uplink='[uplink]\nkind = "local"\ndatabase = "disk/backend.sqlite"',
    )
    path = write(tmp_path, 'registry = "devices.toml"\n' + text.replace('"state"', '"var/emtag"'))
    (tmp_path / "devices.toml").write_text("devices = []")
    shipped = (Path(systemd.__file__).parent / confines.UNIT).read_text()

    def forbidden() -> str:
        return "\n".join(
            f"{each['level']}: {each['place']}: {each['problem']}: {each['remedy']}"
            for each in found(path, capsys)[1]
            if "the unit" in each["problem"]
        )

    (units / confines.UNIT).write_text(shipped)
    assert forbidden() == "", "it runs another configuration"
    (units / confines.UNIT).write_text(shipped.replace("/etc/emtag/gateway.toml", str(path)))
    said = forbidden()
    assert said.count("error") == 2 and "warning: " in said and "registry: the unit does not let" in said
    assert f"mqtt.ca_file: the unit keeps {home}/ca.pem from the gateway (ProtectHome=yes)" in said
    assert f"uplink.database: the unit does not let the gateway write to {disk} (ProtectSystem=strict): allow" in said
    (units / f"{confines.UNIT}.d" / "disk.conf").write_text(f"[Service]\nReadWritePaths={disk} -{tmp_path}\n")
    assert forbidden().count("error") == 1
    (units / f"{confines.UNIT}.d" / "home.conf").write_text("[Service]\nProtectHome=no\nReadWritePaths=\n")
    assert forbidden().count("error") == 1 and "ca_file" not in forbidden()


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


def test_a_registry_that_is_empty_and_one_that_names_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file may be one that was lost; the installation's says in so many words that there is none yet."""
    monkeypatch.setenv(key_source.PASSPHRASE, "correct horse battery")
    uplink = "[uplink]\nguarded_disk = true"
    path = write(tmp_path, 'registry = "devices.toml"\n' + toml(links=SERIAL, uplink=uplink, devices=0))
    registry = tmp_path / "devices.toml"
    registry.write_text("# nothing\n")
    _, findings = found(path, capsys)
    assert f"{registry}: line 1: it names no devices: restore it, or write `devices = []`" in errors(findings)
    assert run_gateway(path) == 2 and "line 1: it names no devices" in capsys.readouterr().err
    registry.write_text("devices = []\n")
    assert device_commands.seal_all(path) == 0, "what seals them writes none again"
    capsys.readouterr()
    _, findings = found(path, capsys)
    assert "no device is listed" in [each["problem"] for each in findings]
    assert str(registry) not in str(errors(findings))


def test_sealed_keys_without_those_that_they_were_sealed_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that was replaced, and keys.json forgotten: others must not be made in its place."""
    monkeypatch.setenv(key_source.PASSPHRASE, "correct horse battery")
    path = write(tmp_path, 'registry = "devices.toml"\n' + toml(links=SERIAL, uplink=GUARDED, devices=0))
    assert device_commands.add(path, "5", "pid", None, None) == 0
    saved = (tmp_path / "state" / vault.FILE).rename(tmp_path / "saved")
    words = "sealed, and this gateway has no keys at rest (keys.json); restore its state directory"
    capsys.readouterr()
    assert any(words.replace("; ", ": ") in each for each in errors(found(path, capsys)[1]))
    assert run_gateway(path) == 2
    assert device_commands.add(path, "6", "pid", None, None) == 2
    assert capsys.readouterr().err.count(words) == 2
    assert not (tmp_path / "state" / vault.FILE).exists()
    saved.rename(tmp_path / "state" / vault.FILE)
    assert device_commands.add(path, "6", "pid", None, None) == 0
    # So they do in the configuration itself.
    text = path.read_text().replace('registry = "devices.toml"', "") + (tmp_path / "devices.toml").read_text()
    path.write_text(text)
    capsys.readouterr()
    assert not any(words.split(";", 1)[0] in each for each in errors(found(path, capsys)[1]))
    (tmp_path / "state" / vault.FILE).unlink()
    assert any(words.split(";", 1)[0] in each for each in errors(found(path, capsys)[1]))


def test_a_device_with_the_gateways_own_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = device_id_of("gw-test")
    path = write(tmp_path, 'registry = "devices.toml"\n' + toml(links=SERIAL, devices=0))
    words = f"device {own} has the number of this gateway; give gateway.id or the device another"
    assert device_commands.add(path, str(own), "pid", None, None) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "devices.toml").exists()
    (tmp_path / "devices.toml").write_text(f'[[devices]]\ndevice_id = {own}\nmodel = "pid"\nkey = "{KEY.hex()}"\n')
    (wrong,) = errors(found(path, capsys)[1])
    assert f"line 4: gateway.id: {words.replace('; ', ': ')}" in wrong
    assert run_gateway(path) == 2 and words in capsys.readouterr().err


def test_a_missing_secret_and_an_unreadable_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = toml(links='[[serial]]\nport = "/dev/null"', protection="")
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
    assert any("uplink[1].https.token_file" in each and "cannot read the token" in each for each in errors(findings))
    (tmp_path / "token").write_text("0123456789abcdef\n")
    warned = [f"{each['place']}: {each['problem']}" for each in found(path, capsys)[1] if each["level"] == "warning"]
    for words in ("uplink[0]: 127.0.0.1", "uplink[1].https: 127.0.0.1", "the file holds secrets"):
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
    uplink='[uplink]\nkind = "mqtt"\n[uplink.broker]\nhost = "localhost"\nusername = "u"\n',
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
    with pytest.raises(ConfigError, match=r"line \d+: mqtt\.username: a password without username is never sent"):
        config.load(write(tmp_path, BROKERS.replace('username = "g"\n', "", 1)))
    write(tmp_path, BROKERS)
    monkeypatch.setenv("EMTAG_UPLINK_PASSWORD_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent: cannot read the password"):
        config.load(path).uplink[0].mqtt().read_password()


def test_every_uplink_has_its_own_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = '[[uplink]]\nname = "{}"\nkind = "https"\n[uplink.https]\nurl = "https://h"\n'
    token, other = "0123456789abcdef-a", "0123456789abcdef-b"
    monkeypatch.setenv("EMTAG_UPLINK_TOKEN", token)
    loaded = config.load(write(tmp_path, toml(links=SERIAL) + one.format("far-away")))
    assert loaded.uplink[0].https is not None and loaded.uplink[0].https.read_token() == token
    assert token not in repr(loaded) + loaded.model_dump_json()
    (tmp_path / "file").write_text(other + "\n")
    monkeypatch.setenv("EMTAG_UPLINK_FAR_AWAY_TOKEN", token)
    monkeypatch.setenv("EMTAG_UPLINK_NEAR_TOKEN_FILE", str(tmp_path / "file"))
    path = write(tmp_path, toml(links=SERIAL) + one.format("far-away") + one.format("near"))
    assert [each.https and each.https.read_token() for each in config.load(path).uplink] == [token, other]
    path = write(tmp_path, path.read_text() + 'token = "hunter2"\n')
    with pytest.raises(ConfigError, match=r"line \d+: uplink.1.\.https\.token: a token does not stand") as said:
        config.load(path)
    assert "EMTAG_UPLINK_NEAR_TOKEN" in str(said.value) and "hunter2" not in str(said.value)


def test_a_password_does_not_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, BROKERS.replace('username = "g"', 'password = "hunter2"'))
    with pytest.raises(
        ConfigError, match=r"line \d+: mqtt\.password: a password does not stand in this file"
    ) as caught:
        config.load(path)
    assert "hunter2" not in str(caught.value)
    assert "EMTAG_MQTT_PASSWORD" in str(caught.value)
    assert os.environ.get("EMTAG_MQTT_PASSWORD") is None
