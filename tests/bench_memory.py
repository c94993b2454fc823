"""Resident memory of a gateway: three links idle, and at its peak under full load. `make bench` runs it.

Idle: three serial ports (ptys), the interpreter alone beside it. Load: frames of 50 devices as fast as the gateway
takes them, over three serial ports and a broker at once, each committed and delivered to the backend in the same
process. Exit status 1 above the limits.
"""

import argparse
import asyncio
import contextlib
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from emgate.broker import start_broker
from emgate.sealing import Ccm
from emwire import codec, envelope, topics
from emwire.framing import encode_stream
from mqtt_line import Line

ROOT = Path(__file__).resolve().parent.parent
KEY = bytes(range(16))
IDLE_LIMIT_MIB, LOAD_LIMIT_MIB = 64, 128
SETTLE_S = 3.0  # after its first status files
PORTS = 3
DEVICES = 50
WINDOW = 2000  # publications that the broker has not acknowledged
PATIENCE_S = 60.0


def mib(pid: int, what: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of a process."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def started(code: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A Python program that has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline(), "it did not start"
        yield process
    finally:
        process.kill()
        process.wait()


def gateway(folder: Path, ports: list[str], links: str) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
    """`emtag gateway run` with these links."""
    folder.mkdir()
    text = f'[gateway]\nid = "bench"\nstate_directory = "{folder}/state"\n'
    text += f'[protection]\nat_rest = "off"\n[uplink]\nkind = "local"\n{links}'
    text += "".join(f'[[serial]]\nport = "{port}"\n' for port in ports)
    for number in range(DEVICES):
        text += f'[[devices]]\ndevice_id = {1 + number}\nmodel = "ankle_gps"\nkey = "{KEY.hex()}"\n'
    (folder / "gateway.toml").write_text(text)
    return started(
        "import sys, pathlib; from emgate.gateway_commands import run_gateway;"
        " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))",
        str(folder / "gateway.toml"),
    )


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
        made.append((1 + device, envelope.seal(aead, 1 + device, control, 1, sequence, payload)))
    return made


def keep_reading(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass


def write_all(descriptor: int, share: list[tuple[int, bytes]]) -> None:
    """Blocks while the gateway does not read."""
    for device_id, frame in share:
        os.write(descriptor, encode_stream(struct.pack("<I", device_id) + frame))


async def publish(port: int, share: list[tuple[int, bytes]]) -> None:
    line = await Line.open(port, "fleet")
    await line.publish([(topics.up(device_id), frame) for device_id, frame in share], WINDOW)
    line.close()


def load(masters: list[int], port: int, count: int, database: Path) -> float:
    """Seconds until every record was in the backend. Most go over the broker, which takes the most memory."""
    made = frames(count)
    shares = [[frame for frame in made if frame[0] % 10 == number] for number in range(PORTS)]
    rest = [frame for frame in made if frame[0] % 10 >= PORTS]
    begun = time.monotonic()
    writers = [threading.Thread(target=write_all, args=pair, daemon=True) for pair in zip(masters, shares, strict=True)]
    for writer in writers:
        writer.start()
    asyncio.run(publish(port, rest))
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        most, since = 0, time.monotonic()
        while most < count:
            time.sleep(0.2)
            (now,) = connection.execute("SELECT count(*) FROM records WHERE link <> 'gateway'").fetchone()
            if now > most:
                most, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                raise SystemExit(f"{most} of {count} records arrived, and no more for {PATIENCE_S:g} s")
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=50_000, help="of the load")
    arguments = parser.parse_args()
    pairs = [pty.openpty() for _ in range(PORTS)]
    for master, slave in pairs:
        tty.setraw(slave)
        threading.Thread(target=keep_reading, args=(master,), daemon=True).start()
    names = [os.ttyname(slave) for _, slave in pairs]
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var", prefix="bench-memory-") as made, start_broker() as broker:
        with started("print('ready', flush=True); input()") as bare:
            python_mib = mib(bare.pid, "VmRSS")
        with gateway(Path(made) / "idle", names, "") as process:
            time.sleep(SETTLE_S)
            idle_mib = mib(process.pid, "VmRSS")
        # The limits on rates are for floods; here every frame is wanted.
        links = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n[limits]\nlink_frames_per_s = 100000\n'
        links += "device_frames_per_s = 100000\n"
        folder = Path(made) / "load"
        with gateway(folder, names, links) as process:
            spent_s = load(
                [master for master, _ in pairs], broker.port, arguments.frames, folder / "state" / "backend.sqlite"
            )
            load_mib = mib(process.pid, "VmHWM")
    print(f"python alone: {python_mib:.1f} MiB")
    print(f"gateway, three links idle: {idle_mib:.1f} MiB (limit {IDLE_LIMIT_MIB})")
    print(
        f"gateway with its backend, {arguments.frames / spent_s:,.0f} records a second over {PORTS} serial ports and"
        f" MQTT: at most {load_mib:.1f} MiB (limit {LOAD_LIMIT_MIB})"
    )
    if idle_mib > IDLE_LIMIT_MIB or load_mib > LOAD_LIMIT_MIB:
        sys.exit(1)


if __name__ == "__main__":
    main()
