"""`python -m emrig.pico.faster`: compiles the emulator's core for this very Python, several times as fast.

The wheel's C modules keep to Python's stable interface, in which each access to the chip's bus is a look-up by name in
case somebody has replaced the method; nobody has. The package brings its C sources. A copy of it with four of them
compiled anew goes beside MicroPython's image, for the processes of emulated boards alone. Without a C compiler or
Python's headers nothing is made, and the boards are as slow as the wheel.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = "rp2040py"
# What runs for each instruction.
MODULES = ("_cortex_m0_core", "_rp2040", "_simulation_clock", "_simulator")
# Level 1 takes a quarter of the compiler's time of level 3, and gives as much.
FLAGS = ("-O1", "-std=c99", "-fPIC", "-shared", "-fno-strict-aliasing", "-fwrapv", "-DNDEBUG", "-w")
LOOK_UP = "if (unlikely(__pyx_skip_dispatch)) ;"
NO_LOOK_UP = "if (1) ;"
_ROOT = Path(__file__).resolve().parents[3] / "var" / "pico"


def folder() -> Path:
    """Where the copy is, or would be: one for each version of the emulator and of Python."""
    return _ROOT / f"emulator-{version(PACKAGE)}-{sysconfig.get_config_var('SOABI')}"


def environment() -> dict[str, str]:
    """Of the process of an emulated board."""
    path = folder()
    if not path.is_dir():
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])}


def build() -> Path | None:
    """Make the copy unless it is there; None if it cannot be made here."""
    path = folder()
    if path.is_dir():
        return path
    found = importlib.util.find_spec(PACKAGE)
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = Path(sysconfig.get_paths()["include"])
    if found is None or not found.submodule_search_locations or compiler is None:
        return None
    if not (headers / "Python.h").is_file():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        copy = Path(temporary) / path.name
        package = copy / PACKAGE
        shutil.copytree(found.submodule_search_locations[0], package, ignore=shutil.ignore_patterns("__pycache__"))

        def compile_module(name: str) -> bool:
            source = package / "native" / f"{name}.c"
            if not source.is_file():
                return False
            source.write_text(source.read_text().replace(LOOK_UP, NO_LOOK_UP))
            made = source.with_suffix(".so")
            command = [compiler, *FLAGS, f"-I{headers}", str(source), "-o", str(made)]
            return subprocess.run(command, check=False).returncode == 0

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            if not all(pool.map(compile_module, MODULES)):
                return None
        for name in MODULES:
            (package / "native" / f"{name}.abi3.so").unlink(missing_ok=True)
        check = [sys.executable, "-c", "from rp2040py.native._simulator import execute_batch as e; print(e.__module__)"]
        if subprocess.run(check, env={**os.environ, "PYTHONPATH": str(copy)}, stdout=subprocess.DEVNULL).returncode:
            return None
        copy.rename(path)
    return path


def main() -> None:
    """Say what there is now."""
    path = build()
    if path is None:
        print("pico: no C compiler or no Python headers (Debian: python3-dev): the emulator stays several times slower")
    else:
        print(f"pico: the emulator's core is compiled for this Python: {path}")


if __name__ == "__main__":
    main()
