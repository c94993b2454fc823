"""Checks that run on MicroPython: functions named check_… in files of a device/ folder, one interpreter each."""

import ast
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The virtual board and time, and the entry that runs one check of a module.
VIRTUAL = ROOT / "tests" / "tags" / "device"
RUN = VIRTUAL / "run.py"
# For one that hangs: on a busy machine some take 15 s.
LIMIT_S = 300


def checks_of(path: Path) -> list[str]:
    """The names of a file's checks."""
    functions = (
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [function.name for function in functions if function.name.startswith("check_")]


def checks_in(folder: Path) -> Iterator[tuple[str, str]]:
    """(module, function) of every check in a folder."""
    for path in sorted(folder.glob("check_*.py")):
        for function in checks_of(path):
            yield path.stem, function


def run_check(micropython: str, module_path: Sequence[Path], script: Path, *arguments: object) -> str:
    """Run `script` on MicroPython with these folders on its path; what it printed. Its last line must be "passed"."""
    done = subprocess.run(
        [micropython, "-X", "heapsize=1m", script, *map(str, arguments)],
        env={**os.environ, "MICROPYPATH": ":".join((".frozen", *map(str, module_path)))},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["passed"]), done.stdout + done.stderr
    return done.stdout
