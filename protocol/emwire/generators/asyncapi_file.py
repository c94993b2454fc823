"""Writes protocol/asyncapi.json: the MQTT topics of devices and backend, AsyncAPI 3, as the gateway sees them."""

from __future__ import annotations

import json
from typing import Any

from emwire import catalogue, envelope
from emwire.generators.layout import HEADER
from emwire.generators.schema_file import GATEWAY_ID

DESCRIPTION = (
    "Topics of the gateway. Devices send and receive sealed frames, one a message; what is inside is named under "
    "`x-plaintext` and described byte by byte in docs/protocol.md. Towards the backend go batches of records in JSON, "
    "each repeated until the backend has acknowledged it after its commit."
)
# Which messages of protocol/schema hold a payload; beside this file, so that nothing is fetched.
VALUES = "./schema/values.json#/$defs/"
UPLINK = "./schema/uplink.json#/$defs/"
SCHEMA_FORMAT = "application/schema+json;version=2020-12"
# At least once, and nothing kept by the broker: watermarks and cursors are the retry authority.
MQTT_OPERATION = {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}}

Json = dict[str, Any]


def write() -> str:
    """Text of asyncapi.json."""
    device = {"deviceId": {"description": "Device id as 8 lower-case hexadecimal digits.", "examples": ["0000a1b2"]}}
    gateway = {"gatewayId": {"description": "One level of a topic, of the form " + GATEWAY_ID["pattern"]}}
    channels = {
        "deviceUp": _channel("emtag/v1/up/{deviceId}", "Frames of a device.", device, "frameUp"),
        "deviceDown": _channel("emtag/v1/down/{deviceId}", "Frames to a device.", device, "frameDown"),
        "backendBatch": _channel("emtag/v1/backend/{gatewayId}/batch", "Records on their way in.", gateway, "batch"),
        "backendAcknowledgement": _channel(
            "emtag/v1/backend/{gatewayId}/ack", "The backend's answers.", gateway, "acknowledgement"
        ),
    }
    operations = {
        "receiveFrame": _operation("receive", "deviceUp", "Take a frame, verify it, commit its record."),
        "sendFrame": _operation("send", "deviceDown", "Acknowledge, tell the time, configure, order, command, update."),
        "sendBatch": {
            **_operation("send", "backendBatch", "Deliver records until acknowledged."),
            "reply": {"channel": {"$ref": "#/channels/backendAcknowledgement"}},
        },
        "receiveAcknowledgement": _operation("receive", "backendAcknowledgement", "Move the cursor."),
    }
    messages = {
        "frameUp": _frame("up", "A sealed record or link message of a device"),
        "frameDown": _frame("down", "A sealed link message to a device"),
        "batch": _json_message("batch", "A batch of records"),
        "acknowledgement": _json_message("acknowledgement", "Answer to a batch"),
    }
    document: Json = {
        "asyncapi": "3.0.0",
        "id": "urn:emtag:v1",
        "info": {
            "title": "emtag",
            "version": "1.0.0",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
        "x-generated": HEADER,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _channel(address: str, description: str, parameters: Json, message: str) -> Json:
    return {
        "address": address,
        "description": description,
        "parameters": parameters,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(action: str, channel: str, summary: str) -> Json:
    reference = {"$ref": f"#/channels/{channel}"}
    return {"action": action, "channel": reference, "summary": summary, "bindings": MQTT_OPERATION}


def _frame(direction: str, title: str) -> Json:
    return {
        "name": f"frame_{direction}",
        "title": title,
        "contentType": "application/octet-stream",
        "payload": {
            "description": "Header, ciphertext and tag; see docs/envelope.md.",
            "type": "string",
            "format": "binary",
            "minLength": envelope.OVERHEAD + 1,
            "maxLength": envelope.MAXIMUM_FRAME,
        },
        "x-plaintext": [
            {"messageType": entry.message_type, "kind": entry.kind, "schema": {"$ref": VALUES + entry.name}}
            for entry in catalogue.MESSAGES
            if entry.direction == direction
        ],
    }


def _json_message(name: str, title: str) -> Json:
    return {
        "name": name,
        "title": title,
        "contentType": "application/json",
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": UPLINK + name}},
    }
