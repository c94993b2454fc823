"""Breaks a gateway, its broker and its backend at random instants, and judges by the devices' ledgers what became of
the records. See docs/gateway.md, "Proved by breaking it"."""

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

from emgate import store_salvage as salvage
from emgate.broker import RunningBroker, start_broker
from emrig.mortal import mortal
from fleet import KEY, Fleet, Identity

HERE = Path(__file__).resolve().parent
RATE = 4000  # records a second, so that every device has more than its window lets out
CELLULAR, WIRED = 48, 2
SETTLE_S = 60.0
"""Without progress."""
DAY_MS, YEAR_MS = 86_400_000, 365 * 86_400_000
WORKS, FULL, FSYNC_FAILS, READ_ONLY = range(4)
FAULTS = {FULL: "disk full", FSYNC_FAILS: "fsync fails", READ_ONLY: "read-only"}
PAGE = 4096


def build_shim(folder: Path) -> Path:
    """Compile shim.c."""
    made = folder / "shim.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(HERE / "shim.c"), "-ldl", "-lpthread"], check=True
    )
    return made


class Process:
    """The gateway or the backend on its breakable disk."""

    def __init__(self, name: str, folder: Path, shim: Path, code: str, arguments: list[str]) -> None:
        self.name = name
        self.disk = folder / "disk"
        self.undo = folder / "undo"
        self.disk.mkdir(parents=True)
        self.undo.mkdir()
        self.control = folder / "control"
        self.control.write_bytes(bytes([WORKS]))
        self.log = folder / "log"
        self._code, self._arguments = code, arguments
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "CRASH_FOLDER": str(self.disk),
            "CRASH_UNDO": str(self.undo),
            "CRASH_CONTROL": str(self.control),
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *mortal(sys.executable, "-c", self._code, *self._arguments), stdout=asyncio.subprocess.PIPE, stderr=log,
                env=self._environment,
            )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(SETTLE_S):
            line = await self.process.stdout.readline()
        assert line, f"{self.name} did not start:\n" + self.log.read_text()[-3000:]

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def cut_power(self, chance: random.Random) -> int:
        """Take back what was written since the last fsync: all of it, or its later part. How many writes that was."""
        undone = 0
        for undo in sorted(self.undo.iterdir()):
            data = undo.read_bytes()
            undo.unlink()
            target = self.disk / undo.name
            writes = []
            at = 0
            while at + 24 <= len(data):
                offset, size, kept = struct.unpack_from("<QQQ", data, at)
                writes.append((offset, size, data[at + 24 : at + 24 + kept]))
                at += 24 + kept
            first = chance.choice((0, chance.randrange(len(writes) + 1)))
            if not target.exists():
                continue
            with target.open("r+b") as file:
                for offset, size, old in reversed(writes[first:]):
                    file.seek(offset)
                    file.write(old)
                    file.truncate(size)
                    undone += 1
            for shared in self.disk.glob("*-shm"):
                shared.unlink()
        return undone

    def forget_undo(self) -> None:
        """A kill alone loses nothing that the kernel has."""
        for undo in self.undo.iterdir():
            undo.unlink()

    def fault(self, what: int) -> None:
        self.control.write_bytes(bytes([what]))


class Harness:
    """One bench: start, rounds, stop."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._folder = folder
        shim = build_shim(folder)
        self._clock = folder / "clock"
        self._set_clock(int(time.time() * 1000))
        self._clock_runs = True
        self.broker: RunningBroker = start_broker("mosquitto")
        self.fleet = Fleet(folder / "devices", self.broker.port, self.chance, CELLULAR, WIRED)
        gateway = folder / "gateway"
        self.gateway = Process(
            "gateway", gateway, shim,
            "import sys, pathlib; from emgate.gateway_commands import run_gateway;"
            " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))",
            [str(folder / "gateway.toml")],
        )  # fmt: skip
        self.backend = Process(
            "backend", folder / "backend", shim, "from emgate.cli import app; app()",
            ["backend", "run", "--database", str(folder / "backend" / "disk" / "backend.sqlite"),
             "--host", "127.0.0.1", "--port", str(self.broker.port)],
        )  # fmt: skip
        self.store = self.gateway.disk / "store.sqlite"
        self.database = self.backend.disk / "backend.sqlite"
        (folder / "gateway.toml").write_text(self._configuration())

    def _configuration(self) -> str:
        text = f"""
[gateway]
id = "crash"
state_directory = "{self.gateway.disk}"
status_interval_s = 1
restart_maximum_s = 0.3
[clock]
source = "shared"
path = "{self._clock}"
[store]
alarm_reserve_bytes = 1000000
[mqtt]
host = "127.0.0.1"
port = {self.broker.port}
[uplink]
kind = "mqtt"
host = "127.0.0.1"
port = {self.broker.port}
"""
        for line in self.fleet.wired:
            text += f'[[serial]]\nport = "{line.path}"\nbaud_rate = 921600\n'
        for device in self.fleet.devices:
            text += f'[[devices]]\ndevice_id = {device.device_id}\nmodel = "ankle_gps"\nkey = "{KEY.hex()}"\n'
        return text

    # -- life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Harness":
        self._running = asyncio.create_task(self.fleet.run())
        self._ticking = asyncio.create_task(self._tick())
        await asyncio.gather(self.backend.start(), self.gateway.start())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._running, self._ticking):
            task.cancel()
        await asyncio.wait([self._running, self._ticking])
        for process in (self.gateway, self.backend):
            if process.process is not None:
                await process.kill()
        self.broker.stop()
        for line in self.fleet.wired:
            line.close()

    def _set_clock(self, now_ms: int) -> None:
        self._now_ms = now_ms
        if self._clock.exists():
            with self._clock.open("r+b") as file:
                file.write(struct.pack("<q", now_ms))
        else:
            self._clock.write_bytes(struct.pack("<q", now_ms))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            if self._clock_runs:
                self._set_clock(self._now_ms + 10)

    # -- a round ------------------------------------------------------------------------------------------

    async def round(self) -> None:
        """Load, break, judge, mend, let everything arrive, judge again. AssertionError tells what is wrong."""
        chance = self.chance
        self.faults = []
        self.fleet.rate = RATE
        sent, begun, processor_ms = self.fleet.sent, time.monotonic(), self._processor_ms()
        await asyncio.sleep(chance.uniform(0.3, 1.0))
        self.counts["frames"] += self.fleet.sent - sent
        self.counts["load_ms"] += int((time.monotonic() - begun) * 1000)
        self.counts["processor_ms"] += self._processor_ms() - processor_ms
        if chance.random() < 0.4:
            self._break_clock()
        broken = None
        if chance.random() < 0.5:
            broken = chance.choice((self.gateway, self.backend))
            what = chance.choice(list(FAULTS))
            self.faults.append(f"{broken.name}: {FAULTS[what]}")
            broken.fault(what)
            await asyncio.sleep(chance.uniform(0.1, 0.8))
        victims = [each for each in ("gateway", "broker", "backend") if chance.random() < 0.5]
        if not victims and broken is None:
            victims = ["gateway"]
        await self._kill(victims)
        if broken is not None:
            broken.fault(WORKS)
        await asyncio.sleep(chance.uniform(0, 0.5))  # devices go on while nobody hears them
        self.fleet.rate = 0
        await self._mend(victims)
        await self._settle()
        self._clock_runs = True
        self.judge_all()
        self.counts["rounds"] += 1

    def _processor_ms(self) -> int:
        """Taken so far by everything that a frame passes: fleet, broker, gateway and backend."""
        processes = [os.getpid(), self.broker.process.pid]
        processes += [each.process.pid for each in (self.gateway, self.backend) if each.process is not None]
        ticks = 0
        for pid in processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks * 1000 // os.sysconf("SC_CLK_TCK")

    def _break_clock(self) -> None:
        what = self.chance.choice(("stopped", "back a day", "forward a year"))
        self.faults.append(f"clock {what}")
        match what:
            case "stopped":
                self._clock_runs = False
            case "back a day":
                self._set_clock(self._now_ms - DAY_MS)
            case _:
                self._set_clock(self._now_ms + YEAR_MS)

    async def _kill(self, victims: list[str]) -> None:
        chance = self.chance
        self.chance.shuffle(victims)
        for victim in victims:
            self.faults.append(f"SIGKILL {victim}")
            if victim == "broker":
                self.broker.kill()
                continue
            process = self.gateway if victim == "gateway" else self.backend
            await process.kill()
        told_stored, told_delivered = self._told()
        for victim in victims:
            if victim == "broker":
                continue
            process = self.gateway if victim == "gateway" else self.backend
            if chance.random() < 0.6:
                undone = process.cut_power(chance)
                self.faults.append(f"power cut of {victim}: {undone} writes lost")
                self.counts["writes_lost"] += undone
            else:
                process.forget_undo()
        backend = self._in_backend()
        missing = told_delivered - backend
        assert not missing, f"{len(missing)} told as delivered are not in the backend: {sorted(missing)[:5]}"
        if "gateway" in victims:
            missing = told_stored - backend - self._in_store()
            assert not missing, f"{len(missing)} told as stored are missing: {sorted(missing)[:5]}"
            self.counts["judged_at_kill"] += 1
            if chance.random() < 0.3 and self.store.exists():
                self.faults.append("last page of the store overwritten")
                self.counts["pages_overwritten"] += 1
                size = self.store.stat().st_size
                with self.store.open("r+b") as file:
                    file.seek(max(0, (size - 1) // PAGE * PAGE))
                    file.write(chance.randbytes(PAGE))

    async def _mend(self, victims: list[str]) -> None:
        if "broker" in victims:
            port = self.broker.port
            self.broker.stop()
            self.broker = start_broker("mosquitto", port=port)
        starting = []
        for process in (self.gateway, self.backend):
            if process.name in victims or (process.process is not None and process.process.returncode is not None):
                if process.name not in victims:
                    self.counts[f"{process.name}_ended_by_itself"] += 1
                starting.append(process.start())
        await asyncio.gather(*starting)

    async def _settle(self) -> None:
        before, since = -1, time.monotonic()
        while not self.fleet.finished:
            delivered = sum(device.delivered for device in self.fleet.devices)
            if delivered != before:
                before, since = delivered, time.monotonic()
            if time.monotonic() - since < SETTLE_S:
                await asyncio.sleep(0.05)
                continue
            late = [device for device in self.fleet.devices if not device.finished]
            made = {(d.device_id, 1, n) for d in late for n in d.made}
            there = self._in_backend()
            raise AssertionError(
                f"{len(late)} devices still wait; of their records {len(made - there)} are not in the backend;"
                f" first: {late[0].device_id:x} stored {late[0].stored.through} {late[0].stored.ranges()[:3]}"
                f" delivered {late[0].delivered} of {late[0].journal.next_sequence}, link open {late[0].link.is_open}"
            )

    # -- verdicts -----------------------------------------------------------------------------------------

    def _told(self) -> tuple[set[Identity], set[Identity]]:
        stored: set[Identity] = set()
        delivered: set[Identity] = set()
        for device in self.fleet.devices:
            stored |= {(device.device_id, 1, n) for n in device.made if n in device.stored}
            delivered |= {(device.device_id, 1, n) for n in device.made if n < device.delivered}
        return stored, delivered

    def _copy_of(self, path: Path) -> Path:
        """To look at a dead process's file without changing it."""
        folder = self._folder / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, folder / source.name)
        return folder / path.name

    def _identities(self, path: Path) -> set[Identity]:
        copy = self._copy_of(path)
        if not copy.exists():
            return set()
        query = "SELECT device_id, epoch, sequence FROM records WHERE link <> 'gateway'"
        try:
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                return set(connection.execute(query))
        except sqlite3.DatabaseError as error:
            # A page overwritten in an earlier round that nobody has read since: what the next start would have of it.
            self.faults.append(f"store was damaged before: {error}")
            self.counts["damaged_before"] += 1
            salvage.run(copy, str(error), ["uplink"])
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                return set(connection.execute(query))

    def _in_store(self) -> set[Identity]:
        return self._identities(self.store)

    def _in_backend(self) -> set[Identity]:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return set(connection.execute("SELECT device_id, epoch, sequence FROM records WHERE link <> 'gateway'"))

    def judge_all(self) -> None:
        """Everything has arrived: the backend has what the journals had, once, whole, and in order."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT device_id, epoch, sequence, alarm, payload FROM records WHERE link <> 'gateway'"
                " ORDER BY record_id"
            ).fetchall()
        found: Counter[Identity] = Counter()
        newest: dict[tuple[int, bool], int] = {}
        contents: dict[Identity, tuple[bool, int]] = {}
        disorder = 0
        last: list[tuple[Identity, bool, int]] = []
        for device_id, epoch, sequence, alarm, payload in rows:
            identity = (device_id, epoch, sequence)
            found[identity] += 1
            contents[identity] = (bool(alarm), zlib.crc32(payload))
            lane = (device_id, bool(alarm))
            if sequence < newest.get(lane, -1):
                disorder += 1
                last.append((identity, bool(alarm), newest[lane]))
            newest[lane] = max(sequence, newest.get(lane, -1))
        made = {(d.device_id, 1, n): what for d in self.fleet.devices for n, what in d.made.items()}
        missing = made.keys() - contents.keys()
        assert not missing, f"{len(missing)} are missing: {sorted(missing)[:5]}"
        assert not contents.keys() - made.keys(), "the backend has what no device made"
        assert max(found.values()) == 1, "some are there twice"
        assert contents == made, "some are not as they were made"
        self.counts["records"] = len(made)
        new = disorder - self.counts["out_of_order"]
        self.counts["out_of_order"] = disorder
        assert not new, f"{new} out of order within their priority: {last[-3:]}"
