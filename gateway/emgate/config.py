"""The gateway's configuration file: its shape, its defaults, and errors that name the line or field and the remedy."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emgate.clock import Clock, SharedClock, SystemClock
from emgate.errors import ConfigError, explain
from emgate.registry import Device, Registry, read_device_file

Port = Annotated[int, Field(ge=1, le=65535)]
# What may stand in an MQTT topic level and a client identifier.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Section(BaseModel):
    """A table of the file: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySection(Section):
    """Who this gateway is and where it keeps its state."""

    id: Name
    state_directory: Path
    ready_file: Path | None = None
    log_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    status_interval_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    acknowledge_within_ms: Annotated[int, Field(ge=0, le=1000)] = 20
    restart_maximum_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


class ClockSection(Section):
    """`system`, or `shared`: a file of 8 bytes that another process advances."""

    source: Literal["system", "shared"] = "system"
    path: Path | None = None
    uncertainty_ms: Annotated[int, Field(ge=0, le=65535)] | None = None

    @model_validator(mode="after")
    def _path_with_shared(self) -> Self:
        if self.source == "shared" and self.path is None:
            raise ValueError('source = "shared" needs path = "FILE" of 8 bytes (unix milliseconds)')
        return self

    def make(self) -> Clock:
        """The configured clock; ConfigError when the shared file cannot be mapped."""
        if self.source == "system" or self.path is None:
            return SystemClock(self.uncertainty_ms)
        try:
            return SharedClock(self.path, 1 if self.uncertainty_ms is None else self.uncertainty_ms)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"clock.path: cannot map {self.path}: {error}; it must exist and hold 8 bytes beforehand"
            ) from None


class SerialSection(Section):
    """One serial port."""

    port: str
    baud_rate: Annotated[int, Field(ge=300, le=4_000_000)] = 115200


class Broker(Section):
    """How to reach a broker. `password_file` holds the password on its first line; `ca_file` turns TLS on."""

    host: str
    port: Port = 1883
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    client_id: Name | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30


class BleSection(Section):
    """The BLE adapter: BlueZ, or an HCI transport in bumble's notation."""

    backend: Literal["bluez", "bumble"] = "bluez"
    transport: str | None = None


class UplinkSection(Section):
    """Where committed records go. `local` ingests in this process, `mqtt` sends batches to a broker."""

    kind: Literal["local", "mqtt"] = "local"
    database: Path | None = None
    broker: Broker | None = None
    host: str | None = None
    port: Port = 1883
    batch_records: Annotated[int, Field(ge=1, le=5000)] = 500

    @model_validator(mode="after")
    def _host_with_mqtt(self) -> Self:
        if self.kind == "mqtt" and self.host is None and self.broker is None:
            raise ValueError('kind = "mqtt" needs host = "…" (and port), or a table [uplink.broker]')
        return self

    def mqtt(self) -> Broker:
        """The broker of an mqtt uplink."""
        return self.broker or Broker(host=self.host or "", port=self.port)


class StoreSection(Section):
    """How long delivered records stay, and what is kept free for alarms."""

    keep_delivered_days: Annotated[float, Field(ge=0)] = 14.0
    maximum_bytes: Annotated[int, Field(ge=1_000_000)] = 4_000_000_000
    alarm_reserve_bytes: Annotated[int, Field(ge=0)] = 16_000_000  # four times the write-ahead log's usual size


class Config(Section):
    """The whole file."""

    gateway: GatewaySection
    clock: ClockSection = ClockSection()
    store: StoreSection = StoreSection()
    serial: tuple[SerialSection, ...] = ()
    mqtt: Broker | None = None
    ble: BleSection | None = None
    uplink: UplinkSection = UplinkSection()
    registry: Path | None = None
    devices: tuple[Device, ...] = ()

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not (self.serial or self.mqtt or self.ble):
            raise ValueError("no link: add [[serial]], [mqtt] or [ble]")
        if not self.devices and self.registry is None:
            raise ValueError('no devices: add [[devices]] or registry = "FILE" at the top of the file')
        ports = [section.port for section in self.serial]
        for port in ports:
            if ports.count(port) > 1:
                raise ValueError(f"serial port {port} is listed twice: remove one of the entries")
        return self

    def make_registry(self) -> Registry:
        """The devices of this file and of the registry file together."""
        listed = read_device_file(self.registry) if self.registry else ()
        return Registry((*self.devices, *listed))


class BackendSection(Section):
    """Where the backend keeps its database, and how it speaks of itself."""

    database: Path
    ready_file: Path | None = None
    log_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class BackendConfig(Section):
    """The whole file of `emtag backend run`."""

    backend: BackendSection
    mqtt: Broker
    clock: ClockSection = ClockSection()


PATH_KEYS = {
    "state_directory", "ready_file", "log_file", "path", "database", "password_file", "ca_file", "certificate_file",
    "key_file", "registry",
}  # fmt: skip
Model = TypeVar("Model", bound=Section)


def load(path: Path) -> Config:
    """Read and check a gateway's file. Relative paths in it are relative to the file's folder."""
    return _load(path, Config)


def load_backend(path: Path) -> BackendConfig:
    """Read and check a backend's file, likewise."""
    return _load(path, BackendConfig)


def _load(path: Path, model: type[Model]) -> Model:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _resolve_paths(data, path.parent)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(path, error, model)) from None


def _resolve_paths(table: dict[str, Any], folder: Path) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _resolve_paths(value, folder)
        elif key in PATH_KEYS and isinstance(value, str):
            table[key] = str(folder / value)
