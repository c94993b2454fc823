"""`emtag sim`: one model alone, and a prompt into it, as a newcomer would use them."""

import subprocess
import sys
from pathlib import Path

import pytest
from emrig import simulate


def _sim(folder: Path, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emgate.cli", "sim", *arguments, "--folder", folder],
        input=lines,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("model", ["ankle_gps", "home_unit", "alcohol", "pid"])
def test_each_model_runs_alone(tmp_path: Path, model: str) -> None:
    done = _sim(tmp_path, model, "--for", "5m", "--speed", "10000")
    assert done.returncode == 0, done.stderr
    consoles = [path.read_text() for path in tmp_path.glob("devices/*/console.log")]
    assert consoles and not any("Traceback" in console for console in consoles), consoles


def test_the_prompt_evaluates_in_the_running_device(tmp_path: Path) -> None:
    lines = 'x = 41\nx + 1\nboard.identity["model"]\nprint("records", device.records.made > 0)\n1/0\n'
    done = _sim(tmp_path, "alcohol", "--repl", "--speed", "100", lines=lines + "await asyncio.sleep_ms(10)\nquit\n")
    assert done.returncode == 0, done.stderr
    for said in ("42\n", "'alcohol'\n", "records True\n", "ZeroDivisionError"):
        assert said in done.stdout, done.stdout


@pytest.mark.parametrize("model", ["ankle_gps", "home_unit", "alcohol", "pid"])
def test_what_the_prompt_suggests_works(tmp_path: Path, model: str) -> None:
    suggestions = simulate.SUGGESTIONS_OF_A_PID if model == "pid" else simulate.SUGGESTIONS
    last = "the end" if model == "pid" else "the gateway has stored the records below"
    arguments = ["sim", model, "--repl", "--speed", "1000", "--folder", tmp_path]
    with subprocess.Popen(
        [sys.executable, "-m", "emgate.cli", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write("\n".join([*suggestions, 'print("the end")', ""]))
        running.stdin.flush()
        said = ""
        while last not in said and (line := running.stdout.readline()):
            said += line
        rest, _ = running.communicate("quit\n", timeout=60)
    assert running.returncode == 0 and last in said
    assert "Traceback" not in said + rest, said + rest


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    done = _sim(tmp_path, "bracelet")
    assert done.returncode == 2
    assert "give ankle_gps, home_unit, alcohol or pid" in done.stderr
