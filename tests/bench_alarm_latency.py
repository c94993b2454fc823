"""How long an alarm takes from device to backend, with and without a million routine rows waiting. For `make bench`.

A gateway process with a serial port (a pty) and an uplink over a broker, and a backend process. The time runs from the
write of the alarm's sealed frame to the port until it can be read in the backend's database, which is looked at every
millisecond. The backlog is written into the store beforehand and is being delivered while the alarms come. Alarms
without a backlog are timed before and after, so that the machine's own changes show. Exit status 1 when the median or
the 99th percentile is more than 1.5 times that without.
"""

import argparse
import contextlib
import os
import pty
import random
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from emgate.brokers.broker import start_broker
from emgate.keys.sealing import Ccm
from emgate.store.books import CHECKPOINT_ROWS
from emgate.store.log import Log
from emgate.store.schema import Record, connect, prepare
from emwire import codec, constants, envelope
from emwire.framing import encode_stream
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
KEY = bytes(range(16))
DEVICE = 1
BACKLOG_DEVICES = 50
LIMIT = 1.5
POLL_S = 0.001
PATIENCE_S = 30.0
PAUSE_S = (0.02, 0.12)  # between alarms, so that they meet a batch at any point


def status_record(number: int) -> bytes:
    """As most of a backlog is."""
    return codec.Status(
        1, 100, 200_000_000 + number, number, 80, 3900, 0, 2150, 100_000, 50_000, 1, 100, number, 1, 0, 0, 0
    ).encode()


def alarm_frame(sequence: int) -> bytes:
    """A strap cut, sealed."""
    payload = codec.Event(
        1, 100, 200_000_000 + sequence, sequence, constants.EVENT_STRAP_CUT, 200_000_000 + sequence, 0, sequence, b""
    ).encode()
    control = envelope.control_byte(envelope.UP, envelope.RECORD, True)
    return envelope.seal(Ccm(KEY), DEVICE, control, 1, sequence, payload)


def fill(path: Path, rows: int) -> None:
    """A backlog, by the store's own code in larger transactions than it makes."""
    connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    prepare(connection)
    tables = Log(connection, {"uplink": True}, None)
    now_ms = time.time_ns() // 1_000_000
    for at in range(0, rows, CHECKPOINT_ROWS):
        records = [
            Record(DEVICE + 1 + n % BACKLOG_DEVICES, 1, n // BACKLOG_DEVICES, False, now_ms, "mqtt", status_record(n))
            for n in range(at, min(rows, at + CHECKPOINT_ROWS))
        ]
        connection.execute("BEGIN")
        tables.append(connection, records)
        connection.execute("COMMIT")
        tables.committed(connection)
        connection.execute("BEGIN")
        tables.checkpoint(connection, now=True)
        connection.execute("COMMIT")
        tables.committed(connection)
    connection.close()


class Port:
    """A pty: the gateway's end by name; what the gateway writes is read and dropped."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.name = os.ttyname(self._slave)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self._master, 4096):
                pass

    def send(self, frame: bytes) -> None:
        """As the device writes it."""
        os.write(self._master, encode_stream(struct.pack("<I", DEVICE) + frame))


@contextlib.contextmanager
def program(log: IO[bytes], *arguments: str) -> Iterator[None]:
    """An emtag program that has said it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "emgate.cli", *arguments], stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{' '.join(arguments)} did not start:\n{Path(log.name).read_text()[-2000:]}")
        yield
    finally:
        process.kill()
        process.wait()


class Site:
    """One gateway's folder and its backend's; alarms go on where the last measurement ended."""

    def __init__(self, folder: Path, port: int, backlog: int) -> None:
        self.folder, self._broker = folder, port
        (folder / "state").mkdir(parents=True)
        self.sequence = 0
        if backlog:
            fill(folder / "state" / "store.sqlite", backlog)

    def measure(self, alarms: int) -> list[float]:
        """Milliseconds of each alarm, with freshly started processes."""
        serial = Port()
        broker = f'host = "127.0.0.1"\nport = {self._broker}\n'
        text = f'[gateway]\nid = "{self.folder.name}"\nstate_directory = "state"\n'
        text += f'[protection]\nat_rest = "off"\n[uplink]\nkind = "mqtt"\n{broker}'
        text += f'[[serial]]\nport = "{serial.name}"\n'
        for number in range(BACKLOG_DEVICES + 1):
            text += f'[[devices]]\ndevice_id = {DEVICE + number}\nmodel = "ankle_gps"\nkey = "{KEY.hex()}"\n'
        config = self.folder / "gateway.toml"
        config.write_text(text, encoding="utf-8")
        database = self.folder / "backend.sqlite"
        chance = random.Random(1)
        with contextlib.ExitStack() as running:
            log = running.enter_context((self.folder / "log").open("ab"))
            where = ("--database", str(database), "--host", "127.0.0.1", "--port", str(self._broker))
            running.enter_context(program(log, "backend", "run", *where))
            running.enter_context(program(log, "gateway", "run", "--config", str(config)))
            reader = running.enter_context(
                contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None))
            )
            self._one(serial, reader)  # the first one opens files and fills caches
            spent = []
            for _ in range(alarms):
                time.sleep(chance.uniform(*PAUSE_S))
                spent.append(self._one(serial, reader))
        return spent

    def _one(self, serial: Port, reader: sqlite3.Connection) -> float:
        identity = (DEVICE, 1, self.sequence)
        frame = alarm_frame(self.sequence)
        self.sequence += 1
        begun = time.perf_counter()
        serial.send(frame)
        while not reader.execute(
            "SELECT 1 FROM records WHERE device_id = ? AND epoch = ? AND sequence = ?", identity
        ).fetchone():
            if time.perf_counter() - begun > PATIENCE_S:
                said = (self.folder / "log").read_text()[-2000:]
                raise SystemExit(f"an alarm did not arrive within {PATIENCE_S:g} s:\n{said}")
            time.sleep(POLL_S)
        return (time.perf_counter() - begun) * 1000

    def waiting(self) -> int:
        """Routine records that are not delivered."""
        with contextlib.closing(sqlite3.connect(self.folder / "state" / "store.sqlite")) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM records WHERE alarm = 0 AND row_id >"
                " coalesce((SELECT row_id FROM cursors WHERE consumer = 'uplink' AND alarm = 0), 0)"
            ).fetchone()
        return int(count)


def figures(spent: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return statistics.median(spent), statistics.quantiles(spent, n=100, method="inclusive")[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "var", help="where files are made and deleted")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the backlog")
    parser.add_argument("--alarms", type=int, default=100, help="timed with, and as many without a backlog")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-alarms-") as made, start_broker() as broker:
        empty, full = Site(Path(made) / "empty", broker.port, 0), Site(Path(made) / "full", broker.port, arguments.rows)
        half = arguments.alarms // 2
        before = empty.measure(half)
        behind = full.measure(arguments.alarms)
        left = full.waiting()
        after = empty.measure(arguments.alarms - half)
    if not left:
        raise SystemExit("the backlog was delivered before the last alarm: give more --rows or fewer --alarms")
    quiet, loaded = figures(before + after), figures(behind)
    table = Table(title=f"alarm from device to backend; {arguments.alarms} alarms each")
    for column in ("backlog", "median", "99th percentile"):
        table.add_column(column, justify="left" if column == "backlog" else "right")
    table.add_row("none", *(f"{value:.1f} ms" for value in quiet))
    table.add_row(f"{arguments.rows:,} rows ({left:,} at the end)", *(f"{value:.1f} ms" for value in loaded))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    ratios = [value / base for value, base in zip(loaded, quiet, strict=True)]
    print(f"with a backlog: median {ratios[0]:.2f}x, 99th percentile {ratios[1]:.2f}x (limit {LIMIT}x)")
    print("without: before {:.1f} / {:.1f} ms, after {:.1f} / {:.1f} ms".format(*figures(before), *figures(after)))
    print(f"{len(os.sched_getaffinity(0))} cores, load average " + ", ".join(f"{each:.1f}" for each in os.getloadavg()))
    if max(ratios) > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
