"""Breaks a gateway, its broker and its backend at random instants, and judges by the devices' ledgers what became of
the records. See docs/gateway.md, "Proved by breaking it"."""

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attack_plan import (
    BROKER,
    GATEWAY,
    KILLED_ANEW,
    LATE,
    LOCAL,
    OVERWRITTEN,
    REGISTRY_CHANGED,
    REGISTRY_CUT_OFF,
    Dealer,
    Kind,
    Plan,
)
from bench import AUTO, OFF, REQUIRED, SECOND, Bench
from broken_disk import FAULTS, PAGE, WORKS, Disk, build_shim
from emgate.brokers.broker import RunningBroker, start_broker
from emgate.store import salvage
from emrig.mortal import mortal
from emwire import constants
from fleet import Fleet, Identity

RATE = 4000  # records a second, so that every device has more than its window lets out
RATE_WHILE_MENDED = 300
CELLULAR, WIRED = 48, 2
SETTLE_S = 60.0
"""Without progress."""
DRAIN_S = 0.05
"""After a gateway's death, for acknowledgements that are already on their way through the broker or a pty."""
BROKEN_START_S = 2.5
"""How long a process may try to start on a broken disk before that is mended: a start takes about 1 s."""
DAY_MS, YEAR_MS = 86_400_000, 365 * 86_400_000
EXIT_UNUSABLE = 2
SAID = {constants.MESSAGE_HELLO: (0, 0), constants.MESSAGE_EVENT: (1, 0), constants.MESSAGE_STATUS: (1, 1)}
"""How many rows a record has in the backend's `events` and `statuses`: what a status says of the battery is an event
too."""
MAKING_KEYS_S = 1.5
"""Until a gateway that starts has made its keys, on a busy machine."""
CHANGING_S = 0.03
"""A change to the registry takes about as long."""
CHANGES_EACH_S = 0.3


class Process:
    """The gateway or the backend on its breakable disk."""

    def __init__(self, name: str, folder: Path, shim: Path, code: str, arguments: list[str]) -> None:
        self.name = name
        self.disk = Disk(folder, shim)
        self.log = folder / "log"
        self._code, self._arguments = code, arguments
        self.process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        """Start it; `ready` waits until it is up."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *mortal(sys.executable, "-c", self._code, *self._arguments), stdout=asyncio.subprocess.PIPE, stderr=log,
                env=self.disk.environment,
            )  # fmt: skip

    async def ready(self, within_s: float = SETTLE_S) -> bool:
        """True when it is up; False when it ended before."""
        assert self.process is not None and self.process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self.process.stdout.readline()
            if not line:
                await self.process.wait()
        return bool(line)

    async def start(self) -> None:
        """To be called on a disk that works."""
        await self.spawn()
        if not await self.ready():
            self.complain()

    def complain(self) -> None:
        """AssertionError: it ended without having been killed."""
        assert self.process is not None
        raise AssertionError(
            f"the {self.name} ended by itself with status {self.process.returncode}:\n" + self.log.read_text()[-3000:]
        )

    @property
    def ended(self) -> bool:
        """Not running."""
        return self.process is None or self.process.returncode is not None

    async def kill(self) -> None:
        """AssertionError if that was not needed."""
        assert self.process is not None
        if self.ended:
            self.complain()
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """At the end, however it is."""
        if self.process is not None and not self.ended:
            self.process.kill()
            await self.process.wait()


class Harness:
    """One bench: start, rounds, stop."""

    def __init__(self, folder: Path, seed: int, dealer: Dealer | None = None, kind: Kind | None = None) -> None:
        self._dealer = dealer or Dealer(seed)
        self.kind = kind or self._dealer.deal_kind()
        self.counts: Counter[str] = Counter()
        self.attacks: Counter[str] = Counter()
        self.faults: list[str] = []
        self._folder = folder
        self._doubted = False  # a page was overwritten, and not everything has arrived since
        self._damaged = False  # it has been, once
        shim = build_shim(folder)
        self.broker: RunningBroker = start_broker("mosquitto")
        self._chance = random.Random(f"moments {seed}")
        chance = random.Random(f"devices {seed}")
        self.fleet = Fleet(folder / "devices", self.broker.port, chance, CELLULAR, WIRED)
        self.gateway = Process(
            "gateway", folder / "gateway", shim,
            "import sys, pathlib; from emgate.commands.run_commands import run_gateway;"
            " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))",
            [str(folder / "gateway.toml")],
        )  # fmt: skip
        self.backend = Process(
            "backend", folder / "backend", shim, "from emgate.cli import app; app()",
            ["backend", "run", "--config", str(folder / "backend.toml")],
        )  # fmt: skip
        state = self.gateway.disk.path
        database = self.backend.disk.path / "backend.sqlite"
        self.bench = Bench(self.kind, folder, state, database, self.broker.port)
        self.gateway.disk.environment |= self.bench.environment
        running = (self.gateway,) if self.kind.uplink == LOCAL else (self.gateway, self.backend)
        self.processes = {each.name: each for each in running}
        self.store = state / "store.sqlite"
        self.database = self.bench.database
        self.bench.registry.begin(device.device_id for device in self.fleet.devices)

    # -- life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Harness":
        try:
            await self._begin()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _begin(self) -> None:
        self._running = asyncio.create_task(self.fleet.run())
        for process in self.processes.values():
            if process is not self.gateway:
                await process.start()
        self._configure(AUTO if self.kind.sealed else OFF)
        if self.kind.sealed:
            await self._seal()
            self._configure(REQUIRED)
        await self.gateway.start()

    def _configure(self, at_rest: str) -> None:
        self.bench.configure(at_rest, [line.path for line in self.fleet.wired])

    async def _seal(self) -> None:
        """A gateway is given a secret: it makes the keys, and seals the registry. The power goes during both."""
        await self.gateway.spawn()
        await asyncio.sleep(self._chance.uniform(0, MAKING_KEYS_S))
        in_time_s: float | None = self._chance.uniform(0, CHANGING_S)
        while True:
            await self._kill([GATEWAY], {GATEWAY: True}, self._chance)
            if self.bench.registry.sealed:
                return
            await self.gateway.start()
            sealing = asyncio.create_task(self.bench.registry.seal())
            await asyncio.wait([sealing], timeout=in_time_s)
            in_time_s = None  # the next time it is waited for

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])
        for process in self.processes.values():
            await process.stop()
        self.broker.stop()
        for line in self.fleet.wired:
            line.close()

    # -- a round ------------------------------------------------------------------------------------------

    async def round(self) -> str:
        """Load, break, judge, mend, let everything arrive, judge again: the verdict. AssertionError tells what is
        wrong."""
        plan = self._dealer.deal()
        if self.kind.uplink == LOCAL:
            plan = plan.of_one_process()
        self.attacks[str(self.kind)] += 1
        if self.kind.second is not None:
            self.attacks[self.kind.second] += 1
        judged = self.counts["judged_at_kill"]
        self.faults = []
        changing = asyncio.create_task(self._change_registry())
        await self._load(plan.load_s)
        if plan.clock is not None:
            self._break_clock(plan.clock)
        broken = None
        if plan.disk is not None:
            broken = self.processes[plan.disk[0]]
            for what in (plan.disk[1], plan.then):
                if what is not None and what != broken.disk.fault:
                    self._came(f"{broken.name}: {FAULTS[what]}")
                    broken.disk.fault = what
                    await asyncio.sleep(plan.broken_s)
        changing.cancel()
        await asyncio.wait([changing])
        last = None
        if GATEWAY in plan.victims:
            last = asyncio.create_task(self.bench.registry.list_another())
            await asyncio.wait([last], timeout=plan.chance.uniform(0, CHANGING_S))
        await self._kill(plan.victims, plan.cut, plan.chance, plan.overwrite)
        if last is not None and await last is None:
            self._came(REGISTRY_CUT_OFF)
        if broken is not None and not plan.late:
            broken.disk.fault = WORKS
        await asyncio.sleep(plan.silence_s)  # devices go on while nobody hears them
        self.fleet.rate = RATE_WHILE_MENDED
        if BROKER in plan.victims:
            port = self.broker.port
            self.broker.stop()
            self.broker = start_broker("mosquitto", port=port)
        await self._restart(plan, broken if plan.late else None)
        self.fleet.rate = 0
        await self._settle()
        for process in self.processes.values():
            process.disk.stop_clock(False)
            if process.ended:
                process.complain()
        self.judge_all()
        self._doubted = False
        self.counts["rounds"] += 1
        judged = self.counts["judged_at_kill"] - judged
        return (
            f"whole: {self.counts['records']} records of {len(self.fleet.devices)} journals in the backend once,"
            f" as they were made and in order; judged {judged} times with the gateway dead"
            + (f"; {self.counts['in_second']} in the second target" if self.kind.second else "")
        )

    @property
    def came(self) -> str:
        """What was done to it in this round."""
        return f"[{'; '.join(self.faults)}]"

    def _came(self, attack: str) -> None:
        self.faults.append(attack)
        self.attacks[attack] += 1

    async def _load(self, seconds: float) -> None:
        self.fleet.rate = RATE
        before, begun, processor_ms = self.fleet.sent(), time.monotonic(), self._processor_ms()
        await asyncio.sleep(seconds)
        self.counts += self.fleet.sent() - before
        self.counts["load_ms"] += int((time.monotonic() - begun) * 1000)
        self.counts["processor_ms"] += self._processor_ms() - processor_ms

    async def _change_registry(self) -> None:
        while True:
            await asyncio.sleep(CHANGES_EACH_S)
            self.attacks[REGISTRY_CHANGED] += await self.bench.registry.list_another() is True

    def _processor_ms(self) -> int:
        """Taken so far by everything that a frame passes: fleet, broker, gateway and backend."""
        processes = [os.getpid(), self.broker.process.pid]
        processes += [each.process.pid for each in self.processes.values() if each.process is not None]
        ticks = 0
        for pid in processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks * 1000 // os.sysconf("SC_CLK_TCK")

    def _break_clock(self, what: str) -> None:
        self._came(what)
        for process in self.processes.values():
            if what == "clock stopped":
                process.disk.stop_clock(True)
            else:
                process.disk.jump(-DAY_MS if what == "clock back a day" else YEAR_MS)

    async def _kill(
        self, victims: Sequence[str], cut: Mapping[str, bool], chance: random.Random, overwrite: bool = False
    ) -> None:
        for victim in victims:
            self._came(f"SIGKILL {victim}")
            if victim == BROKER:
                self.broker.kill()
            else:
                await self.processes[victim].kill()
        await asyncio.sleep(DRAIN_S)
        told_stored, told_delivered = self._told()
        for victim in victims:
            if victim == BROKER:
                continue
            disk = self.processes[victim].disk
            if cut[victim]:
                lost = disk.cut_power(chance)
                self._came(f"power cut of {victim}")
                self.faults[-1] += f" ({', '.join(f'{count} {what}' for what, count in lost.items()) or 'no loss'})"
                self.counts += lost
                self.attacks.update(lost.keys())
            else:
                disk.kept_by_the_kernel()
        missing = told_delivered - self._in_backend()
        assert not missing, f"{len(missing)} told as delivered are not in the backend: {sorted(missing)[:5]}"
        if GATEWAY not in victims:
            return
        self.bench.registry.judge()
        if not self._doubted:
            missing = told_stored - self._in_backend() - self._in_store()
            assert not missing, f"{len(missing)} told as stored are missing: {sorted(missing)[:5]}"
            self.counts["judged_at_kill"] += 1
        if overwrite and self.store.exists():
            self._came(OVERWRITTEN)
            self._doubted = self._damaged = True
            size = self.store.stat().st_size
            self.gateway.disk.overwrite(self.store, max(0, (size - 1) // PAGE * PAGE), chance.randbytes(PAGE))

    async def _restart(self, plan: Plan, broken: Process | None) -> None:
        """What was killed; once more where the plan says so, and on a disk that is mended only then."""
        dead = [each for each in self.processes.values() if each.name in plan.victims]
        await asyncio.gather(*(each.spawn() for each in dead))
        if plan.anew == "during start":
            await asyncio.sleep(plan.anew_s / 2)
            await self._kill_anew(plan, dead)
            await asyncio.gather(*(each.spawn() for each in dead))
        if broken is not None:
            self._came(LATE)
            up = False
            with contextlib.suppress(TimeoutError):
                up = await broken.ready(BROKEN_START_S)
            broken.disk.fault = WORKS
            if up or await broken.ready():  # it may yet end of what it met before
                dead.remove(broken)
            else:  # a service manager starts it again
                assert broken.process is not None
                if broken.process.returncode != EXIT_UNUSABLE:
                    broken.complain()
                self.counts["refused_to_start"] += 1
                await broken.spawn()
        for each in dead:
            if not await each.ready():
                each.complain()
        if plan.anew == "during catch-up":
            dead = [each for each in self.processes.values() if each.name in plan.victims]
            await asyncio.sleep(plan.anew_s)
            await self._kill_anew(plan, dead)
            await asyncio.gather(*(each.start() for each in dead))

    async def _kill_anew(self, plan: Plan, dead: Sequence[Process]) -> None:
        """Those that the disk has already driven out are dead enough."""
        for each in dead:
            if each.ended and each.disk.fault == WORKS:
                each.complain()
        self._came(KILLED_ANEW + str(plan.anew))
        await self._kill([each.name for each in dead if not each.ended], plan.cut, plan.chance)

    async def _settle(self) -> None:
        before, since = -1, time.monotonic()
        while (waiting := not self.fleet.finished) or not self._second_has_all():
            for process in self.processes.values():
                if process.ended:
                    process.complain()
            delivered = sum(device.delivered for device in self.fleet.devices)
            delivered += 0 if waiting else len(self._in_database(self.bench.second))
            if delivered != before:
                before, since = delivered, time.monotonic()
            if time.monotonic() - since < SETTLE_S:
                await asyncio.sleep(0.05)
                continue
            if not waiting:
                raise AssertionError("the second target does not get what is in the store")
            late = [device for device in self.fleet.devices if not device.finished]
            made = {(d.device_id, 1, n) for d in late for n in d.made}
            there = self._in_backend()
            raise AssertionError(
                f"{len(late)} devices still wait; of their records {len(made - there)} are not in the backend;"
                f" first: {late[0].device_id:x} stored {late[0].stored.through} {late[0].stored.ranges()[:3]}"
                f" delivered {late[0].delivered} of {late[0].journal.next_sequence}, link open {late[0].link.is_open}"
            )

    def _second_has_all(self) -> bool:
        """What waits for it; of one that is required the devices have heard."""
        if self.bench.second is None or SECOND in self.bench.required:
            return True
        with contextlib.closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as connection:
            return not connection.execute(
                "SELECT count(*) FROM records WHERE link <> 'gateway' AND row_id > coalesce((SELECT row_id FROM cursors"
                " WHERE consumer = ? AND cursors.alarm = records.alarm), 0)",
                (SECOND,),
            ).fetchone()[0]

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
            salvage.run(copy, str(error), self.bench.required)
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                return set(connection.execute(query))

    def _in_store(self) -> set[Identity]:
        return self._identities(self.store)

    def _in_backend(self) -> set[Identity]:
        """What every required target has."""
        found = self._in_database(self.database)
        return found & self._in_database(self.bench.second) if SECOND in self.bench.required else found

    def _in_database(self, path: Path | None) -> set[Identity]:
        if path is None or not path.exists():
            return set()
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return set(connection.execute("SELECT device_id, epoch, sequence FROM records WHERE link <> 'gateway'"))
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return set()  # killed before it was made

    def judge_all(self) -> None:
        """Everything has arrived: the backend has what the journals had, once, whole, and in order."""
        made = {(d.device_id, 1, n): what for d in self.fleet.devices for n, what in d.made.items()}
        self._judge(self.database, made, "")
        self.counts["records"] = len(made)
        if self.bench.second is not None:
            self._judge(self.bench.second, made, "second target: ")

    def _judge(self, path: Path, made: dict[Identity, tuple[bool, int]], whose: str) -> None:
        required = not whose or SECOND in self.bench.required
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT device_id, epoch, sequence, alarm, payload, record_id FROM records WHERE link <> 'gateway'"
                " ORDER BY record_id"
            ).fetchall()
            # What a record says has no key of its own in `events`: there it could be twice.
            said = Counter(number for (number,) in connection.execute("SELECT record_id FROM events"))
            statuses = Counter(number for (number,) in connection.execute("SELECT record_id FROM statuses"))
        newest: dict[tuple[int, bool], int] = {}
        contents: dict[Identity, tuple[bool, int]] = {}
        disorder = 0
        last: list[tuple[Identity, bool, int]] = []
        for device_id, epoch, sequence, alarm, payload, record_id in rows:
            identity = (device_id, epoch, sequence)
            contents[identity] = (bool(alarm), zlib.crc32(payload))
            there = (said[record_id], statuses[record_id])
            assert there == SAID[payload[0]], f"{whose}{identity} made {there[0]} events and {there[1]} statuses"
            lane = (device_id, bool(alarm))
            if sequence < newest.get(lane, -1):
                disorder += 1
                last.append((identity, bool(alarm), newest[lane]))
            newest[lane] = max(sequence, newest.get(lane, -1))
        assert len(contents) == len(rows), f"{whose}some are there twice"
        assert not contents.keys() - made.keys(), f"{whose}the backend has what no device made"
        assert contents.items() <= made.items(), f"{whose}some are not as they were made"
        missing = made.keys() - contents.keys()
        if whose:
            self.counts["in_second"] = len(contents)
        if not required:
            # Of what was deleted before it had it; after a damage also of what the others had already.
            assert self._damaged or len(missing) <= self._missed(), f"{whose}{len(missing)} lack without a word"
            return
        assert not missing, f"{whose}{len(missing)} are missing: {sorted(missing)[:5]}"
        counter = f"{whose}out_of_order"
        new = disorder - self.counts[counter]
        self.counts[counter] = disorder
        assert not new, f"{whose}{new} out of order within their priority: {last[-3:]}"

    def _missed(self) -> int:
        """By the gateway's own count."""
        with contextlib.closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as connection:
            found: int = connection.execute("SELECT coalesce(sum(records), 0) FROM missed").fetchone()[0]
        return found
