"""The operator's page names every counter, and the threat model every test that it leans on."""

import re
from pathlib import Path

import pytest
from emgate import config
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
