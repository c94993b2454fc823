"""What a device must not install: each is survived, refused and reported with its cause."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import selector
from common import space
from common.slots import Slots
from cryptography.hazmat.primitives.asymmetric import ec
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from emwire import constants, device_codec
from emwire.errors import WireError
from hypothesis import given, settings
from hypothesis import strategies as st
from update_kit import CHUNK_BYTES, KEY, Flash, PowerCut, Tag, install_whole, manifest, run, small_image, whole

OLD = small_image(1, security_version=4)
NEW = small_image(2, security_version=4)
OFFERED, RECEIVING, VERIFIED = constants.UPDATE_OFFERED, constants.UPDATE_RECEIVING, constants.UPDATE_VERIFIED
REFUSED = constants.UPDATE_REFUSED


@pytest.fixture
def tag(tmp_path: Path) -> Tag:
    install_whole(tmp_path, 0, OLD)
    found = Tag(tmp_path)
    found.boot()
    return found


def update(tag: Tag, image: Any, message: tuple[Any, ...]) -> None:
    """As far as it goes without a restart."""
    tag.offer(message)
    tag.send_chunks(image, message)
    while tag.installer.complete:
        run(tag.installer.verify())
        tag.send_chunks(image, message)
    if tag.installer.phase == VERIFIED:
        run(tag.installer.install())


def assert_refused(tag: Tag, cause: int) -> None:
    assert tag.reports[-1][1:3] == (REFUSED, cause), tag.phases()
    tag.boot()
    assert tag.folder == tag.root / "a" and whole(tag.folder) == OLD.tree


@pytest.mark.parametrize("hardware", [(0, 0), (2, 255)])
def test_another_hardware_revision(tag: Tag, hardware: tuple[int, int]) -> None:
    update(tag, NEW, manifest(NEW, 1, hardware=hardware))
    assert_refused(tag, constants.UPDATE_CAUSE_OTHER_MODEL)


def test_another_model(tag: Tag) -> None:
    other = small_image(2, 4, model="alcohol")
    update(tag, other, manifest(other, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_OTHER_MODEL)


def test_another_board(tag: Tag) -> None:
    other = small_image(2, 4, board="pico_w")
    update(tag, other, manifest(other, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_OTHER_BOARD)
    # Said with the first chunk, not after all of them.
    assert tag.reports[-1][3] == 0


def test_an_older_security_version(tag: Tag) -> None:
    older = small_image(2, 3)
    update(tag, older, manifest(older, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_OLDER)


def test_an_image_older_than_its_manifest_says(tag: Tag) -> None:
    # Signed by mistake: the image inside is what runs, so it must agree.
    older = small_image(2, 3)
    pretended = firmware_image.Image(older.model, older.board, older.version, 4, older.tree, older.data)
    update(tag, older, manifest(pretended, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


def test_a_stranger_s_signature(tag: Tag) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    message = device_codec.decode(firmware_signing.sign(NEW, stranger, 1, chunk_bytes=CHUNK_BYTES))
    update(tag, NEW, message)
    assert_refused(tag, constants.UPDATE_CAUSE_SIGNATURE)


def test_a_device_without_a_key_takes_nothing(tag: Tag) -> None:
    tag.installer._target.public_key = b""
    update(tag, NEW, manifest(NEW, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_SIGNATURE)


@given(bit=st.integers(8, 119 * 8 - 1))
@settings(max_examples=100, deadline=None)
def test_no_flipped_bit_of_a_manifest_is_accepted(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    install_whole(folder, 0, OLD)
    tag = Tag(folder)
    tag.boot()
    signed = bytearray(firmware_signing.sign(NEW, KEY, 0x5555, chunk_bytes=CHUNK_BYTES))
    signed[bit // 8] ^= 1 << bit % 8
    try:
        message = device_codec.decode(bytes(signed))
    except WireError:
        return  # the link refuses it
    tag.offer(message)
    assert tag.reports[-1][1] == REFUSED
    assert tag.installer.phase == 0


def test_flipped_bits_of_an_image(tag: Tag) -> None:
    data = bytearray(NEW.data)
    data[len(data) // 2] ^= 0x10
    message = manifest(NEW, 1)
    spoilt = firmware_image.Image(NEW.model, NEW.board, NEW.version, 4, NEW.tree, bytes(data))
    update(tag, spoilt, message)
    # Fetched twice, in case that the flash was at fault.
    causes = [report[2] for report in tag.reports if report[1] in (RECEIVING, REFUSED)]
    assert causes.count(constants.UPDATE_CAUSE_DIGEST) == 2
    assert_refused(tag, constants.UPDATE_CAUSE_DIGEST)
    # The same offer is good for another attempt, and the right bytes are taken.
    update(tag, NEW, message)
    assert tag.installer.installed


def test_a_spoilt_flash_is_found_before_the_switch(tag: Tag) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    tag.send_chunks(NEW, message)
    run(tag.installer.verify())
    path = tag.root / "update.image"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    run(tag.installer.install())
    assert not tag.installer.installed
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


def test_a_flash_that_writes_something_else(tag: Tag) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    tag.send_chunks(NEW, message)
    run(tag.installer.verify())
    with pytest.MonkeyPatch.context() as patch:
        flash = Flash(tag.root)
        flash.attach(patch)
        flash.spoils = "/b/tags/"
        run(tag.installer.install())
    assert not tag.installer.installed
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


def test_a_signed_file_that_is_no_image(tag: Tag) -> None:
    noise = random.Random(1).randbytes(1000)
    pretended = firmware_image.Image("home_unit", "sim", (2, 0, 0), 4, {}, noise)
    update(tag, pretended, manifest(pretended, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


@pytest.mark.parametrize("path", ["../identity.json", "/boot.0", "a/../../boot.0", "Main.py", "x y.py", "caf\u00e9.py"])
def test_a_path_that_leads_elsewhere(tag: Tag, path: str) -> None:
    before = {name.name for name in tag.root.iterdir()}
    image = firmware_image.pack("home_unit", "sim", (2, 0, 0), 4, {path: b"x", "zz.py": b""})
    update(tag, image, manifest(image, 1))
    assert not {name.name for name in tag.root.iterdir()} - before - {"b", "update.0", "update.1"}
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


def test_replays(tag: Tag) -> None:
    first, second = manifest(NEW, 5), manifest(small_image(3, 4), 4)
    update(tag, NEW, first)
    tag.boot()
    assert tag.installer.confirm()
    tag.offer(second)
    assert tag.reports[-1] == (4, REFUSED, constants.UPDATE_CAUSE_REPLAYED, 0, 0)
    # The same again is a question, and nothing is fetched anew.
    tag.offer(first)
    assert tag.reports[-1][:3] == (5, constants.UPDATE_CONFIRMED, 0)
    # Not even the old firmware's own manifest brings it back.
    tag.offer(manifest(OLD, 1))
    assert tag.reports[-1][2] == constants.UPDATE_CAUSE_REPLAYED


def test_what_was_rolled_back_is_not_tried_again(tag: Tag) -> None:
    message = manifest(NEW, 5)
    update(tag, NEW, message)
    for _ in range(selector.TRIAL_BOOTS):
        assert tag.select() == tag.root / "b"
    tag.boot()
    assert tag.phases()[-1] == (constants.UPDATE_ROLLED_BACK, constants.UPDATE_CAUSE_CRASHED)
    tag.offer(message)
    assert tag.reports[-1][1] == constants.UPDATE_ROLLED_BACK
    assert tag.installer.phase == constants.UPDATE_ROLLED_BACK
    update(tag, NEW, manifest(NEW, 6))
    assert tag.installer.installed


def test_a_newer_offer_takes_the_place_of_one_under_way(tag: Tag) -> None:
    first = manifest(NEW, 1)
    tag.offer(first)
    tag.send_chunks(NEW, first, stop_before=5)
    newer = small_image(3, 4)
    tag.offer(manifest(newer, 2))
    assert (1, REFUSED, constants.UPDATE_CAUSE_WITHDRAWN) in [report[:3] for report in tag.reports]
    tag.offer(first)
    assert tag.reports[-1][:3] == (1, REFUSED, constants.UPDATE_CAUSE_REPLAYED)
    update(tag, newer, manifest(newer, 2))
    tag.boot()
    assert tag.folder is not None and whole(tag.folder) == newer.tree


def test_a_bad_offer_does_not_disturb_one_under_way(tag: Tag) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    tag.send_chunks(NEW, message, stop_before=5)
    stranger = ec.generate_private_key(ec.SECP256R1())
    tag.offer(device_codec.decode(firmware_signing.sign(small_image(3, 4), stranger, 9, chunk_bytes=CHUNK_BYTES)))
    assert tag.reports[-1][:3] == (9, REFUSED, constants.UPDATE_CAUSE_SIGNATURE)
    tag.send_chunks(NEW, message)
    run(tag.installer.verify())
    assert tag.installer.phase == VERIFIED


def test_flashing_by_cable_ends_a_trial(tag: Tag) -> None:
    update(tag, NEW, manifest(NEW, 1))
    tag.boot()
    assert tag.installer.phase == constants.UPDATE_INSTALLED
    # As `emtag flash` does.
    for name in ("boot.0", "boot.1"):
        (tag.root / name).unlink()
    shutil.rmtree(tag.root / "b")
    tag.boot()
    assert tag.folder == tag.root / "a"
    assert tag.phases()[-1] == (REFUSED, constants.UPDATE_CAUSE_WITHDRAWN)
    update(tag, NEW, manifest(NEW, 2))
    assert tag.installer.installed


@pytest.mark.parametrize("received", [5, None], ids=["receiving", "verified"])
@pytest.mark.parametrize("flashed", ["newer", "key", "same"])
def test_flashing_by_cable_judges_what_was_under_way_anew(tag: Tag, received: int | None, flashed: str) -> None:
    message = manifest(NEW, 7)
    tag.offer(message)
    tag.send_chunks(NEW, message, stop_before=received)
    if tag.installer.complete:
        run(tag.installer.verify())
    phase = tag.installer.phase
    # As `emtag flash` does: the selector's books go, the update's stay.
    for name in ("boot.0", "boot.1"):
        (tag.root / name).unlink(missing_ok=True)
    by_cable = small_image(9, security_version=5) if flashed == "newer" else OLD
    shutil.rmtree(tag.root / "a")
    install_whole(tag.root, 0, by_cable)
    if flashed == "key":
        tag.public_key = firmware_signing.public_bytes(ec.generate_private_key(ec.SECP256R1()))
    tag.boot()
    if flashed == "same":
        assert tag.installer.phase == phase
        update(tag, NEW, message)
        assert tag.installer.installed
        return
    assert tag.reports[-1][:3] == (7, REFUSED, constants.UPDATE_CAUSE_WITHDRAWN)
    assert not (tag.root / "update.image").exists()
    update(tag, NEW, message)
    cause = constants.UPDATE_CAUSE_OLDER if flashed == "newer" else constants.UPDATE_CAUSE_SIGNATURE
    assert tag.reports[-1][:3] == (7, REFUSED, cause)
    tag.boot()
    assert tag.folder == tag.root / "a" and whole(tag.folder) == by_cable.tree


def test_nothing_replaces_firmware_that_the_next_boot_tries(tag: Tag) -> None:
    update(tag, NEW, manifest(NEW, 7))
    newer = small_image(3, 4)
    tag.offer(manifest(newer, 8))
    assert tag.reports[-1] == (7, VERIFIED, 0, tag.installer.chunks, 0)
    tag.boot()
    assert tag.folder == tag.root / "b" and whole(tag.folder) == NEW.tree
    assert tag.installer.confirm()
    update(tag, newer, manifest(newer, 8))
    tag.boot()
    assert tag.folder == tag.root / "a" and whole(tag.folder) == newer.tree


def test_a_boot_that_cannot_be_counted_is_not_repeated_for_ever(tag: Tag, monkeypatch: pytest.MonkeyPatch) -> None:
    update(tag, NEW, manifest(NEW, 7))
    with monkeypatch.context() as patch:
        patch.setattr(selector.BootState, "save", lambda state: False)
        tag.boot()
        assert tag.folder == tag.root / "a"
        assert not tag.installer.installed, "it restarts into the same again and again"
        assert tag.reports[-1][:3] == (7, REFUSED, constants.UPDATE_CAUSE_FLASH)
    # When flash takes it again after all.
    tag.boot()
    assert tag.folder == tag.root / "b" and tag.installer.phase == constants.UPDATE_INSTALLED
    assert tag.installer.confirm()


def test_a_rollback_told_twice_leaves_the_image_under_way(tag: Tag) -> None:
    update(tag, NEW, manifest(NEW, 7))
    for _ in range(selector.TRIAL_BOOTS):
        tag.select()
    tag.boot()
    assert tag.phases()[-1][0] == constants.UPDATE_ROLLED_BACK
    # As if flash had not kept that it was told.
    tag.state.rolled_back = selector.CRASHED
    assert tag.state.save()
    newer = small_image(3, 4)
    message = manifest(newer, 8)
    tag.offer(message)
    tag.send_chunks(newer, message, stop_before=5)
    tag.boot()
    assert tag.installer.first_missing == 5 and not tag.state.rolled_back
    update(tag, newer, message)
    assert tag.installer.installed


def test_nothing_replaces_firmware_on_trial(tag: Tag) -> None:
    update(tag, NEW, manifest(NEW, 1))
    tag.boot()
    assert tag.installer.phase == constants.UPDATE_INSTALLED
    tag.offer(manifest(small_image(3, 4), 2))
    assert tag.reports[-1][:2] == (1, constants.UPDATE_INSTALLED)
    assert whole(tag.root / "a") == OLD.tree


def test_chunks_in_any_order_and_of_any_size(tag: Tag) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    choice = random.Random(2)
    chunks = [NEW.data[at : at + CHUNK_BYTES] for at in range(0, len(NEW.data), CHUNK_BYTES)]
    kind = constants.MESSAGE_UPDATE_CHUNK
    while not tag.installer.complete:
        number = choice.randrange(len(chunks) + 2)
        data = chunks[number] if number < len(chunks) else b"beyond"
        if choice.random() < 0.2:
            data = data[:-1] or b"longer" * 11
        tag.installer.chunk((kind, 1 if choice.random() < 0.9 else 2, number, data))
    run(tag.installer.verify())
    assert tag.installer.phase == VERIFIED
    gaps = [report[3] for report in tag.reports if report[1] == RECEIVING]
    assert len(gaps) == len(set(gaps)), "one gap was told twice"


def test_journal_space_is_not_for_updates(tag: Tag) -> None:
    tag.reserve = 1 << 60
    update(tag, NEW, manifest(NEW, 1))
    assert_refused(tag, constants.UPDATE_CAUSE_NO_SPACE)


def test_the_journal_grows_while_an_image_is_unpacked(tag: Tag) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    tag.send_chunks(NEW, message)
    run(tag.installer.verify())
    tag.reserve = 1 << 60
    run(tag.installer.install())
    assert not tag.installer.installed
    assert_refused(tag, constants.UPDATE_CAUSE_NO_SPACE)


@pytest.mark.parametrize(
    ("number", "cause"),
    [(errno.ENOSPC, constants.UPDATE_CAUSE_NO_SPACE), (errno.EIO, constants.UPDATE_CAUSE_FLASH)],
)
def test_a_flash_that_refuses_from_any_step_on(tmp_path: Path, number: int, cause: int) -> None:
    # What is already decided when the flash fails is done; the rest is refused. The old firmware runs either way.
    finished = 0
    for fail_from in range(1, 1000):
        root = tmp_path / str(fail_from)
        root.mkdir()
        install_whole(root, 0, OLD)
        with pytest.MonkeyPatch.context() as patch:
            flash = Flash(root)
            flash.attach(patch)
            tag = Tag(root)
            tag.boot()
            flash.fail_with, flash.fail_from, flash.update_steps = number, fail_from, 0
            update(tag, NEW, manifest(NEW, 1))
            failed = flash.update_steps >= fail_from
            if failed and not tag.installer.installed:
                assert tag.reports[-1][1] == REFUSED and tag.reports[-1][2] in (cause, constants.UPDATE_CAUSE_FLASH)
            flash.fail_with = None
            tag.boot()
            assert tag.folder is not None
            assert whole(tag.folder) == (NEW.tree if tag.state.trial == tag.state.running else OLD.tree)
            missing = [payload for payload in tag.made if payload not in tag.journalled()]
            assert not missing
            finished += not failed
        if finished:
            break
    assert fail_from > 60


def test_the_selector_reads_slots_as_the_firmware_does(tag: Tag) -> None:
    for _ in range(3):
        tag.select()
    slots = Slots(str(tag.root / "boot."))
    assert slots.value is not None and len(slots.value) == 6
    assert slots.value[4] == tag.state.boots == 4
    # One spoilt: the other holds the boot before.
    newest = tag.root / f"boot.{tag.state._generation & 1}"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\xff")
    again = selector.BootState(str(tag.root))
    assert again.boots == 3 and again.active == 0
    # Both: what is whole runs.
    for name in ("boot.0", "boot.1"):
        (tag.root / name).write_bytes(b"")
    assert tag.select() == tag.root / "a"


def test_without_folders_the_module_path_runs(tmp_path: Path) -> None:
    assert selector.begin(str(tmp_path)) is None
    assert selector.booted is not None and selector.booted.boots == 1


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4, 6])
def test_half_removed_firmware_is_never_taken_for_whole(tag: Tag, cut_at: int) -> None:
    update(tag, NEW, manifest(NEW, 1))
    tag.boot()
    assert tag.installer.confirm()
    # As if the power had failed before the old folder's marker was removed.
    install_whole(tag.root, 0, OLD)
    # The next update empties folder a; the power fails in it, and both slots of the selector are spoilt as well.
    with pytest.MonkeyPatch.context() as patch:
        flash = Flash(tag.root)
        flash.attach(patch)
        flash.cut_at = cut_at
        with pytest.raises(PowerCut):
            tag.offer(manifest(small_image(3, 4), 2))
    for name in ("boot.0", "boot.1"):
        (tag.root / name).unlink()
    tag.boot()
    assert tag.folder is not None
    assert whole(tag.folder) in (NEW.tree, OLD.tree)


@pytest.mark.parametrize(
    ("total", "updates"),
    [
        (256 * 1024, False),
        (848 * 1024, False),  # a Pico W's file system
        (1408 * 1024, True),  # a Pico's
        (2 * 1024 * 1024, True),  # an ESP32-S3's with 4 MB
        (6 * 1024 * 1024, True),  # with 8 MB
    ],
)
def test_records_and_firmware_share_the_flash(total: int, updates: bool) -> None:
    share = space.journal_share(total)
    assert space.SMALLEST_JOURNAL_BYTES <= share <= space.LARGEST_JOURNAL_BYTES
    # With the journal full, is there room for what an offer of the largest image asks for?
    free = total - share - space.TREE_BYTES - space.OTHER_BYTES
    assert (free >= 2 * space.IMAGE_BYTES + space.TREE_WASTE_BYTES) == updates


@pytest.mark.parametrize("model", ["ankle_gps", "home_unit"])
def test_the_largest_image_is_within_what_the_flash_is_shared_by(model: str) -> None:
    image = firmware_image.build(model, "esp32s3")
    assert len(image.data) <= space.IMAGE_BYTES
    assert image.flash_bytes <= space.TREE_BYTES
