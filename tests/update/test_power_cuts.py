"""The power is cut at every step of an update that changes the flash; every boot after it finds whole firmware."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import selector
from emwire import constants
from update_kit import Flash, PowerCut, Tag, install_whole, manifest, run, small_image, whole

OLD = small_image(1)
NEW = small_image(2)
OFFER = manifest(NEW, 7)
# Boots that an update needs at most: as many as there are cuts, and the selector's count.
MOST_BOOTS = 12


def crashing(folder: Path | None) -> bool:
    return folder is not None and whole(folder) == NEW.tree


def one_boot(tag: Tag, crashes: bool) -> bool:
    if crashes:
        # Judge before the firmware runs: what crashes at its start reports nothing.
        probe = selector.BootState(str(tag.root))
        will_try = probe.trial != selector.NONE and probe.trial_boots < selector.TRIAL_BOOTS
        if will_try:
            folder = tag.select()
            assert folder is not None and whole(folder) in (OLD.tree, NEW.tree)
            if crashing(folder):
                return False
    tag.boot()
    assert tag.folder is not None and whole(tag.folder) in (OLD.tree, NEW.tree), "neither the old nor the new image"
    installer = tag.installer
    if installer.phase == constants.UPDATE_INSTALLED:
        assert whole(tag.folder) == NEW.tree
        assert installer.confirm()
    if installer.phase in (constants.UPDATE_CONFIRMED, constants.UPDATE_ROLLED_BACK):
        return True
    tag.offer(OFFER)
    tag.send_chunks(NEW, OFFER)
    if installer.complete:
        run(installer.verify())
    if installer.phase == constants.UPDATE_VERIFIED and not installer.installed:
        run(installer.install())
    return False


def play(tag: Tag, crashes: bool, on_cut: Callable[[], None]) -> None:
    for _ in range(MOST_BOOTS):
        try:
            if one_boot(tag, crashes):
                return
        except PowerCut:
            on_cut()
    raise AssertionError(f"the update did not end: {tag.phases()}")


def prepared(root: Path) -> Path:
    root.mkdir()
    install_whole(root, 0, OLD)
    return root


def judge(tag: Tag, crashes: bool) -> None:
    last = tag.phases()[-1]
    expected = constants.UPDATE_ROLLED_BACK if crashes else constants.UPDATE_CONFIRMED
    assert last[0] == expected, tag.phases()
    assert tag.folder is not None and whole(tag.folder) == (OLD if crashes else NEW).tree
    # Nothing that was once durable is gone, whether the update was under way or not.
    left = tag.journalled()
    missing = [payload for payload in tag.made if payload not in left]
    assert not missing
    # It stays so: the next boots run the same, and the same offer begins nothing.
    for _ in range(selector.TRIAL_BOOTS + 1):
        tag.boot()
        assert whole(tag.folder) == (OLD if crashes else NEW).tree
        tag.offer(OFFER)
        assert tag.installer.phase == expected


def steps_without_a_cut(folder: Path, crashes: bool) -> int:
    with pytest.MonkeyPatch.context() as patch:
        flash = Flash(prepared(folder))
        flash.attach(patch)
        tag = Tag(folder)
        play(tag, crashes, on_cut=lambda: None)
        steps = flash.steps
        judge(tag, crashes)
    return steps


@pytest.mark.parametrize("lose", [False, True], ids=["writes_kept", "unsynced_lost"])
@pytest.mark.parametrize("crashes", [False, True], ids=["confirmed", "rolled_back"])
def test_a_cut_at_every_step(tmp_path: Path, crashes: bool, lose: bool) -> None:
    steps = steps_without_a_cut(tmp_path / "whole", crashes)
    assert steps > 100, "the update hardly touches the flash"
    for cut_at in range(1, steps + 1):
        root = prepared(tmp_path / str(cut_at))
        play_with_cuts(root, crashes, lose, [cut_at])
        shutil.rmtree(root)


def test_cut_after_cut(tmp_path: Path) -> None:
    choice = random.Random(3)
    steps = steps_without_a_cut(tmp_path / "whole", False)
    for number in range(60):
        root = prepared(tmp_path / str(number))
        cuts = sorted(choice.sample(range(1, steps), 6))
        # Counted anew after each cut, so that the later ones strike the recovery too.
        play_with_cuts(root, False, choice.random() < 0.5, cuts[:1] + [choice.randrange(1, 40) for _ in cuts[1:4]])
        shutil.rmtree(root)


def play_with_cuts(root: Path, crashes: bool, lose: bool, cuts: list[Any]) -> None:
    waiting = list(cuts)
    with pytest.MonkeyPatch.context() as patch:
        flash = Flash(root)
        flash.lose = lose
        flash.cut_at = waiting.pop(0)
        flash.attach(patch)
        tag = Tag(root)
        struck = []

        def on_cut() -> None:
            struck.append(flash.steps)
            flash.after_cut()
            flash.steps = 0
            flash.cut_at = waiting.pop(0) if waiting else 0

        play(tag, crashes, on_cut)
        assert struck
        flash.cut_at = 0
        try:
            judge(tag, crashes)
        except AssertionError as error:
            raise AssertionError(f"cut at {struck} of {cuts}, unsynced lost: {lose}: {error}") from error
