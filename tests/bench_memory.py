"""Resident memory of a gateway with three idle links, and of the interpreter alone beside it. `make bench` runs it."""

import os
import pty
import re
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path

KEY = bytes(range(16)).hex()
LIMIT_MIB = 64
SETTLE_S = 3.0  # after its first status files


def resident_mib(pid: int) -> float:
    """VmRSS of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python program that has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline(), "it did not start"
    return process


def main() -> None:
    pairs = [pty.openpty() for _ in range(3)]
    for _, slave in pairs:
        tty.setraw(slave)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        text = f'[gateway]\nid = "bench"\nstate_directory = "{folder}/state"\n[uplink]\nkind = "local"\n'
        text += "".join(f'[[serial]]\nport = "{os.ttyname(slave)}"\n' for _, slave in pairs)
        text += f'[[devices]]\ndevice_id = 1\nmodel = "ankle_gps"\nkey = "{KEY}"\n'
        (folder / "gateway.toml").write_text(text)
        bare = started("print('ready', flush=True); input()")
        gateway = started(
            "import sys, pathlib; from emgate.gateway_commands import run_gateway;"
            " sys.exit(run_gateway(pathlib.Path(sys.argv[1])))",
            str(folder / "gateway.toml"),
        )
        try:
            time.sleep(SETTLE_S)
            mib = resident_mib(gateway.pid)
            print(f"python alone: {resident_mib(bare.pid):.1f} MiB")
            print(f"gateway, three links idle: {mib:.1f} MiB (limit {LIMIT_MIB})")
        finally:
            for process in (gateway, bare):
                process.kill()
                process.wait()
    for pair in pairs:
        for each in pair:
            os.close(each)


if __name__ == "__main__":
    main()
