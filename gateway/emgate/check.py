"""`emtag gateway check`: everything that can be known before a start, each finding with its place and its remedy."""

import json
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from emgate import config as configuration
from emgate import key_source, unsealed, vault
from emgate.clock import UNKNOWN_UNCERTAINTY_MS
from emgate.config import Broker, Config, HttpsTarget
from emgate.errors import ConfigError
from emgate.store_schema import SCHEMA_VERSION

CONNECT_S = 3.0
"""A broker that does not answer by then may be slow, and is only warned of."""
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
        config = configuration.load(path)
    except ConfigError as error:
        # The text of these errors is place, problem and remedy already.
        yield from (Finding("error", *_parted(line, path)) for line in str(error).splitlines())
        return
    yield from _exposed(path, "the configuration", secret=bool(config.devices))
    yield from _state_directory(config)
    yield from _registry(config, path)
    yield from _protection(config, path)
    for section in config.serial:
        if section.port is not None:
            yield from _serial(section.port)
    if config.mqtt is not None:
        yield from _broker("mqtt", config.mqtt)
    for target in config.uplink:
        if target.kind == "mqtt":
            yield from _broker(f"uplink {target.name}", target.mqtt())
        elif target.https is not None:
            yield from _https(f"uplink {target.name}", target.https)
    yield from _http(config)
    yield from _clock(config)


def _parted(line: str, path: Path) -> tuple[str, str, str]:
    """An error's line as place, problem and remedy."""
    text = line.removeprefix(f"{path}: ")
    head, _, rest = text.partition(": ") if text.startswith("line ") else ("", "", text)
    place = f"{path}: {head}" if head else str(path)
    problem, _, remedy = rest.partition("; ")
    return place, problem, remedy


def _exposed(path: Path, what: str, *, secret: bool) -> Iterator[Finding]:
    """A file that holds secrets and that others may read."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if secret and mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        yield Finding("warning", str(path), f"{what} holds secrets, and others may read it", f"chmod 600 {path}")


def _state_directory(config: Config) -> Iterator[Finding]:
    folder = config.gateway.state_directory
    place = "gateway.state_directory"
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("error", place, f"{there} cannot be written to", "give it to the gateway's user, or name another")
        return
    free = shutil.disk_usage(there).free
    wanted = config.store.alarm_reserve_bytes + LEAST_ROOM_BYTES
    if free < wanted:
        remedy = f"make room: the store and the alarm reserve want {wanted // 1_000_000} MB"
        yield Finding("error", place, f"only {free // 1_000_000} MB are free on its disk", remedy)
    elif free < config.store.maximum_bytes:
        remedy = "make room, or lower store.maximum_bytes"
        yield Finding(
            "warning", "store.maximum_bytes", f"only {free // 1_000_000} MB are free on the store's disk", remedy
        )
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


def _registry(config: Config, path: Path) -> Iterator[Finding]:
    try:
        registry = config.make_registry()
    except ConfigError as error:
        place = config.registry or Path("devices")
        yield from (Finding("error", *_parted(line, place)) for line in str(error).splitlines())
        return
    if config.registry is not None:
        plain = any(place.startswith(str(config.registry)) for place, _ in unsealed.plain_keys(config, path))
        yield from _exposed(config.registry, "the registry", secret=plain)
    if len(registry) == 0:
        yield Finding("warning", "registry", "no device is listed", "provision one")


def _protection(config: Config, path: Path) -> Iterator[Finding]:
    protection = config.protection
    try:
        opened = config.open_vault()
    except ConfigError as error:
        yield Finding("error", "protection", str(error), "")
        return
    given = protection.at_rest != "off" and key_source.find(protection.passphrase_file) is not None
    if given:
        for place, problem in unsealed.local_backends(config, path):
            yield Finding("error", place, problem, unsealed.LOCAL_REMEDY)
        for place, problem in unsealed.plain_keys(config, path):
            level = "error" if protection.at_rest == "required" else "warning"
            yield Finding(level, place, problem, unsealed.KEYS_REMEDY)
    elif protection.at_rest != "off":
        yield Finding(
            "warning", "protection", "nothing is sealed at rest: whoever takes the disk reads keys and records",
            f"give a systemd credential {key_source.CREDENTIAL} (see security.md)",
        )  # fmt: skip
    if opened is not None and opened.source == "passphrase":
        yield from _exposed(protection.passphrase_file or Path("/nonexistent"), "the passphrase's file", secret=True)
    if opened is not None:
        yield from _exposed(config.gateway.state_directory / vault.FILE, "keys.json", secret=True)


def _serial(port: str) -> Iterator[Finding]:
    path = Path(port)
    try:
        facts = path.stat()
    except OSError:
        yield Finding("warning", port, "there is no such port now", "plug the home unit in; the gateway waits for it")
        return
    if not stat.S_ISCHR(facts.st_mode):
        yield Finding("error", port, "is not a serial port", "name a device such as /dev/ttyUSB0")
    elif not os.access(path, os.R_OK | os.W_OK):
        group = _group(facts.st_gid)
        yield Finding("error", port, "may not be opened", f"put the gateway's user into the group {group}")


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _broker(place: str, broker: Broker) -> Iterator[Finding]:
    from emgate.mqtt_client import tls_context

    for name in ("password_file", "key_file"):
        path = getattr(broker, name)
        if path is not None:
            yield from _exposed(path, name, secret=True)
    try:
        broker.read_password()
        context = tls_context(broker)
    except ConfigError as error:
        yield Finding("error", place, str(error), "")
        return
    if context is None and broker.host not in ("localhost", "127.0.0.1", "::1"):
        yield Finding("warning", place, "no TLS to a broker on another machine", "give ca_file")
    yield from _answers(place, broker.host, broker.port)


def _https(place: str, target: HttpsTarget) -> Iterator[Finding]:
    from emgate.uplinks.https import make_context, read_token

    try:
        for path in (target.token_file, target.key_file):
            if path is not None:
                yield from _exposed(path, "the file", secret=True)
        if target.token_file is not None:
            read_token(target.token_file)
        make_context(target)
    except ConfigError as error:
        yield Finding("error", place, str(error), "")
        return
    url = urlsplit(target.url)
    yield from _answers(place, url.hostname or "", url.port or 443)


def _answers(place: str, host: str, port: int) -> Iterator[Finding]:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        remedy = "see that it runs; the gateway tries for ever"
        yield Finding("warning", place, f"{host}:{port} does not answer ({error})", remedy)


def _http(config: Config) -> Iterator[Finding]:
    if config.http is None or config.http.port is None or _running(config):
        return
    family = socket.AF_INET6 if ":" in config.http.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.http.address, config.http.port))
        except OSError as error:
            place = f"http.port {config.http.port}"
            yield Finding(
                "error", place, f"cannot be served ({error.strerror})", "stop the other program, or name another"
            )


def _running(config: Config) -> bool:
    from emgate.running import running_pid

    return running_pid(config.gateway.state_directory) is not None


def _clock(config: Config) -> Iterator[Finding]:
    if config.clock.source == "system":
        clock = config.clock.make()
        if clock.uncertainty_ms() == UNKNOWN_UNCERTAINTY_MS:
            yield Finding(
                "warning", "clock", "the machine's clock is not synchronised", "enable systemd-timesyncd or chrony"
            )
