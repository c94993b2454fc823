"""Two gateways for the benchmarks that hold them side by side: emtag's with its backend, and ThingsBoard IoT Gateway.

Both hear devices on the same broker and deliver over it. ThingsBoard's is its own package in an environment of its own,
with the SQLite storage and otherwise the settings it comes with, except for what the comments in ThingsBoard name.
"""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from emgate.keys.key_source import CREDENTIAL
from emgate.keys.sealing import Ccm
from emwire import codec, constants, envelope, topics
from mqtt_line import Line

ROOT = Path(__file__).resolve().parent.parent
THINGSBOARD = "thingsboard-gateway==3.8.*"  # Apache-2.0
ENVIRONMENT = ROOT / ".venv" / "rivals" / "thingsboard"
KEY = bytes(range(16))
FIRST_DEVICE = 0x0100_0000
DEVICES = 50
ALARMS_EACH = 20  # one record in so many is an alarm
START_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


class RivalError(Exception):
    """A gateway cannot be had or does not start; the text says why and what to do."""


@dataclass
class Record:
    """One record of one device: its frame as the device sends it."""

    device_id: int
    sequence: int
    frame: bytes

    @property
    def key(self) -> str:
        return f"{self.device_id:08x}-{self.sequence}"


def make_records(count: int) -> list[Record]:
    """Real records, sealed; devices take turns."""
    aead = Ccm(KEY)
    made = []
    for number in range(count):
        sequence, device = divmod(number, DEVICES)
        alarm = number % ALARMS_EACH == 0
        if alarm:
            cut = constants.EVENT_STRAP_CUT
            payload = codec.Event(
                1, 100, 200_000_000 + sequence, sequence, cut, 200_000_000, 0, sequence, b""
            ).encode()  # fmt: skip
        else:
            payload = codec.Status(
                1, 100, 200_000_000 + sequence, sequence, 80, 3900, 0, 2150, 100_000, 50_000, 1, 100, sequence, 1, 0, 0,
                0,
            ).encode()  # fmt: skip
        control = envelope.control_byte(envelope.UP, envelope.RECORD, alarm)
        frame = envelope.seal(aead, FIRST_DEVICE + device, control, 1, sequence, payload)
        made.append(Record(FIRST_DEVICE + device, sequence, frame))
    return made


class Measured:
    """A process whose use of the machine is read from /proc."""

    def __init__(
        self, name: str, command: list[str], folder: Path, environment: dict[str, str], *, tells: bool = True
    ) -> None:
        """`tells`: it prints a line when it is ready."""
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if tells else log,
                stderr=log, env={**os.environ, **environment},
            )  # fmt: skip

    def await_line(self) -> None:
        """Until it prints that it is ready."""
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RivalError(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")

    def cpu_s(self) -> float:
        """Of all its threads, up to now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_mib(self) -> float:
        """The most that was ever resident."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii"))
        assert found is not None
        return int(found[1]) / 1024

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Emtag:
    """The gateway with an MQTT link and an MQTT uplink, and the backend, each a process; every commit is FULL."""

    name, exactly_once = "emtag", True
    at_rest = "auto"  # sealed as by default: a secret is given

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self._port = folder, port
        folder.mkdir()
        (folder / CREDENTIAL).write_bytes(bytes(range(32)))
        self._environment = {"CREDENTIALS_DIRECTORY": str(folder)}
        broker = f'host = "127.0.0.1"\nport = {port}\n'
        text = f'[gateway]\nid = "bench"\nstate_directory = "state"\n[mqtt]\n{broker}'
        text += f'[protection]\nat_rest = "{self.at_rest}"\n'
        text += f'[uplink]\nkind = "mqtt"\n{broker}'
        for number in range(DEVICES):
            text += f'[[devices]]\ndevice_id = {FIRST_DEVICE + number}\nmodel = "ankle_gps"\nkey = "{KEY.hex()}"\n'
        (folder / "gateway.toml").write_text(text, encoding="utf-8")
        self.database = folder / "backend.sqlite"
        self.backend: Measured | None = None
        self.gateway: Measured | None = None

    async def start(self) -> None:
        app = "from emgate.cli import app; app()"
        self.backend = Measured(
            "backend",
            [sys.executable, "-c", app, "backend", "run", "--database", str(self.database), "--host", "127.0.0.1",
             "--port", str(self._port)],
            self.folder, {},
        )  # fmt: skip
        self.backend.await_line()
        self.start_gateway()

    def start_gateway(self) -> None:
        self.gateway = Measured(
            "gateway",
            [sys.executable, "-c", "from emgate.cli import app; app()", "gateway", "run", "--config", "gateway.toml"],
            self.folder,
            self._environment,
        )
        self.gateway.await_line()

    def message(self, record: Record) -> tuple[str, bytes]:
        """As its device publishes it."""
        return topics.up(record.device_id), record.frame

    def arrived(self) -> int:
        """How many records are committed in the backend, near enough to know when to look."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            (most,) = connection.execute("SELECT max(record_id) FROM records").fetchone()
        return most or 0

    def keys(self) -> list[str]:
        """Every device's record in the backend."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT device_id, sequence FROM records WHERE link <> 'gateway'").fetchall()
        return [f"{device_id:08x}-{sequence}" for device_id, sequence in rows]

    def processes(self) -> list[Measured]:
        return [each for each in (self.gateway, self.backend) if each is not None]

    def stop(self) -> None:
        for each in self.processes():
            each.kill()
        self.gateway = self.backend = None


class OpenEmtag(Emtag):
    """What is kept lies open, as in ThingsBoard."""

    name, at_rest = "emtag, at_rest off", "off"


def install_thingsboard() -> Path:
    """Its program, installed on first use; RivalError when that cannot be done."""
    program = ENVIRONMENT / "bin" / "thingsboard-gateway"
    if program.exists():
        return program
    print(f"installing {THINGSBOARD} into {ENVIRONMENT} …", flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [
            str(ENVIRONMENT / "bin" / "python"),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
            THINGSBOARD,
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            raise RivalError(
                f"{THINGSBOARD} cannot be installed, so there is nothing to compare with:\n{done.stderr[-1500:]}"
            )
    return program


class ThingsBoard:
    """ThingsBoard IoT Gateway; its platform's end is a subscriber of ours that keeps everything in memory."""

    name, exactly_once = "ThingsBoard", False

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self._port = folder, port
        self._program = install_thingsboard()
        folder.mkdir()
        (folder / "logs").mkdir()
        (folder / "extensions").mkdir()
        self._write_configuration()
        self.gateway: Measured | None = None
        self.platform: Line | None = None
        self._payloads: list[bytes] = []
        self._count = 0
        self._log_read = 0

    def _write_configuration(self) -> None:
        package = next((ENVIRONMENT / "lib").glob("python3.*/site-packages/thingsboard_gateway"))
        general = json.loads((package / "config" / "tb_gateway.json").read_text(encoding="utf-8"))
        general["thingsboard"] |= {
            "host": "127.0.0.1",
            "port": self._port,
            "remoteConfiguration": False,  # there is nobody to configure it
            "statistics": {"enable": False},  # less for it to do
            "maxPayloadSizeBytes": 65536,  # as ThingsBoard allows; in larger messages it is quicker
            "security": {"type": "accessToken", "accessToken": "bench"},
        }
        # As its documentation has it.
        general["storage"] = {
            "type": "sqlite",
            "data_file_path": "./data/",
            "messages_ttl_check_in_hours": 1,
            "messages_ttl_in_days": 7,
            "max_read_records_count": 1000,
            "writing_batch_size": 1000,
            "size_limit": 1024,
            "max_db_amount": 10,
            "oversize_check_period": 1,
        }
        general["connectors"] = [{"type": "mqtt", "name": "devices", "configuration": "mqtt.json"}]
        # A device for each of ours, by topic; and the least of converters: every member of the message is a value.
        connector = {
            "broker": {
                "host": "127.0.0.1",
                "port": self._port,
                "clientId": "thingsboard-bench",
                "version": 5,
                "maxMessageNumberPerWorker": 10,
                "maxNumberOfWorkers": 100,
                # A session that outlives it: what comes while it is down waits at the broker, as for emtag's.
                "cleanStart": False,
                "cleanSession": False,
                "sessionExpiryInterval": 3600,
                "security": {"type": "anonymous"},
            },
            "mapping": [
                {
                    "topicFilter": "bench/up/+",
                    "subscriptionQos": 1,
                    "converter": {
                        "type": "json",
                        "deviceInfo": {
                            "deviceNameExpressionSource": "topic",
                            "deviceNameExpression": "bench/up/([0-9a-f]{8})",
                            "deviceProfileExpressionSource": "constant",
                            "deviceProfileExpression": "default",
                        },
                        "sendDataOnlyOnChange": False,
                        "timeout": 60000,
                        "attributes": [],
                        "timeseries": ["*"],
                    },
                }
            ],
            "requestsMapping": {},
        }
        logs = json.loads((package / "config" / "logs.json").read_text(encoding="utf-8"))
        for name, value in (("tb_gateway", general), ("mqtt", connector), ("logs", logs)):
            (self.folder / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")

    async def start(self) -> None:
        filters = ["v1/gateway/#", "v1/devices/me/telemetry", "v1/devices/me/attributes", "v1/devices/me/rpc/request/+"]
        self.platform = await Line.open(self._port, "platform", filters, self._take)
        self.start_gateway()

    def start_gateway(self) -> None:
        environment = {"TB_GW_CONFIG_DIR": str(self.folder), "PYTHONUNBUFFERED": "1"}
        before = self._subscriptions()
        self.gateway = Measured("thingsboard", [str(self._program)], self.folder, environment, tells=False)
        deadline = time.monotonic() + START_S
        while (
            self._subscriptions() == before or "Gateway started." not in self.gateway.log.read_text()[self._log_read :]
        ):
            if self.gateway.process.poll() is not None or time.monotonic() > deadline:
                raise RivalError(f"ThingsBoard did not start:\n{self.gateway.log.read_text()[-3000:]}")
            time.sleep(0.1)
        self._log_read = self.gateway.log.stat().st_size

    def _subscriptions(self) -> int:
        log = self.folder / "thingsboard.log"
        return log.read_text().count("subscribe to bench/up/+") if log.exists() else 0

    def _take(self, topic: str, payload: bytes) -> None:
        if topic == "v1/gateway/telemetry":
            self._payloads.append(payload)
            self._count += payload.count(b'":"')  # only between a key and its text
        elif topic.startswith("v1/devices/me/rpc/request/"):
            assert self.platform is not None
            limits = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
            self.platform.send(topic.replace("request", "response"), json.dumps(limits).encode())

    def message(self, record: Record) -> tuple[str, bytes]:
        """The same frame as text in an object. Its key is the record's own: one value a key and ms is kept."""
        return f"bench/up/{record.device_id:08x}", b'{"%s":"%s"}' % (record.key.encode(), record.frame.hex().encode())

    def arrived(self) -> int:
        return self._count

    def keys(self) -> list[str]:
        found: list[str] = []
        for payload in self._payloads:
            for entries in json.loads(payload).values():
                for entry in entries:
                    found += entry["values"]
        return found

    def processes(self) -> list[Measured]:
        return [self.gateway] if self.gateway is not None else []

    def stop(self) -> None:
        for each in self.processes():
            each.kill()
        self.gateway = None
        if self.platform is not None:
            self.platform.close()
