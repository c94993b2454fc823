"""What the tests of the firmware update share: a flash that fails, images, and a device that boots from both."""

from __future__ import annotations

import builtins
import os
import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rom_slots
import selector
from common import segment
from common.epoch import begin_epoch
from common.installer import Installer, Target
from common.journal import Journal
from cryptography.hazmat.primitives.asymmetric import ec
from emrig.images import firmware_image
from emrig.images import signing as firmware_signing
from emrig.images.firmware_image import ROM_NAME
from emrig.images.rom_image import RomPart
from emrig.paths import firmware_folder, protocol_folder
from emwire import constants, device_codec

FIRMWARE = firmware_folder()
PROTOCOL = protocol_folder()
KEY = ec.derive_private_key(20260101, ec.SECP256R1())
PUBLIC_KEY = firmware_signing.public_bytes(KEY)
MODEL = constants.MODEL_HOME_UNIT
# Small, so that every write of an update can be cut: three chunks to each file.
CHUNK_BYTES = 64


def small_image(version: int, security_version: int = 1, board: str = "sim", model: str = "home_unit") -> Any:
    """An image whose files are of no use but to be compared."""
    files = {
        "main.py": b"# main %d\n" % version * 12,
        "common/version.py": b"VERSION = (%d, 0, 0)\n" % version,
        "common/empty.py": b"",
        "tags/deep/module.py": bytes(range(256)) * 3,
    }
    return firmware_image.pack(model, board, (version, 0, 0), security_version, files)


def small_rom_image(version: int, board: str = "sim", size: int = 1500) -> Any:
    """One for a slot in flash."""
    contents = b"\xd2\xcd\x31\x80\x80" + random.Random(version).randbytes(size)
    return firmware_image.pack("home_unit", board, (version, 0, 0), 1, {ROM_NAME: contents})


def manifest(image: Any, update_id: int, **keywords: Any) -> tuple[Any, ...]:
    """Signed, and decoded as a device gets it."""
    keywords.setdefault("chunk_bytes", CHUNK_BYTES)
    return device_codec.decode(firmware_signing.sign(image, KEY, update_id, **keywords))


def install_whole(root: Path, index: int, image: Any) -> None:
    """As `emtag flash` would: the folder, then its marker."""
    folder = root / selector.FOLDERS[index]
    for path, contents in {**image.tree, selector.MARKER: image.marker}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents)


def whole(folder: Path) -> dict[str, bytes]:
    """{path: contents} of a folder, without the marker."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != selector.MARKER
    }


class Rom(bytearray):
    """The part of the flash that code runs from, as rom_ioctl gives it: erased by block, and programming clears bits.

    Two slots of six blocks. An operation whose power is cut is done in part, and leaves a byte as chance has it.
    """

    BLOCK_BYTES = 512
    SLOT_BLOCKS = 6

    def __init__(self, flash: Flash) -> None:
        super().__init__(b"\xff" * (rom_slots.BOOT_BYTES + 2 * self.SLOT_BLOCKS * self.BLOCK_BYTES))
        self._flash = flash
        self._chance = random.Random(len(self))
        self.mounted: dict[str, bytes] = {}

    def install_whole(self, index: int, image: Any) -> None:
        """As `emtag flash` would."""
        data = RomPart(len(self), self.BLOCK_BYTES).slot(image)
        begin = rom_slots.BOOT_BYTES + index * self.SLOT_BLOCKS * self.BLOCK_BYTES
        self[begin : begin + len(data)] = data

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        """This is the board's MicroPython from now on."""
        vfs: Any = types.ModuleType("vfs")
        vfs.rom_ioctl = lambda command, part: self if (command, part) == (2, 0) else -22
        vfs.VfsRom = self._rom
        vfs.mount = lambda image, path: self.mounted.__setitem__(path, image)
        patch.setitem(sys.modules, "vfs", vfs)

    def _rom(self, view: memoryview) -> bytes:
        if bytes(view[:3]) != b"\xd2\xcd\x31":
            raise OSError(19)
        return bytes(view)

    def ioctl(self, operation: int, argument: int) -> int:
        if operation == 4:
            return len(self) // self.BLOCK_BYTES
        if operation == 5:
            return self.BLOCK_BYTES
        assert operation == 6
        self._change(argument * self.BLOCK_BYTES, b"\xff" * self.BLOCK_BYTES, erase=True)
        return 0

    def writeblocks(self, block: int, data: bytes, at: int) -> None:
        assert at % 256 == 0 and len(data) == 256
        begin = block * self.BLOCK_BYTES + at
        if self._flash.spoils == "/rom":
            data = bytes([data[0] ^ 1]) + data[1:]
        after = bytes(a & b for a, b in zip(self[begin : begin + len(data)], data, strict=True))
        self._change(begin, after, erase=False)

    def _change(self, begin: int, after: bytes, erase: bool) -> None:
        assert begin >= rom_slots.BOOT_BYTES, "the selector is never touched"
        try:
            self._flash.step(self._flash.root + "/rom")
        except PowerCut:
            done = self._chance.randrange(len(after))
            before = self[begin + done]
            torn = self._chance.randrange(256)
            after = after[:done] + bytes([before | torn if erase else before & (after[done] | torn)])
            self[begin : begin + len(after)] = after
            raise
        self[begin : begin + len(after)] = after


class PowerCut(BaseException):
    """The power fails now: nothing in the firmware can catch it."""


class Flash:
    """Stands between the firmware and a folder: counts every step that changes it, and cuts the power at one.

    A write that is cut leaves half of its bytes. With `lose`, what was not synced is gone afterwards, as a file system
    may do that holds it back; without, it is there. From the step `fail_from` of the update's own files on, each
    raises an OSError with the number `fail_with` instead.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.steps = 0
        self.cut_at = 0
        self.lose = False
        self.fail_with: int | None = None
        self.fail_from = 0
        self.update_steps = 0  # those of the update's own files
        self.spoils: str | None = None  # writes to paths with this in them change a bit
        self._synced: dict[str, bytes | None] = {}
        self._open: dict[int, str] = {}
        self._real_open = builtins.open
        self._real = {name: getattr(os, name) for name in ("remove", "mkdir", "rmdir", "fsync")}

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(builtins, "open", self.open)
        for name in ("remove", "mkdir", "rmdir"):
            patch.setattr(os, name, self._stepping(name))
        patch.setattr(os, "fsync", self.fsync)

    def step(self, path: str) -> None:
        self.steps += 1
        if self.steps == self.cut_at:
            raise PowerCut
        if path.startswith((self.root + "/a", self.root + "/b/", self.root + "/rom", self.root + "/update.")):
            self.update_steps += 1
            if self.fail_with is not None and self.update_steps >= self.fail_from:
                raise OSError(self.fail_with, "injected")

    def after_cut(self) -> None:
        """What the medium holds when the power is back."""
        self._open.clear()
        for path, contents in self._synced.items():
            if self.lose and Path(path).parent.is_dir():
                with self._real_open(path, "wb") as file:
                    file.write(contents or b"")
        self._synced.clear()

    def _mine(self, path: Any) -> bool:
        return isinstance(path, str) and path.startswith(self.root)

    def _stepping(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
            if self._mine(path):
                self.step(path)
                self._synced.pop(path, None)
            return self._real[name](path, *arguments, **keywords)

        return call

    def open(self, path: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        writing = self._mine(path) and mode != "rb" and mode != "r"
        if not writing:
            return self._real_open(path, mode, *arguments, **keywords)
        self.step(path)
        if path not in self._synced:
            self._synced[path] = Path(path).read_bytes() if Path(path).exists() else None
        file = self._real_open(path, mode, 0)
        self._open[file.fileno()] = path
        return _File(self, file)

    def fsync(self, descriptor: int) -> None:
        path = self._open.get(descriptor)
        if path is None:
            self._real["fsync"](descriptor)
            return
        self.step(path)
        self._synced.pop(path, None)


class _File:
    def __init__(self, flash: Flash, file: Any) -> None:
        self._flash = flash
        self._file = file

    def write(self, data: bytes) -> int:
        path = self._flash._open.get(self._file.fileno(), "")
        if path not in self._flash._synced and Path(path).exists():
            self._flash._synced[path] = Path(path).read_bytes()
        try:
            self._flash.step(path)
        except PowerCut:
            self._file.write(bytes(data)[: len(data) // 2])
            raise
        if self._flash.spoils and self._flash.spoils in path and data:
            data = bytes([data[0] ^ 1]) + bytes(data[1:])
        return int(self._file.write(data))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Tag:
    """A device over a folder: selector, journal and installer, but for asyncio and peripherals."""

    def __init__(self, root: Path, board: str = "sim", hardware_revision: int = 1, rom: Rom | None = None) -> None:
        self.root = root
        self.rom = rom
        self.board = board
        self.hardware_revision = hardware_revision
        self.reports: list[tuple[int, ...]] = []
        self.made: list[bytes] = []
        self.reserve = 0
        self.public_key = PUBLIC_KEY
        self.installer: Installer
        self.state: selector.BootState
        self.folder: Path | None = None
        self.flash: Flash

    def select(self) -> Path | None:
        """What the selector does at a boot."""
        if self.rom is not None:
            self.rom.mounted.clear()
        folder = selector.begin(str(self.root))
        assert selector.booted is not None
        self.state = selector.booted
        self.folder = None if folder is None else Path(folder)
        return self.folder

    def runs(self) -> dict[str, bytes] | None:
        """{path: contents} of the firmware that the selector has chosen."""
        if self.folder is None:
            return None
        if self.rom is None:
            return whole(self.folder)
        view = self.rom.mounted[str(self.folder)]
        found = self.state.rom.whole(self.state.running)
        assert found is not None
        return {ROM_NAME: view[: found[0]]}

    def boot(self) -> None:
        """Selector, then the firmware as far as the update needs it."""
        self.select()
        epoch = begin_epoch(str(self.root))
        self.journal = Journal(str(self.root), epoch, on_append=self._on_append)
        self._make(b"boot")
        security_version = 1
        if self.folder is not None and self.rom is None:
            text = (self.folder / selector.MARKER).read_text()
            security_version = int(text.split('"security_version": ')[1].split(",")[0])
        target = Target(MODEL, self.board, self.hardware_revision, security_version, self.public_key)
        self.installer = Installer(str(self.root), self.state, target, self._report, lambda: self.reserve)
        run(self.installer.start())

    def _on_append(self, epoch: int, sequence: int, alarm: bool, payload: bytes) -> None:
        self.made.append(payload)

    def _make(self, text: bytes) -> None:
        stamp = (0, 0, 0, 0)
        self.journal.append(False, device_codec.encode_event(*stamp, 14, 0, 0, 0, text))

    def _report(self, *said: int) -> None:
        # As the device does: journalled before it counts as said.
        self._make(bytes(str(said), "ascii"))
        self.reports.append(said)

    def journalled(self) -> list[bytes]:
        """What the journal's own reader finds on flash."""
        return [payload for _, _, _, payload in segment.records(str(self.root / "journal"))]

    def phases(self) -> list[tuple[int, int]]:
        """(phase, cause) in the order reported, repetitions left out."""
        said: list[tuple[int, int]] = []
        for report in self.reports:
            if not said or said[-1] != report[1:3]:
                said.append((report[1], report[2]))
        return said

    # -- a gateway's part

    def offer(self, message: tuple[Any, ...]) -> None:
        run(self.installer.offer(message))

    def send_chunks(self, image: Any, message: tuple[Any, ...], stop_before: int | None = None) -> None:
        """From the first missing one on."""
        size = message[11]
        while self.installer.phase == constants.UPDATE_RECEIVING and not self.installer.complete:
            number = self.installer.first_missing
            if number == stop_before:
                return
            data = image.data[number * size : (number + 1) * size]
            taken = self.installer.chunk((constants.MESSAGE_UPDATE_CHUNK, message[1], number, data))
            assert taken or self.installer.phase == constants.UPDATE_REFUSED


def run(steps: Iterator[Any]) -> None:
    """Drive what the firmware runs piece by piece."""
    for _ in steps:
        pass
