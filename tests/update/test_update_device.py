"""Runs the checks in tests/update/device on MicroPython, in virtual time, one interpreter each."""

import random
from pathlib import Path

import pytest
from device_checks import RUN, VIRTUAL, checks_of, run_check
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from update_kit import FIRMWARE, KEY, PROTOCOL, PUBLIC_KEY, install_whole, small_image

HERE = Path(__file__).parent
# 2027-01-01, in wire time.
LATER_S = 536_457_600


@pytest.mark.parametrize("function", checks_of(HERE / "device" / "check_update.py"))
def test_on_micropython(micropython: str, tmp_path: Path, function: str) -> None:
    files = {"main.py": b"# new\n" * 50, "common/data.py": random.Random(1).randbytes(30_000)}
    image = firmware_image.pack("home_unit", "memory", (2, 0, 0), 1, files)
    install_whole(tmp_path, 0, small_image(1, board="memory"))
    (tmp_path / "update_key").write_text(PUBLIC_KEY.hex())
    for name, from_s in (("new", 0), ("later", LATER_S)):
        (tmp_path / f"{name}.image").write_bytes(image.data)
        (tmp_path / f"{name}.manifest").write_bytes(firmware_signing.sign(image, KEY, 1, install_from_s=from_s))
    module_path = [HERE / "device", VIRTUAL, FIRMWARE, PROTOCOL]
    print(run_check(micropython, module_path, RUN, "check_update", function, tmp_path))
