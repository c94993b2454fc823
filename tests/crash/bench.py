"""What a bench is made of: the files of its gateway and backend, by whether it seals what it keeps and by which uplink
its records go, and the gateway's registry, which is changed while everything is broken."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import socket
import tomllib
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from attack_plan import LOCAL, MQTT, SECOND_REQUIRED, Kind
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from emgate.devices.registry import SEALED, read_device_file
from emgate.devices.registry_edit import render
from emgate.keys import key_source
from emgate.keys.vault import open_vault
from emgate.operation.control_client import SOCKET, short
from fleet import KEY

GATEWAY_ID = "crash"
FIRST, SECOND = "uplink", "second"
SECRET = bytes(range(32))
"""As a machine makes them: keys follow from it at once, where a passphrase's would cost each start a second."""
FIRST_STRANGER = 0x0200_0000
AUTO, OFF, REQUIRED = "auto", "off", "required"
FIRST_DAY = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
LAST_DAY = datetime.datetime(2900, 1, 1, tzinfo=datetime.UTC)
"""Of the backend's certificate: whatever the clock says."""


class Bench:
    """The files, and how they are to be read."""

    def __init__(self, kind: Kind, folder: Path, state: Path, database: Path, broker_port: int) -> None:
        self.kind = kind
        self.config, self.backend_config = folder / "gateway.toml", folder / "backend.toml"
        self.database = state / "backend.sqlite" if kind.uplink == LOCAL else database
        self.second = state / "second.sqlite" if kind.second else None
        self.required = [FIRST, SECOND] if kind.second == SECOND_REQUIRED else [FIRST]
        self._folder, self._state, self._port = folder, state, broker_port
        self.environment = {"CREDENTIALS_DIRECTORY": str(folder / "credentials")} if kind.sealed else {}
        (folder / "credentials").mkdir()
        (folder / "credentials" / key_source.CREDENTIAL).write_bytes(SECRET)
        (folder / "token").write_text("token-of-the-crash-harness\n")
        self.registry = RegistryFile(state, self.environment)
        broker = f'host = "127.0.0.1"\nport = {broker_port}\n'
        receive = f"[mqtt]\n{broker}"
        self._uplink = f'[[uplink]]\nname = "{FIRST}"\nkind = "{kind.uplink}"\n'
        if kind.uplink == LOCAL:
            self._uplink += "guarded_disk = true\n"
        elif kind.uplink == MQTT:
            self._uplink += broker
        else:
            port = _free_port()
            _certify(folder)
            files = f'certificate_file = "{folder}/server.pem"\nkey_file = "{folder}/server.key"\n'
            known = f'gateways = [{{id = "{GATEWAY_ID}", token_file = "{folder}/token"}}]\n'
            receive = f'[https]\nhost = "127.0.0.1"\nport = {port}\n{files}{known}'
            self._uplink += f'[uplink.https]\nurl = "https://127.0.0.1:{port}"\n'
            self._uplink += f'token_file = "{folder}/token"\nca_file = "{folder}/server.pem"\n'
        if self.second is not None:
            required = str(SECOND in self.required).lower()
            second = f'name = "{SECOND}"\nkind = "local"\nguarded_disk = true\nrequired = {required}\n'
            self._uplink += f'[[uplink]]\n{second}database = "{self.second}"\n'
        self.backend_config.write_text(f'[backend]\ndatabase = "{database}"\n{receive}')

    def configure(self, at_rest: str, wires: Iterable[Path]) -> None:
        """Write the gateway's configuration."""
        text = f"""registry = "{self.registry.path}"
[gateway]
id = "{GATEWAY_ID}"
state_directory = "{self._state}"
status_interval_s = 1
restart_maximum_s = 0.3
[protection]
at_rest = "{at_rest}"
[store]
alarm_reserve_bytes = 1000000
[mqtt]
host = "127.0.0.1"
port = {self._port}
{self._uplink}"""
        for path in wires:
            text += f'[[serial]]\nport = "{path}"\nbaud_rate = 921600\n'
        self.config.write_text(text)


class RegistryFile:
    """The registry: what it has to list, and whether it does. Changes go to the running gateway, as a command's do."""

    def __init__(self, state: Path, environment: dict[str, str]) -> None:
        self.path = state / "devices.toml"
        self.sealed = False  # the gateway has said so
        self._state = state
        self._environment = environment
        self._told: dict[int, bytes] = {}  # listed, by the gateway's word
        self._asked: dict[int, bytes] = {}  # and these may be

    def begin(self, devices: Iterable[int]) -> None:
        """List devices in plain digits, as a hand would."""
        self._told = dict.fromkeys(devices, KEY)
        self.path.write_text(
            render([{"device_id": each, "model": "ankle_gps", "key": KEY.hex()} for each in self._told])
        )

    async def list_another(self) -> bool | None:
        """True: the gateway says that one more device is listed; False: that it is not; None: it said nothing."""
        number = FIRST_STRANGER + len(self._asked)
        self._asked[number] = key = number.to_bytes(16, "big")
        said = await self._change(change="add", deviceId=number, model="pid", key=key.hex())
        if said:
            self._told[number] = key
        return said

    async def seal(self) -> None:
        """Have the keys sealed, if that is done in time."""
        self.sealed = bool(await self._change(change="seal")) or self.sealed

    async def _change(self, **asked: object) -> bool | None:
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(short(self._state / SOCKET))
            writer.write(json.dumps({"do": "change", **asked}).encode() + b"\n")
            line = await reader.readline()
            return bool(json.loads(line)["ok"]) if line.endswith(b"\n") else None
        except OSError:
            return None
        finally:
            if writer is not None:
                writer.close()

    def judge(self) -> None:
        """With the gateway dead. AssertionError: a device is not listed with its key though the gateway said so, or
        one that nobody asked for; ConfigError: what is there cannot be read, or does not open."""
        with mock.patch.dict(os.environ, self._environment):
            vault = open_vault(self._state) if self._environment else None
        there = {each.device_id: each.key for each in read_device_file(self.path, vault and vault.open_key)}
        missing = self._told.keys() - there.keys()
        assert not missing, f"{len(missing)} devices told as listed are not: {sorted(missing)[:5]}"
        assert there.items() <= {**self._asked, **self._told}.items(), "the registry lists what nobody asked for"
        if self.sealed:
            tables = tomllib.loads(self.path.read_text())["devices"]
            plain = [each["device_id"] for each in tables if not each["key"].startswith(SEALED)]
            assert not plain, f"{len(plain)} keys told as sealed stand in plain digits: {plain[:5]}"


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _certify(folder: Path) -> None:
    """A certificate that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "backend")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FIRST_DAY)
        .not_valid_after(LAST_DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
