"""Who a board is to be: device id and keys, made here and told to the gateway's registry, nowhere else; or given."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emrig.flash.errors import FlashError

# On a board outside the firmware's folders, so that installing firmware keeps it.
IDENTITY = "/data/identity.json"
KEY_BYTES = 16
# Drawn at random from so many, an id is one of 10,000 devices' once in 200,000 draws; the registry refuses it.
DEVICE_IDS = 1 << 31


@dataclass(frozen=True, slots=True)
class Identity:
    """What provisioning decided. `key` is None for a board that keeps the one it has."""

    device_id: int
    model: str
    key: bytes | None
    first_epoch: int = 1
    """Above every boot epoch that somebody has records of; matters to a board whose own count was lost."""

    def told(self) -> dict[str, Any]:
        """What a board learns of its own key."""
        assert self.key is not None, "only of a new identity"
        return {"key": self.key.hex(), **({"first_epoch": self.first_epoch} if self.first_epoch > 1 else {})}

    def file(self, board: str, more: Mapping[str, Any]) -> bytes:
        """identity.json as the firmware reads it."""
        content: dict[str, Any] = {"device_id": self.device_id, "model": self.model, "board": board}
        return json.dumps({**content, **self.told(), **more}).encode()


def make(model: str, device_id: int | None) -> Identity:
    """A new identity with a new key."""
    number = secrets.randbelow(DEVICE_IDS - 1) + 1 if device_id is None else device_id
    if not 0 < number < 1 << 32:
        raise FlashError(f"device id {number} does not fit the wire: give one from 1 to {(1 << 32) - 1}")
    return Identity(number, model, secrets.token_bytes(KEY_BYTES))


def changed(data: bytes, more: Mapping[str, Any]) -> bytes | None:
    """A kept identity.json with what may change in a device's life; None: it has that. Device id and keys stay."""
    content: dict[str, Any] = json.loads(data)
    new = {**content, **more}
    if "mqtt" in content and "mqtt" in more:
        new["mqtt"] = {**content["mqtt"], **more["mqtt"]}  # another broker takes neither access point nor certificates
    return None if new == content else json.dumps(new).encode()


def read(data: bytes) -> tuple[int, str]:
    """(device id, model) of an identity.json; FlashError when it is damaged."""
    try:
        content = json.loads(data)
        return int(content["device_id"]), str(content["model"])
    except (ValueError, KeyError, TypeError):
        raise FlashError(
            f"{IDENTITY} on the board is damaged: flash it with --new-identity, which saves what is there first"
        ) from None
