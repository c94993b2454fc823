"""The part of the gateway's MQTT client id that nobody guesses. A broker ends a connection when another client comes
under its id, and no access list says who may: an id made of the gateway's name alone would let any device's certificate
keep the gateway away."""

import re
import secrets
from pathlib import Path

import structlog

from emgate.operation.owner import write_whole

log = structlog.get_logger(__name__)

FILE = "mqtt-client"


def unguessed(state_directory: Path) -> str:
    """16 hexadecimal digits, made once: the broker keeps a persistent session under them."""
    path = state_directory / FILE
    try:
        kept = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        kept = ""
    if re.fullmatch(r"[0-9a-f]{16}", kept):
        return kept
    made = secrets.token_hex(8)
    try:
        write_whole(path, made.encode() + b"\n", state_directory)
    except OSError as error:  # this time under another name; what the broker kept, devices have too
        log.warning("cannot keep the name for the broker", file=str(path), reason=error.strerror)
    return made
