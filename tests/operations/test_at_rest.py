"""A stolen card: without the secret it tells no key and no record; with it everything opens, and nothing else does."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from emgate import config, key_source
from emgate.clock import SystemClock
from emgate.down_kinds import Asked, Made
from emgate.down_requests import Requests
from emgate.downlink import Downlink
from emgate.errors import ConfigError
from emgate.registry import read_device_file
from emgate.store import Outcome, Record, Store
from emgate.vault import DAY_MS, PayloadCipher, open_vault
from emwire import codec
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


def test_the_kernels_keyring() -> None:
    """In a process of its own, with a session keyring of its own: nothing is left behind."""
    script = (
        "import ctypes, os, sys\n"
        "from emgate import key_source as k\n"
        "numbers = {'x86_64': 248, 'aarch64': 217}\n"
        "library = ctypes.CDLL(None, use_errno=True)\n"
        "try:\n"
        "    k._keyctl(1, 0)\n"  # KEYCTL_JOIN_SESSION_KEYRING, anonymous
        "except OSError as error:\n"
        "    assert k.find() is None\n"
        "    print('no keyrings', error); sys.exit()\n"
        "assert k.find() is None\n"
        "key = library.syscall(numbers[os.uname().machine], b'user', k.CREDENTIAL.encode(), bytes(range(32)), 32, -3)\n"
        "assert key > 0, ctypes.get_errno()\n"
        "found = k.find()\n"
        "assert (found.source, found.value) == ('keyring', bytes(range(32))), found\n"
        "print('found')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("found", "no keyrings"))


# -- the vault ------------------------------------------------------------------------------------------------


def test_a_vault_opens_with_its_secret_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    assert open_vault(state, create=True) is None, "nothing given, nothing sealed"
    with pytest.raises(ConfigError, match="no secret to open the keys at rest: give a systemd credential emtag-key"):
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


async def test_a_stolen_card_tells_no_history_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole process: sealed registry, sealed store; then the state directory as a thief has it."""
    secret = credential(tmp_path / "credentials", os.urandom(32))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret))
    card = tmp_path / "card"
    vault = open_vault(card / "state", create=True)
    assert vault is not None
    port, tag = Port(), Tag(tmp_path / "tag")
    # The backend is elsewhere: what it keeps is not on this card.
    text = toml(links=f'[[serial]]\nport = "{port.path}"') + f'[uplink]\ndatabase = "{tmp_path}/backend.sqlite"\n'
    text += '[protection]\nat_rest = "required"\n'
    gateway = GatewayProcess(card, text.replace(KEY.hex(), vault.seal_key(DEVICE, "key", KEY)))
    await gateway.start()
    payloads = [event_record(n) if n % 5 == 0 else status_record(n) for n in range(20)]
    async with over_serial(tag, port):
        for number, payload in enumerate(payloads):
            tag.record(payload, number % 5 == 0)
        await tag.until_delivered()
    assert await gateway.stop() == 0
    assert len(identities(gateway.store)) >= 20
    on_card = everything_in(card)
    for secret_bytes in (KEY, KEY.hex().encode(), *(payload[1:] for payload in payloads)):
        assert secret_bytes not in on_card
    # The thief starts it: it does not run, and says what is missing.
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "emgate.cli", "gateway", "run", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "no secret to open the keys at rest" in done.stderr


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
