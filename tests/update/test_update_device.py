"""Runs the checks in tests/update/device on MicroPython, in virtual time, one interpreter each."""

import ast
import os
import random
import subprocess
from pathlib import Path

import pytest
from emrig import firmware_image, firmware_signing
from update_kit import FIRMWARE, KEY, PROTOCOL, PUBLIC_KEY, install_whole, small_image

HERE = Path(__file__).parent
BOARD = HERE.parent / "tags" / "device"
# 2027-01-01, in wire time.
LATER_S = 536_457_600


def checks() -> list[str]:
    tree = ast.parse((HERE / "device" / "check_update.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if node.name.startswith("check_")]


@pytest.mark.parametrize("function", checks())
def test_on_micropython(micropython: str, tmp_path: Path, function: str) -> None:
    files = {"main.py": b"# new\n" * 50, "common/data.py": random.Random(1).randbytes(30_000)}
    image = firmware_image.pack("home_unit", "memory", (2, 0, 0), 1, files)
    install_whole(tmp_path, 0, small_image(1, board="memory"))
    (tmp_path / "update_key").write_text(PUBLIC_KEY.hex())
    for name, from_s in (("new", 0), ("later", LATER_S)):
        (tmp_path / f"{name}.image").write_bytes(image.data)
        (tmp_path / f"{name}.manifest").write_bytes(firmware_signing.sign(image, KEY, 1, install_from_s=from_s))
    module_path = [HERE / "device", BOARD, FIRMWARE, PROTOCOL]
    done = subprocess.run(
        [micropython, "-X", "heapsize=1m", BOARD / "run.py", "check_update", function, tmp_path],
        env={**os.environ, "MICROPYPATH": ":".join((".frozen", *map(str, module_path)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["passed"]), done.stdout + done.stderr
    print(done.stdout)
