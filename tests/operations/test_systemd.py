"""What systemd sees: the unit's exposure, the notifications, the watchdog, the journal's priorities."""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from emgate import systemd
from emgate.operation import logs, service_manager
from emgate.store.store import Record, Store
from gateway_kit import DEVICE, PATIENCE_S, GatewayProcess, Port, status_record, toml

UNIT = Path(systemd.__file__).parent / "emtag-gateway.service"


class Listener:
    """Stands in systemd's place at the end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    async def hear(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()

    async def hear_until(self, word: str) -> str:
        while word not in (said := await self.hear()):
            pass
        return said


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    listening = Listener(path)
    yield listening
    listening.socket.close()


def test_the_unit_is_exposed_little() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for emtag-gateway\.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= 2.0


def test_the_installed_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """The command writes the three files for the emtag it is run as; systemd finds nothing wrong with the unit."""
    command = Path(sys.executable).with_name("emtag")
    done = subprocess.run(
        [str(command), "gateway", "install-unit", "--root", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "systemctl daemon-reload" in done.stdout
    unit = tmp_path / "etc/systemd/system/emtag-gateway.service"
    assert f"ExecStart={command} gateway run --config /etc/emtag/gateway.toml" in unit.read_text()
    assert systemd.COMMAND not in unit.read_text()
    for words in ("LimitCORE=0", "MemorySwapMax=0"):
        assert words in unit.read_text(), "no memory goes to a disk"
    for name, words in (
        ("sysusers.d", "u emtag"),
        ("tmpfiles.d", "d /etc/emtag 0750 root emtag"),
        ("tmpfiles.d", "/devices.toml"),
    ):
        assert words in (tmp_path / "etc" / name / "emtag-gateway.conf").read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "emtag-gateway" not in done.stderr


def test_the_drivers_of_adapters_are_loaded_before_the_list_of_devices_is_made() -> None:
    """systemd leaves a group of devices out of DeviceAllow= whose driver is not there at the start."""
    lines = UNIT.read_text().splitlines()
    for group, driver in (("char-ttyUSB", "usbserial"), ("char-ttyACM", "cdc_acm")):
        assert f"DeviceAllow={group} rw" in lines
        for word in ("Wants=", "After="):
            assert any(
                line.startswith(word) and f"modprobe@{driver}.service" in line.split("=")[1].split() for line in lines
            )


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int) -> Path:
    """Stand in front of systemd-creds on the path: say whether there is a TPM, and seal by the host's key instead of
    it; what it was called with is in the file returned."""
    real, calls, stand_in = shutil.which("systemd-creds"), folder / "calls", folder / "bin" / "systemd-creds"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = has-tpm2 ] && {{ printf "{said}"; exit {status}; }}\n'
        f'shift\nshift\nexec {real} encrypt --with-key=host "$@"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    return calls


def test_the_secret_is_made_once_told_once_and_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("systemd-creds") is None or os.geteuid() != 0:
        pytest.skip("needs root and systemd-creds")
    calls, root = machine(tmp_path, monkeypatch, "yes\\n+firmware\\n", 0), tmp_path / "root"
    told = systemd.make_secret(root)
    (secret,) = re.findall(r"^  ([0-9a-f]{64})$", told, re.MULTILINE)
    assert "encrypt --with-key=tpm2 --name=emtag-key" in calls.read_text()
    sealed, drop_in = root / systemd.SEALED, root / systemd.DROP_IN
    assert sealed.stat().st_mode & 0o777 == 0o600 and secret.encode() not in sealed.read_bytes()
    assert drop_in.read_text() == "[Service]\nLoadCredentialEncrypted=emtag-key:/etc/emtag/emtag-key.cred\n"
    monkeypatch.undo()
    opened = ["systemd-creds", "decrypt", "--name=emtag-key", str(sealed), "-"]
    assert subprocess.run(opened, capture_output=True, check=True, timeout=60).stdout == secret.encode()
    before = sealed.read_bytes()
    assert "of before stays" in systemd.make_secret(root) and sealed.read_bytes() == before


@pytest.mark.parametrize(
    ("said", "status"), [("no\\n-firmware\\n", 15), ("partial\\n-firmware\\n", 11), ("partial\\n", 0), ("yes\\n", 1)]
)
def test_without_a_tpm_no_secret_comes_onto_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int
) -> None:
    """What would open it lies on the same card."""
    calls, root = machine(tmp_path, monkeypatch, said, status), tmp_path / "root"
    told = systemd.make_secret(root)
    assert "has no TPM" in told and "passphrase_file on a stick" in told and "keyring" in told
    assert calls.read_text() == "has-tpm2\n" and not root.exists()
    (root / systemd.SEALED).parent.mkdir(parents=True)
    (root / systemd.SEALED).write_text("of an earlier installation")
    assert "Warning: this machine has no TPM: a credential on its disk is opened by" in systemd.make_secret(root)


def test_a_machine_without_credentials_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not start without one" in systemd.make_secret(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "etc").write_text("a file in the way")
    assert systemd.install_unit(tmp_path) == 2
    assert "run this as root, or give --root" in capsys.readouterr().err


async def test_systemd_hears_ready_reloading_and_stopping(tmp_path: Path, listener: Listener) -> None:
    port = Port()
    gateway = GatewayProcess(tmp_path / "gateway", toml(links=f'[[serial]]\nport = "{port.path}"'))
    await gateway.start()
    assert (await listener.hear_until("READY=1")).split("\n") == ["READY=1", "STATUS=1 devices"]
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", await listener.hear_until("RELOADING"))
    await listener.hear_until("READY=1")
    stopping = asyncio.create_task(gateway.stop())
    await listener.hear_until("STOPPING=1")
    assert await stopping == 0


async def test_a_damaged_store_is_mended_without_a_word_of_stopping(tmp_path: Path, listener: Listener) -> None:
    """systemd would kill a process that stops and does not end."""
    port = Port()
    gateway = GatewayProcess(tmp_path / "gateway", toml(links=f'[[serial]]\nport = "{port.path}"'))
    store = await Store.open(gateway.store)
    await store.append(Record(DEVICE, 1, 1, False, 0, "serial", status_record(1)))
    await store.close()
    await gateway.start()
    await listener.hear_until("READY=1")
    with contextlib.closing(sqlite3.connect(gateway.store)) as connection, connection:
        assert connection.execute("UPDATE epochs SET delivered_records = 77").rowcount == 1
    heard: list[str] = []
    while "READY=1" not in "".join(heard):
        heard.append(await listener.hear())
    assert "STOPPING=1" not in heard
    more_us = service_manager.MORE_S * 1_000_000
    assert heard[0].split("\n") == ["WATCHDOG=1", f"EXTEND_TIMEOUT_USEC={more_us}"], "while it takes its time"
    assert list(gateway.store.parent.glob("store.sqlite.aside-1"))
    stopping = asyncio.create_task(gateway.stop())
    await listener.hear_until("STOPPING=1")
    assert await stopping == 0


def test_long_work_is_told_at_each_step_but_not_often(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager.time, "monotonic", iter((5.0, 5.5, 6.0, 6.9)).__next__)
    goes_on = service_manager.LongWork()
    for _ in range(4):
        goes_on()
    said = [listener.socket.recv(100) for _ in range(2)]
    assert all(each.startswith(b"WATCHDOG=1\n") for each in said)
    with pytest.raises(BlockingIOError):
        listener.socket.recv(100)


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service_manager.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    assert not service_manager.notify("READY=1")


def test_the_watchdog_is_this_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert service_manager.watchdog_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert service_manager.watchdog_s() == 60
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert service_manager.watchdog_s() is None
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "much")
    assert service_manager.watchdog_s() is None


async def test_the_watchdog_is_fed_while_the_writer_moves_and_no_longer(tmp_path: Path, listener: Listener) -> None:
    store = await Store.open(tmp_path / "store.sqlite")
    feeding = asyncio.create_task(service_manager.feed_watchdog(store, 0.15))
    try:
        for _ in range(3):
            assert await listener.hear() == "WATCHDOG=1"
        # The disk hangs: the writer is in a transaction that does not end.
        hanging, go_on = threading.Event(), threading.Event()

        def hang(_: object) -> None:
            hanging.set()
            go_on.wait(PATIENCE_S)

        stuck = store.write(hang, refused=None)
        await asyncio.to_thread(hanging.wait, PATIENCE_S)
        while True:  # what was fed before it hung
            try:
                listener.socket.recv(100)
            except BlockingIOError:
                break
        moves = store.writer_moves
        pending = store.append(Record(DEVICE, 1, 1, False, 0, "serial", status_record(1)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                # One feed may be under way from before; no second comes.
                assert await listener.hear() == "WATCHDOG=1"
                await listener.hear()
        assert store.writer_moves == moves
        go_on.set()
        await stuck
        await pending
        assert await listener.hear() == "WATCHDOG=1"
    finally:
        feeding.cancel()
        await store.close()


@pytest.mark.parametrize("journal", [True, False])
def test_the_journal_gets_priorities_and_others_plain_lines(tmp_path: Path, journal: bool) -> None:
    script = (
        "from emgate.operation import logs; import structlog, logging, os, sys\n"
        "logs.configure('debug')\n"
        "log = structlog.get_logger('emgate.test')\n"
        "for level in ('debug', 'info', 'warning', 'error'): getattr(log, level)('happened', level_=level)\n"
        "logging.getLogger('somebody.else').warning('theirs')\n"
    )
    with (tmp_path / "stderr").open("wb") as stderr:
        facts = os.fstat(stderr.fileno())
        stream = f"{facts.st_dev}:{facts.st_ino}" if journal else f"{facts.st_dev}:{facts.st_ino + 1}"
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", script], stderr=stderr, env=environment, check=True, timeout=60)
    lines = (tmp_path / "stderr").read_text().splitlines()
    prefixes = [line[: line.index("{")] for line in lines]
    assert prefixes == (["<7>", "<6>", "<4>", "<3>", "<4>"] if journal else [""] * 5)


def test_a_log_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        logs.configure("info", tmp_path / "log" / "gateway.log")
        for number in range(500):
            logging.getLogger("emgate.test").warning("line %d", number)
        files = sorted(path.name for path in (tmp_path / "log").iterdir())
        assert files == ["gateway.log", *(f"gateway.log.{n}" for n in range(1, logs.FILES))]
        assert sum(path.stat().st_size for path in (tmp_path / "log").iterdir()) <= 2000 * logs.FILES
        assert "line 499" in (tmp_path / "log" / "gateway.log").read_text()
    finally:
        for handler in root.handlers:
            if handler not in before:
                handler.close()
        root.handlers = before
