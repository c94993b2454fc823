"""Every seed, and a few hundred damaged ones, through every fuzz target: what `make fuzz` found stays found."""

import importlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.name for path in (HERE / "corpus").iterdir())


def damaged(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Seeds with bytes changed, cut, put together: always the same ones."""
    chance = random.Random(20100101)
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        if chance.random() < 0.2:
            data += chance.choice(seeds)
        yield bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str) -> None:
    check = importlib.import_module(f"fuzz_targets.{target}").check
    seeds = [path.read_bytes() for path in sorted((HERE / "corpus" / target).iterdir())]
    assert seeds
    check(b"")
    for data in [*seeds, *damaged(seeds, 300)]:
        try:
            check(data)
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise


def test_every_target_has_seeds() -> None:
    targets = {path.stem for path in (HERE / "fuzz_targets").glob("*.py")} - {"__init__", "open_aead"}
    assert targets == set(TARGETS)


def test_seeds_are_small() -> None:
    assert sum(path.stat().st_size for path in (HERE / "corpus").rglob("*") if path.is_file()) < 128 * 1024


def test_a_fault_is_found_and_told(tmp_path: Path) -> None:
    """The fuzzer itself, on a target that is wrong for one input of two bytes."""
    pytest.importorskip("atheris", reason="needs atheris")
    (tmp_path / "fuzz_targets").mkdir()
    (tmp_path / "corpus" / "wrong").mkdir(parents=True)
    (tmp_path / "fuzz_targets" / "wrong.py").write_text(
        "def check(data):\n    if data[:1] == b'O' and data[1:2] == b'K':\n        raise ValueError('found')\n"
    )
    (tmp_path / "run.py").write_bytes((HERE / "run.py").read_bytes())
    command = [sys.executable, str(tmp_path / "run.py"), "--child", "wrong", "-runs=200000", "-seed=1"]
    ended = subprocess.run([*command, str(tmp_path / "corpus" / "wrong")], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "found" in ended.stdout + ended.stderr
