"""What `emtag gateway device add|list|rotate-key|revoke|release|seal` do; the options are in device_options.py.

The running gateway is asked to do it, over its control socket: it has the secret that sealed keys open by, and writes
the file as its own user. When none runs, the command does it itself, and it applies at the next start.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from emgate import config as configuration
from emgate.commands.request_commands import EXIT_DONE, device_number, guarded
from emgate.devices import registry_changes
from emgate.devices.registry import KEY_BYTES, Registry, read_device_file, unopened
from emgate.devices.registry_changes import Changes
from emgate.errors import ConfigError
from emgate.keys import key_source, secret_place, vault
from emgate.operation import running

WITHOUT_SECRET = ("revoke", "release")
CHANGE_S = 30.0
"""Reading and writing a file, on a busy card."""


def add(
    config_path: Path,
    device: str,
    model: str,
    key_file: Path | None,
    identity_file: Path | None,
    *,
    replace: bool = False,
) -> int:
    """List a new device, with a new key or a given one, or one that is listed anew; its identity goes to a file for
    `emtag flash`."""

    def work() -> int:
        state = configuration.state_directory(config_path)
        number = device_number(device)
        key = os.urandom(KEY_BYTES) if key_file is None else _read_key(key_file)
        if identity_file is not None:  # first: a device without its key is of no use
            _keep_off_the_disk(identity_file, config_path, state)
            identity: dict[str, Any] = {"device_id": number, "model": model, "key": key.hex()}
            before = registry_changes.newest_epoch(state, number)
            _write_secret(identity_file, identity | ({"first_epoch": before + 1} if before else {}))
        try:
            asked = {"change": "add", "deviceId": number, "model": model, "key": key.hex(), "replace": replace}
            said = _make(config_path, state, asked)
        except BaseException:
            if identity_file is not None:
                identity_file.unlink(missing_ok=True)  # of a device that is not listed
            raise
        print(said + ("" if identity_file is None else f"; its identity is in {identity_file}"))
        if key_file is None and identity_file is None:
            print(f"key {key.hex()}")
        return EXIT_DONE

    return guarded(work)


def rotate_key(config_path: Path, device: str) -> int:
    """Give a device a new key over the air; the present one serves until the device uses the new one."""
    return _change(config_path, "rotate-key", device, {"key": os.urandom(KEY_BYTES).hex()})


def set_revoked(config_path: Path, device: str, revoked: bool) -> int:
    """Take nothing from a device any more, or take it again, with what it sent meanwhile."""
    return _change(config_path, "revoke" if revoked else "release", device, {})


def seal_all(config_path: Path) -> int:
    """Seal the keys of the registry that stand there in plain digits."""
    return _change(config_path, "seal", None, {})


def show_list(config_path: Path, as_json: bool) -> int:
    """Every device, and every stranger in quarantine. Keys are not shown."""

    def work() -> int:
        answer = running.ask(configuration.state_directory(config_path), {"do": "devices"})
        rows: list[dict[str, Any]] = _rows(config_path) if answer is None else answer["devices"]
        if as_json:
            print(json.dumps(rows))
        for row in () if as_json else rows:
            frames = f"{row['quarantined']} frames in quarantine" if row["quarantined"] else ""
            print(f"{row['deviceId']:>10}  {row['model'] or '?':<10} {row['state']:<8} {row['key']}  {frames}".rstrip())
        return EXIT_DONE

    return guarded(work)


def _rows(config_path: Path) -> list[dict[str, Any]]:
    """As the file has them, when no gateway runs: with the secret or without it."""
    config = configuration.load(config_path, open_keys=False)
    try:
        vault = config.open_vault()
    except ConfigError:
        vault = None
    there = config.registry is not None and config.registry.exists()  # it comes into being with the first add
    open_key = unopened if vault is None else vault.open_key
    listed = read_device_file(config.registry, open_key) if there and config.registry is not None else ()
    return registry_changes.rows(config, Registry((*config.devices, *listed)), opened=vault is not None)


def _change(config_path: Path, change: str, device: str | None, more: dict[str, Any]) -> int:
    def work() -> int:
        state = configuration.state_directory(config_path)
        number = {} if device is None else {"deviceId": device_number(device)}
        print(_make(config_path, state, {"change": change, **number, **more}))
        return EXIT_DONE

    return guarded(work)


def _make(config_path: Path, state: Path, asked: dict[str, Any]) -> str:
    """Have it done by the running gateway, which goes by it at once; or do it."""
    answer = running.ask(state, {"do": "change", **asked}, CHANGE_S)
    if answer is not None:
        return str(answer["said"])
    if running.running_pid(state) is not None:
        raise ConfigError(f"the gateway on {state} does not answer: look into its log, and try again")
    if asked["change"] in WITHOUT_SECRET:
        said = Changes(configuration.load(config_path, open_keys=False), None).make(asked)
    else:
        # Keys of the configuration itself are opened too: they would not be there to be compared otherwise.
        config = configuration.load(config_path, secrets=False)
        said = Changes(config, config.open_vault(create=True)).make(asked)
    print("no gateway runs; it applies at the next start", file=sys.stderr)
    return said


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read a key of {2 * KEY_BYTES} hexadecimal digits: {error}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: a key has {2 * KEY_BYTES} hexadecimal digits")
    return key


def _keep_off_the_disk(identity_file: Path, config_path: Path, state: Path) -> None:
    """Where keys are sealed, none is written in plain digits onto the same disk, which keeps it after it is deleted."""
    sealed = (state / vault.FILE).exists()
    if not sealed and running.running_pid(state) is None:  # the first device makes keys.json, where there is a secret
        protection = configuration.load(config_path, open_keys=False).protection
        sealed = protection.at_rest != "off" and key_source.find(protection.passphrase_file) is not None
    if sealed and secret_place.one_disk(identity_file.absolute().parent, state):
        raise ConfigError(
            f"{identity_file}: this disk is the one that keys are sealed on, and here one would stand in plain digits;"
            " name a file in memory, in /run or /dev/shm"
        )


def _write_secret(path: Path, identity: dict[str, Any]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(identity) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the identity: {error.strerror}") from None
