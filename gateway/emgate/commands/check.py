"""`emtag gateway check`: everything that can be known before a start, each finding with its place and its remedy."""

import grp
import json
import os
import pwd
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emgate import config as configuration
from emgate.clock import UNKNOWN_UNCERTAINTY_MS
from emgate.config import BleSection, Broker, Config, HttpsTarget, Section, SerialSection
from emgate.devices.registry import OpenKey, never_sent, unopened
from emgate.errors import ConfigError, named
from emgate.gateway_number import refuse_own
from emgate.keys import key_source, secret_place, unsealed, vault
from emgate.operation.places import nearest
from emgate.store.schema import SCHEMA_VERSION, WITHOUT_SUMS
from emgate.systemd import confines
from emgate.toml_lines import Lines, Location

CONNECT_S = 3.0
"""A broker that does not answer by then may be slow, and is only warned of."""
BUS, ADAPTERS = Path("/run/dbus/system_bus_socket"), Path("/sys/class/bluetooth")
LEAST_ROOM_BYTES = 100_000_000
"""Some months of one home unit's records; below it a full disk is near whatever the limits say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong ("error": the gateway cannot do its work so) or worth a look ("warning")."""

    level: str
    place: str
    problem: str
    remedy: str


def check(path: Path, *, as_json: bool = False) -> int:
    """Print what is found; 0: nothing in the way of a start (there may be warnings), 2: errors."""
    findings = list(_findings(path))
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        print(json.dumps({"config": str(path), "ok": not errors, "findings": [asdict(each) for each in findings]}))
    else:
        for each in findings:
            print(f"{each.level}: {each.place}: {each.problem}" + (f": {each.remedy}" if each.remedy else ""))
        warnings = len(findings) - errors
        print(f"{path}: " + (f"{errors} errors, {warnings} warnings" if findings else "good"))
    return 2 if errors else 0


def _findings(path: Path) -> Iterator[Finding]:
    try:
        config = configuration.load(path, open_keys=False)
        opened, refusal = _vault(config)
        if refusal is None and config.devices:
            config = configuration.load(path, secrets=False)  # with the keys in it
    except ConfigError as error:
        # The text of these errors is place, problem and remedy already.
        yield from (Finding("error", *_parted(line, path)) for line in str(error).splitlines())
        return
    file = _File(path)
    yield from _exposed(path, "the configuration", secret=bool(config.devices))
    yield from _state_directory(config, file)
    yield from _protection(config, file, opened, refusal)
    for location, problem, remedy in secret_place.beside(config):
        yield Finding("warning", file.place(*location), problem, remedy)
    yield from _registry(config, file, unopened if refusal is not None else None)
    yield from _access(config, file)
    for index, section in enumerate(config.serial):
        if section.port is not None:
            yield from _serial(file.place("serial", index, "port"), section.port)
        else:
            yield from _match(file.place("serial", index, "match"), section)
    if config.mqtt is not None:
        yield from _broker(file, ("mqtt",), config.mqtt)
    if config.ble is not None:
        yield from _ble(file.place("ble"), config.ble)
    for index, target in enumerate(config.uplink):
        if target.kind == "mqtt":
            where: Location = ("uplink", index) if target.broker is None else ("uplink", index, "broker")
            yield from _broker(file, where, target.mqtt())
        elif target.https is not None:
            yield from _known_to_backend(config, file, index)
            yield from _https(file, ("uplink", index, "https"), target.https)
    yield from _http(config, file)
    yield from _clock(config, file)


def _vault(config: Config) -> tuple[vault.Vault | None, ConfigError | None]:
    """The keys at rest, or why they do not open (said by _protection)."""
    try:
        return config.open_vault(), None
    except ConfigError as error:
        return None, error


class _File:
    """The configuration's file, to say where in it something stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = Lines(path.read_text(encoding="utf-8"))

    def place(self, *location: int | str) -> str:
        """As "gateway.toml: line 7: mqtt.ca_file"; of what is left to its default, where the gateway's table is."""
        written = self._lines.as_written(location)
        if self._lines.of(written) is None:
            return f"{self._lines.place(self.path, ('gateway',))}: {named(written)} (by default)"
        return f"{self._lines.place(self.path, written)}: {named(written)}"


def _parted(line: str, path: Path) -> tuple[str, str, str]:
    """An error's line as place, problem and remedy."""
    text = line.removeprefix(f"{path}: ")
    head, _, rest = text.partition(": ") if text.startswith("line ") else ("", "", text)
    place = f"{path}: {head}" if head else str(path)
    problem, _, remedy = rest.partition("; ")
    return place, problem, remedy


def _exposed(path: Path, what: str, *, secret: bool) -> Iterator[Finding]:
    """A file that holds secrets and that others may read. Root may give its files to a service's group to read."""
    try:
        facts = path.stat()
    except OSError:
        return
    given = facts.st_uid == 0 != facts.st_gid
    allowed = 0o640 if given else 0o600
    if secret and facts.st_mode & 0o066 & ~allowed:
        yield Finding(
            "warning", str(path), f"{what} holds secrets, and others may read it", f"chmod {allowed:o} {path}"
        )


def _state_directory(config: Config, file: _File) -> Iterator[Finding]:
    folder = config.gateway.state_directory
    place = file.place("gateway", "state_directory")
    there = nearest(folder)
    if not there.is_dir():
        yield Finding("error", place, f"{there} is no folder", "name a folder")
        return
    free = shutil.disk_usage(there).free
    wanted = config.store.alarm_reserve_bytes + LEAST_ROOM_BYTES
    if free < wanted:
        remedy = f"make room: the store and the alarm reserve want {wanted // 1_000_000} MB"
        yield Finding("error", place, f"only {free // 1_000_000} MB are free on its disk", remedy)
    elif free < config.store.maximum_bytes:
        remedy = "make room, or lower store.maximum_bytes"
        problem = f"only {free // 1_000_000} MB are free on the store's disk"
        yield Finding("warning", file.place("store", "maximum_bytes"), problem, remedy)
    if not folder.exists():
        return
    if folder.stat().st_mode & 0o077:
        yield Finding("warning", place, f"others may look into {folder}", f"chmod 700 {folder}")
    store = folder / "store.sqlite"
    if store.exists():
        try:
            connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=1)
            try:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            yield Finding("error", str(store), f"cannot be read ({error})", "restore a copy: see operations.md")
        else:
            if version > SCHEMA_VERSION:
                yield Finding("error", str(store), f"its schema {version} is newer than this program", "upgrade emtag")
            elif 0 < version < WITHOUT_SUMS:
                problem = f"its schema {version} is an earlier one: the next start takes it over into a fresh store"
                wanted = store.stat().st_size // 1_000_000 + 1
                remedy = f"have {wanted} MB of room for both, and a minute for a million records"
                yield Finding("warning", str(store), problem, remedy)


def _registry(config: Config, file: _File, open_key: OpenKey | None) -> Iterator[Finding]:
    """`open_key`: instead of this gateway's own, where its secret is missing, which is said by _protection."""
    try:
        registry = config.make_registry(open_key)
    except ConfigError as error:
        path = config.registry or file.path
        for line in str(error).splitlines():
            place, problem, remedy = _parted(line, path)
            if not path.exists():
                place = file.place("registry")
            yield Finding("error", place, problem, remedy)
        return
    if config.registry is not None:
        plain = any(place.startswith(str(config.registry)) for place, _ in unsealed.plain_keys(config, file.path))
        yield from _exposed(config.registry, "the registry", secret=plain)
    try:
        refuse_own(config.gateway.id, registry)
    except ConfigError as error:
        problem, _, remedy = str(error).partition("; ")
        yield Finding("error", file.place("gateway", "id"), problem, remedy)
    running = {row["deviceId"]: row.get("configuration") for row in _running_devices(config)}
    for device in registry:
        before = running.get(device.device_id)
        if device.configuration is not None and before is not None:
            wrong = never_sent(device.device_id, device.configuration.shown(), before)
            if wrong is not None:
                problem, _, remedy = wrong.partition("; ")
                yield Finding("error", str(config.registry or file.path), problem, remedy)
    if len(registry) == 0:
        yield Finding("warning", file.place("registry"), "no device is listed", "`emtag gateway device add` lists one")


def _protection(
    config: Config, file: _File, opened: vault.Vault | None, refusal: ConfigError | None
) -> Iterator[Finding]:
    protection = config.protection
    place = file.place("protection", "at_rest")  # by default there is no such line
    if refusal is not None:
        status = _running_status(config)
        if status is None or not status.get("keysAtRest"):
            problem, _, remedy = str(refusal).removeprefix("protection: ").partition("; ")
            yield Finding("error", place, problem, remedy or vault.REMEDY)
        return
    given = protection.at_rest != "off" and key_source.find(protection.passphrase_file) is not None
    if given:
        for where, problem in unsealed.local_backends(config, file.path):
            yield Finding("error", where, problem, unsealed.LOCAL_REMEDY)
        for where, problem in unsealed.plain_keys(config, file.path):
            level = "error" if protection.at_rest == "required" else "warning"
            yield Finding(level, where, problem, unsealed.KEYS_REMEDY)
    elif protection.at_rest != "off":
        yield Finding(
            "warning", place, "nothing is sealed at rest: whoever takes the disk reads keys and records",
            f"give a systemd credential {key_source.CREDENTIAL} (see security.md)",
        )  # fmt: skip
    if opened is not None and opened.source == "passphrase":
        yield from _exposed(protection.passphrase_file or Path("/nonexistent"), "the passphrase's file", secret=True)
    if opened is not None:
        yield from _exposed(config.gateway.state_directory / vault.FILE, "keys.json", secret=True)


def _running_devices(config: Config) -> list[dict[str, Any]]:
    from emgate.operation.running import ask

    try:
        answer = ask(config.gateway.state_directory, {"do": "devices"})
    except ConfigError:
        return []
    return [] if answer is None else list(answer["devices"])


def _running_status(config: Config) -> dict[str, Any] | None:
    from emgate.operation.running import status_now

    try:
        return status_now(config.gateway.state_directory)
    except ConfigError:
        return None


# -- what the gateway's user may read and write ---------------------------------------------------------------


def _access(config: Config, file: _File) -> Iterator[Finding]:
    needs = list(_needs(config, file))
    yield from _confined(config, file, needs)
    user = _gateways_user(config.gateway.state_directory)
    allowed = allowed_to(user, [(path, mode) for _, path, mode in needs])
    for (place, path, mode), fine in zip(needs, allowed, strict=True):
        if fine:
            continue
        what = "written to" if mode & os.W_OK else "read"
        if path.exists() and stat.S_ISCHR(path.stat().st_mode):
            remedy = f"put the gateway's user into the group {_name(grp.getgrgid, path.stat().st_gid)}"
        else:
            remedy = f"give it to the gateway's user (chown {_name(pwd.getpwuid, user)} {path}), or name another"
        yield Finding("error", place, f"{path} cannot be {what} by the gateway's user", remedy)


def _confined(config: Config, file: _File, needs: Sequence[tuple[str, Path, int]]) -> Iterator[Finding]:
    """What the installed unit forbids, whatever the file system allows."""
    unit = confines.of(file.path)
    if unit is None:
        return
    for place, path, mode in needs:
        hidden = unit.hidden(path)
        if hidden is not None:
            remedy = "put it elsewhere, as in /etc/emtag or the state directory"
            yield Finding("error", place, f"the unit keeps {path} from the gateway ({hidden})", remedy)
        elif mode & os.W_OK and (setting := unit.read_only(path)) is not None:
            remedy = f"allow it: `systemctl edit emtag-gateway`, [Service], ReadWritePaths={path}"
            problem = f"the unit does not let the gateway write to {path} ({setting})"
            yield Finding("error", place, problem, remedy)
    if config.registry is not None and unit.read_only(config.registry.parent) is not None:
        remedy = "keep it in the state directory, or no device can be added or revoked by command"
        yield Finding("warning", file.place("registry"), "the unit does not let the gateway write there", remedy)


def _needs(config: Config, file: _File) -> Iterator[tuple[str, Path, int]]:
    """(place, path, what has to be allowed) of all that is there; what is missing is said elsewhere."""
    gateway = config.gateway
    write_in = os.W_OK | os.X_OK
    state = nearest(gateway.state_directory)
    if state.is_dir():
        yield file.place("gateway", "state_directory"), state, write_in
    yield str(file.path), file.path, os.R_OK
    for name in ("store.sqlite", "gateway.lock"):
        if (gateway.state_directory / name).exists():
            yield str(gateway.state_directory / name), gateway.state_directory / name, os.R_OK | os.W_OK
    for key, secret in (("registry", config.registry), ("protection", config.protection.passphrase_file)):
        if secret is not None and secret.exists():
            yield file.place(key), secret, os.R_OK
    if (gateway.state_directory / vault.FILE).exists():
        yield file.place("protection"), gateway.state_directory / vault.FILE, os.R_OK
    for table, replaced in (
        ("gateway.ready_file", gateway.ready_file),
        ("http.socket", None if config.http is None else config.http.socket),
    ):
        if replaced is not None:
            yield file.place(*table.split(".")), nearest(replaced.parent), write_in
    written: list[tuple[Location, Path | None]] = [
        (("gateway", "log_file"), gateway.log_file),
        *((("uplink", index, "database"), target.database) for index, target in enumerate(config.uplink)),
    ]
    for location, path in written:
        if path is not None:
            there = nearest(path)
            yield file.place(*location), there, os.W_OK if there == path else write_in
    read: list[tuple[Location, Section | None]] = [(("mqtt",), config.mqtt)]
    for index, target in enumerate(config.uplink):
        read += [(("uplink", index, "broker"), target.broker), (("uplink", index, "https"), target.https)]
    for location, section in read:
        for name in ("password_file", "token_file", "ca_file", "certificate_file", "key_file"):
            path = getattr(section, name, None)
            if path is not None and path.exists():
                yield file.place(*location, name), path, os.R_OK
    for index, serial in enumerate(config.serial):
        if serial.port is not None and Path(serial.port).exists():
            yield file.place("serial", index, "port"), Path(serial.port), os.R_OK | os.W_OK


def _gateways_user(state_directory: Path) -> int:
    """Who it will run as: the state directory's owner, when root looks; else whoever looks."""
    if os.geteuid() == 0 and state_directory.exists():
        return state_directory.stat().st_uid
    return os.geteuid()


def allowed_to(user: int, wanted: Sequence[tuple[Path, int]]) -> list[bool]:
    """Whether each access is allowed to a user: root finds out in a process that has become that user."""
    if user == os.geteuid():
        return [os.access(path, mode) for path, mode in wanted]
    try:
        entry = pwd.getpwuid(user)
        group, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        group, groups = user, []
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(group)
            os.setuid(user)
            os.write(writing, bytes(os.access(path, mode) for path, mode in wanted))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return [bool(each) for each in found.ljust(len(wanted), b"\0")]


def _name(look_up: Callable[[int], tuple[Any, ...]], number: int) -> str:
    """A user's or a group's; where it has none, its number."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _serial(place: str, port: str) -> Iterator[Finding]:
    try:
        mode = Path(port).stat().st_mode
    except OSError:
        remedy = "plug the home unit in; the gateway waits for it"
        yield Finding("warning", place, f"there is no {port} now", remedy)
        return
    if not stat.S_ISCHR(mode):
        yield Finding("error", place, f"{port} is not a serial port", "name a device such as /dev/ttyUSB0")


def _match(place: str, section: SerialSection) -> Iterator[Finding]:
    from emgate.links.serial_identity import resolve

    try:
        resolve(section)
    except OSError as error:
        problem, _, remedy = str(error.strerror).partition("; add")
        remedy = f"add{remedy}" if remedy else "plug the home unit in (the gateway waits for it), or name what is there"
        yield Finding("warning", place, problem, remedy)


def _ble(place: str, section: BleSection) -> Iterator[Finding]:
    """An adapter may be plugged in later, and BlueZ started later: both are waited for."""
    if section.backend == "bumble":
        if find_spec("bumble") is None:
            remedy = "`PIPX_HOME=/opt/emtag pipx inject emtag bumble`, or leave backend out to use BlueZ"
            yield Finding("error", place, "bumble is not installed", remedy)
        return
    if not BUS.exists() and "DBUS_SYSTEM_BUS_ADDRESS" not in os.environ:
        yield Finding("warning", place, "there is no system bus, so no BlueZ", "install bluez and dbus, and start them")
    elif not (ADAPTERS / (section.transport or "hci0")).exists():
        problem = f"there is no Bluetooth adapter {section.transport or 'hci0'} now"
        yield Finding("warning", place, problem, "plug it in, or name another: `hciconfig` lists them")


def _broker(file: _File, where: Location, broker: Broker) -> Iterator[Finding]:
    from emgate.brokers.client import tls_context

    for name in ("password_file", "key_file"):
        path = getattr(broker, name)
        if path is not None:
            yield from _exposed(path, name, secret=True)
    for names, load in (
        (("password_file",), broker.read_password),
        (("ca_file", "certificate_file", "key_file"), lambda: tls_context(broker)),
    ):
        try:
            load()
        except ConfigError as error:
            at = next((name for name in names if str(getattr(broker, name)) in str(error)), names[0])
            yield Finding("error", file.place(*where, at), str(error), "put a file there that can be read")
            return
    place = file.place(*where)
    if broker.ca_file is None and broker.host not in ("localhost", "127.0.0.1", "::1"):
        yield Finding("warning", place, "no TLS to a broker on another machine", "give ca_file")
    yield from _answers(place, broker.host, broker.port)


def _known_to_backend(config: Config, file: _File, index: int) -> Iterator[Finding]:
    """A token may be in the environment of the service, and not in ours: then the running gateway has it."""
    target = config.uplink[index]
    if target.unknown_to_backend:
        status = _running_status(config) or {"uplink": []}
        if not any(each["target"] == target.name and each["name"].startswith("https:") for each in status["uplink"]):
            yield Finding("error", file.place("uplink", index), configuration.UNKNOWN, configuration.UNKNOWN_REMEDY)


def _https(file: _File, where: Location, target: HttpsTarget) -> Iterator[Finding]:
    from emgate.uplinks.https import make_context

    for path in (target.token_file, target.key_file):
        if path is not None:
            yield from _exposed(path, "the file", secret=True)
    try:
        target.read_token()
    except ConfigError as error:
        remedy = "put the token there that the backend knows this gateway by"
        yield Finding("error", file.place(*where, "token_file"), str(error), remedy)
        return
    try:
        make_context(target)
    except ConfigError as error:
        name = next((name for name in ("ca_file", "certificate_file") if getattr(target, name)), "url")
        yield Finding("error", file.place(*where, name), str(error), "put certificate and key there, in PEM")
        return
    url = urlsplit(target.url)
    yield from _answers(file.place(*where), url.hostname or "", url.port or 443)


def _answers(place: str, host: str, port: int) -> Iterator[Finding]:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        remedy = "see that it runs; the gateway tries for ever"
        yield Finding("warning", place, f"{host}:{port} does not answer ({error})", remedy)


def _http(config: Config, file: _File) -> Iterator[Finding]:
    from emgate.operation.http_server import not_a_socket

    if config.http is not None and config.http.socket is not None and not_a_socket(config.http.socket):
        problem = f"{config.http.socket} is there, and is no socket"
        yield Finding("error", file.place("http", "socket"), problem, "move it away, or name another path")
    if config.http is None or config.http.port is None or _running(config):
        return
    family = socket.AF_INET6 if ":" in config.http.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.http.address, config.http.port))
        except OSError as error:
            problem = f"port {config.http.port} cannot be served ({error.strerror})"
            yield Finding("error", file.place("http", "port"), problem, "stop the other program, or name another")


def _running(config: Config) -> bool:
    from emgate.operation.running import running_pid

    return running_pid(config.gateway.state_directory) is not None


def _clock(config: Config, file: _File) -> Iterator[Finding]:
    try:
        clock = config.clock.make()
    except ConfigError as error:
        problem, _, remedy = str(error).removeprefix("clock.path: ").partition("; ")
        yield Finding("error", file.place("clock", "path"), problem, remedy)
        return
    if config.clock.source == "system" and clock.uncertainty_ms() == UNKNOWN_UNCERTAINTY_MS:
        remedy = "enable systemd-timesyncd or chrony"
        yield Finding("warning", file.place("clock"), "the machine's clock is not synchronised", remedy)
