"""Resident memory of a gateway by each kind of uplink: with three links idle, and at its peak under full load.

The gateway as it is meant to run: serial (a pty), MQTT and BLE (a mock of org.bluez on a private D-Bus) at once, all
that it keeps sealed, metrics and health asked for. Load: frames of 50 devices as fast as the gateway takes them, each
committed and delivered; BLE at the rate of a radio. With the local uplink the backend is in the same process.
Needs mosquitto and dbus-daemon. `make bench` runs it; exit status 1 above the limits.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "links")]

from bluez_mock import Device, World, bluez, private_bus  # noqa: E402
from certificates import Authority  # noqa: E402
from emgate.brokers.broker import start_broker  # noqa: E402
from emgate.keys import key_source  # noqa: E402
from emgate.keys.sealing import Ccm  # noqa: E402
from emwire import codec, envelope, topics  # noqa: E402
from emwire.framing import encode_stream  # noqa: E402
from mqtt_line import Line  # noqa: E402

KEY = bytes(range(16))
IDLE_LIMIT_MIB, LOAD_LIMIT_MIB = 64, 128
UPLINKS = ("local", "mqtt", "https")
SETTLE_S = 3.0  # after everything is up
DEVICES = 50
ON_BLE, ON_SERIAL = 1, 10
"""Devices of 50 on these links; the rest go over the broker, which takes the most memory."""
BLE_NOTIFICATIONS_PER_S = 370  # 90 kB/s of a connection in pieces of 244 B
WINDOW = 2000  # publications that the broker has not acknowledged
START_S, PATIENCE_S = 60.0, 20.0
TOKEN = "the-token-of-the-bench"


@dataclass
class Figures:
    idle_mib: float
    load_mib: float
    records_per_s: float


def mib(pid: int, what: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of a process."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def started(log: Path, code: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A Python program that has printed its first line."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline(), log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def emtag(log: Path, *arguments: str) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
    return started(log, "from emgate.cli import app; app()", *arguments)


class Site:
    """One gateway's files, by its uplink, and its backend's."""

    def __init__(self, folder: Path, uplink: str, tty: str, broker_port: int) -> None:
        folder.mkdir()
        (folder / "credentials").mkdir()
        (folder / "credentials" / key_source.CREDENTIAL).write_bytes(bytes(range(32)))
        self.folder, self.http = folder, folder / "http.sock"
        self.config, self.backend_config = folder / "gateway.toml", folder / "backend.toml"
        self.has_backend = uplink != "local"
        self.database = folder / ("backend.sqlite" if self.has_backend else "state/backend.sqlite")
        broker = f'host = "127.0.0.1"\nport = {broker_port}\n'
        way = f'[uplink]\nkind = "{uplink}"\n'
        if uplink == "local":
            way += "guarded_disk = true\n"
        receive = f"[mqtt]\n{broker}"
        if uplink == "mqtt":
            way += broker
        elif uplink == "https":
            (folder / "token").write_text(TOKEN + "\n")
            authority = Authority(folder, "authority")
            certificate, key = authority.issue("localhost")
            system = ssl.get_default_verify_paths().cafile  # what is trusted without ca_file takes some 2.5 MiB
            if system is not None:
                authority.file.write_bytes(authority.file.read_bytes() + Path(system).read_bytes())
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            way += f'[uplink.https]\nurl = "https://localhost:{port}"\n'
            way += f'ca_file = "{authority.file}"\ntoken_file = "{folder}/token"\n'
            receive = f'[https]\nport = {port}\ncertificate_file = "{certificate}"\nkey_file = "{key}"\n'
            receive += f'gateways = [{{id = "bench", token_file = "{folder}/token"}}]\n'
        self.backend_config.write_text(f'[backend]\ndatabase = "{self.database}"\n{receive}')
        text = f'[gateway]\nid = "bench"\nstate_directory = "{folder}/state"\n[http]\nsocket = "{self.http}"\n{way}'
        text += '[protection]\nat_rest = "auto"\n'  # seals all the same; required would not take keys in plain digits
        text += f'[[serial]]\nport = "{tty}"\n[ble]\n[mqtt]\n{broker}'
        # The limits on rates are for floods; here every frame is wanted.
        text += "[limits]\nlink_frames_per_s = 100000\ndevice_frames_per_s = 100000\n"
        for number in range(DEVICES):
            text += f'[[devices]]\ndevice_id = {1 + number}\nmodel = "ankle_gps"\nkey = "{KEY.hex()}"\n'
        self.config.write_text(text)

    def ask(self, path: str) -> str:
        """Of the gateway's own HTTP; "" while there is none."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.http))
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            with connection.makefile("rb") as answer:
                return answer.read().partition(b"\r\n\r\n")[2].decode()
        return ""

    async def until_up(self) -> None:
        """Every link and the uplink."""
        deadline = time.monotonic() + START_S
        while True:
            facts = json.loads(await asyncio.to_thread(self.ask, "/status") or "{}")
            ways = [*facts.get("links", []), *facts.get("uplink", [])]
            if len(ways) == 4 and all(way["up"] for way in ways):
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"not everything is up in {START_S:g} s: {ways}\n{(self.folder / 'log').read_text()}")
            await asyncio.sleep(0.1)

    def arrived(self) -> int:
        """Devices' records in the backend."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM records WHERE link <> 'gateway'").fetchone()
            return int(count)


def frames(count: int) -> list[tuple[int, bytes]]:
    """Status records, sealed; devices take turns."""
    control = envelope.control_byte(envelope.UP, envelope.RECORD)
    aead = Ccm(KEY)
    made = []
    for number in range(count):
        sequence, device = divmod(number, DEVICES)
        payload = codec.Status(
            1, 100, 200_000_000 + sequence, sequence, 80, 3900, 0, 2150, 100_000, 50_000, 1, 100, sequence, 1, 0, 0, 0
        ).encode()
        made.append((device, envelope.seal(aead, 1 + device, control, 1, sequence, payload)))
    return made


def keep_reading(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass


def over_serial(descriptor: int, share: list[tuple[int, bytes]]) -> None:
    """Blocks while the gateway does not read."""
    for device, frame in share:
        os.write(descriptor, encode_stream(struct.pack("<I", 1 + device) + frame))


async def over_ble(tag: Device, share: list[tuple[int, bytes]]) -> None:
    for device, frame in share:
        await tag.ready.wait()
        tag.send(1 + device, frame)
        await asyncio.sleep(1 / BLE_NOTIFICATIONS_PER_S)


async def over_mqtt(port: int, share: list[tuple[int, bytes]]) -> None:
    line = await Line.open(port, "fleet")
    await line.publish([(topics.up(1 + device), frame) for device, frame in share], WINDOW)
    line.close()


async def load(site: Site, master: int, tag: Device, port: int, count: int) -> float:
    """Seconds until every record was in the backend."""
    made = await asyncio.to_thread(frames, count)
    ble = [each for each in made if each[0] < ON_BLE]
    begun = time.monotonic()
    await asyncio.gather(
        over_ble(tag, ble),
        asyncio.to_thread(over_serial, master, [each for each in made if ON_BLE <= each[0] < ON_BLE + ON_SERIAL]),
        over_mqtt(port, [each for each in made if each[0] >= ON_BLE + ON_SERIAL]),
    )
    most, since = 0, time.monotonic()
    while most < count:
        await asyncio.sleep(0.2)
        now = await asyncio.to_thread(site.arrived)
        if now > most:
            most, since = now, time.monotonic()
        elif now < count and time.monotonic() - since < PATIENCE_S:
            await over_ble(tag, ble)  # what came faster than the gateway took it: a tag says it again
        elif now < count:
            links = json.loads(await asyncio.to_thread(site.ask, "/status"))["links"]
            raise SystemExit(f"{most} of {count} records arrived, and no more for {PATIENCE_S:g} s; {links}")
    return time.monotonic() - begun


async def measure(folder: Path, uplink: str, world: World, broker_port: int, count: int) -> Figures:
    master, slave = os.openpty()
    threading.Thread(target=keep_reading, args=(master,), daemon=True).start()
    site = Site(folder, uplink, os.ttyname(slave), broker_port)
    os.environ["CREDENTIALS_DIRECTORY"] = str(folder / "credentials")
    with contextlib.ExitStack() as stack:
        if site.has_backend:
            stack.enter_context(emtag(folder / "backend-log", "backend", "run", "--config", str(site.backend_config)))
        code = "import sys, pathlib; from emgate.commands.run_commands import run_gateway;"
        code += " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))"
        tag = world.add(1)
        gateway = await asyncio.to_thread(stack.enter_context, started(folder / "log", code, str(site.config)))
        await site.until_up()
        async with asyncio.timeout(START_S):
            await tag.ready.wait()
        assert await asyncio.to_thread(site.ask, "/metrics")
        await asyncio.sleep(SETTLE_S)
        idle_mib = mib(gateway.pid, "VmRSS")
        spent_s = await load(site, master, tag, broker_port, count)
        found = Figures(idle_mib, mib(gateway.pid, "VmHWM"), count / spent_s)
    os.close(slave)
    os.close(master)
    return found


async def measure_all(folder: Path, uplinks: list[str], count: int) -> dict[str, Figures]:
    found = {}
    for uplink in uplinks:
        async with private_bus() as bus:
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus
            async with bluez(bus) as world:
                with start_broker("mosquitto") as broker:
                    found[uplink] = await measure(folder / uplink, uplink, world, broker.port, count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=50_000, help="of each load")
    parser.add_argument("--uplink", choices=UPLINKS, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var", prefix="bench-memory-") as made:
        with started(Path(made) / "log", "print('ready', flush=True); input()") as bare:
            print(f"python alone: {mib(bare.pid, 'VmRSS'):.1f} MiB")
        found = asyncio.run(measure_all(Path(made), arguments.uplink or list(UPLINKS), arguments.frames))
    for uplink, figures in found.items():
        print(
            f"uplink {uplink}: three links idle {figures.idle_mib:.1f} MiB (limit {IDLE_LIMIT_MIB}); at most"
            f" {figures.load_mib:.1f} MiB (limit {LOAD_LIMIT_MIB}) with {figures.records_per_s:,.0f} records a second"
        )
    if any(each.idle_mib > IDLE_LIMIT_MIB or each.load_mib > LOAD_LIMIT_MIB for each in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
