"""A few rounds of the crash harness, and that its disk forgets and fails, and its clock goes, as they should."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attack_plan import (
    ATTACKS,
    BACKEND,
    CLOCKS,
    DISKS,
    GATEWAY,
    HTTPS,
    KINDS,
    SECOND_REQUIRED,
    SECONDS,
    Dealer,
    Kind,
)
from broken_disk import FAULTS, FSYNC_FAILS, FULL, NO_GROWTH, READ_ONLY, WORKS, Disk, build_shim
from emgate.brokers.broker import mosquitto_path
from harness import Harness
from run import AFRESH, ROUNDS_FOR_ALL

SHORT_ROUNDS = 2
SEED = 13
DAY_MS = 86_400_000

WRITER = """
import os, sys, time
os.chdir(sys.argv[1])
folder = sys.argv[1] + "/"
first = os.open(folder + "file", os.O_RDWR | os.O_CREAT)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""
# The gateway's store, or the backend's database: a line is the number of a record to commit. One that the disk does not
# take is answered as soon as that is tried.
STORE = """
import asyncio, pathlib, sys
from emgate.operation import logs
from emgate.store.store import Record, Store
async def main():
    logs.configure("error", None)
    store = await Store.open(pathlib.Path(sys.argv[1]) / "file")
    for line in sys.stdin:
        told = store.append(Record(7, 1, int(line), False, 1, "serial", b"payload"))
        while not told.done() and not store.counters["commit_failed"]:
            await asyncio.sleep(0.01)
        print(told.result().name if told.done() else "failed", flush=True)
asyncio.run(main())
"""
# Whether what is set aside for alarms is still there once the disk has refused a record, or taken it.
RESERVE = """
import asyncio, pathlib, sys
from emgate.operation import logs
from emgate.store.store import Record, Store
async def main():
    logs.configure("error", None)
    store = await Store.open(pathlib.Path(sys.argv[1]) / "file", alarm_reserve_bytes=100_000)
    for line in sys.stdin:
        before = store.writer_moves
        told = store.append(Record(7, 1, int(line), False, 1, "serial", b"payload"))
        while not told.done() and store.writer_moves < before + 2:
            await asyncio.sleep(0.01)
        print((pathlib.Path(sys.argv[1]) / "file.reserve").exists(), flush=True)
asyncio.run(main())
"""
DATABASE = """
import pathlib, sqlite3, sys
from emgate.backend import database
connection = database.connect(pathlib.Path(sys.argv[1]) / "file")
for line in sys.stdin:
    try:
        with database.transaction(connection):
            connection.execute("INSERT INTO activations VALUES (?, 1, 'p', 1, NULL, NULL, NULL)", (line.strip(),))
        print("STORED", flush=True)
    except sqlite3.OperationalError:
        print("failed", flush=True)
"""
Ask = Callable[[str], str]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def disk(shim: Path, tmp_path: Path) -> Disk:
    return Disk(tmp_path, shim)


@pytest.fixture
def ask(disk: Disk, request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Has a process on that disk evaluate something; "kill" kills it, and the next question goes to another one."""
    code = getattr(request, "param", WRITER)
    running: list[subprocess.Popen[str]] = []

    def answer(what: str) -> str:
        if what == "kill":
            running[-1].kill()
            running[-1].wait()
            return ""
        if not running or running[-1].returncode is not None:
            command = [sys.executable, "-c", code, str(disk.path)]
            pipe = subprocess.PIPE
            running.append(subprocess.Popen(command, env=disk.environment, stdin=pipe, stdout=pipe, text=True))
        child = running[-1]
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(what + "\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    yield answer
    for child in running:
        child.kill()
        child.wait()


class AllLost(random.Random):
    """Of what a power cut could take it takes all."""

    def choice(self, options):  # type: ignore[no-untyped-def]
        return options[0]

    def random(self) -> float:
        return 0.999


def cut(disk: Disk, ask: Ask) -> bytes:
    ask("kill")
    disk.cut_power(AllLost())
    return (disk.path / "file").read_bytes()


def test_the_disk_forgets_what_was_not_synced_and_fails_when_told(disk: Disk, ask: Ask) -> None:
    assert ask("os.write(first, b'synced' * 10)") == "60"
    assert ask("os.fsync(first)") == ask("os.fsync(os.open(folder, os.O_RDONLY))") == "None"
    assert ask("os.pwrite(first, b'XXXX', 3), os.write(first, b'appended'), os.ftruncate(first, 20)") == "(4, 8, None)"
    over, grow, sync = "os.pwrite(first, b'Y', 0)", "os.pwrite(first, b'Y', 100)", "os.fsync(first)"
    for fault, answers in (
        (FULL, ("errno 28", "errno 28")),
        (NO_GROWTH, ("1", "errno 28")),
        (READ_ONLY, ("errno 30", "errno 30", "errno 5")),
        (FSYNC_FAILS, ("1", "1", "errno 5")),
    ):
        disk.fault = fault
        assert tuple(ask(what) for what in (over, grow, sync)[: len(answers)]) == answers
    assert cut(disk, ask) == b"synced" * 10


def test_what_an_fsync_failed_to_bring_no_later_one_brings(disk: Disk, ask: Ask) -> None:
    ask("os.write(first, b'a' * 4096 + b'b' * 4096), os.fsync(first)")
    disk.fault = FSYNC_FAILS
    assert ask("os.pwrite(first, b'LOST', 0), os.pwrite(first, b'LOST', 4096)") == "(4, 4)"
    assert ask("os.fsync(first)") == "errno 5"
    disk.fault = WORKS
    assert ask("os.pwrite(first, b'again', 8000), os.fsync(first)") == "(5, None)"
    assert ask("os.pread(first, 4, 0)") == "b'LOST'"  # as long as the kernel lives
    ask("kill")
    assert ask("os.fsync(first)") == "None"  # nor does that of another process
    image = cut(disk, ask)
    assert image[:4] == b"aaaa"
    assert image[4096:4100] == b"LOST" and image[8000:8005] == b"again"  # its page was written again, and goes whole


@pytest.mark.parametrize(
    ("ask", "query"),
    [(STORE, "SELECT sequence FROM records"), (DATABASE, "SELECT 0 + device_activation_id FROM activations")],
    indirect=["ask"],
    ids=["gateway", "backend"],
)
def test_what_a_killed_process_left_to_the_kernel_is_not_built_upon(disk: Disk, ask: Ask, query: str) -> None:
    assert ask("1") == "STORED"
    disk.fault = FSYNC_FAILS
    assert ask("2") == "failed"
    ask("kill")
    disk.fault = WORKS
    assert ask("3") == "STORED"
    cut(disk, ask)
    with contextlib.closing(sqlite3.connect(disk.path / "file")) as connection:
        there = {number for (number,) in connection.execute(query)}
    assert there - {2} == {1, 3}


@pytest.mark.parametrize("ask", [RESERVE], indirect=True, ids=["gateway"])
@pytest.mark.parametrize(("fault", "kept"), [(FSYNC_FAILS, True), (FULL, False)])
def test_only_a_full_disk_costs_what_is_set_aside_for_alarms(disk: Disk, ask: Ask, fault: int, kept: bool) -> None:
    assert ask("1") == "True"
    disk.fault = fault
    assert ask("2") == str(kept)


def test_a_kill_alone_loses_nothing_but_makes_nothing_durable(disk: Disk, ask: Ask) -> None:
    ask("os.fsync(first)")
    ask("os.write(first, b'written')")
    ask("kill")
    disk.kept_by_the_kernel()
    assert ask("os.pread(first, 7, 0)") == "b'written'"
    assert cut(disk, ask) == b""


def test_some_writes_are_lost_some_torn_and_directory_changes_from_the_last_on(disk: Disk, ask: Ask) -> None:
    ask("os.write(first, b'0' * 4096), os.fsync(first)")
    ask("[os.pwrite(first, bytes([65 + n]) * 1024, 1024 * n) for n in range(4)]")
    ask("os.rename(folder + 'file', folder + 'moved'), os.close(os.open(folder + 'new', os.O_RDWR | os.O_CREAT))")
    ask("kill")
    undo, images = disk.path.parent / "undo", set()
    saved = {each.name: each.read_bytes() for each in undo.iterdir()}
    names = set()
    for seed in range(40):
        for name, data in saved.items():
            (undo / name).write_bytes(data)
        disk.cut_power(random.Random(seed))
        present = frozenset(each.name for each in disk.path.iterdir())
        names.add(present)
        (disk.path / "file").exists() and (disk.path / "file").rename(disk.path / "moved")
        (disk.path / "new").touch()
        images.add((disk.path / "moved").read_bytes()[::512])
    assert names == {frozenset({"file"}), frozenset({"moved"}), frozenset({"moved", "new"})}
    assert {b"00000000", b"AABBCCDD"} <= images
    assert any(image[2:4] == b"00" and image[6:8] == b"DD" for image in images)
    assert any(image[0:2] == b"A0" for image in images)


def test_the_clock_jumps_stands_and_goes_on(disk: Disk, ask: Ask) -> None:
    before = int(ask("time.time_ns()"))
    disk.jump(DAY_MS)
    after = int(ask("time.time_ns()"))
    assert DAY_MS * 1_000_000 <= after - before < DAY_MS * 1_100_000
    disk.stop_clock(True)
    assert ask("time.time_ns()") == ask("time.sleep(0.01) or time.time_ns()")
    disk.stop_clock(False)
    assert ask("time.time_ns()") != ask("time.sleep(0.01) or time.time_ns()")


def test_a_long_run_is_dealt_every_attack_and_the_same_ones_for_a_seed() -> None:
    first, second = Dealer(3), Dealer(3)
    plans = [first.deal() for _ in range(50)]
    for plan in plans:
        other = second.deal()
        assert plan.chance.random() == other.chance.random()
        assert (plan.clock, plan.disk, plan.victims, plan.cut) == (other.clock, other.disk, other.victims, other.cut)
    assert {plan.clock for plan in plans} == {*CLOCKS, None}
    assert {plan.disk for plan in plans} == {*DISKS, None}
    assert len({frozenset(plan.victims) for plan in plans} - {frozenset()}) == 7
    assert {plan.anew for plan in plans} == {"during start", "during catch-up", None}
    assert any(plan.late for plan in plans) and any(plan.overwrite for plan in plans)
    assert all(f"{who}: {name}" in ATTACKS for who in (GATEWAY, BACKEND) for name in FAULTS.values())
    kinds = [first.deal_kind() for _ in range(ROUNDS_FOR_ALL // AFRESH)]
    assert {(kind.sealed, kind.uplink) for kind in kinds} == {(kind.sealed, kind.uplink) for kind in KINDS}
    assert {kind.second for kind in kinds} == {*SECONDS, None} and {*map(str, KINDS), *SECONDS} <= {*ATTACKS}
    assert kinds == [second.deal_kind() for _ in kinds]


def test_where_the_backend_is_inside_the_gateway_its_attacks_are_the_gateways() -> None:
    dealer = Dealer(3)
    for _ in range(50):
        plan = dealer.deal()
        inside = plan.of_one_process()
        wanted = {GATEWAY if who == BACKEND else who for who in plan.victims}
        assert len(inside.victims) == len(wanted) and set(inside.victims) == wanted
        assert (inside.disk is None) == (plan.disk is None) and (inside.disk or (GATEWAY,))[0] == GATEWAY
        assert inside.cut == ({GATEWAY: any(plan.cut.values())} if GATEWAY in wanted else {})


async def test_rounds_of_faults_lose_nothing_double_nothing_and_keep_the_order(shim: Path, tmp_path: Path) -> None:
    if mosquitto_path() is None:
        pytest.skip("needs mosquitto")
    rounds = int(os.environ.get("EMTAG_CRASH_ROUNDS", SHORT_ROUNDS))
    async with Harness(tmp_path, SEED, kind=Kind(True, HTTPS, SECOND_REQUIRED)) as harness:
        for _ in range(rounds):
            await harness.round()
        assert harness.counts["rounds"] == rounds and harness.counts["records"] > 1000
        with contextlib.closing(sqlite3.connect(harness.database)) as connection, connection:
            columns = "record_id, device_id, reporting_device_id, event_type_id, event_type_code, value, evidence"
            device = "WHERE reporting_device_id >> 24 = 1 LIMIT 1"
            connection.execute(f"INSERT INTO events ({columns}) SELECT {columns} FROM events {device}")
        with pytest.raises(AssertionError, match="made 2 events"):
            harness.judge_all()
