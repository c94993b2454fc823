"""No process that a test started outlives the test, however that ends."""

import os
import select
import subprocess
import sys

import pytest
from emrig.mortal import SETPRIV

PARENT = """
import subprocess, sys
from emrig.mortal import mortal
print(subprocess.Popen(mortal(sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)")).pid,
      flush=True)
input()
"""


@pytest.mark.skipif(SETPRIV is None, reason="needs setpriv (util-linux)")
def test_a_killed_parent_takes_its_process_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdin is not None
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    assert "runs" in lines
    child = os.pidfd_open(int((lines - {"runs"}).pop()))
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], 20)[0], "it ends"
    os.close(child)
    parent.stdin.close()
    parent.stdout.close()
