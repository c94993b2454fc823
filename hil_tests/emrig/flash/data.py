"""What a board has in /data, on the host: saved for good, or held while another MicroPython goes on the board.

Another image may divide the flash otherwise; MicroPython then finds no file system, and makes an empty one.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from emrig.flash import identity
from emrig.flash.repl import Repl, sha256

DATA = "/data"


def save(repl: Repl, backups: Path) -> Path | None:
    """Copy it to the host and take it off the board; where it is."""
    paths = repl.files(DATA)
    if not paths:
        return None
    folder = _saved(backups)
    _copy(repl, paths, folder)
    repl.remove(paths)
    return folder


def hold(repl: Repl, backups: Path, serial: str, port: str) -> Path | None:
    """Copy it to the host, to be put back. A copy of an attempt that was cut off stays if the board is empty since."""
    folder = _held(backups, serial or _now())
    if folder.exists():
        if not repl.exists(identity.IDENTITY) or is_on(repl, folder):
            (folder / "port").write_text(port, encoding="utf-8")
            return folder
        retire(folder, backups)
    paths = repl.files(DATA)
    if not paths:
        return None
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    _copy(repl, paths, new / "data")
    (new / "port").write_text(port, encoding="utf-8")
    new.rename(folder)
    return folder


def held(backups: Path, serial: str) -> Path | None:
    """What is held of the board with this serial number."""
    folder = _held(backups, serial)
    return folder if serial and folder.exists() else None


def held_at(backups: Path, port: str) -> Path | None:
    """What is held of the board that was at this port: one that does not answer tells no serial number."""
    places = [place for place in backups.glob("held-*/port") if place.read_text(encoding="utf-8") == port]
    return places[0].parent if places else None


def is_on(repl: Repl, folder: Path) -> bool:
    """Whether the board has all that is held."""
    wanted = {path: sha256(content) for path, content in files(folder).items()}
    return repl.hashes(wanted) == wanted


def files(folder: Path) -> dict[str, bytes]:
    """What is held, by its paths on the board."""
    root = folder / "data"
    return {f"{DATA}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}


def drop(folder: Path) -> None:
    """The board has it again: no key of its stays here."""
    shutil.rmtree(folder)


def retire(folder: Path, backups: Path) -> Path:
    """It does not go back on the board: keep it as what was saved; where it is."""
    target = _saved(backups)
    (folder / "data").rename(target)
    shutil.rmtree(folder)
    return target


def _copy(repl: Repl, paths: list[str], folder: Path) -> None:
    # It holds the device's key.
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    for path in paths:
        target = folder / path.removeprefix(DATA + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(repl.read(path))


def _held(backups: Path, serial: str) -> Path:
    return backups / f"held-{serial.replace('/', '_')}"


def _saved(backups: Path) -> Path:
    return backups / f"saved-{_now()}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
