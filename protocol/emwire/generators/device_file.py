"""Writes device_codec.py: functions and tuples for MicroPython (imports on CPython too, for tests)."""

from __future__ import annotations

from emwire import catalogue
from emwire.generators import device_body
from emwire.generators.body import exploded, indented
from emwire.generators.layout import HEADER, Layout, lay_out

PREAMBLE = f'''"""Message codec of the devices: one encode function per message, `decode` to tuples.

{HEADER}
"""

import struct

from emwire.errors import WireError

_BYTES = (bytes, bytearray)
_LISTS = (tuple, list)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def _refuse(value: object, offset: int) -> None:
    raise WireError("range" if type(value) is int else "type", offset)


def _refuse_bytes(value: object, offset: int) -> None:
    raise WireError("length" if isinstance(value, _BYTES) else "type", offset)
'''

DECODE = '''

def decode(data: bytes) -> "tuple[Any, ...]":
    """(message_type, fields in wire order…), lists as tuples of tuples; an unknown type with its raw rest."""
    size = len(data)
    if not size:
        raise WireError("short", 0)
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        return (data[0], bytes(data[1:]))
    return decoder(data, size)
'''


def write() -> str:
    """Text of device_codec.py."""
    layouts = [lay_out(entry) for entry in catalogue.MESSAGES]
    lines = [PREAMBLE]
    for layout in layouts:
        lines += ["", *_encoder(layout), "", "", *_decoder(layout), ""]
    table = [f"{layout.type_byte}: _decode_{layout.message.name}" for layout in layouts]
    lines += ["", *exploded("_DECODERS = {", table, "}")]
    return "\n".join(lines) + "\n" + DECODE


def _encoder(layout: Layout) -> list[str]:
    name = layout.message.name
    head = [f"def encode_{name}() -> bytes:"]
    if layout.names:
        head = exploded(
            f"def encode_{name}(",
            [f"{field}: {kind}" for field, kind in layout.types('"Sequence[tuple[Any, ...]]"')],
            ") -> bytes:",
        )
    return [*head, f'    """{layout.message.description}"""', *indented(device_body.encode(layout))]


def _decoder(layout: Layout) -> list[str]:
    return [
        f'def _decode_{layout.message.name}(data: bytes, size: int) -> "tuple[Any, ...]":',
        *indented(device_body.decode(layout)),
    ]
