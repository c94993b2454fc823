"""A few rounds of the crash harness, and that its disk forgets and fails as it should."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emgate.broker import mosquitto_path
from harness import FSYNC_FAILS, FULL, READ_ONLY, WORKS, Harness, Process, build_shim

SHORT_ROUNDS = 2
SEED = 7

WRITER = """
import os, sys
first = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(first, b"synced" * 10)
os.fsync(first)
os.pwrite(first, b"XXXX", 3)
os.write(first, b"appended")
os.ftruncate(first, 20)
print("ready", flush=True)
for line in sys.stdin:
    try:
        os.fsync(first) if line == "fsync\\n" else os.pwrite(first, b"Y", 0)
        print("done", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build_shim(tmp_path_factory.mktemp("shim"))


def test_the_disk_forgets_what_was_not_synced_and_fails_when_told(shim: Path, tmp_path: Path) -> None:
    process = Process("writer", tmp_path, shim, WRITER, [])
    file = process.disk / "file"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)],
        env={**process._environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None

    def ask(what: str) -> str:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(what + "\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    assert child.stdout.readline() == "ready\n"
    for fault, write_error, fsync_error in ((FULL, 28, None), (READ_ONLY, 30, 5), (FSYNC_FAILS, None, 5)):
        process.fault(fault)
        if write_error is not None:
            assert ask("write") == str(write_error)
        if fsync_error is not None:
            assert ask("fsync") == str(fsync_error)
    process.fault(WORKS)
    assert file.read_bytes() == (b"synXXXX" + b"synced" * 9)[:20] or len(file.read_bytes()) == 20
    child.kill()
    child.wait()
    chance = random.Random(1)
    chance.choice = lambda options: options[0]  # type: ignore[method-assign]  # all of it
    assert process.cut_power(chance) == 3
    assert file.read_bytes() == b"synced" * 10


async def test_rounds_of_faults_lose_nothing_double_nothing_and_keep_the_order(shim: Path, tmp_path: Path) -> None:
    if mosquitto_path() is None:
        pytest.skip("needs mosquitto")
    rounds = int(os.environ.get("EMTAG_CRASH_ROUNDS", SHORT_ROUNDS))
    async with Harness(tmp_path, SEED) as harness:
        for _ in range(rounds):
            await harness.round()
        assert harness.counts["rounds"] == rounds and harness.counts["records"] > 1000
