"""The long run: `make crash`, ROUNDS rounds with a seed that it prints. Fails when a verdict is bad, when an attack
never came, and when the devices sent fewer sealed records than the harness is to prove anything with."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "firmware")]

from attack_plan import ATTACKS, Dealer  # noqa: E402 - the path comes first
from harness import Harness  # noqa: E402

RECORDS_PER_S = 2000
"""Sealed record frames that devices sent, over the time under load."""
ROUNDS_FOR_ALL = 100
"""In so many every attack must have come."""
AFRESH = 8
"""Rounds of one bench: what is judged grows with every round, and all six kinds of bench come in 48."""


async def run(rounds: int, seed: int, folder: Path, keep_going: bool) -> int:
    failed = done = 0
    counts: Counter[str] = Counter()
    attacks: Counter[str] = Counter()
    dealer = Dealer(seed)
    begun = time.monotonic()
    while done < rounds and (keep_going or not failed):
        with tempfile.TemporaryDirectory(dir=folder, prefix="crash-") as made:
            harness = Harness(Path(made), seed + done, dealer)
            title = harness.kind.title
            done += 1
            last = min(done + AFRESH - 1, rounds)
            try:
                async with harness:
                    while True:
                        print(f"{done:4} {title}: {await harness.round()}  {harness.came}", flush=True)
                        if done == last:
                            break
                        done += 1
            except Exception as error:
                failed += 1
                print(
                    f"{done:4} {title}: FAILED: {type(error).__name__}: {error}  {harness.came}",
                    flush=True,
                )
                for process in harness.processes.values():
                    saved = folder / f"crash-log-{seed}-{done}-{process.name}"
                    saved.write_bytes(process.log.read_bytes()[-200_000:])
            counts += harness.counts
            attacks += harness.attacks
    for attack in ATTACKS:
        print(f"{attacks[attack]:8} {attack}")
    print(json.dumps({"seed": seed, **counts}))
    load_s = max(1, counts["load_ms"]) / 1000
    first, again = counts["records_sent_first"], counts["records_sent_again"]
    rate = (first + again) / load_s
    print(
        f"{rate:.0f} sealed record frames/s over {load_s:.0f} s under load: {first} sent first, {again} again;"
        f" besides {counts['link_frames']} sealed link frames;"
        f" {(first + again) * 1000 // max(1, counts['processor_ms'])} a second of processor time"
    )
    print(f"{done} rounds, {failed} failed, {time.monotonic() - begun:.0f} s")
    complaints = [f"{failed} rounds failed"] if failed else []
    never = [attack for attack in ATTACKS if not attacks[attack]]
    if done >= ROUNDS_FOR_ALL and never:
        complaints.append(f"never came: {', '.join(never)}")
    if rate < RECORDS_PER_S:
        complaints.append(f"fewer than {RECORDS_PER_S} sealed record frames a second")
    for complaint in complaints:
        print(f"FAILED: {complaint}")
    return 1 if complaints else 0


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
