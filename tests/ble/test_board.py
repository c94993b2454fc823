"""The drivers on MicroPython with interrupts as a board delivers them."""

import os
import subprocess
from pathlib import Path

from emrig.paths import firmware_folder, protocol_folder

HERE = Path(__file__).parent


def test_drivers_with_interrupts_between_byte_codes(micropython):
    path = [HERE / "board", firmware_folder(), protocol_folder(), ".frozen"]
    done = subprocess.run(
        [micropython, str(HERE / "board" / "check.py")],
        env={**os.environ, "MICROPYPATH": ":".join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
