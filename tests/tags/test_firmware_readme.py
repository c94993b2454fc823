"""The example of firmware/README.md, done to a copy of the sources as it is written, and run on MicroPython."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from device_checks import ROOT, RUN, VIRTUAL, run_check

BLOCK = re.compile(r"^```python\n# (?P<path>\S+?)(?:, before: (?P<anchor>[^\n]+))?\n(?P<code>.*?)^```$", re.M | re.S)

CHECK = """
import asyncio
import virtual
from at_work import BODY, AtWork
from emwire import constants


async def check_humidity(folder):
    work = AtWork(folder, "alcohol")
    work.board.adcs["humidity"] = virtual.Adc(473)
    work.start()
    await asyncio.sleep_ms(2 * 3600000 + 1000)
    values = [record[BODY] for record in work.records(constants.MESSAGE_CASE_HUMIDITY)]
    assert values == [473, 473, 473], values
    work.board.adcs["humidity"].counts = 0
    await asyncio.sleep_ms(3600000)
    assert work.events(constants.EVENT_SELF_TEST_FAILED), "a sensor that is off is told"
"""


def _insert(path: Path, anchor: str, code: str) -> None:
    text = path.read_text()
    # The README gives the anchor on one line, whatever it is in the file.
    pattern = re.compile(r"^[ \t]*" + r"\s*".join(re.escape(part) for part in anchor.split()), re.M)
    matches = list(pattern.finditer(text))
    assert len(matches) == 1, f"{path}: {anchor!r} is there {len(matches)} times"
    path.write_text(text[: matches[0].start()] + code + text[matches[0].start() :])


def test_the_new_sensor_reports(micropython: str, tmp_path: Path) -> None:
    for folder in ("firmware", "protocol", "hil_tests/emrig"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = list(BLOCK.finditer((ROOT / "firmware" / "README.md").read_text()))
    assert len(blocks) == 10, "every step of the example"
    for block in blocks:
        path = tmp_path / block["path"]
        if block["anchor"]:
            _insert(path, block["anchor"], block["code"])
        else:
            path.write_text(block["code"])
    generate = "import sys; from pathlib import Path; from emwire.generate import run; run(False, Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", generate, tmp_path],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "protocol")},
        check=True,
        cwd=tmp_path,
    )
    (tmp_path / "check_readme.py").write_text(CHECK)
    path = [tmp_path, VIRTUAL, tmp_path / "firmware", tmp_path / "protocol"]
    (tmp_path / "flash").mkdir()
    run_check(micropython, path, RUN, "check_readme", "check_humidity", tmp_path / "flash")
    _starts_in_the_simulator(tmp_path)
    (tmp_path / "board").mkdir()
    # A board without the part goes without.
    boards = ROOT / "tests" / "boards" / "device"
    path = [boards, VIRTUAL, tmp_path / "firmware", tmp_path / "protocol"]
    run_check(micropython, path, boards / "check_boards.py", "check_models", "esp32s3", tmp_path / "board")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    checked = [tmp_path / block["path"] for block in blocks]
    for action in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *action, *checked], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def _starts_in_the_simulator(copy: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "emgate.cli", "sim", "alcohol", "--repl", "--speed", "1000", "--folder", copy / "sim"],
        input='board.adc("humidity").read_u16()\nquit\n',
        env={**os.environ, "PYTHONPATH": f"{copy / 'hil_tests'}:{copy / 'protocol'}"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert told.returncode == 0, told.stderr
    assert "473" in told.stdout and "task humidity" not in told.stdout, told.stdout
