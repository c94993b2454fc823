"""Runs every check in tests/ankle/device on MicroPython, with the virtual time and the models of tests/tags/device."""

from pathlib import Path

import pytest
from device_checks import ROOT, RUN, VIRTUAL, checks_in, run_check

HERE = Path(__file__).parent
CHECKS = [pytest.param(*check, id="-".join(name[6:] for name in check)) for check in checks_in(HERE / "device")]


@pytest.mark.parametrize(("module", "function"), CHECKS)
def test_on_micropython(micropython: str, tmp_path: Path, module: str, function: str) -> None:
    module_path = [HERE / "device", VIRTUAL, ROOT / "firmware", ROOT / "protocol"]
    run_check(micropython, module_path, RUN, module, function, tmp_path)
