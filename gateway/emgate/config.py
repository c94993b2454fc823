"""The gateway's configuration file: its shape, its defaults, and errors that name the line or field and the remedy."""

import functools
import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from emgate.clock import Clock, SharedClock, SystemClock
from emgate.devices.registry import Device, OpenKey, Registry, read_device_file, refuse_twice, unopened
from emgate.errors import ConfigError, PlacedError, explain, named, read_toml
from emgate.keys import held_files
from emgate.toml_lines import Lines, Location

if TYPE_CHECKING:
    from emgate.keys.vault import Vault

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Flag = Annotated[bool, Field(strict=True)]


def _name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is None:
        raise ValueError("no name for a topic of a broker; write 1 to 64 letters, digits, _ and -")
    return text


def _url(text: str) -> str:
    if re.fullmatch(r"https://[^\s@?#/]+(/[^\s@?#]*)?", text) is None:
        raise ValueError('no address of a backend; write "https://HOST[:PORT][/PATH]", without user, ? and #')
    return text


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the file: unknown keys are refused, numbers have an end, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GatewaySection(Section):
    """Who this gateway is and where it keeps its state."""

    id: Name
    state_directory: Path
    ready_file: Path | None = None
    log_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    status_interval_s: Annotated[float, Field(strict=True, gt=0, le=3600)] | None = None  # see emgate.daemon
    acknowledge_within_ms: Annotated[int, Field(strict=True, ge=0, le=1000)] = 20
    restart_maximum_s: Annotated[float, Field(strict=True, gt=0, le=3600)] = 30.0


class ClockSection(Section):
    """`system`, or `shared`: a file of 8 bytes that another process advances."""

    source: Literal["system", "shared"] = "system"
    path: Path | None = None
    uncertainty_ms: Annotated[int, Field(strict=True, ge=0, le=65535)] | None = None

    @model_validator(mode="after")
    def _path_with_shared(self) -> Self:
        if self.source == "shared" and self.path is None:
            raise ValueError('source = "shared" needs path; write path = "FILE" of 8 bytes (unix milliseconds)')
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


class PortMatch(Section):
    """Which USB adapter is meant, wherever it is plugged in; what is given must all agree."""

    serial_number: str | None = None
    vendor_id: Annotated[int, Field(strict=True, ge=0, le=0xFFFF)] | None = None
    product_id: Annotated[int, Field(strict=True, ge=0, le=0xFFFF)] | None = None
    location: str | None = None

    @model_validator(mode="after")
    def _something_to_match(self) -> Self:
        if not self.text():
            raise ValueError("nothing to match; give at least one of serial_number, vendor_id, product_id, location")
        return self

    def text(self) -> str:
        """As it stands in names and errors."""
        numbers = {"vendor_id": self.vendor_id, "product_id": self.product_id}
        texts = {"serial_number": self.serial_number, "location": self.location}
        return ",".join(
            [f"{name}={value}" for name, value in texts.items() if value is not None]
            + [f"{name}={value:04x}" for name, value in numbers.items() if value is not None]
        )


class SerialSection(Section):
    """One serial port: its path, or what to know it by."""

    port: str | None = None
    match: PortMatch | None = None
    baud_rate: Annotated[int, Field(strict=True, ge=300, le=4_000_000)] = 115200

    @model_validator(mode="after")
    def _one_way_to_find_it(self) -> Self:
        if (self.port is None) == (self.match is None):
            raise ValueError('no port, or two; give port = "/dev/…" or match = { serial_number = "…" }, one of both')
        return self

    @property
    def name(self) -> str:
        """The path, or what it is known by."""
        return self.port or (self.match.text() if self.match else "")


def _pair(certificate_file: Path | None, key_file: Path | None) -> None:
    if (certificate_file is None) != (key_file is None):
        given = "key_file" if certificate_file is None else "certificate_file"
        raise PlacedError((given,), f"{given} alone; a certificate and its key go together: give both, or neither")


HELD_FILES = ("password_file", "token_file", "ca_file", "certificate_file", "key_file")


class WithFiles(Section):
    """Goes by what files hold that it names: when these hold something else, it is no longer equal to itself."""

    _held: bytes = PrivateAttr(b"")

    def model_post_init(self, _: Any) -> None:
        """Remember what they hold."""
        self._held = held_files.digest(getattr(self, name, None) for name in HELD_FILES)


class Broker(WithFiles):
    """How to reach a broker. `password_file` holds the password on its first line; `ca_file` turns TLS on."""

    host: Text
    port: Port = 1883
    username: str | None = None
    password: SecretStr | None = None  # from the environment only, see ENVIRONMENT
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    client_id: Name | None = None
    keepalive_s: Annotated[int, Field(strict=True, ge=5, le=3600)] = 30

    @model_validator(mode="after")
    def _encrypted_with_all_it_needs(self) -> Self:
        _pair(self.certificate_file, self.key_file)
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise PlacedError(
                ("password_file",) if self.password is None else ("username",),
                'a password without username is never sent; add username = "…", or take the password out',
            )
        if self.certificate_file is not None and self.ca_file is None:
            raise PlacedError(
                ("certificate_file",),
                "no TLS without ca_file, so the certificate would not be used; add ca_file, the broker's authority"
                " (/etc/ssl/certs/ca-certificates.crt for a public one)",
            )
        return self

    def read_password(self) -> str | None:
        """The password, from wherever it was given; ConfigError when its file cannot be read."""
        if self.password is not None:
            return self.password.get_secret_value()
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").split("\n", 1)[0]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.password_file}: cannot read the password: {error}") from None


SHARES = 4
"""Gateways that may share a fleet: each takes every fourth down counter (emgate.devices.sessions)."""


class MqttSection(Broker):
    """The devices' broker. `shared_group`: several gateways share the fleet, each with a place of its own."""

    shared_group: Name | None = None
    shared_place: Annotated[int, Field(strict=True, ge=0, lt=SHARES)] | None = None

    @model_validator(mode="after")
    def _place_in_group(self) -> Self:
        if (self.shared_group is None) != (self.shared_place is None):
            raise ValueError(
                f"one of shared_group and shared_place alone; give both: each gateway of a group another place, 0 to"
                f" {SHARES - 1}"
            )
        return self


class LimitsSection(Section):
    """Frames a second that are looked at, with four seconds' worth at once; more is dropped and counted."""

    link_frames_per_s: Annotated[float, Field(strict=True, gt=0)] = 10_000.0
    device_frames_per_s: Annotated[float, Field(strict=True, gt=0)] = (
        1_000.0  # LTE-M's 1 Mbit/s up is 1,250 frames of 100 B
    )


BUMBLE_TRANSPORTS = (
    "serial", "udp", "tcp-client", "tcp-server", "ws-client", "ws-server", "pty", "file", "vhci", "hci-socket", "usb",
    "pyusb", "android-emulator", "android-netsim", "unix", "unix-client", "unix-server",
)  # fmt: skip
"""The kinds that bumble.transport.open_transport knows."""


class BleSection(Section):
    """The BLE adapter: one of BlueZ's (hci0), or an HCI transport in bumble's notation."""

    backend: Literal["bluez", "bumble"] = "bluez"
    transport: str | None = None
    pair: Flag = False

    @model_validator(mode="after")
    def _pairing_needs_bluez(self) -> Self:
        if self.pair and self.backend != "bluez":
            raise PlacedError(("pair",), 'only BlueZ pairs; write backend = "bluez", or take pair out')
        if self.backend == "bluez" and self.transport is not None and re.fullmatch(r"hci\d+", self.transport) is None:
            raise PlacedError(("transport",), 'no adapter of BlueZ; write transport = "hci0", or take it out')
        scheme = None if self.transport is None else self.transport.partition(":")[0]
        if self.backend == "bumble" and scheme is not None and scheme not in BUMBLE_TRANSPORTS:
            known = ", ".join(BUMBLE_TRANSPORTS)
            raise PlacedError(
                ("transport",), f'no HCI transport of bumble; write transport = "KIND:WHERE", as usb:0, of {known}'
            )
        return self


class MeteredSection(Section):
    """What a target may cost. Alarms are exempt, but counted."""

    bytes_per_hour: Annotated[int, Field(strict=True, ge=10_000)] | None = None
    bytes_per_day: Annotated[int, Field(strict=True, ge=10_000)] | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.bytes_per_hour is None and self.bytes_per_day is None:
            raise ValueError("no limit; give bytes_per_hour, bytes_per_day, or both")
        return self

    def limits(self) -> dict[int, int]:
        """Period in ms: bytes in it."""
        both = {3_600_000: self.bytes_per_hour, 86_400_000: self.bytes_per_day}
        return {period: size for period, size in both.items() if size is not None}


def read_token(path: Path) -> str:
    """The bearer token on the first line of a file; ConfigError when there is none."""
    try:
        return _token(path.read_text(encoding="ascii").split("\n", 1)[0].strip(), f"{path}: the first line")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the token: {error}") from None


def _token(text: str, place: str) -> str:
    if len(text) < 16 or not text.isprintable() or not text.isascii() or " " in text:
        raise ConfigError(f"{place} must be a token of at least 16 characters without spaces")
    return text


class HttpsTarget(WithFiles):
    """A backend's URL, and how each knows the other."""

    url: Annotated[str, AfterValidator(_url)]
    token: SecretStr | None = None  # from the environment only, see ENVIRONMENT
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    poll_interval_s: Annotated[float, Field(strict=True, gt=0, le=86400)] = 30.0

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        _pair(self.certificate_file, self.key_file)
        return self

    def read_token(self) -> str | None:
        """The bearer token, from wherever it was given; ConfigError when there is none to be read."""
        if self.token is not None:
            return _token(self.token.get_secret_value(), "the token of the environment")
        return None if self.token_file is None else read_token(self.token_file)


UPLINK_KINDS = {
    "database": "local", "guarded_disk": "local", "maximum_bytes": "local", "broker": "mqtt", "host": "mqtt",
    "port": "mqtt", "https": "https",
}  # fmt: skip
"""Keys of an uplink that are for one kind alone."""
UNKNOWN = "the backend would not know us"
UNKNOWN_REMEDY = "give token_file, or certificate_file and key_file"


class UplinkSection(Section):
    """Where committed records go: `local` ingests in this process, `mqtt` and `https` send batches to a backend.

    `guarded_disk`: the operator's word that nobody takes away the disk that a local backend's database is on.
    `maximum_bytes`: of that database; above it the records stay in the store."""

    name: Name = "uplink"
    required: Flag = True
    kind: Literal["local", "mqtt", "https"] = "local"
    database: Path | None = None
    guarded_disk: Flag = False
    maximum_bytes: Annotated[int, Field(strict=True, ge=1_000_000)] = 4_000_000_000  # as the store
    broker: Broker | None = None
    https: HttpsTarget | None = None
    host: str | None = None
    port: Port = 1883
    batch_records: Annotated[int, Field(strict=True, ge=1, le=5000)] = 1000
    metered: MeteredSection | None = None

    @model_validator(mode="after")
    def _nothing_of_another_kind(self) -> Self:
        for name, kind in UPLINK_KINDS.items():
            if name in self.model_fields_set and self.kind != kind and getattr(self, name) is not None:
                raise PlacedError((name,), f'{name} is for kind = "{kind}"; write that kind, or take {name} out')
        for name in ("host", "port"):
            if self.broker is not None and name in self.model_fields_set:
                raise PlacedError((name,), f"{name}, and a table [uplink.broker] with one too; take one of them out")
        return self

    @model_validator(mode="after")
    def _what_the_kind_needs(self, info: ValidationInfo) -> Self:
        if self.kind == "mqtt" and self.host is None and self.broker is None:
            raise ValueError('kind = "mqtt" needs host; write host = "…" (and port), or a table [uplink.broker]')
        if self.kind == "https":
            if self.https is None:
                raise ValueError('kind = "https" needs its target; write a table [uplink.https] with url = "https://…"')
            if self.unknown_to_backend and (info.context or {}).get("secrets", True):
                raise ValueError(f"{UNKNOWN}; {UNKNOWN_REMEDY}")
        if self.kind == "local" and self.metered is not None:
            raise PlacedError(("metered",), 'kind = "local" costs nothing; take metered out')
        return self

    @property
    def unknown_to_backend(self) -> bool:
        """Nothing is given here that an HTTPS backend would know us by."""
        far = self.https
        return far is not None and far.token is None and far.token_file is None and far.certificate_file is None

    def mqtt(self) -> Broker:
        """The broker of an mqtt uplink."""
        return self.broker or Broker(host=self.host or "", port=self.port)


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, dict) else value


Uplinks = Annotated[tuple[UplinkSection, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class UpdatesSection(Section):
    """How fast the chunks of a firmware image go down to a device."""

    bytes_per_s: Annotated[int, Field(strict=True, ge=100)] = (
        4000  # a third of a serial line at 115,200 Bd; 100 kB in 25 s
    )


class StoreSection(Section):
    """How long delivered records stay, and what is kept free for alarms."""

    keep_delivered_days: Annotated[float, Field(strict=True, ge=0)] = 14.0
    undelivered_days: Annotated[float, Field(strict=True, ge=1)] = 365.0
    maximum_bytes: Annotated[int, Field(strict=True, ge=1_000_000)] = 4_000_000_000
    alarm_reserve_bytes: Annotated[int, Field(strict=True, ge=0)] = (
        16_000_000  # four times the write-ahead log's usual size
    )


class ProtectionSection(Section):
    """Keys at rest (see keys/vault.py): `required` does not start without a secret, `auto` seals when one is given."""

    at_rest: Literal["auto", "required", "off"] = "required"
    passphrase_file: Path | None = None


class HttpSection(Section):
    """Metrics, health and status, for this machine alone: on a loopback address, or a Unix socket."""

    address: str = "127.0.0.1"
    port: Port | None = None
    socket: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.port is None) == (self.socket is None):
            raise ValueError('no place to serve at, or two; give one of port = 9410 and socket = "FILE"')
        try:
            loopback = ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f"address {self.address!r} is not a loopback address; use 127.0.0.1 or ::1, and a proxy with"
                " authentication in front for other machines"
            )
        return self


class Config(Section):
    """The whole file."""

    gateway: GatewaySection
    clock: ClockSection = ClockSection()
    store: StoreSection = StoreSection()
    updates: UpdatesSection = UpdatesSection()
    serial: tuple[SerialSection, ...] = ()
    mqtt: MqttSection | None = None
    ble: BleSection | None = None
    limits: LimitsSection = LimitsSection()
    uplink: Uplinks = (UplinkSection(),)
    protection: ProtectionSection = ProtectionSection()
    http: HttpSection | None = None
    registry: Path | None = None
    devices: tuple[Device, ...] = ()

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not (self.serial or self.mqtt or self.ble):
            raise PlacedError(("gateway",), "no link; add [[serial]], [mqtt] or [ble]")
        if not self.devices and self.registry is None:
            raise PlacedError(("gateway",), 'no devices; add registry = "FILE" at the top of the file')
        names = [target.name for target in self.uplink]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PlacedError(
                    ("uplink", index), f"two uplinks are called {name!r}; give each [[uplink]] a name of its own"
                )
        if not any(target.required for target in self.uplink):
            raise PlacedError(
                ("uplink", 0, "required"),
                "no uplink is required, so nothing would ever count as delivered; let one be required",
            )
        ports = [section.name for section in self.serial]
        for index, port in enumerate(ports):
            if port in ports[:index]:
                raise PlacedError(("serial", index), f"serial port {port} is listed twice; remove one of the entries")
        self._refuse_one_client_twice()
        refuse_twice(self.devices)
        return self

    def _refuse_one_client_twice(self) -> None:
        """A broker ends the connection of a client when another comes with its identifier."""
        brokers: list[tuple[Location, Broker | None]] = [(("mqtt",), self.mqtt)]
        brokers += [(("uplink", index, "broker"), target.broker) for index, target in enumerate(self.uplink)]
        seen = set()
        for location, broker in brokers:
            if broker is not None and broker.client_id is not None:
                client = (broker.host, broker.port, broker.client_id)
                if client in seen:
                    raise PlacedError(
                        (*location, "client_id"),
                        f"two clients of {broker.host} are called {broker.client_id!r}, and would take the session from"
                        " each other; give each a client_id of its own, or none",
                    )
                seen.add(client)

    @property
    def counter_share(self) -> tuple[int, int]:
        """(place, places): which down counters are ours (emgate.devices.sessions); all where no fleet is shared."""
        place = self.mqtt.shared_place if self.mqtt else None
        return (0, 1) if place is None else (place, SHARES)

    def make_registry(self, open_key: OpenKey | None = None) -> Registry:
        """The devices of this file and of the registry file together. `open_key`: instead of this gateway's own."""
        listed = read_device_file(self.registry, open_key or _opener(self.open_vault)) if self.registry else ()
        for device in listed:
            if any(device.device_id == own.device_id for own in self.devices):
                raise ConfigError(
                    f"{self.registry}: device {device.device_id} is listed in the configuration too; remove one of the"
                    " entries"
                )
        return Registry((*self.devices, *listed))

    def open_vault(self, *, create: bool = False) -> "Vault | None":
        """The keys at rest, or None when nothing is sealed; ConfigError when they cannot be opened.

        `create`: make them where there are none, unless the registry has keys that were sealed by others."""
        return _open_vault(self.gateway, self.protection, create, self._read_without_vault)

    def _read_without_vault(self) -> None:
        if self.registry is not None and self.registry.exists():
            self.make_registry()


class PlaceOfGateway(BaseModel):
    """Of the table [gateway], what a command needs to find the running one."""

    state_directory: Path


class Place(BaseModel):
    """The whole file, for a command that asks the running gateway: whatever else is wrong there is no matter of it."""

    gateway: PlaceOfGateway


class BackendSection(Section):
    """Where the backend keeps its database, and how it speaks of itself."""

    database: Path
    ready_file: Path | None = None
    log_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ReceiveGateway(Section):
    """A gateway that may deliver, known by its token; without one, by a certificate whose common name is its id."""

    id: Name
    token_file: Path | None = None


class ReceiveSection(Section):
    """The HTTPS end that gateways deliver to."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 8443
    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    gateways: Annotated[tuple[ReceiveGateway, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_is_known_somehow(self) -> Self:
        for gateway in self.gateways:
            if gateway.token_file is None and self.client_ca_file is None:
                raise ValueError(f"gateway {gateway.id!r} has no token_file, and there is no client_ca_file; give one")
        return self


class BackendConfig(Section):
    """The whole file of `emtag backend run`."""

    backend: BackendSection
    mqtt: Broker | None = None
    https: ReceiveSection | None = None
    clock: ClockSection = ClockSection()

    @model_validator(mode="after")
    def _some_way_in(self) -> Self:
        if self.mqtt is None and self.https is None:
            raise PlacedError(("backend",), "no way in; add [mqtt], [https], or both")
        return self


PATH_KEYS = {
    "state_directory", "ready_file", "log_file", "path", "database", "password_file", "ca_file", "certificate_file",
    "key_file", "registry", "token_file", "client_ca_file", "socket", "passphrase_file",
}  # fmt: skip
Model = TypeVar("Model", bound=Section)


ENVIRONMENT = {
    "EMTAG_MQTT_PASSWORD": ("mqtt", "password"),
    "EMTAG_UPLINK_PASSWORD": ("uplink", "broker", "password"),
    "EMTAG_UPLINK_TOKEN": ("uplink", "https", "token"),
}
"""Secrets that the environment may give, and what each is. The name with _FILE names a file that holds it. Of
several uplinks, EMTAG_UPLINK_NAME_… is for the one of that name. The gateway's own secret is in keys/key_source.py."""


def load(path: Path, *, open_keys: bool = True, secrets: bool = True) -> Config:
    """Read and check a gateway's file. Relative paths in it are relative to the file's folder.

    `secrets`: False for commands that do without those that the environment may give, which is the service's.
    `open_keys`: False for commands that do without the gateway's own too: sealed keys are then stood in for by other
    bytes."""
    return _load(path, Config, {"open_keys": open_keys, "secrets": secrets and open_keys})


def state_directory(path: Path) -> Path:
    """Where the gateway of this file runs; ConfigError when the file does not say. Nothing else of it is looked at: a
    gateway that runs by what the file said before can be asked while it is being changed, or wrong."""
    text, data = _read(path)
    _resolve_paths(data, path.parent)
    try:
        return Place.model_validate(data).gateway.state_directory
    except ValidationError as error:
        raise ConfigError(explain(path, error, Place, text)) from None


def load_backend(path: Path) -> BackendConfig:
    """Read and check a backend's file, likewise."""
    return _load(path, BackendConfig, {})


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        return read_toml(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration: {error.strerror or error}; give its path by --config"
        ) from None


def _load(path: Path, model: type[Model], context: dict[str, bool]) -> Model:
    text, data = _read(path)
    _refuse_passwords(path, data, text)
    _resolve_paths(data, path.parent)
    _take_environment(data)
    try:
        open_key = _key_opener(data) if context.get("open_keys", True) else unopened
        return model.model_validate(data, context={**context, "open_key": open_key})
    except ValidationError as error:
        raise ConfigError(explain(path, error, model, text)) from None


def _resolve_paths(table: dict[str, Any], folder: Path) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _resolve_paths(value, folder)
        elif isinstance(value, list):
            for element in value:
                if isinstance(element, dict):
                    _resolve_paths(element, folder)
        elif key in PATH_KEYS and isinstance(value, str):
            table[key] = str(folder / value)


def _refuse_passwords(path: Path, data: dict[str, Any], text: str) -> None:
    for variable, location, table, key in _secrets(data):
        if key in table:
            lines = Lines(text)
            place = lines.as_written((*location, key))
            raise ConfigError(
                f"{lines.place(path, place)}: {named(place)}: a {key} does not stand in this file; write"
                f' {key}_file = "FILE", or give it as {variable}'
            )


def _take_environment(data: dict[str, Any]) -> None:
    """Where a broker or a backend is configured, the secret for it comes from the environment first."""
    for variable, _, table, key in _secrets(data):
        if variable in os.environ:
            table[key] = os.environ[variable]
        elif variable + "_FILE" in os.environ:
            table[key + "_file"] = os.environ[variable + "_FILE"]


def _secrets(data: dict[str, Any]) -> Iterator[tuple[str, Location, dict[str, Any], str]]:
    """(variable, place of its table, the table, the secret's key) of every secret that this file has a use for."""
    for variable, (section, *inner, key) in ENVIRONMENT.items():
        given = data.get(section)
        targets = given if isinstance(given, list) else [given]
        for index, target in enumerate(targets):
            table: Any = target
            for name in inner:
                table = table.get(name) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                continue
            if len(targets) > 1:
                own = re.sub(r"\W", "_", str(target.get("name", "uplink"))).upper()
                yield f"EMTAG_UPLINK_{own}_{key.upper()}", (section, index, *inner), table, key
            else:
                place: Location = (section, 0, *inner) if isinstance(given, list) else (section, *inner)
                yield variable, place, table, key


def _key_opener(data: dict[str, Any]) -> OpenKey:
    """Opens the sealed keys of a file that is being read; the vault's place is in that same file."""

    def open_vault() -> "Vault | None":
        try:
            gateway = GatewaySection.model_validate(data.get("gateway"))
            protection = ProtectionSection.model_validate(data.get("protection", {}))
        except ValidationError:
            raise ValueError("sealed; mend [gateway] and [protection] first, or it cannot be opened") from None
        return _open_vault(gateway, protection)

    return _opener(open_vault)


def _opener(open_vault: Callable[[], "Vault | None"]) -> OpenKey:
    """Opens sealed keys; the vault too, at the first of them."""
    opened = functools.cache(open_vault)

    def open_key(owner: int, use: str, text: str) -> bytes:
        vault = opened()
        if vault is None:
            raise ValueError("sealed, and this gateway has no keys at rest (keys.json); restore its state directory")
        return vault.open_key(owner, use, text)

    return open_key


def _open_vault(
    gateway: GatewaySection,
    protection: ProtectionSection,
    create: bool = False,
    before_create: Callable[[], None] = lambda: None,
) -> "Vault | None":
    from emgate.keys.vault import open_vault  # only where something is sealed

    return open_vault(
        gateway.state_directory,
        protection.at_rest,
        protection.passphrase_file,
        create=create,
        before_create=before_create,
    )
