"""`emtag decode`: frames in hexadecimal to JSON lines, faults as objects with reason and offset."""

from __future__ import annotations

import json
from collections.abc import Iterable

from emgate.sealing import Ccm
from emwire.inspect import inspect_hex


def decode_lines(lines: Iterable[str], key: str | None, device: str | None) -> int:
    """Print one object a line of input that is not blank; 1 when any of them has an error."""
    status = 0
    decoded = 0
    for line in lines:
        if not line.strip():
            continue
        decoded += 1
        result = _decode(line, key, device)
        status |= int("error" in result)
        print(json.dumps(result), flush=True)
    if not decoded:
        print(json.dumps({"error": "empty", "offset": 0, "layer": "hex"}))
        status = 1
    return status


def _decode(line: str, key: str | None, device: str | None) -> dict[str, object]:
    try:
        key_bytes = None if key is None else bytes.fromhex(key)
    except ValueError:
        return {"error": "key: write it as 32 hexadecimal digits", "offset": 0, "layer": "arguments"}
    try:
        device_id = None if device is None else int(device, 16)
    except ValueError:
        return {"error": "device: write the device id as 8 hexadecimal digits", "offset": 0, "layer": "arguments"}
    return inspect_hex(line, key_bytes, device_id, Ccm)
