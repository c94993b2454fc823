"""Installs a model on one board, in an order that a cut cable at any byte leaves flashable: the start file goes first
and comes back last, and identity, keys and unsent records are never touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emrig.flash import base_image, data, identity, rom
from emrig.flash.boards import BoardDefinition
from emrig.flash.data import DATA
from emrig.flash.errors import FlashError, NoAnswerError
from emrig.flash.given import Given
from emrig.flash.registration import Registration
from emrig.flash.repl import RECONNECT_S, STARTING_S, Repl, sha256
from emrig.images import firmware_image

START = "/main.py"
WHOLE = f"/a/{firmware_image.MARKER}"
"""By this file the selector knows a whole firmware: taken away before, and back after all others."""
ATTEMPTS = 3
"""To write one file so that it reads back right: a worn flash block may need another."""
FROM_FOLDER = "import sys\nsys.path.insert(0, '/a')\n"
SELF_TEST = """
import json
import main
from common import self_test
print(json.dumps(self_test.run(main.make_board(()))))
"""
NEEDED_MODULES = {
    "ankle_gps": ["asyncio", "binascii", "bluetooth", "cryptolib", "hashlib", "json", "struct"],
    "home_unit": ["asyncio", "binascii", "bluetooth", "cryptolib", "hashlib", "json", "struct"],
    "alcohol": ["asyncio", "binascii", "bluetooth", "cryptolib", "hashlib", "json", "struct"],
    "pid": ["asyncio", "binascii", "bluetooth", "cryptolib", "json", "struct"],
}
"""What a model's firmware imports and not every MicroPython image has."""
# Of MicroPython's heap, where code is copied to RAM: docs/pico.md, "from the file system"; for the others home_unit's.
HEAP_BYTES = {"pid": 69_000, "ankle_gps": 220_000}
HEAP_BYTES_ELSE = 183_000
# common/aes.py in the place of cryptolib takes 4,112 B there when it is imported (the emulated Pico).
HEAP_BYTES_WITHOUT_CRYPTOLIB = 4_500
# The lowest that the firmware's tests run on (docs/pico.md: Debian's 1.25; the simulator's is newer).
LOWEST_VERSION = (1, 25)

Progress = Callable[[str, int, int], None]
"""(what, done, of)"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be on the board."""

    board: BoardDefinition
    model: str
    port: str
    device_id: int | None = None
    new_identity: bool = False
    mqtt: tuple[str, int] | None = None
    update_key: bytes | None = None
    """x and y of the P-256 key whose updates it will take; without one it takes none."""
    fibre: bool | None = None
    """Whether its strap has an optical fibre; None: as it was, at first not."""
    base_image: Path | None = None
    backups: Path = Path("var/flash")
    registration: Registration | None = None
    """Told of a new identity before the board is."""
    given: Given | None = None
    """The identity that it is to have. A board that is this device gets the key alone, and keeps its records."""

    def more_identity(self) -> dict[str, Any]:
        """What identity.json says besides who it is."""
        more: dict[str, Any] = {}
        if self.mqtt is not None:
            more["mqtt"] = {"host": self.mqtt[0], "port": self.mqtt[1]}
        if self.update_key is not None:
            more["update_key"] = self.update_key.hex()
        if self.fibre is not None:
            more["fibre"] = self.fibre
        return more if self.given is None else more | self.given.identity.told()


@dataclass(slots=True)
class Installed:
    """The record of what was installed; holds no key."""

    board: str
    model: str
    port: str
    device_id: int
    serial: str
    machine: str
    micropython: str
    firmware_version: str
    identity: str
    """"kept" or "new"."""
    self_test: dict[str, Any]
    runs_from: str
    """Where its code is when it runs."""
    files: dict[str, str]
    """Path → SHA-256, read back from the board; /rom and /a without files below them are parts of its flash."""
    digest: str
    """SHA-256 over the lines "path SHA-256" of all of them, in order: the same for all boards with this firmware."""
    backup: str | None = None
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def install(wish: Wish, progress: Progress = lambda *_: None) -> Installed:
    """Do it all; FlashError says what stopped it and what to do."""
    try:
        return _install(wish, progress)
    except FlashError as error:
        held = data.held_at(wish.backups, wish.port)
        if held is None:
            raise
        more = "" if wish.new_identity else ", and goes back on when it is flashed"
        raise FlashError(f"{error}; what was on the board is in {held}{more}") from None


def _install(wish: Wish, progress: Progress) -> Installed:
    if wish.model not in wish.board.models:
        raise FlashError(
            f"{wish.board.title} has no hardware for {wish.model}: it can be {', '.join(wish.board.models)}"
        )
    held = None if wish.base_image is None else _put_base_image(wish, wish.base_image, progress)
    repl = Repl(wish.port)
    repl.connect(RECONNECT_S if wish.base_image else STARTING_S, must_be_there=wish.base_image is None)
    try:
        facts = _identify(repl, wish)
        in_use = rom.leave(repl)
        held = held or data.held(wish.backups, facts["serial"])
        backup = None if held is None else _put_back(repl, wish, held)
        place = _in_rom(repl, wish)
        files = _files(wish, place)
        _check(repl, wish, facts, files, place is None)
        who = _decide(repl, wish, facts["serial"])
        try:
            _stop(repl, in_use)
            if who.key is not None:
                backup = data.save(repl, wish.backups) or backup
            _put_identity(repl, wish, who)
            digests, tested = _put_firmware(repl, files, place, progress)
        except FlashError as error:
            more = "" if backup is None else f"; what was on the board before is in {backup}"
            if who.key is not None and not facts["serial"]:
                more += f"; it has no serial number to be known by: give it --device-id {who.device_id} again"
            raise FlashError(f"{error}{more}") from None
        repl.reset()
    finally:
        repl.close()
    return Installed(
        wish.board.name,
        wish.model,
        wish.port,
        who.device_id,
        facts["serial"],
        facts["machine"],
        facts["version"],
        ".".join(map(str, firmware_image.source_version()[0])),
        "kept" if who.key is None else "new",
        tested,
        "RAM, copied from folder a" if place is None else "flash, in place, slot a",
        digests,
        sha256("".join(f"{path} {digest}\n" for path, digest in sorted(digests.items())).encode()),
        None if backup is None else str(backup),
    )


def _put_base_image(wish: Wish, image: Path, progress: Progress) -> Path | None:
    """MicroPython itself; where on the host what the board had is held until then."""
    base_image.check(wish.board, image)
    held = None
    repl = Repl(wish.port)
    try:
        answers = _answers(repl)
        if answers:
            serial = _identify_board(repl, wish)["serial"]
            _kept(repl, wish)
            _stop(repl, rom.leave(repl))
            progress("data", 0, 1)
            held = data.hold(repl, wish.backups, serial, wish.port)
            base_image.start_boot_loader(wish.board, repl)
        elif not wish.new_identity and data.held_at(wish.backups, wish.port) is None:
            raise FlashError(
                f"{wish.port}: no MicroPython answers, so that nobody can tell or save what the board has, and an "
                "image may wipe it. If it has MicroPython, plug it in so that it runs, and flash again with "
                "--base-image: its identity and records go back on it. If it is new, or may lose them: add "
                "--new-identity"
            )
    finally:
        repl.close()
    progress("base image", 0, 1)
    base_image.put(wish.board, wish.port, image, answers)
    return held


def _answers(repl: Repl) -> bool:
    try:
        repl.connect()
    except NoAnswerError:
        return False
    return True


def _put_back(repl: Repl, wish: Wish, held: Path) -> Path | None:
    """What is held goes back on a board that has lost it; where it is kept if it does not."""
    if not data.is_on(repl, held):
        if wish.new_identity or repl.exists(identity.IDENTITY):
            return data.retire(held, wish.backups)
        files = data.files(held)
        # A board without identity gets all of it once more.
        last = {path: files.pop(path) for path in [identity.IDENTITY] if path in files}
        _put(repl, files)
        _put(repl, last)
    data.drop(held)
    return None


def _identify(repl: Repl, wish: Wish) -> dict[str, Any]:
    facts = _identify_board(repl, wish)
    if tuple(int(part) for part in facts["version"].split(".")[:2]) < LOWEST_VERSION:
        raise FlashError(
            f"{repl.port} runs MicroPython {facts['version']}; {'.'.join(map(str, LOWEST_VERSION))} or newer is "
            "needed: flash it with --base-image FILE"
        )
    return facts


def _identify_board(repl: Repl, wish: Wish) -> dict[str, Any]:
    facts = repl.facts()
    board = wish.board
    if board.machine.lower() not in facts["machine"].lower():
        raise FlashError(
            f"{repl.port} is a {facts['machine'] or facts['platform']}, not a {board.title}: give its --board, or the "
            "right port; nothing was changed"
        )
    return facts


def _in_rom(repl: Repl, wish: Wish) -> rom.RomInstallation | None:
    """What goes into the part of flash that code runs from in place; None: folder a."""
    part = rom.find(repl) if wish.board.name in firmware_image.ROM_BOARDS else None
    return None if part is None else rom.RomInstallation.of(part, wish.model, wish.board.name)


def _files(wish: Wish, place: rom.RomInstallation | None) -> dict[str, bytes]:
    """What goes into the file system."""
    if place is not None:
        return {START: firmware_image.start_file()}
    return {f"/{path}": data for path, data in firmware_image.installation(wish.model, wish.board.name).items()}


def _check(repl: Repl, wish: Wish, facts: Mapping[str, Any], files: Mapping[str, bytes], from_ram: bool) -> None:
    lacking = firmware_image.LACKING.get(wish.board.name, frozenset())
    heap_bytes = HEAP_BYTES.get(wish.model, HEAP_BYTES_ELSE)
    if "cryptolib" in lacking:
        heap_bytes += HEAP_BYTES_WITHOUT_CRYPTOLIB
    if from_ram and facts["heap_bytes"] < heap_bytes:
        raise FlashError(
            f"MicroPython on {repl.port} has a heap of {facts['heap_bytes']} B, and {wish.model} needs {heap_bytes} "
            f"where its code is copied to RAM: put an image on it with more, or with a ROM part (docs/flashing.md, "
            f"{wish.board.name})"
        )
    roots = ["main", f"tags.{wish.model}", f"boards.{wish.board.name}.board"]
    own = {path.partition("/")[0].partition(".")[0] for path in firmware_image.modules(roots)}
    missing = repl.missing_modules([name for name in NEEDED_MODULES[wish.model] if name not in own | lacking])
    if missing:
        raise FlashError(
            f"MicroPython on {repl.port} has no {', '.join(missing)}, which {wish.model} needs: put an image on it "
            f"that has (docs/flashing.md, {wish.board.name})"
        )
    need = sum(map(len, files.values()))
    present = {path for path in repl.files() if not path.startswith(DATA + "/")}
    if not present and facts["free_bytes"] < need:
        raise FlashError(
            f"{repl.port} has {facts['free_bytes']} B of flash free, {need} are needed: use a larger board"
        )


def _stop(repl: Repl, in_use: bool) -> None:
    """Take the start file away; what runs holds a watchdog, which would reset the board amid the work: reset first.

    in_use: so it is with code that would be written over.
    """
    started = repl.exists(START)
    if started:
        repl.remove([START])
    if started or in_use:
        repl.reset()
        repl.connect(RECONNECT_S, must_be_there=False)
        rom.leave(repl)


def _kept(repl: Repl, wish: Wish) -> identity.Identity | None:
    """Who it is, if it is to stay that."""
    if not repl.exists(identity.IDENTITY) or wish.new_identity:
        return None
    device_id, model = identity.read(repl.read(identity.IDENTITY))
    if wish.device_id not in (None, device_id) or model != wish.model:
        raise FlashError(
            f"{repl.port} is already {model} {device_id:08x}: give --new-identity to make it another device; its "
            "records are saved first"
        )
    return identity.Identity(device_id, model, None)


def _decide(repl: Repl, wish: Wish, serial: str) -> identity.Identity:
    """Who it is to be, before anything is changed; without a key: who it is."""
    kept = _kept(repl, wish)
    if kept is None and wish.model == "ankle_gps" and wish.mqtt is None:
        raise FlashError("a new ankle_gps has to know where it reports to: give --broker HOST[:PORT]")
    if wish.given is not None:
        wish.given.add(wish.given.identity, serial)
        return kept or wish.given.identity
    if kept is not None:
        if wish.registration is not None:
            wish.registration.keep(kept.device_id)
        return kept
    if wish.registration is None:
        return identity.make(wish.model, wish.device_id)
    wanted = wish.registration.given_up(wish.model, serial) if wish.device_id is None else wish.device_id
    who = identity.make(wish.model, wanted)
    wish.registration.add(who, serial)
    return who


def _put_identity(repl: Repl, wish: Wish, who: identity.Identity) -> None:
    more = wish.more_identity()
    content = who.file(wish.board.name, more) if who.key else identity.changed(repl.read(identity.IDENTITY), more)
    if content is not None:
        _put(repl, {identity.IDENTITY: content})


def _put_firmware(
    repl: Repl, files: Mapping[str, bytes], place: rom.RomInstallation | None, progress: Progress
) -> tuple[dict[str, str], dict[str, Any]]:
    """Everything but the start, the self-test, then the start; hashes and the self-test's result."""
    _remove_strangers(repl, files)
    digests = _put(repl, {path: data for path, data in files.items() if path not in (WHOLE, START)}, progress)
    if place is not None:
        place.put(repl, progress)
    progress("self-test", 1, 1)
    tested = _self_test(repl, FROM_FOLDER if place is None else place.mount())
    if place is not None:
        digests |= place.complete(repl)
    for path in (WHOLE, START):
        if path in files:
            digests |= _put(repl, {path: files[path]})
    return digests, tested


def _remove_strangers(repl: Repl, files: Mapping[str, bytes]) -> None:
    """Files of another firmware would shadow this one's; folder b and the selector's books are of updates since."""
    strangers = [path for path in repl.files() if not path.startswith(DATA + "/") and path not in files]
    repl.remove([WHOLE, *strangers])


def _put(repl: Repl, files: Mapping[str, bytes], progress: Progress = lambda *_: None) -> dict[str, str]:
    """Write what is not there already, and again what reads back wrong; the hashes that the board computed."""
    wanted = {path: sha256(data) for path, data in files.items()}
    found = repl.hashes(wanted)
    repl.make_folders_for(files)
    for _ in range(ATTEMPTS):
        wrong = sorted(path for path in wanted if found.get(path) != wanted[path])
        for done, path in enumerate(wrong):
            progress(path, done, len(wrong))
            repl.write(path, files[path])
        if not wrong:
            return found
        found.update(repl.hashes(wrong))
    wrong = sorted(path for path in wanted if found.get(path) != wanted[path])
    if wrong:
        raise FlashError(
            f"{repl.port}: {', '.join(wrong)} reads back wrong {ATTEMPTS} times: the flash is worn, take another board"
        )
    return found


def _self_test(repl: Repl, mount: str) -> dict[str, Any]:
    """Run the firmware's own self-test over the REPL, before the start file is there."""
    output = repl.run(mount + SELF_TEST).strip().splitlines()
    try:
        result: dict[str, Any] = json.loads(output[-1])
    except (IndexError, ValueError):
        raise FlashError(f"{repl.port}: the self-test gave no result: {output[-3:]}: flash it again") from None
    return result
