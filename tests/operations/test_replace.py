"""A gateway is backed up while it runs, dies, and another machine takes its place: nothing is lost or comes twice."""

import shutil
import sqlite3
import subprocess
import sys
import venv
from contextlib import closing
from pathlib import Path

import pytest
from emgate.commands import device_commands
from emgate.keys import key_source
from gateway_kit import DEVICE, KEY, GatewayProcess, Port, Tag, identities, over_serial, status_record, toml

ROOT = Path(__file__).parents[2]


def back_up(store: Path, copy: Path) -> None:
    """As operations.md says, or the same by Python where the command is not installed."""
    if shutil.which("sqlite3") is not None:
        subprocess.run(["sqlite3", str(store), f".backup '{copy}'"], check=True, timeout=60)
        return
    with closing(sqlite3.connect(store)) as running, closing(sqlite3.connect(copy)) as made:
        running.backup(made)


async def test_a_dead_gateway_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed, with its secret; the backend is elsewhere and goes on."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / key_source.CREDENTIAL).write_text("5" * 64)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    port, tag = Port(), Tag(tmp_path / "tag")
    backend = tmp_path / "backend.sqlite"
    text = 'registry = "state/devices.toml"\n' + toml(
        links=f'[[serial]]\nport = "{port.path}"',
        uplink=f'[uplink]\ndatabase = "{backend}"\nguarded_disk = true\n',
        devices=0,
        protection="",
    )
    first = GatewayProcess(tmp_path / "first", text)
    key_file = tmp_path / "key"
    key_file.write_text(KEY.hex())
    assert device_commands.add(first.config, str(DEVICE), "ankle_gps", key_file, None) == 0
    await first.start()
    saved = tmp_path / "saved"
    saved.mkdir()
    async with over_serial(tag, port):
        for number in range(3):
            tag.record(status_record(number))
        await tag.until_delivered()
        for name in ("devices.toml", "keys.json"):
            shutil.copy(tmp_path / "first" / "state" / name, saved / name)
        back_up(first.store, saved / "store.sqlite")
        for number in range(3, 6):
            tag.record(status_record(number))
        await tag.until_delivered()
        await first.kill()
        shutil.rmtree(tmp_path / "first")
        tag.record(status_record(6))  # nobody is there to hear it
    second = GatewayProcess(tmp_path / "second", text)
    state = tmp_path / "second" / "state"
    state.mkdir(mode=0o700)
    for name in ("devices.toml", "keys.json", "store.sqlite"):
        shutil.copy(saved / name, state / name)
    await second.start()
    async with over_serial(tag, port):
        tag.record(status_record(7))
        await tag.until_delivered()
    assert await second.stop() == 0
    assert [sequence for _, _, sequence in identities(backend)] == list(range(8))
    assert tag.link.refused == 0, "no down frame repeats a counter of the dead one"


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """Built, installed by the address that operations.md gives, and run without the sources."""
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*wheel, str(ROOT)], check=True, timeout=120)
    (built,) = tmp_path.glob("emtag-*.whl")
    place = tmp_path / "fresh"
    venv.create(place, system_site_packages=False, with_pip=False, symlinks=True)
    packages = next(place.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", str(place), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, f"emtag[gateway] @ {built.as_uri()}"], check=True, timeout=120)
    # What it depends on is this environment's; emtag itself is not.
    ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (packages / "dependencies.pth").write_text(f"import sys; sys.path.append({str(ours)!r})\n")
    command = [str(place / "bin" / "emtag"), "gateway", "install-unit", "--root", str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={"PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr
    unit = (tmp_path / "root" / "etc/systemd/system/emtag-gateway.service").read_text()
    assert f"ExecStart={place}/bin/emtag gateway run" in unit
    where = [str(place / "bin" / "python"), "-c", "import emgate, emwire; print(emgate.__file__, emwire.__file__)"]
    done = subprocess.run(where, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={})
    assert done.stdout.count(str(packages)) == 2, done
