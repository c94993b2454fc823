"""JSON Schemas and the AsyncAPI document: valid by their own standards, and true of what the programs say."""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emgate.commands.decode import decode_lines, decode_serial
from emwire import catalogue, codec, constants, framing, positions, topics
from emwire.fields import Integer, ItemList, Message
from emwire.generators.vectors import from_json
from emwire.inspect import inspect_hex
from wire_kit import ROOT, VECTORS, every_message

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")

# AsyncAPI 3.0.0 as the package @asyncapi/specs 6.11.1 has it.
ASYNCAPI_SCHEMA = Path(sys.prefix, "asyncapi/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json")
ASYNCAPI_SCHEMA_SHA256 = "abe96881dbfaad495ccbb6bd8d3fb43ca18a13b9d7564849ccb66f39d5e5b20f"
KEY = bytes(range(16))
SCHEMAS = ROOT / "protocol" / "schema"
MESSAGES: list[dict[str, Any]] = json.loads((VECTORS / "messages.json").read_text())
LOWEST = {vector["message"]: vector["values"] for vector in MESSAGES if vector["case"] == "lowest"}
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text())


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def validator(schema: dict[str, Any], definition: str | None = None) -> Any:
    if definition:
        schema = {**schema, "$ref": f"#/$defs/{definition}"}
    return jsonschema.Draft202012Validator(schema)


DECODED = validator(load(SCHEMAS / "decoded.json"))
UPLINK = load(SCHEMAS / "uplink.json")
PLAIN = load(SCHEMAS / "values.json")
VALUES = {message.name: validator(PLAIN, message.name) for message in catalogue.MESSAGES}


@pytest.mark.parametrize("name", ["values", "decoded", "uplink"])
def test_schemas_are_schemas(name: str) -> None:
    schema = load(SCHEMAS / f"{name}.json")
    assert schema["$schema"].endswith("/2020-12/schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    # Everything that is referred to is in the same file.
    for reference in references(schema):
        assert reference.startswith("#/$defs/") and reference[8:] in schema["$defs"]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for entry in value.values():
            yield from references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from references(entry)


def test_every_message_is_in_both_schemas() -> None:
    names = {message.name for message in catalogue.MESSAGES}
    assert set(PLAIN["$defs"]) == set(load(SCHEMAS / "decoded.json")["$defs"]) == names


def test_vectors_are_valid() -> None:
    for vector in MESSAGES:
        VALUES[vector["message"]].validate(vector["values"])


def test_refused_values_are_invalid() -> None:
    """The schema refuses what the codecs refuse; but JSON does not tell 1.0 from 1."""
    judged = 0
    for vector in json.loads((VECTORS / "refused_values.json").read_text()):
        if "1.0" not in json.dumps(vector["value"]):
            values = {**LOWEST[vector["message"]], vector["field"]: vector["value"]}
            assert not VALUES[vector["message"]].is_valid(values), vector
            judged += 1
    assert judged > 500


@every_message
def test_missing_and_additional_fields_are_invalid(message: Message) -> None:
    values = LOWEST[message.name]
    assert VALUES[message.name].is_valid(values)
    assert not VALUES[message.name].is_valid({**values, "another": 1})
    for name in values:
        assert not VALUES[message.name].is_valid({key: value for key, value in values.items() if key != name})


@every_message
def test_every_field_is_described_with_unit_and_source(message: Message) -> None:
    properties = PLAIN["$defs"][message.name]["properties"]
    assert list(properties) == [name for name, _ in message.fields]
    for name, field in message.fields:
        text = properties[name]["description"]
        assert field.description in text and text.endswith(f"Source: {field.source}.")
        assert not field.unit or f"Unit: {field.unit}." in text


def test_decoded_vectors_are_valid() -> None:
    for vector in MESSAGES:
        line = inspect_hex(vector["hex"], None, None, None, "message")
        assert "error" not in line
        DECODED.validate(line)


def test_decode_prints_what_the_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    block = positions.encode_block([(100, 51500000, -120000), (160, 51500100, -120100)])
    position = codec.PositionBlock(1, 0, 200, 9, block).encode()
    lines = [vector[form] for vector in FRAMES for form in ("stream",)]
    lines += ["00", "xx", "0401020300", FRAMES[0]["frame"]]
    for key in (KEY.hex(), None, "00" * 16):
        decode_lines(lines, key, None)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 3 * len(lines)
    printed.append(inspect_hex(position.hex(), None, None, None, "message"))
    printed.append(inspect_hex("3f0102", None, None, None, "message"))
    for line in printed:
        DECODED.validate(line)
    assert {"fields" in line for line in printed} == {"error" in line for line in printed} == {True, False}


def test_decoded_captures_are_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "line.bin"
    capture.write_bytes(b"".join(bytes.fromhex(vector["stream"]) for vector in FRAMES) + b"\x05noise\0\x09cut")
    for key in (KEY.hex(), None):
        decode_serial(capture, key, None, None, None)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum("fields" in line for line in printed) == len(FRAMES)
    assert len(printed) == 2 * (len(FRAMES) + 2)
    for line in printed:
        DECODED.validate(line)


def broken(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies with one thing wrong."""
    for name in line["fields"]:
        without, untrue, more = (copy.deepcopy(line) for _ in range(3))
        del without["fields"][name]
        untrue["fields"][name]["value"] = None
        more["fields"][name]["surprise"] = 1
        yield from (without, untrue, more)
    yield {**line, "messageType": line["messageType"] ^ 1}
    yield {key: value for key, value in line.items() if key != "fields"}


def test_other_output_is_invalid() -> None:
    for vector in MESSAGES:
        if vector["case"] == "pattern":
            line = inspect_hex(vector["hex"], None, None, None, "message")
            for wrong in broken(line):
                assert not DECODED.is_valid(wrong), wrong
    assert not DECODED.is_valid({"error": "short"})
    assert not DECODED.is_valid({})


def test_a_batch_as_the_gateway_makes_it_is_valid() -> None:
    from emgate.store.store import Record
    from emgate.uplinks.drain import Drain

    class Clock:
        def now_ms(self) -> int:
            return 1_780_000_000_000

        def uncertainty_ms(self) -> int:
            return 0

    drain = Drain.__new__(Drain)
    drain._gateway_id, drain._clock = "gateway-1", Clock()  # batch() needs nothing else
    payload = codec.Log(1, 0, 0, 0, constants.LOG_ERROR, b"x").encode()
    batch = drain.batch([Record(7, 1, 2, True, 1_780_000_000_000, "mqtt", payload)])
    judge = validator(UPLINK, "batch")
    judge.validate(json.loads(json.dumps(batch)))
    assert judge.is_valid({**batch, "more": 1}), "a newer gateway may say more"
    for name in batch:
        assert not judge.is_valid({key: value for key, value in batch.items() if key != name})
    for name, wrong in (("payload", "0x"), ("payload", "0"), ("sequence", 1 << 24), ("alarm", 1), ("deviceId", -1)):
        assert not judge.is_valid({**batch, "records": [{**batch["records"][0], name: wrong}]})
    answers = validator(UPLINK, "acknowledgement")
    assert answers.is_valid({"batchId": "b"}) and answers.is_valid({"batchId": "b", "refused": "why"})
    assert not answers.is_valid({"refused": "why"})


def test_asyncapi_is_valid_by_the_standard() -> None:
    if not ASYNCAPI_SCHEMA.is_file():
        pytest.skip("needs the npm package @asyncapi/specs: make asyncapi")
    assert hashlib.sha256(ASYNCAPI_SCHEMA.read_bytes()).hexdigest() == ASYNCAPI_SCHEMA_SHA256
    schema = load(ASYNCAPI_SCHEMA)
    judge = jsonschema.Draft7Validator(schema)
    document = load(ROOT / "protocol" / "asyncapi.json")
    judge.validate(document)
    for wrong in ({"asyncapi": "2.6.0"}, {"operations": {"x": {"action": "shout"}}}, {"unknown": 1}):
        assert not judge.is_valid({**document, **wrong})


def resolve(reference: str, document: dict[str, Any]) -> Any:
    file, _, pointer = reference.partition("#")
    found: Any = load(ROOT / "protocol" / file) if file else document
    for step in pointer.strip("/").split("/"):
        found = found[step]
    return found


def test_asyncapi_tells_the_topics_and_messages_there_are() -> None:
    document = load(ROOT / "protocol" / "asyncapi.json")
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {
        topics.up(0xA1B2).replace("0000a1b2", "{deviceId}"),
        topics.down(0xA1B2).replace("0000a1b2", "{deviceId}"),
        topics.backend_batch("g").replace("/g/", "/{gatewayId}/"),
        topics.backend_ack("g").replace("/g/", "/{gatewayId}/"),
    }
    for reference in references(document):
        assert isinstance(resolve(reference, document), dict), reference
    told = {}
    for direction, name in (("up", "frameUp"), ("down", "frameDown")):
        for entry in document["components"]["messages"][name]["x-plaintext"]:
            told[entry["messageType"]] = (direction, entry["kind"], entry["schema"]["$ref"].rpartition("/")[2])
    assert told == {m.message_type: (m.direction, m.kind, m.name) for m in catalogue.MESSAGES}


def test_frames_have_the_sizes_that_asyncapi_tells() -> None:
    messages = load(ROOT / "protocol" / "asyncapi.json")["components"]["messages"]
    longest = framing.MAXIMUM_DATAGRAM - 4
    for name in ("frameUp", "frameDown"):
        assert messages[name]["payload"]["maxLength"] == longest
    for vector in FRAMES:
        assert messages["frameUp"]["payload"]["minLength"] <= len(vector["frame"]) // 2 <= longest


def test_values_survive_json() -> None:
    """What a program writes from values.json alone encodes to the golden bytes."""
    for vector in MESSAGES:
        values = from_json(json.loads(json.dumps(vector["values"])))
        assert catalogue.build(vector["message"], values).hex() == vector["hex"]


def test_nothing_names_a_place_to_fetch_from() -> None:
    for path in [*SCHEMAS.glob("*.json"), ROOT / "protocol" / "asyncapi.json"]:
        text = path.read_text(encoding="utf-8").replace("https://json-schema.org/draft/2020-12/schema", "")
        assert "http" not in text, path


def test_lists_are_described_item_by_item() -> None:
    seen = 0
    for message in catalogue.MESSAGES:
        for name, field in message.fields:
            if isinstance(field, ItemList):
                items = PLAIN["$defs"][message.name]["properties"][name]["items"]["prefixItems"]
                assert [item["title"] for item in items] == list(field.names)
                for item, part in zip(items, field.item.subcons, strict=True):
                    if isinstance(part.subcon, Integer) and not part.subcon.special:
                        assert (item["minimum"], item["maximum"]) == (part.subcon.lowest, part.subcon.highest)
                        seen += 1
    assert seen >= 5
