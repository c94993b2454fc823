"""Construct, the CPython codec and the device codec (here and on MicroPython) agree on bytes and on errors."""

import json
import struct
from typing import Any

import pytest
from emwire import catalogue, codec, constants, device_codec, generate
from emwire.errors import WireError
from emwire.fields import Integer, Message, RestBytes
from emwire.generators.vectors import from_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import (
    VECTORS,
    Peer,
    agreed,
    any_values,
    class_of,
    decodings,
    encodings,
    every_message,
    in_order,
    valid_values,
)

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@every_message
@relaxed
@given(data=st.data())
def test_round_trip(message: Message, peer: Peer, data: st.DataObject) -> None:
    values = data.draw(valid_values(message))
    verdict, encoded = agreed(encodings(message, values, peer))
    assert verdict == "ok"
    assert agreed(decodings(encoded, peer)) == in_order(message, values)
    assert codec.decode(encoded) == class_of(message)(**values)


@every_message
@relaxed
@given(data=st.data())
def test_wrong_values_are_refused_alike(message: Message, peer: Peer, data: st.DataObject) -> None:
    agreed(encodings(message, data.draw(any_values(message)), peer))


@every_message
@relaxed
@given(data=st.data())
def test_damaged_messages_are_judged_alike(message: Message, peer: Peer, data: st.DataObject) -> None:
    encoded = bytearray(catalogue.build(message.name, data.draw(valid_values(message))))
    for _ in range(data.draw(st.integers(0, 2))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)) | st.just(len(encoded)))
    agreed(decodings(bytes(encoded[:cut]) + data.draw(st.binary(max_size=3)), peer))


@relaxed
@given(data=st.binary(max_size=80) | st.binary(min_size=1000, max_size=1030))
def test_any_bytes_are_judged_alike(peer: Peer, data: bytes) -> None:
    agreed(decodings(data, peer))


@every_message
def test_every_truncation_and_extension_is_refused(message: Message, peer: Peer) -> None:
    vectors = json.loads((VECTORS / "messages.json").read_text())
    pattern = next(v for v in vectors if v["message"] == message.name and v["case"] == "pattern")
    whole = bytes.fromhex(pattern["hex"])
    # A byte string to the end ends where the message ends, so that only envelope and framing can see a change there.
    tail = message.fields[-1][1] if message.fields else None
    open_ended = isinstance(tail, RestBytes)
    for size in range(
        len(whole) - len(from_json(pattern["values"])[message.fields[-1][0]]) + tail.shortest
        if open_ended
        else len(whole)
    ):
        assert agreed(decodings(whole[:size], peer)) == ("refused", "short", size)
    if not open_ended:
        assert agreed(decodings(whole + b"\0", peer)) == ("refused", "trailing", len(whole))


@pytest.mark.parametrize("message_type", [0x00, 0x2F, 0x3F, 0x50, 0x7F, 0xB0, 0xFF])
def test_an_unknown_message_is_kept_raw(message_type: int, peer: Peer) -> None:
    data = bytes([message_type, 1, 2, 3])
    assert agreed(decodings(data, peer)) == ("ok", (message_type, b"\1\2\3"))
    unknown = codec.decode(data)
    assert isinstance(unknown, codec.Unknown)
    assert unknown.encode() == data


@every_message
def test_unnamed_values_of_enumerations_pass(message: Message, peer: Peer) -> None:
    for name, field in message.fields:
        if isinstance(field, Integer) and field.enumeration:
            used = {value for _, value, _ in field.enumeration.members}
            unnamed = next(value for value in range(field.highest + 1) if value not in used)
            lowest = next(
                from_json(v["values"])
                for v in json.loads((VECTORS / "messages.json").read_text())
                if v["message"] == message.name and v["case"] == "lowest"
            )
            verdict, encoded = agreed(encodings(message, {**lowest, name: unnamed}, peer))
            assert verdict == "ok"
            assert getattr(codec.decode(encoded), name) == unnamed


def test_golden_encodings(peer: Peer) -> None:
    seen = set()
    for vector in json.loads((VECTORS / "messages.json").read_text()):
        message = catalogue.BY_NAME[vector["message"]]
        seen.add(message.name)
        values = from_json(vector["values"])
        encoded = bytes.fromhex(vector["hex"])
        assert agreed(encodings(message, values, peer)) == ("ok", encoded), vector["case"]
        assert agreed(decodings(encoded, peer)) == in_order(message, values), vector["case"]
    assert seen == set(catalogue.BY_NAME)


def test_golden_refusals_of_bytes(peer: Peer) -> None:
    reasons = set()
    for vector in json.loads((VECTORS / "refused_bytes.json").read_text()):
        expected = ("refused", vector["reason"], vector["offset"])
        assert agreed(decodings(bytes.fromhex(vector["hex"]), peer)) == expected, vector["case"]
        reasons.add(vector["reason"])
    assert reasons == {"short", "trailing", "count", "length", "range"}


def test_golden_refusals_of_values(peer: Peer) -> None:
    lowest = {
        vector["message"]: from_json(vector["values"])
        for vector in json.loads((VECTORS / "messages.json").read_text())
        if vector["case"] == "lowest"
    }
    for vector in json.loads((VECTORS / "refused_values.json").read_text()):
        values = {**lowest[vector["message"]], vector["field"]: from_json(vector["value"])}
        expected = ("refused", vector["reason"], vector["offset"])
        assert agreed(encodings(catalogue.BY_NAME[vector["message"]], values, peer)) == expected, vector


def test_structure_is_judged_before_values(peer: Peer) -> None:
    # millisecond 1000 is out of range, but the message also ends too early or too late.
    wrong = bytes.fromhex("81 00000000 e803 0000")
    assert agreed(decodings(wrong, peer)) == ("refused", "range", 5)
    assert agreed(decodings(wrong[:-1], peer)) == ("refused", "short", 8)
    assert agreed(decodings(wrong + b"\0", peer)) == ("refused", "trailing", 9)


def test_decoders_take_any_bytes_like(peer: Peer) -> None:
    data = codec.Event(1, 2, 3, 4, 5, 6, 7, 8, b"evidence").encode()
    for view in (bytearray(data), memoryview(data)):
        assert codec.decode(view) == codec.decode(data)  # type: ignore[arg-type]
        assert device_codec.decode(view) == device_codec.decode(data)  # type: ignore[arg-type]


def test_declarations_refuse_by_themselves() -> None:
    # Without the wrapper, Construct raises at the first fault of value.
    with pytest.raises(Exception, match="range at byte 5"):
        catalogue.BY_NAME["time"].declaration.parse(bytes.fromhex("81 00000000 e803 0000"))


def test_constants_are_those_of_the_catalogue() -> None:
    for message in catalogue.MESSAGES:
        assert getattr(constants, f"MESSAGE_{message.name.upper()}") == message.message_type
    for enumeration in catalogue.ENUMERATIONS:
        for name, value, _ in enumeration.members:
            assert getattr(constants, f"{enumeration.prefix}_{name}") == value


def test_catalogue_is_complete_and_plain() -> None:
    assert len(catalogue.BY_TYPE) == len(catalogue.BY_NAME) == len(catalogue.MESSAGES)
    for message in catalogue.MESSAGES:
        # The type byte tells direction and kind: 0x01-0x3f records, 0x40-0x7f link messages up, 0x80-0xbf down.
        block = {("up", "record"): 0, ("up", "link"): 1, ("down", "link"): 2}[message.direction, message.kind]
        assert message.message_type >> 6 == block, message.name
        for name, field in message.fields:
            assert field.description and field.source, f"{message.name}.{name}"
            if isinstance(field, Integer):
                assert field.type_lowest <= field.lowest <= field.highest <= field.type_highest
                assert all(field.type_lowest <= value <= field.type_highest for value in field.special)


@every_message
def test_sizes_fit_a_frame(message: Message) -> None:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / "messages.json").read_text())
    longest = max(len(v["hex"]) // 2 for v in vectors if v["message"] == message.name)
    assert longest <= 1024 - 4 - 14  # datagram less device id less header and tag


def test_wire_error_is_one_type() -> None:
    assert issubclass(WireError, ValueError)
    with pytest.raises(WireError, match="short at byte 0") as refusal:
        codec.decode(b"")
    assert refusal.value.args == ("short", 0) == (refusal.value.reason, refusal.value.offset)
    assert not issubclass(struct.error, ValueError)  # why every length is checked before struct sees it


def test_generated_files_are_fresh() -> None:
    assert generate.run(check=True) == [], "run `emtag generate` and commit the files"


def test_stale_files_are_found_and_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = generate.run(check=True, root=tmp_path)
    assert names == list(generate.OUTPUTS)
    assert not any(tmp_path.iterdir())
    assert generate.run(check=False, root=tmp_path) == names
    assert generate.run(check=True, root=tmp_path) == []
    target = tmp_path / "protocol/emwire/codec.py"
    target.write_text(target.read_text() + "# edited\n")
    assert generate.run(check=True, root=tmp_path) == ["protocol/emwire/codec.py"]
    assert generate.main(check=True) == 0
    assert capsys.readouterr().out == ""
