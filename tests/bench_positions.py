"""Bytes a fix of position blocks against rivals on the same fixes, and what encoding costs on MicroPython.

Run by `make bench`. The rivals get the same blocks of 60, the first fix absolute in each: zig-zag varint differences,
zlib over those, and Teltonika Codec 8 (30 bytes a record with its one GPS element and an empty set of I/O values).
"""

import json
import os
import shutil
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "positions"))

from emgate.commands.trails import Segment, read_trail, resample, to_wire
from emwire.positions import ALL, CORE, decode_block, encode_block
from position_fixes import received_walk

ROOT = Path(__file__).resolve().parent.parent
TRAILS = ROOT.parent / "shared" / "data" / "trails"
BLOCK = 60
CODEC8_BYTES = 30

Fixes = list[tuple[int, ...]]

# Median and spread of the time, and everything allocated on the way, garbage included.
DEVICE = """
import gc, json, sys, time
from emwire.positions import decode_block, encode_block
fixes = [tuple(fix) for fix in json.loads(sys.stdin.readline())]
columns = json.loads(sys.stdin.readline())
times = {"encode": [], "decode": []}
for _ in range(25):
    gc.collect()
    gc.disable()
    before, start = gc.mem_alloc(), time.ticks_us()
    block = encode_block(fixes, columns)
    times["encode"].append(time.ticks_diff(time.ticks_us(), start))
    allocated = gc.mem_alloc() - before
    start = time.ticks_us()
    decode_block(block)
    times["decode"].append(time.ticks_diff(time.ticks_us(), start))
    gc.enable()
median = {kind: sorted(values)[12] for kind, values in times.items()}
print(json.dumps({"encode_us": median["encode"], "decode_us": median["decode"], "allocated": allocated}))
"""


def varints(fixes: Fixes) -> bytes:
    """Differences between successive values, zig-zag, seven bits a byte; the first fix in 12 bytes."""
    out = bytearray(12)
    for last, fix in pairwise(fixes):
        for before, value in zip(last, fix, strict=True):
            rest = abs(value - before) * 2 - (value < before)
            while rest > 127:
                out.append(rest & 127 | 128)
                rest >>= 7
            out.append(rest)
    return bytes(out)


def blocks_of(segments: list[Segment]) -> list[Fixes]:
    return [
        [to_wire(fix) for fix in segment[start : start + BLOCK]]
        for segment in segments
        for start in range(0, len(segment), BLOCK)
    ]


def report(name: str, blocks: list[Fixes], columns: int = CORE) -> None:
    count = sum(map(len, blocks))
    encoded = [encode_block(fixes, columns) for fixes in blocks]
    assert [decode_block(data) for data in encoded] == blocks
    own = sum(map(len, encoded)) / count
    rivals = {
        "varint": sum(len(varints(fixes)) for fixes in blocks) / count,
        "zlib of varint": sum(min(len(v := varints(f)), len(zlib.compress(v, 9))) for f in blocks) / count,
        "codec 8": float(CODEC8_BYTES),
    }
    against = ", ".join(f"{rival} {size:.3f} ({size / own:.2f}x)" for rival, size in rivals.items())
    print(f"{name}: {count} fixes, {own:.3f} B/fix against {against}")


def device(interpreter: str, name: str, fixes: Fixes, columns: int) -> None:
    result = subprocess.run(
        [interpreter, "-c", DEVICE],
        input=f"{json.dumps(fixes)}\n{columns}\n",
        capture_output=True,
        text=True,
        check=True,
        env={"MICROPYPATH": str(ROOT / "protocol")},
    )
    cost = json.loads(result.stdout)
    print(
        f"MicroPython, {name}, {len(fixes)} fixes: encode {cost['encode_us'] / 1000:.2f} ms,"
        f" decode {cost['decode_us'] / 1000:.2f} ms, {cost['allocated']} bytes allocated to encode"
    )


def main() -> None:
    walks = [received_walk(seed, BLOCK) for seed in range(20)]
    if TRAILS.is_dir():
        segments = [s for path in sorted(TRAILS.iterdir()) if path.suffix in (".plt", ".gpx") for s in read_trail(path)]
        report("recorded trails, native spacing", blocks_of(segments))
        report("recorded trails, one a minute", blocks_of([resample(segment, 60) for segment in segments]))
    else:
        print("recorded trails: skipped, needs the recordings in ../shared/data", file=sys.stderr)
    report("synthetic walk, 5 s", [[fix[:3] for fix in walk] for walk in walks])
    report("synthetic walk, 5 s, all columns", walks, ALL)
    report("synthetic walk, 60 s, all columns", [received_walk(seed, BLOCK, 60) for seed in range(20)], ALL)
    beside = str(Path(sys.executable).with_name("micropython"))
    for candidate in (os.environ.get("EMTAG_MICROPYTHON"), beside, shutil.which("micropython")):
        if candidate and Path(candidate).exists():
            device(candidate, "core", [fix[:3] for fix in walks[0]], CORE)
            device(candidate, "all columns", walks[0], ALL)
            break
    else:
        print("MicroPython: skipped, needs an interpreter (EMTAG_MICROPYTHON)", file=sys.stderr)


if __name__ == "__main__":
    main()
