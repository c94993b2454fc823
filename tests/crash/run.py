"""The long run: `make crash`, ROUNDS rounds with a seed that it prints."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "firmware")]

from harness import Harness  # noqa: E402 - the path comes first


async def run(rounds: int, seed: int, folder: Path, keep_going: bool) -> int:
    failed = 0
    done = 0
    begun = time.monotonic()
    while done < rounds:
        part = min(25, rounds - done)  # then afresh: what is judged grows with every round
        with tempfile.TemporaryDirectory(dir=folder, prefix="crash-") as made:
            async with Harness(Path(made), seed) as harness:
                for _ in range(part):
                    done += 1
                    try:
                        await harness.round()
                        verdict = "whole"
                    except Exception as error:
                        failed += 1
                        verdict = f"FAILED: {type(error).__name__}: {error}"
                    print(f"{done:4} {verdict}  [{'; '.join(harness.faults)}]", flush=True)
                    if verdict != "whole":
                        saved = folder / f"crash-log-{seed}-{done}"
                        saved.write_bytes(harness.gateway.log.read_bytes()[-200_000:])
                        break
                frames = harness.counts["frames"] * 1000
                rates = {
                    "frames_per_s": frames // max(1, harness.counts["load_ms"]),
                    "frames_per_processor_s": frames // max(1, harness.counts["processor_ms"]),
                }
                print(json.dumps({"seed": seed, **harness.counts, **rates}), flush=True)
        seed += 1
        if failed and not keep_going:
            break
    print(f"{done} rounds, {failed} failed, {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "var")
    parser.add_argument("--keep-going", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(run(arguments.rounds, arguments.seed, arguments.folder, arguments.keep_going)))


if __name__ == "__main__":
    main()
