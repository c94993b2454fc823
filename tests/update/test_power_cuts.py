"""The power is cut at every step of an update that changes the flash; every boot after it finds whole firmware."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import selector
from common import p256
from emwire import constants
from update_kit import Flash, PowerCut, Rom, Tag, install_whole, manifest, run, small_image, small_rom_image

# Boots that an update needs at most: as many as there are cuts, and the selector's count.
MOST_BOOTS = 12


@dataclass(frozen=True)
class Case:
    """Firmware in folders, or in slots that code runs from in place; whether the new one crashes."""

    in_rom: bool
    crashes: bool

    @property
    def old(self) -> Any:
        return OLD[self.in_rom]

    @property
    def new(self) -> Any:
        return NEW[self.in_rom]

    @property
    def offer(self) -> Any:
        return OFFER[self.in_rom]

    @property
    def last(self) -> Any:
        """What runs when all is over."""
        return self.old if self.crashes else self.new


OLD = (small_image(1), small_rom_image(1))
NEW = (small_image(2), small_rom_image(2))
OFFER = (manifest(NEW[0], 7), manifest(NEW[1], 7))
CASES = [Case(in_rom, crashes) for in_rom in (False, True) for crashes in (False, True)]
NAMES = ["folders-confirmed", "folders-rolled_back", "rom-confirmed", "rom-rolled_back"]


@pytest.fixture(autouse=True)
def each_signature_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of it changes the flash, and every boot in the middle of an update asks for the same one."""
    verdicts: dict[tuple[bytes, ...], bool | None] = {}
    compute = p256.verify_in_steps

    def verify_in_steps(*question: bytes) -> Iterator[bool | None]:
        if question not in verdicts:
            *_, verdicts[question] = compute(*question)
        yield None
        yield verdicts[question]

    monkeypatch.setattr(p256, "verify_in_steps", verify_in_steps)


def one_boot(tag: Tag, case: Case) -> bool:
    trees = (case.old.tree, case.new.tree)
    if case.crashes:
        # Judge before the firmware runs: what crashes at its start reports nothing.
        probe = selector.BootState(str(tag.root))
        will_try = probe.trial != selector.NONE and probe.trial_boots < selector.TRIAL_BOOTS
        if will_try:
            tag.select()
            assert tag.runs() in trees
            if tag.runs() == case.new.tree:
                return False
    tag.boot()
    assert tag.runs() in trees, "neither the old nor the new image"
    installer = tag.installer
    if installer.phase == constants.UPDATE_INSTALLED:
        assert tag.runs() == case.new.tree
        assert installer.confirm()
    if installer.phase in (constants.UPDATE_CONFIRMED, constants.UPDATE_ROLLED_BACK):
        return True
    tag.offer(case.offer)
    tag.send_chunks(case.new, case.offer)
    if installer.complete:
        run(installer.verify())
    if installer.phase == constants.UPDATE_VERIFIED and not installer.installed:
        run(installer.install())
    return False


def play(tag: Tag, case: Case, on_cut: Callable[[], None]) -> None:
    for _ in range(MOST_BOOTS):
        try:
            if one_boot(tag, case):
                return
        except PowerCut:
            on_cut()
    raise AssertionError(f"the update did not end: {tag.phases()}")


def prepared(root: Path, case: Case, patch: pytest.MonkeyPatch) -> tuple[Flash, Tag]:
    """A device with the old firmware."""
    root.mkdir()
    flash = Flash(root)
    rom = None
    if case.in_rom:
        rom = Rom(flash)
        rom.install_whole(0, case.old)
        rom.attach(patch)
    else:
        install_whole(root, 0, case.old)
    flash.attach(patch)
    return flash, Tag(root, rom=rom)


def judge(tag: Tag, case: Case) -> None:
    last = tag.phases()[-1]
    expected = constants.UPDATE_ROLLED_BACK if case.crashes else constants.UPDATE_CONFIRMED
    assert last[0] == expected, tag.phases()
    assert tag.runs() == case.last.tree
    # Nothing that was once durable is gone, whether the update was under way or not.
    left = tag.journalled()
    missing = [payload for payload in tag.made if payload not in left]
    assert not missing
    # It stays so: the next boots run the same, and the same offer begins nothing.
    for _ in range(selector.TRIAL_BOOTS + 1):
        tag.boot()
        assert tag.runs() == case.last.tree
        tag.offer(case.offer)
        assert tag.installer.phase == expected


def steps_without_a_cut(folder: Path, case: Case) -> int:
    with pytest.MonkeyPatch.context() as patch:
        flash, tag = prepared(folder, case, patch)
        play(tag, case, on_cut=lambda: None)
        steps = flash.steps
        judge(tag, case)
    return steps


@pytest.mark.parametrize("lose", [False, True], ids=["writes_kept", "unsynced_lost"])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_cut_at_every_step(tmp_path: Path, case: Case, lose: bool) -> None:
    steps = steps_without_a_cut(tmp_path / "whole", case)
    assert steps > 100, "the update hardly touches the flash"
    for cut_at in range(1, steps + 1):
        root = tmp_path / str(cut_at)
        play_with_cuts(root, case, lose, [cut_at])
        shutil.rmtree(root)


@pytest.mark.parametrize("in_rom", [False, True], ids=["folders", "rom"])
def test_cut_after_cut(tmp_path: Path, in_rom: bool) -> None:
    choice = random.Random(3)
    case = Case(in_rom, crashes=False)
    steps = steps_without_a_cut(tmp_path / "whole", case)
    for number in range(60):
        root = tmp_path / str(number)
        cuts = sorted(choice.sample(range(1, steps), 6))
        # Counted anew after each cut, so that the later ones strike the recovery too.
        play_with_cuts(root, case, choice.random() < 0.5, cuts[:1] + [choice.randrange(1, 40) for _ in cuts[1:4]])
        shutil.rmtree(root)


def play_with_cuts(root: Path, case: Case, lose: bool, cuts: list[Any]) -> None:
    waiting = list(cuts)
    with pytest.MonkeyPatch.context() as patch:
        flash, tag = prepared(root, case, patch)
        flash.lose = lose
        flash.cut_at = waiting.pop(0)
        struck = []

        def on_cut() -> None:
            struck.append(flash.steps)
            flash.after_cut()
            flash.steps = 0
            flash.cut_at = waiting.pop(0) if waiting else 0

        play(tag, case, on_cut)
        assert struck
        flash.cut_at = 0
        try:
            judge(tag, case)
        except AssertionError as error:
            raise AssertionError(f"cut at {struck} of {cuts}, unsynced lost: {lose}: {error}") from error
