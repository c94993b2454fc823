"""Writes everything that is generated from the catalogue, or tells what is stale."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from emwire.generators import (
    asyncapi_file,
    c_header,
    constants_file,
    cpython_file,
    device_file,
    envelope_vectors,
    position_vectors,
    reference_file,
    schema_file,
    transport_vectors,
    vectors,
    wireshark,
)

ROOT = Path(__file__).resolve().parent.parent.parent

# Path from the root of the project, and who writes it.
OUTPUTS: dict[str, Callable[[], str]] = {
    "protocol/emwire/constants.py": constants_file.write,
    "protocol/emwire/codec.py": cpython_file.write,
    "protocol/emwire/device_codec.py": device_file.write,
    "docs/protocol.md": reference_file.write,
    "protocol/c/emwire.h": c_header.write,
    "protocol/wireshark/emtag.lua": wireshark.write,
    "protocol/schema/values.json": schema_file.values,
    "protocol/schema/decoded.json": schema_file.decoded,
    "protocol/schema/uplink.json": schema_file.uplink,
    "protocol/asyncapi.json": asyncapi_file.write,
    "protocol/vectors/messages.json": vectors.messages,
    "protocol/vectors/refused_bytes.json": vectors.refused_bytes,
    "protocol/vectors/refused_values.json": vectors.refused_values,
    "protocol/vectors/stream.json": vectors.stream,
    "protocol/vectors/fragments.json": vectors.ble_fragments,
    "protocol/vectors/frames.json": vectors.frames,
    "protocol/vectors/envelope.json": envelope_vectors.write,
    "protocol/vectors/position_blocks.json": position_vectors.write,
    "protocol/vectors/refused_frames.json": transport_vectors.refused_frames,
    "protocol/vectors/refused_fragments.json": transport_vectors.refused_fragments,
    "protocol/vectors/topics.json": transport_vectors.topic_names,
    "protocol/vectors/beacons.json": vectors.beacons,
}


def run(check: bool, root: Path = ROOT) -> list[str]:
    """Paths that differ from what the catalogue gives; unless `check` they have been written."""
    stale = []
    for name, write in OUTPUTS.items():
        path = root / name
        text = write()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return stale


def main(check: bool) -> int:
    """Print what is stale or was written; exit status 1 if checking found anything stale."""
    stale = run(check)
    for name in stale:
        print(f"stale: {name}" if check else f"written: {name}")
    if check and stale:
        print("The catalogue has changed: run `emtag generate` and commit the files.", file=sys.stderr)
        return 1
    return 0
