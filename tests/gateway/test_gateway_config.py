"""Configuration: what is wrong is named with its file, its line or field, and what to do."""

import asyncio
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from emgate import config
from emgate.clock import SharedClock, SystemClock
from emgate.errors import ConfigError
from gateway_kit import DEVICE, KEY, GatewayProcess, Port, toml

GOOD = toml(links='[mqtt]\nhost = "localhost"')


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD + "[store]\nkeep_delivered_days = 3\n"))
    assert loaded.gateway.state_directory == tmp_path / "state", "relative to the file"
    assert loaded.mqtt is not None and loaded.mqtt.port == 1883
    device = loaded.make_registry().get(DEVICE)
    assert device is not None and device.key == KEY
    assert KEY.hex() not in repr(loaded) and repr(KEY) not in repr(loaded), "keys stay out of logs"
    assert KEY.hex() not in loaded.model_dump_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\nid = 'a'\nid = 'b'\n", r"not valid TOML: .*line 3"),
        (GOOD.replace("[gateway]", "[gatewy]"), r"gatewy: unknown key; did you mean 'gateway'\?"),
        (GOOD.replace("host =", "hosst ="), r"mqtt\.hosst: unknown key; did you mean 'host'\?"),
        (GOOD.replace("host =", "hosst ="), r"mqtt\.host: missing; add it"),
        (GOOD.replace(KEY.hex(), "abc"), r"devices\[0\]\.key: not hexadecimal; write the key as 32 hexadecimal digits"),
        (GOOD.replace("ankle_gps", "ankel"), r"devices\[0\]\.model: .*'ankle_gps'"),
        (GOOD.replace(f"device_id = {DEVICE}", "device_id = -1"), r"devices\[0\]\.device_id: "),
        (GOOD.replace('[mqtt]\nhost = "localhost"', ""), r"no link; add \[\[serial\]\], \[mqtt\] or \[ble\]"),
        (GOOD.replace("uncertainty_ms = 7", 'source = "shared"'), r"clock: .*needs path"),
        (GOOD + '[uplink]\nkind = "carrier pigeon"\n', r"uplink\.kind: .*'local', 'mqtt' or 'https'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    """Besides what tests/operations/test_check.py lists."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        config.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_registry_file(tmp_path: Path) -> None:
    text = 'registry = "devices.toml"\n' + GOOD
    loaded = config.load(write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"devices\.toml: cannot read the device registry"):
        loaded.make_registry()
    (tmp_path / "devices.toml").write_text(
        f'[[devices]]\ndevice_id = 5\nmodel = "home_unit"\nkey = "{KEY.hex()}"\n'
        "[devices.configuration]\nversion = 2\nfix_interval_s = 30\n"
        f'beacons = [{{beacon_id = 9, key = "{KEY.hex()}"}}]\n'
    )
    registry = loaded.make_registry()
    assert sorted(device.device_id for device in registry) == [5, DEVICE]
    settings = registry.get(5).configuration
    assert settings is not None and settings.beacons[0].key == KEY
    (tmp_path / "devices.toml").write_text("[[devices]]\ndevice_id = 5\n")
    with pytest.raises(ConfigError, match=r"devices\.toml: line 1: devices\[0\]\.model: missing; add it"):
        loaded.make_registry()


def test_the_shared_clock_is_what_its_owner_writes(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    path.write_bytes(struct.pack("<q", 1_780_000_000_000))
    clock = SharedClock(path)
    assert clock.now_ms() == 1_780_000_000_000
    with path.open("r+b") as file:
        file.write(struct.pack("<q", 1_780_000_000_777))
    assert (clock.now_ms(), clock.uncertainty_ms()) == (1_780_000_000_777, 1)
    with pytest.raises(ConfigError, match="must exist and hold 8 bytes"):
        config.ClockSection(source="shared", path=tmp_path / "absent").make()
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(ConfigError, match="must exist and hold 8 bytes"):
        config.ClockSection(source="shared", path=tmp_path / "short").make()


def test_the_system_clock_gives_a_bound() -> None:
    assert SystemClock(12).uncertainty_ms() == 12
    assert 1 <= SystemClock().uncertainty_ms() <= 65535


@pytest.mark.parametrize("text", [GOOD.replace("host =", "hosst ="), 'registry = "absent.toml"\n' + GOOD])
def test_the_command_ends_with_status_2_and_words(tmp_path: Path, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emgate.cli", "gateway", "run", "--config", str(write(tmp_path, text))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("emtag gateway: ")


async def test_two_gateways_do_not_share_a_state_directory(tmp_path: Path) -> None:
    port = Port()
    gateway = GatewayProcess(
        tmp_path, toml(links=f'[[serial]]\nport = "{port.path}"', extra='ready_file = "made/ready"')
    )
    facts = await gateway.start()
    assert json.loads((tmp_path / "made" / "ready").read_text()) == facts
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "emgate.cli", "gateway", "run", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 2
    assert "in use by another gateway" in second.stderr
    assert await gateway.stop() == 0
