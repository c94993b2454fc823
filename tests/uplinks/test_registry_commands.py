"""Provisioning, key rotation, revocation and quarantine: by the commands, on a running gateway."""

import json
import stat
from pathlib import Path

import pytest
from emgate.commands import device_commands
from emgate.devices.registry import Device, Registry, read_device_file
from emgate.devices.registry_edit import edit
from emgate.errors import ConfigError
from emgate.keys.sealing import Ccm
from emwire import codec, envelope
from gateway_kit import DEVICE, KEY, GatewayProcess, Port, Tag, over_serial, status_record, toml
from uplink_kit import Site, emtag

STRANGER = DEVICE + 1


def sealed(
    epoch: int, sequence: int, key: bytes = KEY, kind: int = envelope.RECORD, plain: bytes | None = None
) -> bytes:
    control = envelope.control_byte(envelope.UP, kind, False)
    return envelope.seal(Ccm(key), STRANGER, control, epoch, sequence, plain or status_record(sequence))


async def test_a_strangers_frames_are_adopted_when_it_is_listed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start()
    for sequence in range(5):
        await site.sessions.received(site.wire, STRANGER, sealed(1, sequence))
    await site.sessions.received(site.wire, STRANGER, sealed(1, 9, plain=codec.Poll().encode(), kind=envelope.LINK))
    await site.sessions.received(site.wire, STRANGER, sealed(1, 5, key=bytes(16)))  # of another stranger
    await site.store.drain()
    site.clock.ms += 86_400_000
    listed = Device(device_id=STRANGER, model="pid", key=KEY.hex())
    await site.sessions.apply(Registry([*site.registry, listed]))
    records = await site.store.newest(100)
    assert [record.sequence for record in records] == list(range(5))
    assert {record.received_time_ms for record in records} == {site.clock.ms - 86_400_000}, "when they came"
    kept = await site.store.read(lambda c: c.execute("SELECT reason, frame FROM quarantine").fetchall())
    assert kept == [("unknown_device", sealed(1, 5, key=bytes(16)))], "what does not open stays as evidence"
    session = next(each for each in site.sessions if each.device.device_id == STRANGER)
    assert session.link.watermarks(1)[0] == 5
    await site.stop()


async def test_frames_quarantined_in_the_last_run_are_adopted_at_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start()
    await site.sessions.received(site.wire, STRANGER, sealed(1, 0))
    await site.stop()
    site.registry = Registry([*site.registry, Device(device_id=STRANGER, model="pid", key=KEY.hex())])
    await site.start()
    assert [record.sequence for record in await site.store.newest(9)] == [0]
    await site.stop()


async def test_a_revoked_device_is_refused_kept_and_released(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start()
    plain = Device(device_id=STRANGER, model="pid", key=KEY.hex())
    await site.sessions.apply(Registry([*site.registry, plain]))
    await site.sessions.received(site.wire, STRANGER, sealed(1, 0))
    await site.sessions.apply(Registry([*site.registry, plain.model_copy(update={"revoked": True})]))
    await site.sessions.received(site.wire, STRANGER, sealed(1, 1))
    await site.store.drain()
    assert site.sessions.refused == {"revoked": 1}
    assert not site.sessions.knows(STRANGER)
    assert len(await site.store.newest(9)) == 1
    await site.sessions.apply(Registry([*site.registry, plain]))
    assert [record.sequence for record in await site.store.newest(9)] == [0, 1]
    await site.stop()


async def test_devices_come_and_go_on_a_running_gateway(tmp_path: Path) -> None:
    port = Port()
    text = 'registry = "devices.toml"\n' + toml(links=f'[[serial]]\nport = "{port.path}"', devices=0)
    gateway = GatewayProcess(tmp_path, text)
    config = str(gateway.config)
    done = await emtag("gateway", "device", "add", "7", "--model", "pid", "--config", config)
    assert "no gateway runs" in done.stderr
    await gateway.start()

    async def listed() -> list[dict[str, object]]:
        return json.loads((await emtag("gateway", "device", "list", "--json", "--config", config)).stdout)

    identity = tmp_path / "identity.json"
    done = await emtag(
        "gateway", "device", "add", str(DEVICE), "--model", "ankle_gps", "--config", config, "--identity", str(identity)
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "key" not in done.stdout, "the key is in the file alone"
    key = bytes.fromhex(json.loads(identity.read_text())["key"])
    assert stat.S_IMODE(identity.stat().st_mode) == stat.S_IMODE((tmp_path / "devices.toml").stat().st_mode) == 0o600
    tag = Tag(tmp_path / "tag", key=key)
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until(lambda: len(tag.told) == 1)
        again = await emtag("gateway", "device", "add", str(DEVICE), "--model", "pid", "--config", config)
        assert (again.returncode, "listed already" in again.stderr) == (2, True)
        assert (await emtag("gateway", "device", "revoke", str(DEVICE), "--config", config)).returncode == 0
        tag.record(status_record(2))
        while {row["deviceId"]: row["quarantined"] for row in await listed()}[DEVICE] == 0:
            assert len(tag.told) == 1
        assert (await emtag("gateway", "device", "release", str(DEVICE), "--config", config)).returncode == 0
        await tag.until(lambda: len(tag.told) == 2)
        assert (await emtag("gateway", "device", "rotate-key", str(DEVICE), "--config", config)).returncode == 0
        twice = await emtag("gateway", "device", "rotate-key", str(DEVICE), "--config", config)
        assert (twice.returncode, "has not taken its last new key" in twice.stderr) == (2, True)
    # Another board under this number: with another key, above every boot that there are records of.
    again = tmp_path / "again.json"
    assert device_commands.add(gateway.config, str(DEVICE), "ankle_gps", None, again, replace=True) == 0
    replaced = json.loads(again.read_text())
    assert (replaced["first_epoch"], replaced["key"] != key.hex()) == (tag.link.epoch + 1, True)
    tag = Tag(tmp_path / "another", key=bytes.fromhex(replaced["key"]), epoch=replaced["first_epoch"])
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until_delivered()
    assert device_commands.add(gateway.config, "8", "ankle_gps", None, None, replace=True) == 2
    assert await gateway.stop() == 0
    assert {device.device_id for device in read_device_file(tmp_path / "devices.toml")} == {7, DEVICE}
    port.unplug()


def test_a_key_follows_from_no_other_and_from_no_number(tmp_path: Path) -> None:
    """Whoever reads one tag's key, or lists the same number again, knows nothing of another's."""
    keys = []
    for house in ("a", "b"):
        (tmp_path / house).mkdir()
        config = tmp_path / house / "gateway.toml"
        config.write_text('registry = "devices.toml"\n' + toml(links='[[serial]]\nport = "/dev/null"', devices=0))
        for number in range(1, 11):
            assert device_commands.add(config, str(number), "pid", None, None) == 0
            assert device_commands.rotate_key(config, str(number)) == 0
        for device in read_device_file(tmp_path / house / "devices.toml"):
            assert device.next_key is not None
            keys += [device.key, device.next_key]
    assert len(set(keys)) == len(keys) == 40
    ones = sum(byte.bit_count() for key in keys for byte in key)
    assert abs(ones - 40 * 64) < 8 * 36, "bits of random numbers: 2560, and 36 is their standard deviation"


def test_a_change_that_fails_leaves_the_registry_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "devices.toml"
    text = (
        f'[[devices]]  # a comment\ndevice_id = 5\nmodel = "home_unit"\nkey = "{KEY.hex()}"\n'
        f'[devices.configuration]\nversion = 2\nbeacons = [{{beacon_id = 9, key = "{KEY.hex()}"}}]\n'
    )
    path.write_text(text)
    with pytest.raises(ConfigError, match="device would be lost"):
        edit(path, lambda devices: devices.clear(), None)
    with pytest.raises(ConfigError, match=rf"^{path}: .*not hexadecimal"):
        edit(path, lambda devices: devices.append({"device_id": 6, "model": "pid", "key": "zz"}), None)
    assert path.read_text() == text
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".new")] == []
    before = read_device_file(path)
    edit(path, lambda devices: devices.append({"device_id": 6, "model": "pid", "key": KEY.hex()}), None)
    assert read_device_file(path)[:1] == before
