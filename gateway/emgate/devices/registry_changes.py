"""Changes to the registry file, and what it lists: done by the running gateway, which has the secret of sealed keys, or
by the command itself when none runs.

Where keys are sealed, a shell has no secret. Revoking, releasing and listing do without one.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from emwire.envelope import SLOTS

from emgate.config import Config
from emgate.devices.registry import KEY_BYTES, SEALED, Device, OpenKey, unopened
from emgate.devices.registry_edit import Table, edit
from emgate.down.kinds import RequestError
from emgate.errors import ConfigError
from emgate.gateway_number import refuse_own
from emgate.keys.sealing import fingerprint
from emgate.keys.unsealed import keys_of
from emgate.keys.vault import Vault


class Changes:
    """The changes by name, each with its answer in words; ConfigError or RequestError leaves the file as it was."""

    def __init__(self, config: Config, vault: Vault | None) -> None:
        """`vault`: None when keys are not sealed, or, for revoke and release, when they cannot be opened."""
        if config.registry is None:
            raise ConfigError(
                'there is no registry file: add registry = "devices.toml" at the top of the configuration'
            )
        self._config = config
        self._path = config.registry
        self._vault = vault
        self._kinds = {
            "add": self._add,
            "rotate-key": self._rotate_key,
            "revoke": self._revoke,
            "release": self._release,
            "seal": self._seal,
        }

    def make(self, asked: dict[str, Any]) -> str:
        """One change: {"change": "add", "deviceId": 5, "model": "pid", "key": "00…"}."""
        kind = self._kinds.get(str(asked.get("change")))
        if kind is None:
            raise RequestError(f'"change" must be one of {", ".join(self._kinds)}')
        number = asked.get("deviceId", 0)
        if type(number) is not int:
            raise RequestError("deviceId must be a number")
        return kind(number, asked)

    def _edit(self, change: Any, open_key: OpenKey | None = None) -> None:
        if self._vault is not None:
            open_key = self._vault.open_key
        edit(self._path, change, open_key, self._config.gateway.state_directory)

    def _put(self, number: int, use: str, key: bytes) -> str:
        return key.hex() if self._vault is None else self._vault.seal_key(number, use, key)

    def _add(self, number: int, asked: dict[str, Any]) -> str:
        if any(listed.device_id == number for listed in self._config.devices):
            raise ConfigError(f"device {number} is listed in the configuration itself: take it out there first")
        refuse_own(self._config.gateway.id, (number,))
        key = _key(asked)
        replace = asked.get("replace") is True

        def change(devices: list[Table]) -> None:
            table: Table = {"device_id": number, "model": str(asked.get("model"))}
            table["key"] = self._put(number, "key", key)
            if replace:
                before = self._find(devices, number)
                if "configuration" in before:
                    table["configuration"] = before["configuration"]
                devices[devices.index(before)] = table
                return
            if any(each.get("device_id") == number for each in devices):
                raise ConfigError(
                    f"device {number} is listed already: rotate-key gives it a new key over the air; where its key is"
                    " lost, or another board takes its place, --replace lists it anew"
                )
            devices.append(table)

        self._edit(change)
        return f"device {number} is listed" + (" anew; its former key is refused from now on" if replace else "")

    def _rotate_key(self, number: int, asked: dict[str, Any]) -> str:
        new = _key(asked)
        in_use = keys_in_use(self._config).get(number)

        def change(devices: list[Table]) -> None:
            table = self._find(devices, number)
            if "next_key" in table:
                slot = (table.get("key_slot", 0) + 1) % SLOTS
                last = self._opened(number, table["next_key"])
                if in_use != (slot, fingerprint(last)):
                    raise ConfigError(
                        f"device {number} has not taken its last new key yet: wait until it has been heard, see list"
                    )
                table["key"] = self._put(number, "key", last)
                table["key_slot"] = slot
            table["next_key"] = self._put(number, "next_key", new)

        self._edit(change)
        return f"device {number} gets a new key at its next contact"

    def _opened(self, number: int, text: str) -> bytes:
        if not text.startswith(SEALED):
            return bytes.fromhex(text)
        if self._vault is None:
            raise ConfigError(f"{self._path}: device {number} has sealed keys, and there is no secret to open them")
        try:
            return self._vault.open_key(number, "next_key", text)
        except ValueError as error:
            raise ConfigError(f"{self._path}: device {number}: {error}") from None

    def _revoke(self, number: int, _: dict[str, Any]) -> str:
        self._set_revoked(number, True)
        return f"device {number} is revoked: its frames go to quarantine"

    def _release(self, number: int, _: dict[str, Any]) -> str:
        self._set_revoked(number, False)
        return f"device {number} is released"

    def _set_revoked(self, number: int, revoked: bool) -> None:
        def change(devices: list[Table]) -> None:
            table = self._find(devices, number)
            if revoked == bool(table.get("revoked")):
                raise ConfigError(f"device {number} is {'revoked already' if revoked else 'not revoked'}")
            table.pop("revoked", None)
            if revoked:
                nested = {name: table.pop(name) for name in list(table) if isinstance(table[name], dict)}
                table.update({"revoked": True, **nested})

        self._edit(change, unopened)

    def _seal(self, _: int, __: dict[str, Any]) -> str:
        vault = self._vault
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

        self._edit(change)
        return f"{sealed} keys sealed; what the disk held of them before can be read until it is written over"

    def _find(self, devices: list[Table], number: int) -> Table:
        for table in devices:
            if table.get("device_id") == number:
                return table
        raise ConfigError(f"{self._path}: device {number} is not listed: add it first")


def _key(asked: dict[str, Any]) -> bytes:
    try:
        key = bytes.fromhex(str(asked.get("key")))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise RequestError(f"a key has {2 * KEY_BYTES} hexadecimal digits")
    return key


# -- what is listed -------------------------------------------------------------------------------------------


def rows(config: Config, devices: Iterable[Device], *, opened: bool = True) -> list[dict[str, Any]]:
    """Every device, and every stranger in quarantine. `opened`: False where sealed keys are only stood in for."""
    in_use = keys_in_use(config)
    quarantined = _quarantined(config)
    found: list[dict[str, Any]] = []
    for device in devices:
        key = "one key"
        if device.next_key is not None:
            taken = in_use.get(device.device_id) == (device.next_slot, fingerprint(device.next_key))
            key = "new key in use" if taken else "new key not taken yet" if opened else "a new key is given"
        found.append(
            {
                "deviceId": device.device_id,
                "model": device.model,
                "state": "revoked" if device.revoked else "active",
                "key": key,
                "quarantined": quarantined.pop(device.device_id, 0),
                "configuration": None if device.configuration is None else device.configuration.shown(),
            }
        )
    for device_id, count in sorted(quarantined.items()):
        stranger = {"deviceId": device_id, "model": None, "state": "unknown", "key": "none", "quarantined": count}
        found.append({**stranger, "configuration": None})
    return found


def keys_in_use(config: Config) -> dict[int, tuple[int, bytes]]:
    """The slot and fingerprint of the key that each device used last."""
    found = _query(config.gateway.state_directory, "SELECT device_id, slot, fingerprint FROM keys_in_use")
    return {device_id: (slot, mark) for device_id, slot, mark in found}


def _quarantined(config: Config) -> dict[int, int]:
    text = "SELECT device_id, count(*) FROM quarantine GROUP BY device_id"
    return dict(_query(config.gateway.state_directory, text))


def newest_epoch(state_directory: Path, number: int) -> int:
    """Of a device, as far as the store knows; 0: nothing. A board that begins anew begins above it."""
    behind = "records WHERE row_id > (SELECT coalesce(max(row_id), 0) FROM checkpoint) AND"  # not in the books yet
    text = " UNION ALL ".join(
        f"SELECT max(epoch) FROM {rows} device_id = {number:d}"
        for rows in (behind, "epochs WHERE", "up_counters WHERE")
    )
    return max((epoch for (epoch,) in _query(state_directory, text) if epoch is not None), default=0)


def _query(state_directory: Path, text: str) -> list[tuple[Any, ...]]:
    path = state_directory / "store.sqlite"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(text).fetchall()
    except sqlite3.Error as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
