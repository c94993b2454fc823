"""The addresses at which tags have shown themselves, over a restart: otherwise each would be a stranger again."""

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from emgate.operation.owner import write_whole

log = structlog.get_logger(__name__)

FILE = "ble-known"
LONGEST_ADDRESS = 64
MOST_BYTES = 1 << 20
"""10,000 tags, some 30 bytes each, take a third of it."""


def read(path: Path) -> dict[int, str]:
    """By device. Empty when there is no such file, or nothing that can be used: then they are learnt anew."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
        addresses = {int(device_id): address for device_id, address in found.items()}
        if not all(isinstance(address, str) and len(address) <= LONGEST_ADDRESS for address in addresses.values()):
            raise ValueError("an address that is none")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        log.warning("cannot use the tags' addresses; they are learnt anew", file=str(path), reason=str(error))
        return {}
    return addresses


def write(path: Path, addresses: Mapping[int, str]) -> None:
    """Whole or not at all; a disk that takes nothing costs only the next start."""
    try:
        write_whole(path, json.dumps(addresses).encode(), path.parent)
    except OSError as error:
        log.warning("cannot keep the tags' addresses", file=str(path), reason=error.strerror)
