"""`emtag decode`: hexadecimal text, pcap files and serial captures to JSON lines; faults are objects with a place."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from emwire.inspect import inspect_hex

from emgate.captures.frames import FrameReader, Keys
from emgate.captures.pcap_file import USER0, PcapWriter
from emgate.captures.sessions import Entry, read_pcap, read_serial
from emgate.keys.sealing import KEY_SIZE, Ccm


class _Arguments(Exception):
    """What of the command line is wrong."""


def decode_lines(lines: Iterable[str], key: str | None, device: str | None, keys: Path | None = None) -> int:
    """Print one object a line of input that is not blank; 1 when any of them has an error."""
    status = 0
    decoded = 0
    explain = _explainer(key, device, keys)
    for line in lines:
        if not line.strip():
            continue
        decoded += 1
        result = explain(line)
        status |= int("error" in result)
        print(json.dumps(result), flush=True)
    if not decoded:
        print(json.dumps({"error": "empty", "offset": 0, "layer": "hex"}))
        status = 1
    return status


def _explainer(key: str | None, device: str | None, keys: Path | None) -> Callable[[str], dict[str, object]]:
    try:
        candidates = _keys(key, keys)
        device_id = _device_id(device)
    except _Arguments as error:
        wrong = _wrong(error)
        return lambda _: wrong
    if key is not None or keys is None:
        own = None if key is None else bytes.fromhex(key)
        return lambda line: inspect_hex(line, own, device_id, Ccm)

    def with_keys(line: str) -> dict[str, object]:
        # Which key is told by the device, which the header tells.
        result = inspect_hex(line, None, device_id, None)
        for own in candidates(result.get("deviceId", 0)):
            result = inspect_hex(line, own, device_id, Ccm)
            if result.get("error") != "authentication":
                break
        return result

    return with_keys


def decode_pcap(path: Path, key: str | None, keys: Path | None, device: str | None, write: Path | None) -> int:
    """Print one object for each frame of a pcap or pcapng file; 1 when any has an error, or the file."""
    counters: Counter[str] = Counter()

    def read(file: BinaryIO, reader: FrameReader) -> Iterator[Entry]:
        return read_pcap(file, reader, counters)

    return _decode_file(path, key, keys, device, write, read, counters)


def decode_serial(path: Path, key: str | None, keys: Path | None, device: str | None, write: Path | None) -> int:
    """Print one object for each frame of raw serial bytes; 1 when any has an error, or the file."""
    return _decode_file(path, key, keys, device, write, read_serial, Counter())


def _decode_file(
    path: Path,
    key: str | None,
    keys: Path | None,
    device: str | None,
    write: Path | None,
    read: Callable[[BinaryIO, FrameReader], Iterator[Entry]],
    counters: Counter[str],
) -> int:
    layer = "file"
    try:
        only = _device_id(device)
        reader = FrameReader(_keys(key, keys))
        if key is not None and len(bytes.fromhex(key)) != KEY_SIZE:
            raise _Arguments("key: write it as 32 hexadecimal digits")
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            layer = "write"
            writer = None
            if write is not None:
                if write.exists() and write.samefile(path):
                    raise _Arguments("write: name another file than the capture")
                writer = PcapWriter(stack.enter_context(_private(write)), USER0)
            layer = "file"
            return _print(read(file, reader), only, writer, counters)
    except _Arguments as error:
        print(json.dumps(_wrong(error)))
    except OSError as error:
        print(json.dumps({"error": error.strerror or str(error), "offset": 0, "layer": layer}))
    return 1


def _print(entries: Iterator[Entry], only: int | None, writer: PcapWriter | None, counters: Counter[str]) -> int:
    status = 0
    for told, packet in entries:
        if only is not None and told.get("deviceId", only) != only:
            counters["frames of other devices"] += 1
            continue
        counters["frames"] += packet is not None
        status |= int("error" in told)
        print(json.dumps(told), flush=True)
        if writer and packet:
            writer.write(*packet)
    print(json.dumps({"counters": dict(counters)}), file=sys.stderr)
    return status


def _private(path: Path) -> BinaryIO:
    """A new file for its owner only: messages in clear say where somebody was, and hold keys."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _device_id(device: str | None) -> int | None:
    try:
        return None if device is None else int(device, 16)
    except ValueError:
        raise _Arguments("device: write the device id as 8 hexadecimal digits") from None


def _keys(key: str | None, keys: Path | None) -> Keys:
    """The keys that a device's frames may be sealed with."""
    if key is not None:
        try:
            one = bytes.fromhex(key)
        except ValueError:
            raise _Arguments("key: write it as 32 hexadecimal digits") from None
        return lambda _: [one]
    if keys is None:
        return lambda _: []
    # Only here: what reads configuration takes longer to load than a frame to decode.
    from emgate.devices.registry import read_device_file
    from emgate.errors import ConfigError

    try:
        devices = {device.device_id: device for device in read_device_file(keys)}
    except ConfigError as error:
        raise _Arguments(f"keys: {error}") from None

    def of(device_id: int) -> list[bytes]:
        device = devices.get(device_id)
        return [own for own in (device.key, getattr(device, "next_key", None)) if own] if device else []

    return of


def _wrong(error: _Arguments) -> dict[str, object]:
    return {"error": str(error), "offset": 0, "layer": "arguments"}
