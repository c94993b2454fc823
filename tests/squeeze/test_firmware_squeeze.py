"""What the image builder makes of a model's modules does what the modules do."""

import ast
from pathlib import Path

import pytest
from device_checks import ROOT, RUN, VIRTUAL, checks_of, run_check
from emrig.images import firmware_image
from emrig.images.names import names_of
from emrig.images.squeeze import squeeze

MODELS = ("ankle", "home_unit", "alcohol", "pid", "curfew", "strap", "settings", "commands")


def checks() -> list[tuple[str, str]]:
    """Every check of a whole model, and of what reaches furthest into its modules."""
    modules = [f"check_{name}" for name in MODELS]
    return [(module, name) for module in modules for name in checks_of(VIRTUAL / f"{module}.py")]


@pytest.fixture(scope="session")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole firmware, squeezed into one module but for what the checks name, which they find where it was."""
    firmware = ROOT / "firmware"
    roots = [
        ".".join(path.relative_to(firmware).with_suffix("").parts)
        for part in ("common", "drivers", "tags", "boards/sim")
        for path in (firmware / part).glob("*.py")
        if path.stem not in ("__init__", "start")
    ]
    kept = firmware_image.names_outside()
    for check in VIRTUAL.glob("*.py"):
        kept |= names_of(check.read_text())
    # They compare it with what a board has in its place.
    kept.discard("TABLE")
    found = firmware_image.modules(["main", *roots])
    sources = {path: firmware_image.decided(source.read_text()) for path, source in found.items()}
    # The simulated board needs its rig.
    bundled = [path for path in sources if path != "main.py" and not path.startswith("boards/")]
    made = squeeze(sources, kept, reads_records=True, bundled=bundled)
    folder = tmp_path_factory.mktemp("squeezed")
    for path, source in {**made.modules, **facades({path: sources[path] for path in bundled}, made.names)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    # As text it would take more to compile than an interpreter of a check has.
    path, compiled = firmware_image.compiled_module("main.py", made.modules["main.py"].encode(), "pico_w")
    (folder / path).write_bytes(compiled)
    (folder / "main.py").unlink()
    return folder


def facades(sources: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """For each module of the bundle one that has its names again, and the literals that are no names any more."""
    made = {}
    for path, source in sources.items():
        module = path[:-3].removesuffix("/__init__").replace("/", ".")
        literals = [node for node in ast.parse(source).body if isinstance(node, ast.Assign) and is_literal(node.value)]
        imports = [
            f"from main import {new} as {old[len(module) + 1 :]}\n"
            for new, old in names.items()
            if old.rpartition(".")[0] == module
        ]
        made[path] = "".join([*(ast.unparse(node) + "\n" for node in literals), *imports])
    return made


def is_literal(node: ast.expr) -> bool:
    try:
        return not isinstance(ast.literal_eval(node), (dict, list))
    except ValueError:
        return False


@pytest.mark.parametrize(("module", "function"), checks())
def test_a_squeezed_model_passes_its_checks(
    micropython: str, squeezed: Path, tmp_path: Path, module: str, function: str
) -> None:
    module_path = [VIRTUAL, squeezed, ROOT / "firmware"]
    run_check(micropython, module_path, RUN, module, function, tmp_path)


def squeezed_module(source: str, **others: str) -> str:
    """One module, with others beside it."""
    sources = {"main.py": source, **{f"{name}.py": text for name, text in others.items()}}
    return squeeze(sources, {"main", "f"}).modules["main.py"]


def test_integers_become_literals_unless_a_local_hides_them() -> None:
    made = squeezed_module(
        "A = 4 * 60\nB = [A]\ndef f(x):\n    A = x\n    return A\ndef main():\n    return A + len(B)\n"
    )
    names: dict[str, object] = {}
    exec(made, names)
    assert "240" in made and "A = 4" not in made
    assert names["main"]() == 241  # type: ignore[operator]
    assert names["f"](7) == 7  # type: ignore[operator]


def test_an_integer_that_somebody_sets_stays_a_variable() -> None:
    made = squeezed_module("N = 1\ndef main():\n    global N\n    N += 1\n    return N\n")
    names: dict[str, object] = {}
    exec(made, names)
    assert (names["main"](), names["main"]()) == (2, 3)  # type: ignore[operator]


def test_parameters_by_keyword_and_closures_keep_their_meaning() -> None:
    made = squeezed_module(
        "def outer(first, second=5):\n"
        "    def inner(first):\n        return first + second\n"
        "    return [inner(first) for first in range(first)], inner(first)\n"
        "def main():\n    return outer(3), outer(2, second=1)\n"
    )
    names: dict[str, object] = {}
    exec(made, names)
    assert names["main"]() == (([5, 6, 7], 8), ([1, 2], 3))  # type: ignore[operator]


def test_private_names_are_shared_between_classes_but_not_within_a_family() -> None:
    made = squeezed_module(
        "class A:\n    def __init__(self):\n        self._one = 1\n    def get(self):\n        return self._one\n"
        "class B(A):\n    def __init__(self):\n        A.__init__(self)\n        self._two = 2\n"
        "    def both(self):\n        return self._one, self._two, self._seen\n"
        "    @property\n    def _seen(self):\n        return 3\n"
        "class C:\n    def __init__(self):\n        self._three = 3\n        self._text = getattr(self, '_three')\n"
        "def main():\n    b = B()\n    return b.both(), b.get(), C()._text\n"
    )
    names: dict[str, object] = {}
    exec(made, names)
    assert names["main"]() == ((1, 2, 3), 1, 3)  # type: ignore[operator]
    assert "_one" not in made and "_three" in made and "_text" in made


def test_what_nobody_calls_is_left_out() -> None:
    made = squeezed_module(
        "def unused():\n    return helper()\ndef helper():\n    return unused\ndef main():\n    return 1\n"
    )
    assert "unused():" not in made.replace("main", "")
