"""emwire stands by itself: its declarations need construct, what works on frames needs nothing at all.

`emtag generate` is a tool of the checkout; the vectors that it seals take AES from cryptography.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "protocol" / "emwire"

# The declarations and what reads them. All other modules are wire code: no package but the standard library's.
DECLARED = {"catalogue", "declare", "enumerations", "fields", "inspect", "orders", "updates"}

IMPORT = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
allowed = set(sys.argv[2].split(","))
class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[3:]:
    importlib.import_module(name)
"""


def names() -> list[str]:
    """Every module of emwire, as import statements name them."""
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def generates(name: str) -> bool:
    return name.startswith("emwire.generat")


def declares(name: str) -> bool:
    return name.removeprefix("emwire.") in DECLARED


def imported(allowed: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", IMPORT, str(PACKAGE.parent), allowed, *modules]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_declarations_need_construct_alone() -> None:
    result = imported("emwire,construct", [name for name in names() if not generates(name)])
    assert result.returncode == 0, result.stderr


def test_generating_needs_no_gateway() -> None:
    # cffi comes with cryptography.
    result = imported("emwire,construct,cryptography,_cffi_backend", [name for name in names() if generates(name)])
    assert result.returncode == 0, result.stderr


def test_wire_code_needs_nothing() -> None:
    modules = [name for name in names() if not declares(name) and not generates(name)]
    assert {"emwire.codec", "emwire.envelope", "emwire.framing", "emwire.link", "emwire.positions"} <= set(modules)
    result = imported("emwire", modules)
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    result = imported("emwire", ["emwire.fields"])
    assert "construct is blocked" in result.stderr


def test_importing_emwire_imports_nothing_else() -> None:
    code = "import sys, emwire; print([name for name in sys.modules if name.startswith('emwire')])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['emwire']"


@pytest.mark.parametrize(
    "module",
    ["beacon", "constants", "device_codec", "device_link", "envelope", "fragments", "framing", "positions", "topics"],
)
def test_micropython_imports_wire_code(module: str, micropython: str) -> None:
    result = subprocess.run(
        [micropython, "-c", f"import emwire, emwire.{module}"],
        env={"MICROPYPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
