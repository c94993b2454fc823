"""On emulated RP2040s with a real gateway, whole models as their images have them stay below 96 KiB of RAM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("pico")
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
# `make pico-memory` runs 60, at the end of which the peak is some 2 KB higher (docs/pico.md).
CYCLES = 2
MARGIN_BYTES = 2048


def test_models_stay_below_the_limit(pico_image: Path) -> None:
    command = [sys.executable, "-m", "emrig.pico.memory", "--cycles", str(CYCLES), "--json", *MODELS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    told = {one["model"]: one for one in json.loads(done.stdout)}
    assert set(told) == set(MODELS)
    for one in told.values():
        assert one["cycles"] >= CYCLES
        assert one["live_bytes"] <= one["peak_bytes"] <= one["limit_bytes"] - MARGIN_BYTES == 96 * 1024 - MARGIN_BYTES
