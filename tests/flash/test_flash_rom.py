"""`emtag flash` onto a board whose MicroPython has a part of flash that code runs from in place."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from emrig.flash import repl
from emrig.flash.boards import definition
from emrig.flash.errors import FlashError
from emrig.flash.install import Wish, install
from emrig.images import firmware_image
from emrig.images.rom_image import ERASED, RomPart
from flash_kit import PROMPT_S, PretendBoard, impatient

PART = RomPart(392 * 1024, 4096)


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to a board amid its reset is lost, and here nothing says when it is back."""
    monkeypatch.setattr(repl, "PROMPT_S", PROMPT_S)


@pytest.fixture
def board(micropython: str, tmp_path: Path) -> Iterator[PretendBoard]:
    with PretendBoard(micropython, tmp_path / "flash", PART.total_bytes) as pretend:
        yield pretend


@pytest.fixture
def wish(board: PretendBoard, tmp_path: Path) -> Wish:
    here = replace(definition("pico_w"), machine="linux")
    return Wish(here, "pid", board.port, device_id=7, backups=tmp_path / "saved")


@cache
def wanted() -> bytes:
    return PART.content(firmware_image.rom_root_files("pico_w"), firmware_image.build("pid", "pico_w"))


def content(board: PretendBoard) -> bytes:
    assert board.rom is not None
    return board.rom.read_bytes()


def starts(board: PretendBoard) -> bool:
    """Whether the selector finds something to start."""
    return (board.flash / "main.py").exists()


def test_installs_into_slot_a_and_says_so(board: PretendBoard, wish: Wish) -> None:
    (board.flash / "a").mkdir()
    (board.flash / "a" / "main.mpy").write_bytes(b"of a time when code was in folders")
    record = install(wish)
    assert content(board)[: len(wanted())] == wanted()
    assert content(board)[PART.begin(1) :][:256] == ERASED * 256, "slot b is of the firmware before"
    assert record.runs_from == "flash, in place, slot a"
    assert record.self_test["passed"], record.self_test
    assert record.files["/rom"] == hashlib.sha256(PART.boot(firmware_image.rom_root_files("pico_w"))).hexdigest()
    assert record.files["/a"] == hashlib.sha256(wanted()[PART.begin(0) :]).hexdigest()
    files = [str(path.relative_to(board.flash)) for path in board.flash.rglob("*") if path.is_file()]
    assert [path for path in files if not path.startswith("data/")] == ["main.py"]


def test_a_second_time_writes_nothing(board: PretendBoard, wish: Wish) -> None:
    install(wish)
    board.await_start(2)
    (board.flash / "data" / "journal").write_bytes(b"unsent")
    assert board.rom is not None
    before = board.rom.stat().st_mtime_ns
    record = install(replace(wish, device_id=None))
    assert board.rom.stat().st_mtime_ns == before
    assert (record.identity, record.device_id) == ("kept", 7)
    assert (board.flash / "data" / "journal").read_bytes() == b"unsent"
    assert starts(board)


def test_a_board_without_the_part_runs_from_a_folder(micropython: str, tmp_path: Path, wish: Wish) -> None:
    with PretendBoard(micropython, tmp_path / "other") as other:
        record = install(replace(wish, port=other.port))
    assert record.runs_from == "RAM, copied from folder a"
    assert "/a/image.json" in record.files


def test_a_part_that_is_too_small_is_refused_untouched(micropython: str, tmp_path: Path, wish: Wish) -> None:
    with PretendBoard(micropython, tmp_path / "other", 128 * 1024) as other:
        before = content(other)
        with pytest.raises(FlashError, match="larger MICROPY_HW_ROMFS_BYTES"):
            install(replace(wish, port=other.port))
        assert content(other) == before
        assert not list(other.flash.iterdir())


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_cut_anywhere_leaves_a_board_that_can_be_flashed(
    micropython: str, tmp_path: Path, wish: Wish, board: PretendBoard, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    install(wish)
    cut = int(board.received * share) + random.Random(share).randrange(100)
    with PretendBoard(micropython, tmp_path / "other", PART.total_bytes) as other:
        attempt = replace(wish, port=other.port)
        other.cut_after = cut
        with impatient(monkeypatch), pytest.raises(FlashError):
            install(attempt)
        assert not starts(other) or content(other)[: len(wanted())] == wanted()
        install(replace(attempt, device_id=None, new_identity=not (other.flash / "data/identity.json").exists()))
        assert content(other)[: len(wanted())] == wanted()
        assert starts(other)
