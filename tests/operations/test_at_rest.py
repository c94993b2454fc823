"""A stolen card: without the secret it tells no key and no record; with it everything opens, and nothing else does."""

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from emgate import config, systemd
from emgate.clock import SystemClock
from emgate.commands import device_commands, status_view
from emgate.commands.check import check
from emgate.commands.run_commands import run_gateway
from emgate.devices.registry import read_device_file
from emgate.down.downlink import Downlink
from emgate.down.kinds import Asked, Made
from emgate.down.requests import Requests
from emgate.errors import ConfigError
from emgate.keys import key_source, secret_place, unsealed
from emgate.keys.vault import DAY_MS, PayloadCipher, open_vault
from emgate.operation import running
from emgate.operation.control_client import short
from emgate.store.store import Outcome, Record, Store
from emwire import codec, constants
from emwire.positions import CORE, encode_block
from gateway_kit import (
    DEVICE,
    KEY,
    GatewayProcess,
    Port,
    Tag,
    event_record,
    hello_record,
    identities,
    over_serial,
    status_record,
    toml,
)
from hypothesis import given
from hypothesis import strategies as st

PASSPHRASE = "correct horse battery"
RECEIVED_MS = 20_000 * DAY_MS + 12_345_678


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", key_source.PASSPHRASE, key_source.PASSPHRASE_FILE):
        monkeypatch.delenv(name, raising=False)


def credential(folder: Path, value: bytes = bytes(32)) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / key_source.CREDENTIAL).write_bytes(value)
    return folder


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# -- the secret -----------------------------------------------------------------------------------------------


def test_the_credential_comes_before_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_source.find() is None
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    found = key_source.find()
    assert found is not None and (found.source, found.weak) == ("passphrase", True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert key_source.find() == found, "a credential directory without ours"
    credential(tmp_path, bytes(range(32)))
    found = key_source.find()
    assert found is not None and (found.source, found.value, found.weak) == ("credential", bytes(range(32)), False)
    assert "1f" not in repr(found) and "value" not in repr(found)
    credential(tmp_path, b"short")
    with pytest.raises(ConfigError, match="has 5 bytes: make one of at least 16"):
        key_source.find()


def test_a_passphrase_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "passphrase"
    with pytest.raises(ConfigError, match="cannot read the passphrase"):
        key_source.find(path)
    path.write_text(PASSPHRASE + "\nsecond line\n")
    assert key_source.find(path) == key_source.Secret("passphrase", PASSPHRASE.encode(), weak=True)
    other = tmp_path / "other"
    other.write_text("too short")
    monkeypatch.setenv(key_source.PASSPHRASE_FILE, str(other))
    with pytest.raises(ConfigError, match="at least 12 characters"):
        key_source.find(path)


def test_a_stick_may_be_taken_out_once_its_passphrase_was_read(tmp_path: Path) -> None:
    """A reload reads the registry's sealed keys again; a start without the stick does not get that far."""
    stick, path = tmp_path / "stick", tmp_path / "gateway.toml"
    stick.write_text(PASSPHRASE)
    links = f'[[serial]]\nport = "/dev/null"\n[protection]\npassphrase_file = "{stick}"'
    path.write_text('registry = "devices.toml"\n' + toml(links=links, devices=0, protection=""))
    assert device_commands.add(path, str(DEVICE), "pid", None, None) == 0
    assert 'key = "sealed:' in (tmp_path / "devices.toml").read_text()
    assert len(config.load(path).make_registry()) == 1
    stick.unlink()
    assert len(config.load(path).make_registry()) == 1
    started = [sys.executable, "-m", "emgate.cli", "gateway", "run", "--config", str(path)]
    done = subprocess.run(started, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "cannot read the passphrase" in done.stderr) == (2, True)


def test_guessing_a_passphrase_costs_scrypt_at_owasps_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """keys.json opens by what RFC 7914 says for these parameters, as another program has it; and no shorter phrase."""
    monkeypatch.setenv(key_source.PASSPHRASE, "x" * 11)
    with pytest.raises(ConfigError, match="at least 12 characters"):
        open_vault(tmp_path, create=True)
    monkeypatch.setenv(key_source.PASSPHRASE, "x" * 12)
    made = open_vault(tmp_path, create=True)
    assert made is not None
    facts = json.loads((tmp_path / "keys.json").read_text())
    salt = bytes.fromhex(facts["salt"])
    assert len(salt) == 16
    key = hashlib.scrypt(b"x" * 12, salt=salt, n=32_768, r=8, p=3, maxmem=1 << 26, dklen=32)
    wrapped = bytes.fromhex(facts["dataKey"])
    data_key = AESGCM(key).decrypt(wrapped[:12], wrapped[12:], bytes(4) + b"data_key")
    record = records()[1]
    assert PayloadCipher(data_key).open(made.payloads.seal(record)) == record


KEYRING = """
import ctypes, errno, os, sys
from pathlib import Path
from emgate.keys import key_source
from emgate.errors import ConfigError
from emgate.keys.vault import open_vault
keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
library = ctypes.CDLL(None, use_errno=True)
joined = library.syscall(keyctl, 1, 0)  # KEYCTL_JOIN_SESSION_KEYRING, anonymous
if joined < 0:
    print("refused", errno.errorcode[ctypes.get_errno()])
assert key_source.find() is None
try:
    open_vault(Path(sys.argv[1]), "required")
except ConfigError as error:
    print(error)
if joined >= 0:
    key = library.syscall(add_key, b"user", key_source.CREDENTIAL.encode(), bytes(range(32)), 32, -3)
    assert key > 0, ctypes.get_errno()
    found = key_source.find()
    assert (found.source, found.value) == ("keyring", bytes(range(32))), found
    print("found")
"""
NO_SECRET = "protection: no secret to open the keys at rest; give a systemd credential emtag-key, a key emtag-key in"


def test_the_kernels_keyring(tmp_path: Path) -> None:
    """In a process of its own, with a session keyring of its own: nothing is left behind.

    Containers often have none. Whether this is one, the test asks the kernel itself, not the code under test."""
    done = subprocess.run([sys.executable, "-c", KEYRING, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if lines[0].startswith("refused"):
        assert lines[0].split()[1] in ("EPERM", "EACCES", "ENOSYS")
        assert len(lines) == 2 and lines[1].startswith(NO_SECRET), "the search goes on, and ends with what to do"
    else:
        assert len(lines) == 2 and lines[0].startswith(NO_SECRET) and lines[1] == "found"


def test_a_kernel_without_keyrings_is_one_without_a_secret_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "_KEYCTL", {platform.machine(): 5000})  # no kernel knows it
    with pytest.raises(OSError):
        key_source._keyctl(key_source._LINK, -4, -3)
    with pytest.raises(ConfigError, match=re.escape(NO_SECRET)):
        open_vault(tmp_path, "required")
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    assert (found := key_source.find()) is not None and found.source == "passphrase"


# -- the vault ------------------------------------------------------------------------------------------------


def test_a_vault_opens_with_its_secret_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    assert open_vault(state, create=True) is None, "nothing given, nothing sealed"
    with pytest.raises(ConfigError, match="no secret to open the keys at rest; give a systemd credential emtag-key"):
        open_vault(state, "required")
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    assert open_vault(state) is None, "made by a gateway's start only"
    made = open_vault(state, create=True)
    assert made is not None
    assert (state / "keys.json").stat().st_mode & 0o777 == 0o600
    sealed = made.seal_key(DEVICE, "key", KEY)
    again = open_vault(state)
    assert again is not None and again.open_key(DEVICE, "key", sealed) == KEY
    for owner, use, text in (
        (DEVICE + 1, "key", sealed),
        (DEVICE, "next_key", sealed),
        (DEVICE, "key", sealed[:-2] + "00"),
        (DEVICE, "key", "sealed:zz"),
        (DEVICE, "key", "sealed:"),
    ):
        with pytest.raises(ValueError, match="does not open"):
            again.open_key(owner, use, text)
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE + "!")
    with pytest.raises(ConfigError, match="the secret from the passphrase is not the one that sealed these keys"):
        open_vault(state)
    monkeypatch.delenv(key_source.PASSPHRASE)
    for at_rest in ("auto", "required"):
        with pytest.raises(ConfigError, match="no secret to open"):
            open_vault(state, at_rest)
    with pytest.raises(ConfigError, match="says that the store is sealed"):
        open_vault(state, "off")
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    facts = json.loads((state / "keys.json").read_text())
    (state / "keys.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(ConfigError, match="upgrade it"):
        open_vault(state)
    (state / "keys.json").write_text("{")
    with pytest.raises(ConfigError, match="restore it from the backup"):
        open_vault(state)


DUMPABLE = """
import asyncio, ctypes, os, sys
from pathlib import Path
from emgate import config
from emgate.keys import key_source
from emgate.daemon import Gateway

async def main():
    for passphrase in (None, sys.argv[2]):
        if passphrase:
            os.environ[key_source.PASSPHRASE] = passphrase
        Gateway(config.load(Path(sys.argv[1])), Path(sys.argv[1]))
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE

asyncio.run(main())
"""


def test_a_gateway_with_a_secret_leaves_no_core(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    uplink = "[uplink]\nguarded_disk = true"
    path.write_text(toml(links='[[serial]]\nport = "/dev/null"', uplink=uplink))
    started = [sys.executable, "-c", DUMPABLE, str(path), PASSPHRASE]
    done = subprocess.run(started, capture_output=True, text=True, timeout=60)
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["1", "0"], done.stderr


def test_a_registry_with_sealed_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    vault = open_vault(tmp_path / "state", create=True)
    assert vault is not None
    registry = tmp_path / "devices.toml"
    text = (
        f'[[devices]]\ndevice_id = 5\nmodel = "home_unit"\nkey = "{vault.seal_key(5, "key", KEY)}"\n'
        "[devices.configuration]\nversion = 1\n"
        f'beacons = [{{beacon_id = 9, key = "{vault.seal_key(9, "key", KEY)}"}}]\n'
    )
    registry.write_text(text)
    path = tmp_path / "gateway.toml"
    path.write_text('registry = "devices.toml"\n' + toml(links='[[serial]]\nport = "/dev/null"', devices=0))
    device = config.load(path).make_registry().get(5)
    assert device is not None and device.key == KEY
    assert device.configuration is not None and device.configuration.beacons[0].key == KEY
    # The same in the configuration itself.
    path.write_text(toml(links='[[serial]]\nport = "/dev/null"', devices=0) + text)
    loaded = config.load(path).make_registry().get(5)
    assert loaded is not None and loaded.key == KEY
    with pytest.raises(ConfigError, match=r"line 4: devices\[0\]\.key: sealed at rest"):
        read_device_file(registry)
    registry.write_text(text.replace("device_id = 5", "device_id = 6"))
    with pytest.raises(ConfigError, match=r"line 4: devices\[0\]\.key: the sealed key does not open"):
        read_device_file(registry, vault.open_key)


# -- the store ------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 0xFFFF_FFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFF_FFFF), st.booleans(),
    st.integers(0, 1 << 45), st.binary(max_size=1000),
)  # fmt: skip
def test_a_payload_opens_in_its_place_alone(
    device_id: int, epoch: int, sequence: int, alarm: bool, received_ms: int, payload: bytes
) -> None:
    cipher = PayloadCipher(bytes(32))
    record = Record(device_id, epoch, sequence, alarm, received_ms, "serial", payload, 7)
    sealed = cipher.seal(record)
    assert cipher.open(sealed) == record
    assert sealed.received_time_ms == received_ms - received_ms % DAY_MS, "outside, only the day"
    assert len(sealed.payload) == len(payload) + PayloadCipher.overhead
    assert sealed.payload[0] == (payload[0] if payload[:1] in (b"\x01", b"\x06", b"\x07") else 0xFF)
    elsewhere = Record(device_id, epoch, sequence ^ 1, alarm, sealed.received_time_ms, "serial", sealed.payload, 7)
    with pytest.raises(ValueError, match="does not open"):
        cipher.open(elsewhere)
    with pytest.raises(ValueError, match="does not open"):
        PayloadCipher(bytes(31) + b"\x01").open(sealed)


def records() -> list[Record]:
    payloads = [hello_record(), status_record(1), event_record(2), b"\x7f" + b"unknown message of a wearer"]
    payloads.append(codec.Gap(1, 100, 0, 0, 1, 0, 3, 1).encode())
    return [
        Record(DEVICE, 1, number, number == 3, RECEIVED_MS + number, "serial", payload)
        for number, payload in enumerate(payloads, start=1)
    ]


async def test_a_sealed_store_gives_back_what_it_took_and_its_file_tells_nothing(tmp_path: Path) -> None:
    cipher = PayloadCipher(os.urandom(32))
    path = tmp_path / "store.sqlite"
    plain = await Store.open(path)
    before = Record(DEVICE, 1, 0, False, RECEIVED_MS, "ble", event_record(100))
    assert await plain.append(before) is Outcome.STORED
    await plain.close()
    store = await Store.open(path, payload_cipher=cipher)
    try:
        for record in records():
            assert await store.append(record) is Outcome.STORED
            assert await store.append(record) is Outcome.DUPLICATE
        other = Record(DEVICE, 1, 2, False, RECEIVED_MS, "serial", status_record(77))
        assert await store.append(other) is Outcome.CONFLICT
        found = [each for alarm in (False, True) for each in await store.undelivered("uplink", alarm, 100, 1 << 20)]
        taken = {(record.sequence, record.received_time_ms, record.payload) for record in (before, *records())}
        assert {(each.sequence, each.received_time_ms, each.payload) for each in found} == taken
        assert [gap.payload for gap in await store.gap_records(DEVICE)] == [records()[4].payload]
        assert await store.oldest_undelivered_ms() == RECEIVED_MS
    finally:
        await store.close()
    store = await Store.open(path, payload_cipher=cipher)
    assert [each.payload for each in await store.latest(DEVICE)] == [status_record(1), records()[4].payload]
    await store.close()
    on_disk = everything_in(tmp_path)
    for record in (*records(), other):
        assert record.payload[1:] not in on_disk
    assert before.payload in on_disk, "what was stored before the key was given stays as it is"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert [row[0] % DAY_MS for row in connection.execute("SELECT received_time_ms FROM records WHERE sealed")] == (
            [0] * 5
        )
        (evidence,) = connection.execute("SELECT frame FROM quarantine").fetchone()
    assert cipher.open_bytes(b"quarantine", evidence) == other.payload
    # Without its key, or with another, the store says so and passes the rows on as they are: none is dropped.
    for wrong in (None, PayloadCipher(os.urandom(32))):
        store = await Store.open(path, payload_cipher=wrong)
        found = await store.undelivered("uplink", False, 100, 1 << 20)
        assert len(found) == 5
        assert store.counters["not_opened"] == 4
        await store.close()


# Latitude and longitude in microdegrees, of so many digits that no time in a log has them by chance.
HOME = (51_507_351, -127_758_433)
OTHER_KEY, BEACON_KEY = os.urandom(16), os.urandom(16)


def wearers_records() -> list[bytes]:
    """What a tag journals of somebody's day: positions, alarms with evidence, its own state."""
    fixes = [(200_000_000 + 60 * n, HOME[0] + 11 * n, HOME[1] - 7 * n) for n in range(40)]
    blocks = [
        codec.PositionBlock(1, 100, 200_000_000 + n, n, encode_block(fixes[n * 8 : n * 8 + 8], CORE)).encode()
        for n in range(5)
    ]
    left = codec.Event(1, 100, 200_000_000, 1, constants.EVENT_ZONE_LEFT, 200_000_000, 7, 3, b"seen near the school")
    return [hello_record(), *blocks, left.encode(), *(event_record(n) for n in range(3)), status_record(1)]


def an_order() -> list[bytes]:
    """A curfew, and a zone around a home."""
    zone = codec.OrderZone(9, 3, 0, 1, 1, 0, 0, 2, 100, 0, 1, [HOME]).encode()
    return [codec.OrderConditions(9, 3, 1, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, [(1, 1140, 420, 1)]).encode(), zone]


def as_written(secret: bytes) -> list[bytes]:
    """As bytes, and as hexadecimal text."""
    return [secret, secret.hex().encode(), secret.hex().upper().encode()]


def coordinates() -> list[bytes]:
    """Home, as numbers of the wire either way round, and as digits."""
    found = [number.to_bytes(4, order, signed=True) for number in HOME for order in ("little", "big")]
    digits = [f"{number / 1e6:.6f}" for number in HOME] + [f"{number / 1e6:.4f}" for number in HOME]
    return [form for number in found for form in as_written(number)] + [
        text.encode() for text in (*digits, *(str(abs(number)) for number in HOME))
    ]


async def test_a_stolen_card_tells_no_history_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole process with positions, an order with a zone, a command and its result, a stranger and a reused
    identity; killed at work, and again after a stop: the card as a thief has it, write-ahead log and logs included."""
    given = os.urandom(32)
    secret = credential(tmp_path / "credentials", given)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret))
    card = tmp_path / "card"
    monkeypatch.setattr(systemd, "has_tpm", lambda: False)  # the usual small board
    assert "has no TPM" in systemd.make_secret(card)
    port, other = Port(), Port()
    tag, stranger = Tag(tmp_path / "tag"), Tag(tmp_path / "stranger", device_id=DEVICE + 9, key=OTHER_KEY)
    # The backend is elsewhere: what it keeps is not on this card.
    text = 'registry = "devices.toml"\n' + toml(
        links=f'[[serial]]\nport = "{port.path}"\n[[serial]]\nport = "{other.path}"',
        uplink=f'[uplink]\ndatabase = "{tmp_path}/backend.sqlite"\nguarded_disk = true\n',
        devices=0,
        extra='log_level = "debug"',
        protection="",  # the default
    )
    gateway = GatewayProcess(card, text)
    registry = card / "devices.toml"
    registry.write_text(
        f'[[devices]]\ndevice_id = {DEVICE}\nmodel = "home_unit"\nkey = "{KEY.hex()}"\nnext_key = "{OTHER_KEY.hex()}"\n'
        f'[devices.configuration]\nversion = 1\nbeacons = [{{ beacon_id = 7, key = "{BEACON_KEY.hex()}" }}]\n'
    )
    with pytest.raises(ConfigError, match=r"devices.toml: line 4: a key stands there in plain digits; seal them by"):
        unsealed.refuse(config.load(gateway.config), gateway.config)
    assert await asyncio.to_thread(device_commands.seal_all, gateway.config) == 0
    assert 'key = "sealed:' in registry.read_text()
    await gateway.start()
    # Provisioned by the command: its key comes onto this card sealed, and to the board from a file in memory.
    add = (device_commands.add, gateway.config, str(DEVICE + 1), "pid", None)
    assert await asyncio.to_thread(*add, card / "tag.json") == 2
    assert "in plain digits" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(secret_place, "one_disk", lambda path, _: card in (path, *path.parents))
        assert await asyncio.to_thread(*add, tmp_path / "tag.json") == 0
    provisioned = bytes.fromhex(json.loads((tmp_path / "tag.json").read_text())["key"])
    assert f"device_id = {DEVICE + 1}" in registry.read_text()
    good = gateway.config.read_text()
    gateway.config.write_text(good.replace("guarded_disk = true", "guarded_disk = false"))
    assert await asyncio.to_thread(running.reload, gateway.config) == 2, "nor does a reload bring one in"
    gateway.config.write_text(good)
    payloads = wearers_records()
    orders = an_order()
    asked = [
        {"requestId": "o", "deviceId": DEVICE, "kind": "order", "messages": [message.hex() for message in orders]},
        {"requestId": "c", "deviceId": DEVICE, "kind": "command", "command": "LOCATE_NOW", "argument": 77},
    ]
    detail = b"".join(number.to_bytes(4, "little", signed=True) for number in HOME)
    async with over_serial(tag, port), over_serial(stranger, other):
        for request in asked:
            assert (await ask(gateway, {"do": "submit", "request": request}))["ok"]
        for payload in payloads:
            tag.record(payload, payload[:1] == event_record(0)[:1])
        stranger.record(payloads[1])
        await tag.until(lambda: any(message[0] == constants.MESSAGE_COMMAND for message in tag.messages))
        number = next(message[1] for message in tag.messages if message[0] == constants.MESSAGE_COMMAND)
        done = codec.CommandResult(
            1,
            100,
            200_000_000,
            60,
            number,
            constants.COMMAND_LOCATE_NOW,
            constants.OUTCOME_DONE,
            200_000_000,
            1,
            detail,
        ).encode()
        payloads.append(done)
        tag.record(done)
        await tag.until_delivered()
        answered = await ask(gateway, {"do": "show", "requestId": "c"})
        assert answered["request"]["result"]["detail"] == detail.hex(), "whoever may ask is told"
    twice = Tag(tmp_path / "twice")  # another first record under an identity that was used
    async with over_serial(twice, port):
        twice.record(payloads[2])
        await twice.until(lambda: (DEVICE, 1, 0) in twice.told)
    secrets = [
        form for key in (given, KEY, OTHER_KEY, BEACON_KEY, provisioned, detail) for form in as_written(key)
    ] + coordinates()
    secrets += [form for message in (*payloads, *orders) for form in as_written(message[1:])]
    secrets += [b"seen near the school", b"seen near the school".hex().encode(), b"LOCATE_NOW"]
    await gateway.kill()
    assert (card / "state" / "store.sqlite-wal").stat().st_size, "what was not moved into the file yet"
    assert_card_tells_nothing(card, secrets)
    await gateway.start()
    assert await gateway.stop() == 0
    assert len(identities(gateway.store)) == len(payloads)
    assert_card_tells_nothing(card, secrets)
    with contextlib.closing(sqlite3.connect(gateway.store)) as connection:
        reasons = {reason for (reason,) in connection.execute("SELECT reason FROM quarantine")}
        assert reasons == {"unknown_device", "identity_conflict"}
        assert connection.execute("SELECT count(*) FROM down_requests").fetchone() == (2,)
    # The thief starts it. No credential was left there for the host's key: it does not run, and says what is missing.
    assert not [path for path in card.rglob("*") if path.suffix == ".cred" or path.match("*.service.d/*")]
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    done_2 = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "emgate.cli", "gateway", "run", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done_2.returncode == 2
    assert "no secret to open the keys at rest" in done_2.stderr


def assert_card_tells_nothing(card: Path, secrets: list[bytes]) -> None:
    for path in sorted(card.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for secret in secrets:
                assert secret not in content, (path.name, secret)


async def ask(gateway: GatewayProcess, what: dict[str, Any]) -> dict[str, Any]:
    """Of the gateway's control socket."""
    reader, writer = await asyncio.open_unix_connection(short(gateway.folder / "state" / "control.sock"))
    try:
        writer.write(json.dumps(what).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), 20))
        return answer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("uplink", "words"),
    [
        ("", r"gateway\.toml: the database of uplink 'uplink' \(local\) is not sealed"),
        ('[[uplink]]\nkind = "local"\n', r"line 12: the database of uplink 'uplink'"),
        ('[uplink]\nguarded_disk = true\nkind = "mqtt"\nhost = "localhost"\n', "guarded_disk is for kind"),
    ],
)
def test_a_gateway_with_a_secret_keeps_no_backend_beside_it_unless_its_disk_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uplink: str, words: str
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(toml(links='[[serial]]\nport = "/dev/null"', uplink=uplink))
    if "guarded" not in uplink:
        assert check(path) == 0, "nothing is sealed: nothing to be taken for sealed"
    monkeypatch.setenv(key_source.PASSPHRASE, PASSPHRASE)
    capsys.readouterr()
    assert run_gateway(path) == 2
    assert re.search(words, capsys.readouterr().err)
    assert check(path) == 2
    assert re.search(words, capsys.readouterr().out)


async def test_what_devices_are_asked_to_do_is_sealed_too(tmp_path: Path) -> None:
    """An order tells where its wearer lives, and a command what is thought of him."""
    cipher = PayloadCipher(os.urandom(32))
    words = "an-image-named-for-nobody"

    class Kind:
        name = "test"
        replaces = False

        def make(self, asked: Asked) -> Made:
            return Made((words.encode(),), 0, dict(asked.body))

        def answer(self, number: int, body: object, message: object) -> None:
            return None

    async def requests(store: Store) -> Requests:
        made = Requests(store, SystemClock(1), Downlink(), lambda device_id: True)
        made.add_kind(Kind())
        await made.load()
        return made

    store = await Store.open(tmp_path / "store.sqlite", payload_cipher=cipher)
    asked = {"requestId": "r1", "deviceId": DEVICE, "kind": "test", "where": words}
    made = await (await requests(store)).submit("control", asked)
    await store.close()
    assert made.body == {"where": words}
    on_disk = everything_in(tmp_path)
    assert b"r1" in on_disk
    assert words.encode() not in on_disk and words.encode().hex().encode() not in on_disk
    store = await Store.open(tmp_path / "store.sqlite", payload_cipher=cipher)
    found = await (await requests(store)).find("r1")
    await store.close()
    assert found is not None
    assert (found.body, found.messages) == (made.body, made.messages)


def heard(status: str) -> list[int | None]:
    return [device["lastReceivedMs"] for device in json.loads(status)["devices"]]


async def test_a_shell_without_the_secret_works_through_the_running_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret is the service's alone: whoever operates it from a shell has none."""
    port, tag = Port(), Tag(tmp_path / "tag")
    folder = tmp_path / "card"
    text = toml(links=f'[[serial]]\nport = "{port.path}"', uplink="[uplink]\nguarded_disk = true", devices=0)
    gateway = GatewayProcess(folder, 'registry = "state/devices.toml"\n' + text)
    secret = credential(tmp_path / "credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret))
    assert device_commands.add(gateway.config, "7", "pid", None, None) == 0, "before the first start, with the secret"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    await gateway.start()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")

    async def done(command: Any, *arguments: Any, **named: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = await asyncio.to_thread(command, gateway.config, *arguments, **named)
        return status, *capsys.readouterr()

    key_file = tmp_path / "key"
    key_file.write_text(KEY.hex())
    status, said, _ = await done(device_commands.add, str(DEVICE), "ankle_gps", key_file, None)
    assert (status, said) == (0, f"device {DEVICE} is listed\n")
    async with over_serial(tag, port):
        tag.record(status_record(1))
        await tag.until_delivered()
        assert (await done(device_commands.rotate_key, str(DEVICE)))[0] == 0
        tag.record(status_record(2))
        await tag.until_delivered()
        _, said, _ = await done(device_commands.show_list, True)
        states = {row["deviceId"]: (row["state"], row["key"]) for row in json.loads(said)}
        assert states[7] == ("active", "one key") and states[DEVICE][1].startswith("new key")
    assert (await done(device_commands.set_revoked, "7", True))[0] == 0
    assert (await done(device_commands.set_revoked, "7", True))[2] == "emtag: device 7 is revoked already\n"
    assert (await done(running.reload))[:2] == (0, "reloaded: nothing has changed\n")
    status, said, _ = await done(status_view.show, as_json=True)
    assert status == 0 and any(heard(said)), "it says so to its operator"
    status, said, wrong = await done(check)
    assert status == 0, said + wrong
    assert list(unsealed.plain_keys(config.load(gateway.config, open_keys=False), gateway.config)) == []
    assert (tmp_path / "run" / "status.json").exists() and not (folder / "state" / "status.json").exists()
    assert await gateway.stop() == 0
    # Nobody runs: what needs no key goes on, the rest says how.
    assert b"lastReceivedMs" not in (folder / "state" / "status.json").read_bytes()
    assert (await done(device_commands.set_revoked, "7", False))[:2] == (0, "device 7 is released\n")
    status, said, _ = await done(device_commands.show_list, True)
    assert (status, len(json.loads(said))) == (0, 2)
    for command, arguments in ((device_commands.rotate_key, ["7"]), (status_view.show, []), (check, [])):
        status, said, wrong = await done(command, *arguments)
        assert status == 2
        assert "no secret to open the keys at rest" in said + wrong and "systemd-run" in said + wrong
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret))
    status, said, _ = await done(status_view.show, as_json=True)
    assert status == 3 and any(heard(said))
    port.unplug()
