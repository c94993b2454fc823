"""Runs every check in tests/gnss/device on MicroPython, in the virtual time of tests/tags/device."""

from pathlib import Path

import pytest
from device_checks import ROOT, RUN, VIRTUAL, checks_of, run_check

DEVICE = Path(__file__).parent / "device"
CHECKS = [pytest.param(name, id=name[6:]) for name in checks_of(DEVICE / "check_gnss.py")]


@pytest.mark.parametrize("function", CHECKS)
def test_on_micropython(micropython, tmp_path, function):
    run_check(
        micropython, [DEVICE, VIRTUAL, ROOT / "firmware", ROOT / "protocol"], RUN, "check_gnss", function, tmp_path
    )
