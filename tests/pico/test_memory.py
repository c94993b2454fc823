"""On emulated RP2040s with a real gateway, whole models as their images have them stay below 96 KiB of RAM."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from emrig.pico.memory import COLLECT_EVERY, CYCLES, LIMIT_BYTES, Peak

pytestmark = pytest.mark.xdist_group("pico")
# What CI has time for: a cycle of the pid and of the home unit costs the board next to nothing. `make pico-memory`
# runs 60 of each (docs/pico.md).
CYCLES_HERE = {"ankle_gps": 5, "home_unit": 12, "alcohol": 5, "pid": CYCLES}
# The peak holds garbage too, whose amount is chance: in 60 cycles it is some 2 KB more than in the first ones.
GARBAGE_BYTES = 2048


def test_models_stay_below_the_limit_for_all_60_cycles(pico_image: Path) -> None:
    """Those not run here: as if what is allocated after a collection went on to grow from cycle to cycle."""
    wanted = [f"{model}={cycles}" for model, cycles in CYCLES_HERE.items()]
    command = [sys.executable, "-m", "emrig.pico.memory", "--json", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    told = {one["model"]: one for one in json.loads(done.stdout)}
    assert set(told) == set(CYCLES_HERE)
    for model, one in told.items():
        assert one["limit_bytes"] == LIMIT_BYTES == 96 * 1024
        assert one["live_bytes"] <= one["peak_bytes"]
        assert one["cycles"] >= CYCLES_HERE[model]
        growth = max(0.0, one["growth_bytes_per_cycle"]) * (CYCLES - one["cycles"])
        assert one["peak_bytes"] + growth + GARBAGE_BYTES <= LIMIT_BYTES, one


def test_growth_is_of_what_collections_leave() -> None:
    peak = Peak(report=2)
    for wait in range(6 * COLLECT_EVERY):
        # Garbage comes and goes; 100 bytes more stay each time.
        live = 80_000 + 100 * (wait // COLLECT_EVERY)
        garbage = 0 if wait % COLLECT_EVERY == 0 else 700 * wait % 6000
        peak.output(0, struct.pack("<4sIII", b"mem ", live + 6000, live + garbage, 0))
        if wait % COLLECT_EVERY == COLLECT_EVERY - 1:
            peak.output(0, b"3 %d 0 0200ff" % wait)
    assert (peak.cycles, peak.live, peak.allocated) == (6, 80_500, 86_500)
    assert peak.growth == pytest.approx(100)
