"""Writes protocol/schema/*.json (JSON Schema 2020-12): messages as values, as `emtag decode` says them, batches."""

from __future__ import annotations

import json
from typing import Any

from emwire import catalogue, envelope, topics
from emwire.fields import FixedBytes, Integer, ItemList, Message, PrefixedText
from emwire.generators.layout import HEADER

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Names, not places: nothing is to be fetched from anywhere.
VALUES_ID = "urn:emtag:v1:values"
DECODED_ID = "urn:emtag:v1:decoded"
UPLINK_ID = "urn:emtag:v1:uplink"
# 9999-12-31, the last that calendars of common languages can show.
LAST_UNIX_MS = 253402300799999

# u40: link counters of frames down; see docs/envelope.md.
LAST_COUNTER = (1 << 40) - 1

Schema = dict[str, Any]

# One level of a topic: MQTT 3.1.1 §4.7.
GATEWAY_ID: Schema = {"type": "string", "pattern": "^[^/+#\\u0000]+$"}


def values() -> str:
    """Text of values.json: one $def a message, its fields as in protocol/vectors; byte strings are {"hex": …}."""
    definitions = {entry.name: _object(entry, _value) for entry in catalogue.MESSAGES}
    return _document(VALUES_ID, "Messages as plain values, one $def each", {"$defs": definitions})


# Of a capture: what could not be opened, pcap file, one packet of it, TCP and MQTT streams, topic and frame at odds.
CAPTURE_LAYERS = ("file", "write", "pcap", "packet", "tcp", "mqtt", "topic")


def decoded() -> str:
    """Text of decoded.json: a line of `emtag decode`; one $def a message for its `fields`."""
    definitions: Schema = {entry.name: _object(entry, _explained) for entry in catalogue.MESSAGES}
    known = [
        {
            "properties": {
                "message": {"const": entry.name},
                "messageType": {"const": entry.message_type},
                "fields": {"$ref": f"#/$defs/{entry.name}"},
            },
            "required": ["message", "messageType", "fields"],
        }
        for entry in catalogue.MESSAGES
    ]
    unknown = {
        "properties": {"message": {"const": "unknown"}, "messageType": _integer(0, 255), "raw": _hex(0, None)},
        "required": ["message", "messageType", "raw"],
    }
    sealed = {"not": {"required": ["message"]}, "anyOf": [{"required": ["sealedBytes"]}, {"required": ["error"]}]}
    line: Schema = {
        "type": "object",
        "properties": {
            "form": {"enum": ["stream", "datagram", "frame", "message", "opened"]},
            "time": {"description": "Of a packet in a capture.", "type": "string"},
            "source": {"description": "Address and port that sent it.", "type": "string"},
            "destination": {"description": "Address and port it was sent to.", "type": "string"},
            "topic": {"description": "MQTT topic.", "type": "string"},
            "duplicate": {"description": "MQTT says that it may have been sent before.", "type": "boolean"},
            "fileOffset": {"description": "Where it begins in a serial capture.", "type": "integer", "minimum": 0},
            "deviceId": _integer(0, 0xFFFFFFFF),
            "version": _integer(0, 7),
            "direction": {"enum": ["up", "down"]},
            "kind": {"enum": ["record", "link"]},
            "alarm": {"type": "boolean"},
            "keySlot": _integer(0, 3),
            "epoch": {"description": "Boot epoch.", **_integer(0, 0xFFFF)},
            "sequence": {"description": "Of a record.", **_integer(0, envelope.MAXIMUM_COUNTER)},
            "counter": {"description": "Of a link message.", **_integer(0, LAST_COUNTER)},
            "sealedBytes": _integer(0, envelope.MAXIMUM_PLAINTEXT),
            "message": {"type": "string"},
            "messageType": _integer(0, 255),
            "fields": {"type": "object"},
            "raw": _hex(0, None),
            "error": {"description": "Reason of a refusal.", "type": "string"},
            "offset": {"description": "Where in its layer.", "type": "integer", "minimum": 0},
            "layer": {"enum": ["arguments", "hex", "stream", "datagram", "frame", "message", *CAPTURE_LAYERS]},
        },
        "dependentRequired": {"error": ["offset", "layer"], "offset": ["error"], "layer": ["error"]},
        "anyOf": [*known, unknown, sealed],
    }
    return _document(DECODED_ID, "One line of `emtag decode`", {**line, "$defs": definitions})


def uplink() -> str:
    """Text of uplink.json: the batch a gateway delivers and the answer it waits for."""
    unix_ms = {"description": "Unix milliseconds, UTC.", **_integer(0, LAST_UNIX_MS)}
    record = _closed(
        {
            "deviceId": {"description": "Device that made it.", **_integer(0, 0xFFFFFFFF)},
            "epoch": {"description": "Boot epoch of the device.", **_integer(0, 0xFFFF)},
            "sequence": {"description": "Number within the epoch.", **_integer(0, envelope.MAXIMUM_COUNTER)},
            "alarm": {"description": "Lane in which it travelled.", "type": "boolean"},
            "receivedTimeMs": {**unix_ms, "description": "When the gateway got it; unix milliseconds, UTC."},
            "link": {"description": "How: serial, ble, mqtt, or a link yet to come.", "type": "string"},
            "payload": {
                "description": "The message in clear, as the device made it, known to the gateway or not.",
                **_hex(0, envelope.MAXIMUM_PLAINTEXT),
            },
        },
        "One record. Device, epoch and sequence identify it for ever.",
        closed=False,
    )
    batch = _closed(
        {
            "batchId": {"description": "Names the batch in its acknowledgement.", "type": "string"},
            "gatewayId": {
                "description": "The gateway.",
                "type": "string",
                "minLength": 1,
                "pattern": "^[^/+#\\u0000]+$",
            },
            "uploadedDateMs": {**unix_ms, "description": "When it was sent; unix milliseconds, UTC."},
            "records": {"description": "In the order of commit.", "type": "array", "items": {"$ref": "#/$defs/record"}},
        },
        "What one delivery carries. Repeated until acknowledged; ingest is idempotent. Further keys are ignored.",
        closed=False,
    )
    acknowledgement: Schema = {
        "description": "The backend's answer after its commit. With `refused` the batch stays in the gateway.",
        "type": "object",
        "properties": {
            "batchId": {"description": "The batch.", "type": "string"},
            "refused": {"description": "Why it was not ingested.", "type": "string"},
        },
        "required": ["batchId"],
    }
    definitions = {"record": record, "batch": batch, "acknowledgement": acknowledgement}
    return _document(UPLINK_ID, f"Batches ({topics.BACKEND_BATCH_FILTER}) and answers", {"$defs": definitions})


def plain_message(entry: Message) -> Schema:
    """Schema of a message as plain values."""
    return _object(entry, _value)


def _document(identity: str, title: str, schema: Schema) -> str:
    head = {"$schema": DIALECT, "$id": identity, "title": title, "$comment": HEADER}
    return json.dumps({**head, **schema}, ensure_ascii=False, indent=1) + "\n"


def _object(entry: Message, part: Any) -> Schema:
    return _closed({name: part(field) for name, field in entry.fields}, entry.description)


def _closed(properties: Schema, description: str, closed: bool = True) -> Schema:
    schema: Schema = {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
    return {**schema, "additionalProperties": False} if closed else schema


def _value(field: Any) -> Schema:
    """A field as a plain value."""
    if isinstance(field, Integer):
        return {"description": _description(field), **_numbers(field)}
    if isinstance(field, ItemList):
        parts = [_value(part.subcon) | {"title": part.name} for part in field.item.subcons]
        item = {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
        return {"description": _description(field), "type": "array", "maxItems": field.most, "items": item}
    hexadecimal = _closed({"hex": _hex(*_lengths(field))}, _description(field))
    return {"description": hexadecimal.pop("description"), **hexadecimal}


def _explained(field: Any) -> Schema:
    """A field as `emwire.inspect.explain` gives it."""
    description = _description(field)
    if isinstance(field, ItemList):
        item = _closed({part.name: _explained(part.subcon) for part in field.item.subcons}, "One item.")
        return _closed({"value": {"type": "array", "maxItems": field.most, "items": item}}, description)
    if isinstance(field, FixedBytes):
        return _closed({"value": {"const": "hidden"}}, description)
    if not isinstance(field, Integer):
        text: Schema = {"text": {"type": "string"}} if isinstance(field, PrefixedText) else {}
        schema = _closed({"value": _hex(*_lengths(field)), **text}, description)
        if field is catalogue.BY_NAME["position_block"].fields[-1][1]:
            schema["properties"].update(_POSITIONS)
        return schema
    properties: Schema = {"value": _numbers(field)}
    optional: Schema = {}
    if field.unit == catalogue.TIME:
        optional["utc"] = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
    elif field.unit:
        properties["unit"] = {"const": field.unit}
    if field.special:
        optional["meaning"] = {"enum": sorted(set(field.special.values()))}
    if field.enumeration:
        names = [name for name, _, _ in field.enumeration.members]
        if field.enumeration.flags:
            properties["names"] = {"type": "array", "items": {"enum": names}, "uniqueItems": True}
        else:
            properties["name"] = {"enum": [*names, None]}
    schema = _closed(properties, description)
    schema["properties"] = {**properties, **optional}
    return schema


_POSITIONS: Schema = {
    "positions": {
        "type": "array",
        "items": _closed(
            {
                "gpsDate": {"type": "string"},
                "latitude": {"type": "number", "minimum": -90, "maximum": 90},
                "longitude": {"type": "number", "minimum": -180, "maximum": 180},
                "raw": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 9},
            },
            "One position of the block.",
        ),
    },
    "error": {"type": "string"},
    "offset": {"type": "integer", "minimum": 0},
}


def _description(field: Any) -> str:
    unit = f" Unit: {field.unit}." if field.unit else ""
    special = "".join(f" {value}: {meaning}." for value, meaning in getattr(field, "special", {}).items())
    enumeration = getattr(field, "enumeration", None)
    named = ""
    if enumeration:
        kind = "Bits" if enumeration.flags else "Named values"
        named = f" {kind}: " + ", ".join(f"{value} {name}" for name, value, _ in enumeration.members) + "; others pass."
    return f"{field.description}.{unit}{special}{named} Source: {field.source}."


def _numbers(field: Integer) -> Schema:
    inside = _integer(field.lowest, field.highest)
    outside = [value for value in field.special if not field.lowest <= value <= field.highest]
    return {"anyOf": [inside, {"enum": outside}]} if outside else inside


def _integer(lowest: int, highest: int) -> Schema:
    return {"type": "integer", "minimum": lowest, "maximum": highest}


def _lengths(field: Any) -> tuple[int, int]:
    if isinstance(field, FixedBytes):
        return field.length, field.length
    return getattr(field, "shortest", 0), field.longest


def _hex(shortest: int, longest: int | None) -> Schema:
    """A string of two lower-case hexadecimal digits a byte."""
    schema: Schema = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
    if shortest:
        schema["minLength"] = 2 * shortest
    if longest is not None:
        schema["maxLength"] = 2 * longest
    return schema
