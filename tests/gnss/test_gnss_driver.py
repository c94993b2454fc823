"""Runs every check in tests/gnss/device on MicroPython, in the virtual time of tests/tags/device."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VIRTUAL = ROOT / "tests/tags/device"


def _checks():
    for node in ast.parse((HERE / "device/check_gnss.py").read_text()).body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("check_"):
            yield pytest.param(node.name, id=node.name[6:])


@pytest.mark.parametrize("function", list(_checks()))
def test_on_micropython(micropython, tmp_path, function):
    module_path = [HERE / "device", VIRTUAL, ROOT / "firmware", ROOT / "protocol"]
    done = subprocess.run(
        [micropython, "-X", "heapsize=1m", VIRTUAL / "run.py", "check_gnss", function, tmp_path],
        env={**os.environ, "MICROPYPATH": ":".join((".frozen", *map(str, module_path)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["passed"]), done.stdout + done.stderr
