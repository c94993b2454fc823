"""What a simulated device's process used of this machine, and how much of a board's time that is."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from emrig.interpreter import Interpreter, command
from emrig.ledger import MADE_FILE
from emrig.paths import firmware_folder, protocol_folder
from emrig.power.table import Table
from emrig.target import Device

# Wycheproof's "normal" vector 1 of P-256 with SHA-256. The mean of several runs with pauses, in processor time: a
# machine that is busy slows it down as it slows the devices down.
_REFERENCE = """
import sys, time
sys.path[:0] = {path!r}
from common import p256
def unhex(text): return bytes(int(text[at : at + 2], 16) for at in range(0, len(text), 2))
key = unhex("2927b10512bae3eddcfe467828128bad2903269919f7086069c8c4df6c732838"
            "c7787964eaac00e5921fb1498a60f4606766b3d9685001558d1a974e7341513e")
signature = unhex("2ba3a8be6b94d5ec80a6d9d1190a436effe50d85a1eee859b8cc6af9bd5c2e18"
                  "4cd60b855d442f5b3c7b11eb6c4e0ae7525fe710fab9aa7c77a67f79e6fadd76")
begun = time.clock()
for _ in range(20):
    time.sleep_ms(10)
    assert p256.verify(key, signature, b"123400")
print((time.clock() - begun) / 20)
"""


class UsageUnknown(OSError):
    """This machine does not say what a process used."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process so far."""

    processor_s: float
    written_bytes: int


def usage(pid: int) -> Usage:
    """Processor time, and bytes given to write(): Linux only. UsageUnknown elsewhere, or when it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        nanoseconds = int((folder / "schedstat").read_text().split()[0])
        counters = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        return Usage(nanoseconds / 1e9, int(counters["wchar"]))
    except (OSError, ValueError, KeyError, IndexError):
        raise UsageUnknown("the processor time of a process is read from /proc, which only Linux has") from None


def file_bytes(device: Device) -> int:
    """Of what a device has written into its folder: the rig's own book and the console, which no board would write."""
    files = [device.folder / name for name in (MADE_FILE, "console.log")]
    return sum(file.stat().st_size for file in files if file.exists())


def reference_s(interpreter: Interpreter) -> float:
    """Seconds of this processor that one P-256 verification takes now, in the firmware's own code."""
    path = [str(firmware_folder()), str(protocol_folder())]
    done = subprocess.run(
        [*command(interpreter), "-c", _REFERENCE.format(path=path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return float(done.stdout)


def slowness(table: Table, board: str, here_s: float) -> float:
    """How many seconds of a board's processor one second of this machine's is."""
    rp2040 = table["reference.rp2040_verify_s"] / here_s
    return rp2040 * table["reference.rp2040_coremark"] / table[f"boards.{board}.coremark"]
