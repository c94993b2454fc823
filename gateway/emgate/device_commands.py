"""What `emtag gateway device add|list|rotate-key|revoke|release|seal` do; the options are in cli_devices.py.

Every change is written to the registry file and then applied by the running gateway, by a reload.
"""

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from emwire.envelope import SLOTS

from emgate import config as configuration
from emgate import running
from emgate.config import Config
from emgate.down_kinds import RequestError
from emgate.errors import ConfigError
from emgate.registry import KEY_BYTES
from emgate.registry_edit import Table, edit
from emgate.request_commands import EXIT_DONE, device_number, guarded
from emgate.sealing import fingerprint
from emgate.unsealed import keys_of


def add(config_path: Path, device: str, model: str, key_file: Path | None, identity_file: Path | None) -> int:
    """List a new device, with a new key or a given one; its identity goes to a file for flashing."""

    def work() -> int:
        config, registry_path = _load(config_path)
        number = device_number(device)
        if any(listed.device_id == number for listed in config.devices):
            raise ConfigError(f"device {number} is listed in {config_path} itself: take it out there first")
        key = os.urandom(KEY_BYTES) if key_file is None else _read_key(key_file)
        seal = _sealer(config)

        def change(devices: list[Table]) -> None:
            if any(each.get("device_id") == number for each in devices):
                raise ConfigError(f"device {number} is listed already: rotate-key gives it a new key")
            devices.append({"device_id": number, "model": model, "key": seal(number, "key", key)})

        if identity_file is not None:  # first: a device without its key is of no use
            _write_secret(identity_file, {"device_id": number, "model": model, "key": key.hex()})
        edit(registry_path, change, config.open_key)
        print(f"device {number} is listed" + ("" if identity_file is None else f"; its identity is in {identity_file}"))
        if key_file is None and identity_file is None:
            print(f"key {key.hex()}")
        return _apply(config_path, config)

    return guarded(work)


def rotate_key(config_path: Path, device: str) -> int:
    """Give a device a new key over the air; the present one serves until the device uses the new one."""

    def work() -> int:
        config, registry_path = _load(config_path)
        number = device_number(device)
        listed = config.make_registry().get(number)
        in_use = _keys_in_use(config).get(number)
        seal = _sealer(config)
        new = os.urandom(KEY_BYTES)

        def change(devices: list[Table]) -> None:
            table = _find(devices, number, registry_path)
            if listed is not None and listed.next_key is not None:
                if in_use != (listed.next_slot, fingerprint(listed.next_key)):
                    raise ConfigError(
                        f"device {number} has not taken its last new key yet: wait until it has been heard, see list"
                    )
                table["key"] = seal(number, "key", listed.next_key)
                table["key_slot"] = (table.get("key_slot", 0) + 1) % SLOTS
            table["next_key"] = seal(number, "next_key", new)

        edit(registry_path, change, config.open_key)
        print(f"device {number} gets a new key at its next contact")
        return _apply(config_path, config)

    return guarded(work)


def set_revoked(config_path: Path, device: str, revoked: bool) -> int:
    """Take nothing from a device any more, or take it again, with what it sent meanwhile."""

    def work() -> int:
        config, registry_path = _load(config_path)
        number = device_number(device)

        def change(devices: list[Table]) -> None:
            table = _find(devices, number, registry_path)
            if revoked == bool(table.get("revoked")):
                raise ConfigError(f"device {number} is {'revoked already' if revoked else 'not revoked'}")
            table.pop("revoked", None)
            if revoked:
                nested = {name: table.pop(name) for name in list(table) if isinstance(table[name], dict)}
                table.update({"revoked": True, **nested})

        edit(registry_path, change, config.open_key)
        print(f"device {number} is {'revoked: its frames go to quarantine' if revoked else 'released'}")
        return _apply(config_path, config)

    return guarded(work)


def seal_all(config_path: Path) -> int:
    """Seal the keys of the registry that stand there in plain digits."""

    def work() -> int:
        config, registry_path = _load(config_path)
        vault = config.open_vault(create=True)
        if vault is None:
            raise ConfigError("this gateway has no secret to seal by: give one first, see operations.md")
        sealed = 0

        def change(devices: list[Table]) -> None:
            nonlocal sealed
            for device in devices:
                beacons = device.get("configuration", {}).get("beacons", [])
                for table, owner in ((device, "device_id"), *((beacon, "beacon_id") for beacon in beacons)):
                    for name in keys_of(table):
                        table[name] = vault.seal_key(table[owner], name, bytes.fromhex(table[name]))
                        sealed += 1

        edit(registry_path, change, config.open_key)
        print(f"{sealed} keys sealed; what the disk held of them before can be read until it is written over")
        return _apply(config_path, config)

    return guarded(work)


def show_list(config_path: Path, as_json: bool) -> int:
    """Every device, and every stranger in quarantine. Keys are not shown."""

    def work() -> int:
        config = configuration.load(config_path)
        in_use = _keys_in_use(config)
        rows: list[dict[str, Any]] = []
        quarantined = _quarantined(config)
        present = config.registry is None or config.registry.exists()  # the file comes into being with the first add
        for device in config.make_registry() if present else config.devices:
            key = "one key"
            if device.next_key is not None:
                taken = in_use.get(device.device_id) == (device.next_slot, fingerprint(device.next_key))
                key = "new key in use" if taken else "new key not taken yet"
            rows.append(
                {
                    "deviceId": device.device_id,
                    "model": device.model,
                    "state": "revoked" if device.revoked else "active",
                    "key": key,
                    "quarantined": quarantined.pop(device.device_id, 0),
                }
            )
        for device_id, count in sorted(quarantined.items()):
            stranger = {"deviceId": device_id, "model": None, "state": "unknown", "key": "none", "quarantined": count}
            rows.append(stranger)
        if as_json:
            print(json.dumps(rows))
        for row in () if as_json else rows:
            frames = f"{row['quarantined']} frames in quarantine" if row["quarantined"] else ""
            print(f"{row['deviceId']:>10}  {row['model'] or '?':<10} {row['state']:<8} {row['key']}  {frames}".rstrip())
        return EXIT_DONE

    return guarded(work)


def _load(config_path: Path) -> tuple[Config, Path]:
    config = configuration.load(config_path)
    if config.registry is None:
        raise ConfigError(f'{config_path}: no registry file: add registry = "devices.toml" at the top of it')
    return config, config.registry


def _find(devices: list[Table], number: int, path: Path) -> Table:
    for table in devices:
        if table.get("device_id") == number:
            return table
    raise ConfigError(f"{path}: device {number} is not listed: add it first")


def _sealer(config: Config) -> Callable[[int, str, bytes], str]:
    vault = config.open_vault(create=True)
    return (lambda owner, use, key: key.hex()) if vault is None else vault.seal_key


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read a key of {2 * KEY_BYTES} hexadecimal digits: {error}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: a key has {2 * KEY_BYTES} hexadecimal digits")
    return key


def _write_secret(path: Path, identity: dict[str, Any]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(identity) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the identity: {error.strerror}") from None


def _query(config: Config, text: str) -> list[tuple[Any, ...]]:
    path = config.gateway.state_directory / "store.sqlite"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(text).fetchall()
    except sqlite3.Error as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None


def _keys_in_use(config: Config) -> dict[int, tuple[int, bytes]]:
    rows = _query(config, "SELECT device_id, slot, fingerprint FROM keys_in_use")
    return {device_id: (slot, mark) for device_id, slot, mark in rows}


def _quarantined(config: Config) -> dict[int, int]:
    return dict(_query(config, "SELECT device_id, count(*) FROM quarantine GROUP BY device_id"))


def _apply(config_path: Path, config: Config) -> int:
    if running.running_pid(config.gateway.state_directory) is None:
        print("no gateway runs; it applies at the next start", file=sys.stderr)
        return EXIT_DONE
    return running.reload(config_path)
