"""On the emulated Pico's flash: an update goes into slot b and is run from there, left again if it ails, else kept."""

import os
import random
import select
from pathlib import Path

import pytest
from emrig.images import firmware_image
from emrig.images.firmware_image import ROM_NAME, Image
from emrig.images.rom_image import romfs
from emrig.pico import flash_image
from emrig.pico.spawner import BOARD
from emrig.pico.target import Pico

from conftest import LONGEST_S

pytestmark = pytest.mark.xdist_group("pico")
# Selector, start file and what writes the slot are the firmware's own; around them as little as will do. Each boot
# tells who runs, from where, what is confirmed, what is on trial and for the how manieth time, and why it was left.
TELL = """
import machine, os, selector

def make_board(arguments):
    return selector.booted

def tell(name, state):
    with open("/told", "a") as file:
        print(name, __file__, state.active, state.trial, state.trial_boots, state.rolled_back, file=file)

def try_b(state):
    state.trial, state.trial_boots, state.rolled_back = 1, 0, 0
    if state.save():
        machine.reset()
"""
# Installs b, and after the rollback gives it another chance.
OLD = """
async def run(state):
    tell("a", state)
    if state.rolled_back:
        open("/healthy", "w").close()
    else:
        from common import rom_image
        with open("/digest", "rb") as file:
            digest = file.read()
        for _ in rom_image.unpack("/b.image", state.rom, 1, digest):
            pass
    try_b(state)
"""
# Ails until the file is there; then confirms itself as common/installer.py does.
NEW = """
import asyncio

async def run(state):
    tell("b", state)
    os.stat("/healthy")
    if state.trial == state.running:
        state.active, state.trial, state.trial_boots = state.running, selector.NONE, 0
        if state.save():
            machine.reset()
    while True:
        print("settled")
        await asyncio.sleep(1)
"""
STORY = [
    "a /a/main.mpy 0 255 0 0",
    "b /b/main.mpy 0 1 1 0",
    "b /b/main.mpy 0 1 2 0",
    "b /b/main.mpy 0 1 3 0",
    "a /a/main.mpy 0 255 0 1",
    "b /b/main.mpy 0 1 1 0",
    "b /b/main.mpy 1 255 0 0",
]


def image(version: int, source: str, *modules: str) -> Image:
    """A firmware for a slot."""
    files = firmware_image.compiled(list(modules), BOARD) if modules else {}
    files |= dict([firmware_image.compiled_module("main.py", (TELL + source).encode(), BOARD)])
    return firmware_image.pack("pid", BOARD, (version, 0, 0), 1, {ROM_NAME: romfs(files)})


def test_an_update_in_slot_b_is_tried_left_and_kept(tmp_path: Path, pico_image: Path) -> None:
    part = flash_image.ROM
    chance = random.Random(5)
    new = image(2, f"ROOM = {chance.randbytes(3000)!r}\n" + NEW)
    rom = part.content(firmware_image.rom_root_files(BOARD), image(1, OLD, "common.rom_image"))
    files = {"main.py": firmware_image.start_file(), "b.image": new.data, "digest": new.sha256}
    flash = tmp_path / "flash.bin"
    flash.write_bytes(flash_image.make(pico_image, files, rom))
    pico = Pico(tmp_path)
    try:
        # The power goes while the slot is written: it is no firmware yet, and what runs is whole.
        pico.power_on(cut_after=chance.randrange(12, 20), share=chance.random(), seed=chance.randrange(256))
        assert pico.wait_for_cut(LONGEST_S)
        found = flash_image.rom(flash.read_bytes())
        assert found[: len(rom)] == rom
        wanted = part.slot(new)
        assert found[part.begin(1) :][: len(wanted)] != wanted
        pico.power_on()
        wait_for(pico, b"settled")
    finally:
        pico.close()
    told = flash_image.read(flash.read_bytes())["told"].decode().splitlines()
    assert told[-len(STORY) :] == STORY
    assert told[: -len(STORY)] in ([], STORY[:1]), "the boot whose power went"


def wait_for(pico: Pico, word: bytes) -> None:
    """Until the board says it over USB."""
    said = b""
    port = os.open(pico.port, os.O_RDONLY | os.O_NOCTTY)
    try:
        while word not in said:
            assert select.select([port], [], [], LONGEST_S)[0], said
            said += os.read(port, 4096)
    finally:
        os.close(port)
