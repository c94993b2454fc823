"""The devices this gateway answers to: identity, model, key, and the settings each should have."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from emwire.envelope import SLOTS
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from emgate.errors import ConfigError, PlacedError, explain, read_toml

KEY_BYTES = 16  # AES-128
SEALED = "sealed:"
"""How a key begins that is sealed at rest (see emgate.keys.vault)."""
OpenKey = Callable[[int, str, str], bytes]
"""(device or beacon number, name of the field, sealed text) → key; ValueError when it does not open."""


def unopened(owner: int, use: str, text: str) -> bytes:
    """An OpenKey without a secret: bytes of a key's length that stand in for it, others for every key."""
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


class SealedKeyError(Exception):
    """Why a sealed key does not open."""


Uint16 = Annotated[int, Field(strict=True, ge=0, le=0xFFFF)]
Uint32 = Annotated[int, Field(strict=True, ge=1, le=0xFFFF_FFFF)]


def _key(value: object, info: ValidationInfo) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not in quotes; write the key as a string of 32 hexadecimal digits")
    try:
        key = _opened(value, info) if value.startswith(SEALED) else bytes.fromhex(value)
    except SealedKeyError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("not hexadecimal; write the key as 32 hexadecimal digits") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"{len(key)} bytes long; an AES-128 key has {KEY_BYTES} (32 hexadecimal digits)")
    return key


def _opened(text: str, info: ValidationInfo) -> bytes:
    owner = info.data.get("device_id", info.data.get("beacon_id"))
    if owner is None:
        raise SealedKeyError(
            "sealed, and the number before it is not right; mend that first: a sealed key opens only for its own"
        )
    open_key: OpenKey | None = (info.context or {}).get("open_key")
    if open_key is None:
        raise SealedKeyError(
            "sealed at rest; give the key in plain digits, or the secret of the gateway that sealed it"
        )
    try:
        return open_key(owner, info.field_name or "", text)
    except (ValueError, ConfigError) as error:
        raise SealedKeyError(str(error)) from None


Key = Annotated[bytes, BeforeValidator(_key), PlainSerializer(lambda _: "…", return_type=str), Field(repr=False)]
NextKey = Annotated[
    bytes | None, BeforeValidator(_key), PlainSerializer(lambda _: "…", return_type=str), Field(repr=False)
]


class Beacon(BaseModel):
    """An RF tag (pid) that a home unit listens for, with the key that its advertisements are authenticated by."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    beacon_id: Uint32
    key: Key


class Settings(BaseModel):
    """What the wire's `configuration` message carries. Zero in an interval leaves the device's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Annotated[int, Field(strict=True, ge=1, le=0xFFFF)]
    report_interval_s: Uint16 = 0
    fix_interval_s: Uint16 = 0
    presence_window_s: Uint16 = 0
    sample_interval_s: Uint16 = 0
    status_interval_s: Uint16 = 0
    beacons: Annotated[tuple[Beacon, ...], Field(max_length=8)] = ()

    def shown(self) -> dict[str, Any]:
        """Without the beacons' keys."""
        return self.model_dump(mode="json")


def never_sent(device_id: int, now: Mapping[str, Any], before: Mapping[str, Any]) -> str | None:
    """What is wrong where a configuration is another than before and its version has not grown: a device goes by the
    version alone. ("problem; remedy")"""
    if now["version"] > before["version"] or {**now, "version": 0} == {**before, "version": 0}:
        return None
    return (
        f"device {device_id}: another configuration under version {now['version']}, which the device would never be"
        f" sent; write version = {before['version'] + 1}"
    )


class Device(BaseModel):
    """One device. `configuration` is sent when the device reports an older version.

    `next_key` is given to the device for the slot after `key_slot`, and replaces `key` once the device uses it.
    Nothing is taken from a `revoked` device: its frames go to quarantine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    device_id: Uint32
    model: Literal["ankle_gps", "home_unit", "alcohol", "pid"]
    key: Key
    key_slot: Annotated[int, Field(strict=True, ge=0, lt=SLOTS)] = 0
    next_key: NextKey = None
    revoked: Annotated[bool, Field(strict=True)] = False
    configuration: Settings | None = None

    @model_validator(mode="after")
    def _another_key(self) -> "Device":
        if self.next_key == self.key:
            raise PlacedError(("next_key",), "next_key is the key itself; give another one, or take it out")
        return self

    @property
    def next_slot(self) -> int:
        """The slot that `next_key` is for."""
        return (self.key_slot + 1) % SLOTS


class DeviceFile(BaseModel):
    """What a registry file may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    devices: tuple[Device, ...]

    @model_validator(mode="after")
    def _each_once(self) -> "DeviceFile":
        refuse_twice(self.devices)
        return self


def refuse_twice(devices: Iterable[Device]) -> None:
    """PlacedError at the second entry of a device."""
    seen: set[int] = set()
    for index, device in enumerate(devices):
        if device.device_id in seen:
            raise PlacedError(
                ("devices", index, "device_id"),
                f"device {device.device_id} (0x{device.device_id:08x}) is listed twice; remove one of the entries",
            )
        seen.add(device.device_id)


class Registry:
    """Devices by their identity."""

    def __init__(self, devices: Iterable[Device]) -> None:
        devices = tuple(devices)
        try:
            refuse_twice(devices)
        except PlacedError as error:
            raise ConfigError(str(error)) from None
        self._devices = {device.device_id: device for device in devices}

    def get(self, device_id: int) -> Device | None:
        """The device, or None when nobody registered it."""
        return self._devices.get(device_id)

    def __contains__(self, device_id: object) -> bool:
        return device_id in self._devices

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)


def read_device_file(path: Path, open_key: OpenKey | None = None) -> tuple[Device, ...]:
    """The `[[devices]]` of a registry file; ConfigError names the file and the line or field."""
    try:
        text, data = read_toml(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the device registry: {error.strerror or error}; `emtag gateway device add` makes it"
        ) from None
    if not data:  # as likely a file that was lost as one that was never filled
        raise ConfigError(f"{path}: line 1: it names no devices; restore it, or write `devices = []`")
    try:
        return DeviceFile.model_validate(data, context={"open_key": open_key}).devices
    except ValidationError as error:
        raise ConfigError(explain(path, error, DeviceFile, text)) from None
