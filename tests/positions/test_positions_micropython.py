"""CPython and MicroPython write the same blocks, read the same fixes and refuse with the same error."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emwire.errors import WireError
from emwire.positions import ALL, CORE, decode_block, encode_block
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from position_fixes import blocks, received_walk

HERE = Path(__file__).resolve().parent
PROTOCOL = HERE.parent.parent / "protocol"
VECTORS = json.loads((PROTOCOL / "vectors" / "position_blocks.json").read_text())

Ask = Callable[[list[Any]], Any]


@pytest.fixture(scope="module")
def ask(micropython: str) -> Iterator[Ask]:
    """Put a question to one MicroPython process; a small heap, so that hoarding memory shows."""
    with subprocess.Popen(
        [micropython, "-X", "heapsize=512k", str(HERE / "device_positions.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"MICROPYPATH": str(PROTOCOL)},
    ) as process:
        assert process.stdin
        assert process.stdout

        def put(request: list[Any]) -> Any:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, "MicroPython ended"
            return json.loads(answer)

        yield put
        process.stdin.close()


def here(request: list[Any]) -> Any:
    """The same question to this interpreter."""
    try:
        if request[0] == "encode":
            return encode_block(request[1], request[2]).hex()
        return [list(fix) for fix in decode_block(bytes.fromhex(request[1]))]
    except WireError as error:
        return ["error", error.reason, error.offset]


fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(case=blocks())
def test_same_blocks(ask: Ask, case: tuple[list[tuple[int, ...]], int]) -> None:
    fixes, columns = case
    block = encode_block(fixes, columns).hex()
    assert ask(["encode", fixes, columns]) == block
    assert ask(["decode", block]) == [list(fix) for fix in fixes]


@fuzz
@given(columns=st.integers(0, ALL), count=st.integers(0, 255), body=st.binary(max_size=200))
def test_same_answer_to_any_bytes(ask: Ask, columns: int, count: int, body: bytes) -> None:
    request = ["decode", (bytes((64 | columns, count)) + body).hex()]
    assert ask(request) == here(request)


@fuzz
@given(case=blocks(), at=st.integers(0, 10000), flip=st.integers(1, 255))
def test_same_answer_to_damage(ask: Ask, case: tuple[list[tuple[int, ...]], int], at: int, flip: int) -> None:
    block = bytearray(encode_block(*case))
    block[at % len(block)] ^= flip
    request = ["decode", block.hex()]
    assert ask(request) == here(request)


@pytest.mark.parametrize("vector", VECTORS["blocks"], ids=lambda vector: vector["case"])
def test_published_blocks(ask: Ask, vector: dict[str, Any]) -> None:
    for answer in (here, ask):
        assert answer(["encode", vector["fixes"], vector["columns"]]) == vector["hex"]
        assert answer(["decode", vector["hex"]]) == vector["fixes"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["case"])
def test_published_refusals(ask: Ask, vector: dict[str, Any]) -> None:
    for answer in (here, ask):
        assert answer(["decode", vector["hex"]]) == ["error", vector["reason"], vector["offset"]]


def test_same_refusals(ask: Ask) -> None:
    for fixes, columns in (([], CORE), ([[0, 0, 0]] * 256, CORE), ([[0, 0, 0]], ALL), ([[0, 90000001, 0]], CORE)):
        request = ["encode", fixes, columns]
        assert here(request)[0] == "error"
        assert ask(request) == here(request)


def test_a_full_block_fits_a_small_heap(ask: Ask) -> None:
    walk = [list(fix) for fix in received_walk(1, 255)]
    request = ["encode", walk, ALL]
    assert ask(request) == here(request)
