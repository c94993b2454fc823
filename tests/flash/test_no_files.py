"""`emtag flash` and a MicroPython that has its files elsewhere, as the Zephyr port by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
from emrig.flash.boards import definition
from emrig.flash.errors import FlashError
from emrig.flash.install import Wish, install
from emrig.flash.repl import Repl
from flash_kit import PretendBoard


def test_a_board_without_files_at_the_root_is_refused(micropython: str, tmp_path: Path) -> None:
    with PretendBoard(micropython, tmp_path / "flash") as board:
        with Repl(board.port) as line:
            line.run("import vfs\nvfs.umount('/')")
        with pytest.raises(FlashError, match=r"no files at /.*docs/flashing.md.*nothing was changed"):
            install(Wish(replace(definition("nrf52840"), machine="linux"), "pid", board.port))
