"""Runs every check in tests/ankle/device on MicroPython, with the virtual time and the models of tests/tags/device."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VIRTUAL = ROOT / "tests/tags/device"


def _checks():
    for path in sorted((HERE / "device").glob("check_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("check_"):
                yield pytest.param(path.stem, node.name, id=f"{path.stem[6:]}-{node.name[6:]}")


@pytest.mark.parametrize(("module", "function"), list(_checks()))
def test_on_micropython(micropython: str, tmp_path: Path, module: str, function: str) -> None:
    module_path = [HERE / "device", VIRTUAL, ROOT / "firmware", ROOT / "protocol"]
    done = subprocess.run(
        [micropython, "-X", "heapsize=1m", VIRTUAL / "run.py", module, function, tmp_path],
        env={**os.environ, "MICROPYPATH": ":".join((".frozen", *map(str, module_path)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["passed"]), done.stdout + done.stderr
