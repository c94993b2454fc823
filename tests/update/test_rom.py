"""Firmware in slots that code runs from in place: what the power cuts leave over, and the real MicroPython's reader."""

from __future__ import annotations

import errno
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rom_slots
import selector
from common import rom_image, space
from common.image import BadImage
from emrig.images import firmware_image
from emrig.images.firmware_image import ROM_NAME, ImageError
from emrig.images.rom_image import RomPart, romfs
from emwire import constants
from update_kit import FIRMWARE, Flash, Rom, Tag, manifest, run, small_image, small_rom_image

OLD = small_rom_image(1)
NEW = small_rom_image(2)
REFUSED = constants.UPDATE_REFUSED


@pytest.fixture
def tag(tmp_path: Path) -> Iterator[Tag]:
    with pytest.MonkeyPatch.context() as patch:
        flash = Flash(tmp_path)
        rom = Rom(flash)
        rom.install_whole(0, OLD)
        rom.attach(patch)
        flash.attach(patch)
        found = Tag(tmp_path, rom=rom)
        found.flash = flash
        found.boot()
        yield found


def update(tag: Tag, image: Any, **keywords: Any) -> None:
    """As far as it goes without a restart."""
    message = manifest(image, 1, **keywords)
    tag.offer(message)
    tag.send_chunks(image, message)
    if tag.installer.complete:
        run(tag.installer.verify())
    if tag.installer.phase == constants.UPDATE_VERIFIED:
        run(tag.installer.install())


def assert_refused(tag: Tag, cause: int) -> None:
    assert tag.reports[-1][1:3] == (REFUSED, cause), tag.phases()
    tag.boot()
    assert tag.state.running == 0 and tag.runs() == OLD.tree
    assert tag.state.rom.whole(1) is None


def test_a_slot_is_what_flashing_makes_it(tag: Tag) -> None:
    update(tag, NEW)
    assert tag.installer.installed and tag.rom is not None
    by_update = bytes(tag.state.rom.view(1))
    tag.rom.install_whole(1, NEW)
    assert bytes(tag.state.rom.view(1)) == by_update


def test_an_image_for_folders(tag: Tag) -> None:
    update(tag, small_image(2))
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


def test_an_image_for_slots_on_a_device_with_folders(tmp_path: Path) -> None:
    image = tmp_path / "x.image"
    image.write_bytes(NEW.data)
    from common.image import unpack

    with pytest.raises(BadImage, match="slot"):
        run(unpack(str(image), str(tmp_path / "b"), NEW.sha256, lambda size: None))


def test_an_image_larger_than_a_slot(tag: Tag) -> None:
    slot_bytes = tag.state.rom.slot_bytes
    update(tag, small_rom_image(2, size=slot_bytes))
    assert_refused(tag, constants.UPDATE_CAUSE_NO_SPACE)
    # The manifest speaks of the whole image: what just does not fit is found out before anything is erased.
    exact = slot_bytes - rom_slots.PAGE_BYTES - 5
    update(tag, small_rom_image(2, size=exact))
    assert tag.installer.installed


def test_flash_that_returns_other_bytes(tag: Tag) -> None:
    tag.flash.spoils = "/rom"
    update(tag, NEW)
    tag.flash.spoils = None
    assert_refused(tag, constants.UPDATE_CAUSE_IMAGE)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_flash_that_refuses(tag: Tag, number: int) -> None:
    message = manifest(NEW, 1)
    tag.offer(message)
    tag.send_chunks(NEW, message)
    run(tag.installer.verify())
    tag.flash.fail_with = number
    tag.flash.fail_from = tag.flash.update_steps + 5
    run(tag.installer.install())
    tag.flash.fail_with = None
    cause = constants.UPDATE_CAUSE_NO_SPACE if number == errno.ENOSPC else constants.UPDATE_CAUSE_FLASH
    assert_refused(tag, cause)


def test_a_flipped_bit_anywhere_is_no_firmware(tag: Tag) -> None:
    rom = tag.rom
    assert rom is not None
    begin = rom_slots.BOOT_BYTES
    places = [*range(rom_slots.HEADER_BYTES + 4), rom_slots.PAGE_BYTES, rom_slots.PAGE_BYTES + 1000]
    for at in places:
        rom[begin + at] ^= 4
        assert tag.state.rom.whole(0) is None, at
        rom[begin + at] ^= 4
    assert tag.state.rom.whole(0) is not None


def test_signed_but_no_romfs_is_rolled_back(tag: Tag) -> None:
    wrong = firmware_image.pack("home_unit", "sim", (2, 0, 0), 1, {ROM_NAME: b"no file system" * 20})
    update(tag, wrong)
    for _ in range(selector.TRIAL_BOOTS):
        assert tag.select() is not None
        assert tag.rom is not None and not tag.rom.mounted
    tag.boot()
    assert tag.runs() == OLD.tree
    assert tag.phases()[-1] == (constants.UPDATE_ROLLED_BACK, constants.UPDATE_CAUSE_CRASHED)


@pytest.mark.parametrize("confirmed", [False, True])
def test_without_the_selector_s_books_what_is_whole_runs(tag: Tag, confirmed: bool) -> None:
    update(tag, NEW)
    tag.boot()
    assert tag.state.running == 1
    if confirmed:
        assert tag.installer.confirm()
    for name in ("boot.0", "boot.1"):
        (tag.root / name).unlink()
    tag.boot()
    assert tag.runs() == (NEW if confirmed else OLD).tree


@pytest.mark.parametrize("total", [256 * 1024, 720 * 1024, 1280 * 1024])
def test_slots_leave_the_file_system_to_records(total: int) -> None:
    share = space.journal_share(total, in_rom=True)
    assert share >= space.SMALLEST_JOURNAL_BYTES
    updates = total - share - space.OTHER_BYTES >= space.IMAGE_BYTES
    assert updates == (total > 256 * 1024)


@pytest.mark.parametrize(("model", "board"), [("ankle_gps", "pico_emulated"), ("home_unit", "pico_w")])
def test_micropython_imports_from_a_slot(micropython: str, tmp_path: Path, model: str, board: str) -> None:
    part = RomPart(392 * 1024, 4096)
    image = firmware_image.build(model, board)
    (tmp_path / "slot").write_bytes(part.slot(image))
    (tmp_path / "rom").write_bytes(part.boot(firmware_image.rom_root_files(board)))
    done = subprocess.run(
        [micropython, "-X", "heapsize=2m", "-c", _IMPORTS % (rom_slots.PAGE_BYTES,)],
        env={"MICROPYPATH": f".frozen:{RIG_MODULES}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == [".".join(map(str, image.version)), "None"], done.stdout + done.stderr


RIG_MODULES = Path(firmware_image.__file__).parents[1] / "micropython"
_IMPORTS = """
import sys, vfs
vfs.mount(vfs.VfsRom(open('rom', 'rb').read()), '/rom')
vfs.mount(vfs.VfsRom(memoryview(open('slot', 'rb').read())[%d:]), '/a')
sys.path[:0] = ['/a', '/rom']
class machine:
    Pin = None
sys.modules["machine"] = machine
import selector, rom_slots, main
import common.self_test, common.image, common.rom_image
try:
    from main import VERSION
except ImportError:
    from common.version import VERSION
print('.'.join(map(str, VERSION)), rom_slots.find())
"""


def test_a_model_that_does_not_fit_says_what_to_do() -> None:
    with pytest.raises(ImageError, match="larger MICROPY_HW_ROMFS_BYTES"):
        RomPart(64 * 1024, 4096).slot(firmware_image.build("pid", "pico_w"))


def test_romfs_is_the_same_each_time() -> None:
    files = {"a.mpy": random.Random(1).randbytes(300), "b/c.mpy": b"1", "b/d/e.mpy": b""}
    assert romfs(files) == romfs(dict(files))
    assert rom_image.NAME == ROM_NAME
    assert (FIRMWARE / "rom_slots.py").is_file()
