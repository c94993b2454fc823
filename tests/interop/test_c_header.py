"""The C11 header: compiles without a warning, passes the golden vectors, judges like the Python codec."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from c_peer import (
    INCLUDE,
    ROOT,
    STRICT,
    STRICTER,
    CPeer,
    by_codec,
    compiled,
    compiler,
    decoded_by_codec,
    representable,
    tuples,
)
from emwire import catalogue, codec, constants
from emwire.fields import FixedBytes, Integer, ItemList, Message, PrefixedBytes
from emwire.generators import c_header
from emwire.generators.vectors import from_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

VECTORS = ROOT / "protocol" / "vectors"

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
every_message = pytest.mark.parametrize("message", catalogue.MESSAGES, ids=lambda message: message.name)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CPeer]:
    peer = CPeer(compiled(tmp_path_factory.mktemp("c")))
    yield peer
    peer.close()


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text())  # type: ignore[no-any-return]


def any_number(field: Integer) -> st.SearchStrategy[int]:
    """Whatever the C type holds, and the edges of what is legal."""
    width = next(width for width in (8, 16, 32, 64) if field.bits <= width)
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if field.signed else (0, (1 << width) - 1)
    edges = [field.lowest - 1, field.lowest, field.highest, field.highest + 1, *field.special]
    legal = st.integers(field.lowest, field.highest)
    return legal | legal | st.integers(low, high) | st.sampled_from([edge for edge in edges if low <= edge <= high])


def any_value(field: Any) -> st.SearchStrategy[Any]:
    if isinstance(field, Integer):
        return any_number(field)
    if isinstance(field, FixedBytes):
        return st.binary(min_size=field.length, max_size=field.length)
    if isinstance(field, ItemList):
        item = st.tuples(*(any_value(part.subcon) for part in field.item.subcons))
        return st.lists(item, max_size=field.most + 1).map(tuple)
    shortest = 0 if isinstance(field, PrefixedBytes) else field.shortest
    sizes = st.sampled_from([0, shortest, field.longest, field.longest + 1]).map(bytes)
    return st.binary(min_size=shortest, max_size=min(field.longest, 80)) | sizes


@pytest.mark.parametrize(
    "extra", [[], ["-O2", *STRICTER], ["-Os", "-funsigned-char"]], ids=["plain", "strict", "small"]
)
def test_it_compiles_without_a_warning(extra: list[str], tmp_path: Path) -> None:
    file = tmp_path / "includes.c"
    file.write_text('#include "emwire.h"\n#include "emwire.h"\nint main(void)\n{\n    return 0;\n}\n')
    done = subprocess.run(
        [compiler(), *STRICT, *extra, f"-I{INCLUDE}", str(file), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_a_header_for_cpp_too(tmp_path: Path) -> None:
    cpp = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    file = tmp_path / "includes.cpp"
    file.write_text('#include "emwire.h"\nint main()\n{\n    return 0;\n}\n')
    command = [cpp, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{INCLUDE}", "-c", str(file)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out.o")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "warns.c"
    file.write_text('#include "emwire.h"\nint main(void)\n{\n    int unused;\n    return 0;\n}\n')
    done = subprocess.run(
        [compiler(), *STRICT, f"-I{INCLUDE}", "-c", str(file), "-o", str(tmp_path / "out.o")], capture_output=True
    )
    assert done.returncode != 0


def test_golden_encodings(peer: CPeer) -> None:
    seen = set()
    for vector in vectors("messages.json"):
        message = catalogue.BY_NAME[vector["message"]]
        values = from_json(vector["values"])
        encoded = bytes.fromhex(vector["hex"])
        assert peer.encode(message, values) == ("ok", encoded), vector["case"]
        expected = (message.message_type, *(tuples(values[name]) for name, _ in message.fields))
        assert peer.decode(encoded) == ("ok", expected), vector["case"]
        seen.add(message.name)
    assert seen == set(catalogue.BY_NAME)


def test_golden_refusals_of_bytes(peer: CPeer) -> None:
    reasons = set()
    for vector in vectors("refused_bytes.json"):
        expected = ("refused", vector["reason"], vector["offset"])
        assert peer.decode(bytes.fromhex(vector["hex"])) == expected, vector["case"]
        reasons.add(vector["reason"])
    assert reasons == {"short", "trailing", "count", "length", "range"}


def test_golden_refusals_of_values(peer: CPeer) -> None:
    lowest = {v["message"]: from_json(v["values"]) for v in vectors("messages.json") if v["case"] == "lowest"}
    reasons = set()
    for vector in vectors("refused_values.json"):
        message = catalogue.BY_NAME[vector["message"]]
        value = from_json(vector["value"])
        # What the C type cannot hold, nobody can give.
        if not representable(dict(message.fields)[vector["field"]], value):
            continue
        expected = ("refused", vector["reason"], vector["offset"])
        assert peer.encode(message, {**lowest[message.name], vector["field"]: value}) == expected, vector
        reasons.add(vector["reason"])
    assert reasons == {"range", "count", "length"}


@every_message
@relaxed
@given(data=st.data())
def test_values_are_judged_and_encoded_alike(message: Message, peer: CPeer, data: st.DataObject) -> None:
    values = data.draw(st.fixed_dictionaries({name: any_value(field) for name, field in message.fields}))
    assert peer.encode(message, values) == by_codec(message, values)


@every_message
@relaxed
@given(data=st.data())
def test_bytes_are_judged_and_decoded_alike(message: Message, peer: CPeer, data: st.DataObject) -> None:
    known = [bytes.fromhex(v["hex"]) for v in vectors("messages.json") if v["message"] == message.name]
    encoded = bytearray(data.draw(st.sampled_from(known)))
    for _ in range(data.draw(st.integers(0, 3))):
        encoded[data.draw(st.integers(1, len(encoded))) - 1] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)) | st.just(len(encoded)))
    damaged = bytes(encoded[:cut]) + data.draw(st.binary(max_size=3))
    assert peer.decode(damaged) == decoded_by_codec(damaged)


@relaxed
@given(data=st.binary(max_size=80) | st.binary(min_size=1000, max_size=1030))
def test_any_bytes_are_judged_alike(peer: CPeer, data: bytes) -> None:
    assert peer.decode(data) == decoded_by_codec(data)


def test_an_unknown_message_is_kept_raw(peer: CPeer) -> None:
    unused = next(number for number in range(1, 256) if number not in catalogue.BY_TYPE)
    assert peer.decode(bytes([unused, 1, 2])) == ("ok", (unused, b"\1\2"))


def test_numbers_are_those_of_the_catalogue(tmp_path: Path) -> None:
    wanted = {f"EMWIRE_MESSAGE_{entry.name.upper()}": entry.message_type for entry in catalogue.MESSAGES}
    for enumeration in catalogue.ENUMERATIONS:
        wanted.update({f"EMWIRE_{enumeration.prefix}_{name}": value for name, value, _ in enumeration.members})
    file = tmp_path / "numbers.c"
    checks = "\n".join(f'_Static_assert({name} == {value}, "{name}");' for name, value in wanted.items())
    file.write_text(f'#include "emwire.h"\n{checks}\nint main(void)\n{{\n    return 0;\n}}\n')
    subprocess.run([compiler(), *STRICT, f"-I{INCLUDE}", str(file), "-o", str(tmp_path / "out")], check=True)


def test_words_of_c_are_no_members() -> None:
    assert c_header._identifier("default") == "default_"
    assert c_header._identifier("first") == "first"


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "interop.md").read_text()
    example = text.partition("```c\n")[2].partition("```")[0].replace('#include "emwire.h"\n', "")
    file = tmp_path / "example.c"
    shown = 'for (size_t index = 0; index < size; index++)\n    printf("%02x", out[index]);\nreturn 0;\n'
    file.write_text(f'#include <stdio.h>\n#include "emwire.h"\nint main(void)\n{{\n{example}{shown}}}\n')
    subprocess.run([compiler(), *STRICT, f"-I{INCLUDE}", str(file), "-o", str(tmp_path / "example")], check=True)
    printed = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True).stdout
    expected = codec.Gap(0, 0, 528000000, 0, 0, 7, 9, constants.GAP_STORAGE_FULL)
    assert codec.decode(bytes.fromhex(printed)) == expected
