"""Runs every check in tests/tags/device on MicroPython, in virtual time, one interpreter each."""

from pathlib import Path

import pytest
from device_checks import ROOT, RUN, VIRTUAL, checks_in, run_check

CHECKS = [pytest.param(*check, id="-".join(name[6:] for name in check)) for check in checks_in(VIRTUAL)]


@pytest.mark.parametrize(("module", "function"), CHECKS)
def test_on_micropython(micropython: str, tmp_path: Path, module: str, function: str) -> None:
    module_path = [VIRTUAL, ROOT / "firmware", ROOT / "protocol"]
    print(run_check(micropython, module_path, RUN, module, function, tmp_path))
