"""Accounts for every record: what the devices made, what they still hold, what gateway and backend have."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emrig.paths import firmware_folder

Identity = tuple[int, int, int]
"""device id, boot epoch, sequence"""

MADE_FILE = "made.log"
"""What the simulated board writes after each append to the journal: epoch, sequence, alarm, payload in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of records; `lost` are those that nobody holds any more and the backend never got."""

    made: int
    stored: int
    delivered: int
    on_devices: int
    lost: int
    duplicates: int


def made(folder: Path, device_id: int) -> dict[Identity, bytes]:
    """Every record that a device completed, with its payload."""
    path = folder / MADE_FILE
    if not path.exists():
        return {}
    records: dict[Identity, bytes] = {}
    # A last line without its end was being written when the device lost power.
    for line in path.read_bytes().split(b"\n")[:-1]:
        epoch, sequence, _, payload = line.split()
        records[device_id, int(epoch), int(sequence)] = bytes.fromhex(payload.decode())
    return records


def held(folder: Path, device_id: int) -> dict[Identity, bytes]:
    """Every record that can be read from a device's flash, as its own firmware would read it."""
    journal = folder / "journal"
    if not journal.is_dir():
        return {}
    found = _firmware_module("common.segment").records(str(journal))
    return {(device_id, epoch, sequence): bytes(payload) for epoch, sequence, _, payload in found}


def segment_records(path: Path) -> list[tuple[int, int, int]]:
    """(offset, epoch, sequence) of the records of one file of a journal."""
    segment = _firmware_module("common.segment")
    epoch, alarm, _ = segment.parse_name(path.name)
    with path.open("rb") as file:
        return [(offset, epoch, sequence) for offset, sequence, _ in segment.Reader(file, alarm, epoch)]


def stored(gateway_folder: Path) -> set[Identity]:
    """What the gateway's store has committed."""
    return set(_identities(gateway_folder / "store.sqlite"))


def delivered(database: Path) -> list[Identity]:
    """What the backend has committed; a list, so that a record that is there twice shows."""
    return list(_identities(database))


def payloads(database: Path) -> dict[Identity, bytes]:
    """The content of what the backend has committed."""
    with closing(_open(database)) as connection:
        rows = connection.execute("SELECT device_id, epoch, sequence, payload FROM records")
        return {(device_id, epoch, sequence): bytes(payload) for device_id, epoch, sequence, payload in rows}


def account(devices: dict[int, Path], gateway_folder: Path, database: Path, of: set[Identity] | None = None) -> Account:
    """Compare all four. `devices` maps device ids to their folders. `of`: only these records, by default all."""
    all_made: set[Identity] = set()
    on_devices: set[Identity] = set()
    for device_id, folder in devices.items():
        all_made |= made(folder, device_id).keys()
        on_devices |= held(folder, device_id).keys()
    all_made |= on_devices
    # The gateway keeps records of its own, which no device made.
    in_gateway = {identity for identity in stored(gateway_folder) if identity[0] in devices}
    in_backend = [identity for identity in delivered(database) if identity[0] in devices]
    if of is not None:
        all_made, on_devices, in_gateway = all_made & of, on_devices & of, in_gateway & of
        in_backend = [identity for identity in in_backend if identity in of]
    return compare(all_made, on_devices, in_gateway, in_backend)


def compare(
    all_made: set[Identity], on_devices: set[Identity], in_gateway: set[Identity], in_backend: list[Identity]
) -> Account:
    """Who holds what."""
    arrived = set(in_backend)
    return Account(
        made=len(all_made),
        stored=len(in_gateway | arrived),
        delivered=len(arrived),
        on_devices=len(on_devices - arrived - in_gateway),
        lost=len(all_made - on_devices - in_gateway - arrived),
        duplicates=len(in_backend) - len(arrived),
    )


def _identities(path: Path) -> Iterator[Identity]:
    if not path.exists():
        return
    with closing(_open(path)) as database:
        yield from database.execute("SELECT device_id, epoch, sequence FROM records")


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)


def _firmware_module(name: str) -> Any:
    folder = str(firmware_folder())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
