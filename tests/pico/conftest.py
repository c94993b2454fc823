"""One emulated Pico for the tests of this folder, its flash with every module of the firmware, and a REPL to it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emrig.images import firmware_image
from emrig.images.rom_image import romfs
from emrig.pico import flash_image
from emrig.pico.spawner import BOARD
from emrig.pico.target import ImageMissing, Pico, find_image
from mpremote.transport_serial import SerialTransport

# A second of the board is half a minute here, more on a busy machine.
LONGEST_S = 600
IDENTITY = {"device_id": 1, "model": "pid", "board": BOARD, "key": "000102030405060708090a0b0c0d0e0f"}


@pytest.fixture(scope="session")
def pico_image() -> Path:
    """MicroPython for it."""
    try:
        return find_image()
    except ImageMissing as error:
        pytest.skip(f"needs the emulated Pico: {error}")


class Repl:
    """The board's REPL as mpremote uses it."""

    def __init__(self, pico: Pico) -> None:
        self._transport = SerialTransport(pico.port, wait=5)
        self._transport.enter_raw_repl(soft_reset=False, timeout_overall=60)

    def run(self, code: str) -> str:
        """What it prints; AssertionError with what it raises."""
        output, error = self._transport.exec_raw(code, timeout=LONGEST_S)
        assert not error, error.decode()
        return output.decode().strip()

    def start(self, code: str) -> None:
        """Without waiting for its end."""
        self._transport.exec_raw_no_follow(code)

    def close(self) -> None:
        """The port is free again."""
        self._transport.close()


def rom() -> bytes:
    """Every model's modules, to run from flash: one image in place of selector and slots, so at /rom."""
    files: dict[str, bytes] = {}
    roots = ["main", f"boards.{BOARD}.board", *(f"tags.{model}" for model in firmware_image.MODELS)]
    files |= firmware_image.compiled(roots, BOARD)
    return romfs(files | firmware_image.rom_root_files(BOARD))


@pytest.fixture(scope="session")
def flash(pico_image: Path) -> Callable[[dict[str, bytes]], bytes]:
    """A new flash with every module and these files."""
    modules = rom()

    def make(files: dict[str, bytes]) -> bytes:
        identity = {"data/identity.json": json.dumps(IDENTITY).encode()}
        return flash_image.make(pico_image, {**identity, **files}, modules)

    return make


@pytest.fixture(scope="session")
def board(
    tmp_path_factory: pytest.TempPathFactory, flash: Callable[[dict[str, bytes]], bytes], pico_image: Path
) -> Iterator[Pico]:
    """A board that is on."""
    folder = tmp_path_factory.mktemp("pico")
    (folder / "flash.bin").write_bytes(flash({}))
    with Pico(folder) as pico:
        yield pico


@pytest.fixture
def repl(board: Pico) -> Iterator[Repl]:
    """A REPL of a board that has just been reset."""
    board.reset()
    repl = Repl(board)
    yield repl
    repl.close()
