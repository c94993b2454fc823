"""A new configuration reaches a running gateway: what changed is changed, and nothing else notices."""

import asyncio
import contextlib
import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from emgate.brokers import broker as brokers
from emgate.commands import device_commands
from emgate.commands.check import check
from emgate.operation import running
from gateway_kit import (
    DEVICE,
    KEY,
    PATIENCE_S,
    GatewayProcess,
    Port,
    Tag,
    identities,
    over_serial,
    status_record,
    toml,
)

OTHER_KEY = bytes(range(100, 116))


def listed(device_id: int, key: bytes, extra: str = "") -> str:
    return f'[[devices]]\ndevice_id = {device_id}\nmodel = "ankle_gps"\nkey = "{key.hex()}"\n{extra}'


def serial(*ports: Port, extra: str = "") -> str:
    return "".join(f'[[serial]]\nport = "{port.path}"\n{extra}' for port in ports)


async def status_when(gateway: GatewayProcess, condition: Any) -> dict[str, Any]:
    path = gateway.folder / "state" / "status.json"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if path.exists() and condition(facts := json.loads(path.read_text())):
                return dict(facts)
            await asyncio.sleep(0.05)


async def reload(gateway: GatewayProcess, text: str | None = None) -> tuple[int, str]:
    """As an operator does, by what the command calls."""
    if text is not None:
        gateway.config.write_text(text)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = await asyncio.to_thread(running.reload, gateway.config)
    return status, said.getvalue()


async def test_only_the_changed_link_restarts_and_registry_limits_and_log_level_are_applied(tmp_path: Path) -> None:
    kept, changed, added = Port(), Port(), Port()
    tag, stranger = Tag(tmp_path / "tag"), Tag(tmp_path / "stranger", device_id=DEVICE + 9, key=OTHER_KEY)
    gateway = GatewayProcess(tmp_path, 'registry = "devices.toml"\n' + toml(links=serial(kept, changed), devices=0))
    registry = tmp_path / "devices.toml"
    registry.write_text(listed(DEVICE, KEY))
    await gateway.start()
    async with over_serial(tag, kept), over_serial(stranger, added):
        tag.record(status_record(1))
        await tag.until_delivered()
        registry.write_text(
            listed(DEVICE, KEY, "[devices.configuration]\nversion = 7\n") + listed(DEVICE + 9, OTHER_KEY)
        )
        links = serial(kept) + serial(changed, extra="baud_rate = 9600\n") + serial(added)
        text = 'registry = "devices.toml"\n' + toml(links=links, devices=0, extra='log_level = "debug"')
        status, words = await reload(gateway, text + "[store]\nmaximum_bytes = 5_000_000\n")
        assert status == 0, words
        for what in (f"device {DEVICE}", f"device {DEVICE + 9}", "gateway", "store", changed.path, added.path):
            assert what in words
        assert kept.path not in words
        # The device of the link that was left alone goes on in its session and hears of its configuration.
        tag.record(status_record(2))
        await tag.until(lambda: any(message[0] == 0x82 and message[1] == 7 for message in tag.messages))
        await tag.until_delivered()
        stranger.record(status_record(3))
        await stranger.until_delivered()
    facts = await status_when(gateway, lambda facts: facts["stored"] == 3)
    links_by_name = {link["name"]: link for link in facts["links"]}
    assert links_by_name[f"serial:{kept.path}"]["restarts"] == {}
    assert facts["reload"]["applied"] is True
    log = (tmp_path / "log").read_text()
    assert log.count(f'"what": "serial:{kept.path}", "event": "up"') == 1
    assert log.count(f'"what": "serial:{changed.path}", "event": "up"') == 2
    assert await gateway.stop() == 0


LATER = """
[[uplink]]
name = "archive"
required = false
kind = "local"
database = "archive.sqlite"
"""


def target(facts: dict[str, Any], name: str) -> dict[str, Any]:
    return next((each for each in facts["uplink"] if each["target"] == name), {})


async def test_targets_come_go_and_change_while_links_and_the_other_targets_stay_up(tmp_path: Path) -> None:
    """Two targets, of which one does not answer: what only that one lacks is not delivered, until it is taken out."""
    port, broker = Port(), brokers.start_broker("mosquitto")
    silent = f'[[uplink]]\nname = "silent"\nkind = "mqtt"\nhost = "127.0.0.1"\nport = {broker.port}\n'
    links = serial(port) + f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    kept = '[[uplink]]\nname = "kept"\ndatabase = "kept.sqlite"\n'
    tag = Tag(tmp_path / "tag")
    gateway = GatewayProcess(tmp_path, toml(links=links, uplink=kept + silent))
    with broker:
        await gateway.start()
        async with over_serial(tag, port):
            for number in range(20):
                tag.record(status_record(number), alarm=number % 4 == 0)
            await tag.until(lambda: len(tag.told) == 20)
            await status_when(gateway, lambda facts: target(facts, "kept").get("records", 0) >= 20)
            assert tag.journal.undelivered, "nobody at the other end of the one target has taken anything"
            # One is added, and one that is there gets another section: it is made anew, and goes on from its cursor.
            changed = silent.replace("[[uplink]]", "[[uplink]]\nbatch_records = 10")
            status, words = await reload(gateway, toml(links=links, uplink=kept + changed + LATER))
            assert (status, words) == (0, "reloaded: uplink silent, uplink archive\n")
            await status_when(gateway, lambda facts: target(facts, "archive").get("records", 0) >= 20)
            facts = await status_when(gateway, lambda facts: target(facts, "silent")["up"])
            assert (facts["delivered"], target(facts, "silent").get("records", 0)) == (0, 0)
            # The one that nobody serves is taken out: now everything counts as delivered, and its device hears of it.
            status, words = await reload(gateway, toml(links=links, uplink=kept + LATER))
            assert status == 0
            assert re.fullmatch(
                r"reloaded: uplink silent \(removed; nothing .*, it lacked \d\d rows at most\)\n", words
            )
            await tag.until_delivered()
            tag.record(status_record(100))
            await tag.until_delivered()
            # The other one is required from now on; nothing is restarted for it.
            status, words = await reload(gateway, toml(links=links, uplink=LATER.replace("false", "true") + kept))
            assert (status, words) == (0, "reloaded: uplink archive\n")
            tag.record(status_record(101), alarm=True)
            await tag.until_delivered()
        facts = await status_when(gateway, lambda facts: facts["devices"][0]["delivered"] == 22)
        assert [each["target"] for each in facts["uplink"]] == ["archive", "kept"]
        assert [link["restarts"] for link in facts["links"]] == [{}, {}]
        assert facts["store"]["routine_waiting"] == facts["store"]["alarms_waiting"] == 0
        log = (tmp_path / "log").read_text()
        for name, times in ((f"serial:{port.path}", 1), (f"local:{tmp_path}/kept.sqlite", 1)):
            assert log.count(f'"what": "{name}", "event": "up"') == times
        assert log.count(f'"what": "mqtt:127.0.0.1:{broker.port}", "event": "up"') == 3, (
            "the link once, the target twice"
        )
        assert "an uplink target was removed: nothing waits for it any more" in log
        assert await gateway.stop() == 0
    everything = [(DEVICE, 1, sequence) for sequence in range(22)]
    assert identities(tmp_path / "kept.sqlite") == identities(tmp_path / "archive.sqlite") == everything
    # As after a restart: nothing is waited for, and nothing is delivered twice.
    await gateway.start()
    facts = await status_when(gateway, lambda facts: facts["ready"])
    assert (facts["devices"][0]["delivered"], facts["store"]["routine_waiting"]) == (22, 0)
    assert await gateway.stop() == 0


async def test_metrics_log_file_and_update_rate_change_while_it_runs(tmp_path: Path) -> None:
    port = Port()
    text = toml(links=serial(port))
    gateway = GatewayProcess(tmp_path, text)
    await gateway.start()
    more = '[http]\nsocket = "http"\n[updates]\nbytes_per_s = 1000\n'
    new = toml(links=serial(port), extra='log_file = "new/log"') + more
    status, words = await reload(gateway, new)
    assert (status, words) == (0, "reloaded: gateway, updates, http\n")
    async with asyncio.timeout(PATIENCE_S):
        while not (tmp_path / "http").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert '"event": "reloaded"' in (tmp_path / "new" / "log").read_text()
    status, words = await reload(gateway, text)
    assert (status, words) == (0, "reloaded: gateway, updates, http\n")
    async with asyncio.timeout(PATIENCE_S):
        while (tmp_path / "http").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    (tmp_path / "file").touch()
    status, words = await reload(gateway, toml(links=serial(port), extra='log_file = "file/log"'))
    assert status == 2 and "log_file: cannot write" in words
    for wrong, more in (
        ('ready_file = "file/x"', ""),
        ("", '[http]\nsocket = "file/x"'),
        ("", '[http]\nsocket = "file"'),
    ):
        status, words = await reload(gateway, toml(links=serial(port), extra=wrong) + more)
        assert status == 2 and re.search(r"line \d+: (gateway.ready_file|http.socket): cannot write .*file", words), (
            words
        )
    assert await gateway.stop() == 0


WRONG = [
    ('"gw-test"', '"gw/test"', "line 3: gateway.id"),
    ("status_interval_s = 0.2", "status_interval_s = -1", "line 5: gateway.status_interval_s"),
    ("host = ", 'shared_group = "a"\nshared_place = 1\nhost = ', "line 14: mqtt.shared_place cannot change"),
    ('"gw-test"', '"other"', "line 3: gateway.id cannot change while the gateway runs: restart it, or change back"),
    ("uncertainty_ms = 7", "uncertainty_ms = 8", "line 9: clock.uncertainty_ms cannot change while"),
    ("[mqtt]", '[uplink]\nkind = "https"\nhttps = {url = "https://x", token_file = "a"}\n[mqtt]', "the token"),
]


async def test_a_wrong_file_is_refused_with_its_reason_and_the_old_one_stays(tmp_path: Path) -> None:
    port, tag = Port(), Tag(tmp_path / "tag")
    good = toml(links=serial(port) + '[mqtt]\nhost = "127.0.0.1"\nport = 1\n')
    gateway = GatewayProcess(tmp_path, good)
    await gateway.start()
    async with over_serial(tag, port):
        for old, new, words in WRONG:
            status, said = await reload(gateway, good.replace(old, new))
            assert (status, words in said) == (2, True), (words, said)
        # A signal alone is refused as well, and told in the status and the log.
        facts = await status_when(gateway, lambda facts: words in (facts["reload"]["reason"] or ""))
        count = facts["reload"]["count"]
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        facts = await status_when(gateway, lambda facts: facts["reload"]["count"] > count)
        assert facts["reload"]["applied"] is False
        assert words in facts["reload"]["reason"]
        assert "refused; the old one stays in force" in (tmp_path / "log").read_text()
        tag.record(status_record(1))
        await tag.until_delivered()
        status, said = await reload(gateway, good)
        assert (status, said) == (0, "reloaded: nothing has changed\n")
    assert await gateway.stop() == 0


async def test_a_revoked_device_is_a_stranger_and_a_changed_key_counts_at_once(tmp_path: Path) -> None:
    port = Port()
    tag = Tag(tmp_path / "tag")
    gateway = GatewayProcess(tmp_path, toml(links=serial(port), devices=2))
    await gateway.start()
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until_delivered()
        revoked = toml(links=serial(port), devices=0) + listed(DEVICE + 1, KEY)
        assert (await reload(gateway, revoked))[0] == 0
        tag.record(status_record(2))
        await status_when(gateway, lambda facts: facts["refused"].get("unknown_device", 0) > 0)
        wrong_key = revoked + listed(DEVICE, OTHER_KEY)
        assert (await reload(gateway, wrong_key))[0] == 0
        await status_when(gateway, lambda facts: facts["refused"].get("authentication", 0) > 0)
        assert (await reload(gateway, revoked + listed(DEVICE, KEY)))[0] == 0
        await tag.until_delivered()
    facts = await status_when(gateway, lambda facts: facts["devices"][-1]["stored"] == 2)
    assert facts["devices"][-1]["delivered"] == 2, "what was stored before the revocation was not forgotten"
    assert await gateway.stop() == 0


def test_no_gateway_to_reload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(toml(links='[[serial]]\nport = "/dev/null"'))
    assert running.reload(config) == 3
    assert "no gateway runs on" in capsys.readouterr().err


async def test_a_configuration_that_no_device_would_be_sent_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device goes by the version alone: what changes under the same one would be called applied, and never sent."""
    port, tag = Port(), Tag(tmp_path / "tag")
    text = 'registry = "devices.toml"\n' + toml(links=serial(port), devices=0)
    gateway = GatewayProcess(tmp_path, text)
    registry = tmp_path / "devices.toml"

    def listing(version: int, beacon: int, key: bytes = KEY, **more: int) -> str:
        settings = f'version = {version}\nbeacons = [{{ beacon_id = {beacon}, key = "{key.hex()}" }}]\n'
        settings += "".join(f"{name} = {value}\n" for name, value in more.items())
        return listed(3, KEY) + listed(DEVICE, KEY, f"[devices.configuration]\n{settings}")

    registry.write_text(listing(2, 7))
    await gateway.start()
    async with over_serial(tag, port):
        tag.record(status_record(1, configuration_version=2))
        await tag.until_delivered()
        for wrong in (listing(2, 8), listing(1, 8), listing(2, 7, OTHER_KEY), listing(2, 7, report_interval_s=9)):
            registry.write_text(wrong)
            status, words = await reload(gateway)
            assert status == 2, words
            assert f"{registry}: line 9: device {DEVICE}: another configuration under version" in words
            assert words.endswith("; write version = 3\n")
        capsys.readouterr()
        assert await asyncio.to_thread(check, gateway.config) == 2
        assert (
            "another configuration under version 2, which the device would never be sent: write version = 3"
            in capsys.readouterr().out
        )
        # Nor does another change of that device bring it in.
        for revoked in (True, False):
            assert await asyncio.to_thread(device_commands.set_revoked, gateway.config, str(DEVICE), revoked) == 0
            assert (await reload(gateway))[0] == 2
        registry.write_text(registry.read_text().replace("version = 2", "version = 3"))
        assert (await reload(gateway))[0] == 0
        assert await asyncio.to_thread(check, gateway.config) == 0
        tag.record(status_record(2, configuration_version=2))
        await tag.until(lambda: any(message[0] == 0x82 and message[1] == 3 for message in tag.messages))
    assert await gateway.stop() == 0
