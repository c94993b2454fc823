"""What the wire tests share: the MicroPython peer, outcomes that can be compared, and hypothesis strategies."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emwire import catalogue, codec, device_codec
from emwire.errors import WireError
from emwire.fields import FixedBytes, Integer, ItemList, Message, PrefixedBytes
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent.parent
VECTORS = ROOT / "protocol" / "vectors"

# ("ok", result) or ("refused", reason, offset)
Outcome = tuple[Any, ...]


def plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"hex": bytes(value).hex()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return value


def native(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return tuple(native(entry) for entry in value)
    return value


class Peer:
    """One MicroPython process that stays; `call` is the same call there."""

    def __init__(self, interpreter: str) -> None:
        self._process = subprocess.Popen(
            [interpreter, str(Path(__file__).parent / "device" / "wire_peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"MICROPYPATH": f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"},
        )

    def call(self, operation: str, *values: Any) -> Outcome:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([operation, *(plain(value) for value in values)]).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"MicroPython ended with {self._process.wait()} on {operation}"
        answer = json.loads(line)
        assert "crashed" not in answer, f"{operation}{values}: {answer['crashed']}"
        if "refused" in answer:
            return ("refused", *answer["refused"])
        return ("ok", native(answer["ok"]))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def outcome(call: Callable[[], Any]) -> Outcome:
    """What a call gives; anything but WireError escapes and fails the test."""
    try:
        return ("ok", call())
    except WireError as error:
        return ("refused", error.reason, error.offset)


def tuples(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(tuples(entry) for entry in value)
    return bytes(value) if isinstance(value, bytearray) else value


def class_of(message: Message) -> type[Any]:
    return getattr(codec, message.class_name)  # type: ignore[no-any-return]


def encodings(message: Message, values: dict[str, Any], peer: Peer) -> dict[str, Outcome]:
    """The outcome of encoding by Construct, codec, device codec here and device codec on MicroPython."""
    arguments = [values[name] for name, _ in message.fields]
    encode_here = getattr(device_codec, "encode_" + message.name)
    return {
        "construct": outcome(lambda: catalogue.build(message.name, values)),
        "codec": outcome(lambda: class_of(message)(**values).encode()),
        "device codec": outcome(lambda: encode_here(*arguments)),
        "micropython": peer.call("encode", message.name, arguments),
    }


def decodings(data: bytes, peer: Peer) -> dict[str, Outcome]:
    """The same for decoding; a result is (message type, fields…) everywhere."""

    def by_construct() -> Any:
        name, values = catalogue.parse(data)
        if name == "unknown":
            return (values["message_type"], values["raw"])
        return (catalogue.BY_NAME[name].message_type, *values.values())

    def by_codec() -> Any:
        message = codec.decode(data)
        if isinstance(message, codec.Unknown):
            return (message.message_type, message.raw)
        fields = catalogue.BY_NAME[message.NAME].fields
        return (message.MESSAGE_TYPE, *(tuples(getattr(message, name)) for name, _ in fields))

    return {
        "construct": outcome(by_construct),
        "codec": outcome(by_codec),
        "device codec": outcome(lambda: device_codec.decode(data)),
        "micropython": peer.call("decode", data),
    }


def in_order(message: Message, values: dict[str, Any]) -> Outcome:
    """The decoding these values must give."""
    return ("ok", (message.message_type, *(tuples(values[name]) for name, _ in message.fields)))


def agreed(outcomes: dict[str, Outcome]) -> Outcome:
    """The one outcome of all."""
    first = outcomes["construct"]
    assert all(entry == first for entry in outcomes.values()), outcomes
    return first


def integers(field: Integer) -> st.SearchStrategy[int]:
    named = [value for _, value, _ in field.enumeration.members] if field.enumeration else []
    edges = [field.lowest, field.highest, *field.special, *named]
    return st.integers(field.lowest, field.highest) | st.sampled_from(edges)


def valid(field: Any) -> st.SearchStrategy[Any]:
    if isinstance(field, Integer):
        return integers(field)
    if isinstance(field, FixedBytes):
        return st.binary(min_size=field.length, max_size=field.length)
    if isinstance(field, ItemList):
        item = st.tuples(*(valid(part.subcon) for part in field.item.subcons))
        return st.lists(item, max_size=field.most).map(tuple)
    shortest = 0 if isinstance(field, PrefixedBytes) else field.shortest
    return st.binary(min_size=shortest, max_size=field.longest)


# Whatever a program could put into a field by mistake and JSON can carry to the peer.
ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(1 << 40), 1 << 40),
    st.sampled_from([-1, 101, 254, 255, 256, 999, 1000, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 64]),
    st.booleans(),
    st.none(),
    st.floats(-1e6, 1e6),
    st.text("ab1", max_size=17),
    st.binary(max_size=70),
    st.lists(st.integers(0, 3), max_size=3),
    st.lists(
        st.tuples(st.integers(-1, 1 << 25), st.one_of(st.integers(0, 1 << 25), st.binary(max_size=17))), max_size=9
    ),
)


def valid_values(message: Message) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: valid(field) for name, field in message.fields})


def any_values(message: Message) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly valid values with some fields replaced by anything."""
    return st.fixed_dictionaries(
        {name: st.one_of(valid(field), valid(field), ANYTHING) for name, field in message.fields}
    )


every_message = pytest.mark.parametrize("message", catalogue.MESSAGES, ids=lambda message: message.name)
