"""The operator's page names every counter, and the threat model every test that it leans on."""

import re
from pathlib import Path

import pytest
from certificates import Authority
from emgate import config
from emgate.commands.check import check
from emgate.devices.registry_edit import render
from emgate.keys import key_source
from emgate.links.listening import NAMES
from emgate.links.serial_port import LINE_ERRORS

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
DAEMON = [
    path
    for path in sorted((ROOT / "gateway" / "emgate").rglob("*.py"))
    if not {"backend", "captures"} & set(path.parts) and path.name not in ("decode.py", "trails.py")
]
COUNTERS = re.compile(r"(?:counters|statistics|refused)\[([^\]]+)\]")
REFUSALS = re.compile(r'_(?:refuse|failed|drop)\((?:[^()"]|\([^()]*\))*?"([a-z_]+)"', re.DOTALL)


def counted() -> set[str]:
    """Every name that the daemon counts under, as far as it stands in the source in one piece."""
    names = {*NAMES.values(), *LINE_ERRORS.values()}
    for path in DAEMON:
        text = path.read_text(encoding="utf-8")
        for inside in COUNTERS.findall(text):
            names |= set(re.findall(r'"([a-z_]+)"', inside)) if not inside.startswith("f") else set()
        names |= {name for name in REFUSALS.findall(text) if "_" in name or name in ("connection", "timeout")}
    return names


def test_every_counter_is_explained() -> None:
    names = counted()
    assert {"stored", "commit_failed", "lost_at_stop", "wrong_device", "deaf_busy_ms", "back"} <= names
    explained = set(re.findall(r"`([a-z_]+)`", OPERATIONS))
    assert sorted(names - explained) == []


def test_every_metric_is_explained_and_every_alarm_is_on_one() -> None:
    source = (ROOT / "gateway" / "emgate" / "operation" / "metrics.py").read_text(encoding="utf-8")
    made = set(re.findall(r'"(emtag_[a-z_]+)"', source))
    assert "emtag_store_commit_seconds" in made
    named = set(re.findall(r"emtag_[a-z_]+", OPERATIONS))
    bare = {name.removesuffix("_total") for name in named}
    assert {name for name in made if name not in bare} == set()
    for kind in ("link", "uplink"):
        assert {f"emtag_{kind}_up", f"emtag_{kind}_restarts_total", f"emtag_{kind}_total"} <= named
    families = made | {f"emtag_{kind}{rest}" for kind in ("link", "uplink") for rest in ("", "_up", "_restarts")}
    families |= {"emtag_link_listened_seconds", "emtag_link_deaf_seconds"}
    assert {name for name in bare if name not in families} == set()


def test_every_variable_of_the_environment_is_named() -> None:
    for name in (*config.ENVIRONMENT, key_source.PASSPHRASE, key_source.PASSPHRASE_FILE, key_source.CREDENTIAL):
        assert f"`{name}`" in OPERATIONS
    for name in config.ENVIRONMENT:
        assert f"`{name}_FILE`" in OPERATIONS


def test_the_example_of_a_configuration_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, in folders of the test; its certificates and secrets are there, its servers are not."""
    (text,) = re.findall(r"```toml\n(registry = .*?)```", OPERATIONS, re.DOTALL)
    for folder in ("etc/emtag", "var/lib/emtag", "run/emtag-key"):
        (tmp_path / folder).mkdir(parents=True, mode=0o700)
        text = text.replace(f'"/{folder}', f'"{tmp_path / folder}')
    for host in ("mqtt.example", "em.example"):
        text = text.replace(host, "127.0.0.1")
    authority = Authority(tmp_path / "etc" / "emtag", "ca")
    certificate, _ = authority.issue("gw-0042")
    certificate.rename(certificate.with_suffix(".pem"))
    (tmp_path / "etc/emtag/token").write_text("0123456789abcdef\n")
    (tmp_path / "run/emtag-key/passphrase").write_text("correct horse battery\n")
    for path in (tmp_path / "etc/emtag").iterdir():
        path.chmod(0o600)
    for name in ("CREDENTIALS_DIRECTORY", key_source.PASSPHRASE, key_source.PASSPHRASE_FILE, *config.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    vault = config.load(file).open_vault(create=True)
    assert vault is not None
    listed = {"device_id": 0x30000007, "model": "pid", "key": vault.seal_key(0x30000007, "key", bytes(16))}
    home = {"device_id": 0x10000001, "model": "home_unit", "key": vault.seal_key(0x10000001, "key", bytes(range(16)))}
    # The home unit's entry as the page has it: its beacon's key is the text of the pid's own entry.
    (entry,) = re.findall(r"```toml\n( +\[\[devices\]\].*?)```", OPERATIONS, re.DOTALL)
    entry = entry.replace("sealed:…", str(home["key"]), 1).replace("sealed:…", str(listed["key"]), 1)
    (tmp_path / "var/lib/emtag/devices.toml").write_text(render([listed]) + entry)
    assert check(file) == 0, capsys.readouterr().out
    told = config.load(file).make_registry().get(0x10000001)
    assert told is not None and told.configuration is not None
    assert [(each.beacon_id, each.key) for each in told.configuration.beacons] == [(0x30000007, bytes(16))]
    moved = text.replace("registry = ", "# ", 1).replace("[mqtt]", f'registry = "{tmp_path}/devices.toml"\n[mqtt]')
    file.write_text(moved)
    assert check(file) == 2
    assert "ble.registry: unknown key: registry stands above the first table" in capsys.readouterr().out


def leaned_on() -> list[tuple[str, str]]:
    return re.findall(r"`((?:tests|hil_tests)/[\w/]+\.py)::(\w+)`", SECURITY)


def test_the_threat_model_is_about_everybody() -> None:
    for who in (
        "wearer", "neighbour with a radio", "network attacker", "stolen gateway", "supplier insider",
        "compromised broker",
    ):  # fmt: skip
        assert re.search(rf"^## .*{who}", SECURITY, re.MULTILINE | re.IGNORECASE), who
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 20
    for row in rows:
        assert "::" in row or "**no**" in row, f"neither a test nor a plain no: {row}"


@pytest.mark.parametrize(("path", "name"), sorted(set(leaned_on())))
def test_a_test_that_the_threat_model_leans_on_exists(path: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
