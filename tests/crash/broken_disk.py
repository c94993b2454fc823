"""The breakable disk and clock of one process: what tests/crash/shim.c reads and leaves behind, and power cuts."""

import mmap
import os
import random
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKS, FULL, FSYNC_FAILS, READ_ONLY, NO_GROWTH = range(5)
FAULTS = {FULL: "disk full", NO_GROWTH: "no room to grow", FSYNC_FAILS: "fsync fails", READ_ONLY: "read-only"}
SECTOR = 512
PAGE = 4096
_CONTROL = struct.Struct("<qqq")  # as struct control of shim.c
_RANGE = struct.Struct("<QQQ")
_WRITE = 0
_NS = 1_000_000

Pending = list[tuple[int, bytes | None]]
"""(offset, data), or (size, None) for a truncation."""


def build_shim(folder: Path) -> Path:
    """Compile shim.c."""
    made = folder / "shim.so"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(made), str(HERE / "shim.c"), "-ldl", "-lpthread"],
        check=True,
    )
    return made


class Disk:
    """A folder that a preloaded process writes to, and the clock that it reads."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.path = folder / "disk"
        self.path.mkdir(parents=True)
        self._undo = folder / "undo"
        self._undo.mkdir()
        control = folder / "control"
        control.write_bytes(bytes(PAGE))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), PAGE)
        self._fault = WORKS
        self._ahead_ns = self._stopped_ns = 0
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "CRASH_FOLDER": str(self.path),
            "CRASH_UNDO": str(self._undo),
            "CRASH_CONTROL": str(control),
        }

    # -- what the process is shown ------------------------------------------------------------------------

    @property
    def fault(self) -> int:
        """What is wrong with it now."""
        return self._fault

    @fault.setter
    def fault(self, what: int) -> None:
        self._fault = what
        self._show()

    def jump(self, milliseconds: int) -> None:
        """Set the clock forward or back."""
        self._ahead_ns += milliseconds * _NS
        self._show()

    def stop_clock(self, stop: bool) -> None:
        """It stands; or goes on from where it stood."""
        if stop == bool(self._stopped_ns):
            return
        if stop:
            self._stopped_ns = time.time_ns() + self._ahead_ns
        else:
            self._ahead_ns, self._stopped_ns = self._stopped_ns - time.time_ns(), 0
        self._show()

    def _show(self) -> None:
        _CONTROL.pack_into(self._control, 0, self._fault, self._ahead_ns, self._stopped_ns)

    # -- after a SIGKILL ----------------------------------------------------------------------------------

    def kept_by_the_kernel(self) -> None:
        """A kill alone: nothing that was written is lost, but it is no more durable than it was."""
        for name in ("changes", *(each.name for each in self._undo.glob("*.grave"))):
            (self._undo / name).unlink(missing_ok=True)

    def cut_power(self, chance: random.Random) -> Counter[str]:
        """Leave what the disk could have: what was brought to it, and any part of what was written since."""
        counts: Counter[str] = Counter()
        self._forget_changes(chance, counts)
        files = {each.stat().st_ino: each for each in self.path.rglob("*") if each.is_file()}
        for shadow in sorted(self._undo.glob("*.shadow")):
            pending = shadow.with_suffix(".pending")
            target = files.get(int(shadow.stem))
            if target is None:
                shadow.unlink()
                pending.unlink(missing_ok=True)
                continue
            image = bytearray(shadow.read_bytes())
            _bring(image, _read(pending), chance, counts)
            if image != target.read_bytes():
                target.write_bytes(image)
            shadow.write_bytes(image)
            pending.write_bytes(b"")
        for shared in self.path.glob("*-shm"):
            shared.unlink()
        return counts

    def _forget_changes(self, chance: random.Random, counts: Counter[str]) -> None:
        """They keep their order: the later ones are lost."""
        noted = self._undo / "changes"
        changes = [line.split("\t") for line in noted.read_text().splitlines()] if noted.exists() else []
        first = chance.choice((0, chance.randrange(len(changes) + 1)))
        for what, before, after, replaced in reversed(changes[first:]):
            grave = self._undo / f"{replaced}.grave"
            counts["directory changes lost"] += 1
            if what == "create":
                Path(before).unlink(missing_ok=True)
            elif Path(before).exists():
                continue  # noted, and then the kill came
            elif what == "unlink":
                os.link(grave, before)
            else:
                Path(after).rename(before)
                if int(replaced):
                    os.link(grave, after)
        self.kept_by_the_kernel()

    def overwrite(self, path: Path, offset: int, data: bytes) -> None:
        """What a worn card gives back in place of what it took."""
        for each in (path, self._undo / f"{path.stat().st_ino}.shadow"):
            with each.open("r+b") as file:
                file.seek(offset)
                file.write(data)


def _read(path: Path) -> Pending:
    found: Pending = []
    data = path.read_bytes() if path.exists() else b""  # killed before the shim had made it
    at = 0
    while at + _RANGE.size <= len(data):
        offset, length, kind = _RANGE.unpack_from(data, at)
        at += _RANGE.size
        if kind == _WRITE:
            found.append((offset, data[at : at + length]))
            at += length
        else:
            found.append((offset, None))
    return found


def _bring(image: bytearray, pending: Pending, chance: random.Random, counts: Counter[str]) -> None:
    """Some of the writes, in any combination, one of them perhaps torn between two sectors."""
    count = len(pending)
    kept: list[bool]
    match chance.choice(("none", "first", "any", "all but one")):
        case "none":
            kept = [False] * count
        case "first":
            through = chance.randrange(count + 1)
            kept = [number < through for number in range(count)]
        case "any":
            share = chance.random()
            kept = [chance.random() < share for _ in range(count)]
        case _:
            one = chance.randrange(count) if count else 0
            kept = [number != one for number in range(count)]
    torn = chance.randrange(count) if count and chance.random() < 0.5 else -1
    for number, ((offset, data), keep) in enumerate(zip(pending, kept, strict=True)):
        if number == torn and data is not None and len(data) > SECTOR:
            counts["writes torn"] += 1
            end = (offset // SECTOR + chance.randrange(1, len(data) // SECTOR + 1)) * SECTOR
            data = data[: end - offset]
        elif not keep:
            counts["writes lost"] += 1
            if any(kept[number:]):
                counts["writes lost before one kept"] += 1
            continue
        if data is None:
            del image[offset:]
        image.extend(bytes(max(0, offset - len(image))))
        if data is not None:
            image[offset : offset + len(data)] = data
