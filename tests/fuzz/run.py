"""Coverage-guided fuzzing of every decoder with atheris (libFuzzer): `make fuzz`, or `run.py --seconds 600 stream`.

The time is shared evenly by the targets (fuzz_targets/*.py). Inputs that reach new code are kept in var/fuzz and start
the next run, beside the seeds in corpus/. An input that makes a target raise ends that target; it is written to
var/fuzz/crashes and told, and the exit status is 1. `--merge` adds to the seeds the fewest kept inputs, of up to 512
bytes, that reach what the seeds do not.
"""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / "var" / "fuzz"
HELPERS = {"__init__", "open_aead"}
TARGETS = sorted({path.stem for path in (HERE / "fuzz_targets").glob("*.py")} - HELPERS)
LONGEST = 4096  # no frame is longer than 1024 bytes; longer inputs only cost time
LONGEST_SEED = 512
# libFuzzer ends at its own limit and ends a target that hangs or grows (-timeout, -rss_limit_mb); if not, we do.
INPUT_SECONDS = 10
GRACE_SECONDS = 30
PROGRESS = re.compile(r"#(\d+)\s.*?cov: (\d+).*?corp: (\d+)")


def child(arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends the process."""
    import atheris

    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(
        include=["fuzz_targets", "emwire", "emgate.commands.trails", "emgate.captures", "drivers"]
    ):
        target = importlib.import_module(f"fuzz_targets.{arguments[0]}")
    atheris.Setup(arguments, target.check)
    atheris.Fuzz()


def command(target: str, *options: str) -> list[str]:
    """What runs a child."""
    return [sys.executable, str(Path(__file__)), "--child", target, *options]


class Run:
    """One target being fuzzed, and what its process says."""

    def __init__(self, target: str, seconds: int) -> None:
        kept, crashes = KEPT / target, KEPT / "crashes"
        kept.mkdir(parents=True, exist_ok=True)
        crashes.mkdir(exist_ok=True)
        self.target = target
        self.inputs = self.coverage = self.corpus = 0
        self.lines: list[str] = []
        options = (
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            f"-timeout={INPUT_SECONDS}",
            "-rss_limit_mb=1024",
        )
        artifacts = (f"-artifact_prefix={crashes / target}-", "-print_final_stats=1")
        seeds = (str(kept), str(HERE / "corpus" / target))
        self.process = subprocess.Popen(
            command(target, *options, *artifacts, *seeds), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._end = time.monotonic() + seconds + GRACE_SECONDS

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines = [*self.lines[-60:], line.rstrip()]
            seen = PROGRESS.search(line)
            if seen:
                self.inputs, self.coverage, self.corpus = map(int, seen.groups())

    def said(self) -> str:
        """What it has come to."""
        return f"{self.inputs:,} inputs, {self.coverage} edges, {self.corpus} kept"

    def running(self) -> bool:
        """Whether it still runs; past its time it is ended."""
        if self.process.poll() is None and time.monotonic() > self._end:
            self.process.kill()
            self.lines.append("did not end in time")
        return self.process.poll() is None

    def close(self) -> int:
        """Exit status."""
        status = self.process.wait()
        self._reader.join()
        return status


def fuzz(targets: list[str], seconds: int) -> int:
    """Fuzz them one after the other with progress; how many failed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    share = max(1, seconds // len(targets))
    failed = 0
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, auto_refresh=sys.stderr.isatty(), console=None) as progress:
        for target in targets:
            task = progress.add_task(target, total=share, said="starting")
            run = Run(target, share)
            begun = time.monotonic()
            while run.running():
                progress.update(task, completed=min(share, time.monotonic() - begun), said=run.said())
                time.sleep(0.2)
            status = run.close()
            progress.update(task, completed=share, said=f"FAILED ({status})" if status else run.said())
            if status:
                failed += 1
                progress.console.print("\n".join(run.lines), markup=False, highlight=False)
            progress.refresh()
    return failed


def merge(targets: list[str]) -> None:
    """Add to the seeds what reaches code that they do not."""
    for target in targets:
        seeds, kept = HERE / "corpus" / target, KEPT / target
        if not kept.is_dir():
            continue
        before = {path.name for path in seeds.iterdir()}
        options = ("-merge=1", f"-max_len={LONGEST_SEED}", str(seeds), str(kept))
        subprocess.run(command(target, *options), cwd=ROOT, check=True, capture_output=True)
        print(f"{target}: {len({path.name for path in seeds.iterdir()} - before)} inputs added")


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together (120)")
    parser.add_argument("--merge", action="store_true", help="add kept inputs that reach new code to the seeds")
    arguments = parser.parse_args()
    targets = arguments.targets or TARGETS
    unknown = set(targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: needs atheris, which has wheels for Linux on x86-64: pip install atheris", file=sys.stderr)
        return 2
    if arguments.merge:
        merge(targets)
        return 0
    failed = fuzz(targets, arguments.seconds)
    if failed:
        print(f"fuzz: {failed} of {len(targets)} targets failed; the inputs are in {KEPT / 'crashes'}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
