"""Writes constants.py: message types and enumerations as plain integers, for both Pythons."""

from __future__ import annotations

from emwire import catalogue
from emwire.generators.layout import HEADER


def write() -> str:
    """Text of constants.py."""
    lines = [
        f'"""Numbers of the protocol as plain integers, for CPython and MicroPython.\n\n{HEADER}\n"""',
        "",
    ]
    lines += [
        "# 2010-01-01T00:00:00Z in unix seconds: zero of time_s",
        f"TIME_EPOCH_UNIX_S = {catalogue.TIME_EPOCH_UNIX_S}",
    ]
    lines += ["", "# Most bytes of a position block, so that its record fits a datagram"]
    lines += [f"LONGEST_POSITION_BLOCK = {catalogue.LONGEST_BLOCK}"]
    lines += ["", "# Message types"]
    lines += [f"MESSAGE_{entry.name.upper()} = 0x{entry.message_type:02X}" for entry in catalogue.MESSAGES]
    for enumeration in catalogue.ENUMERATIONS:
        lines += ["", f"# {enumeration.name}: {enumeration.description}"]
        lines += [f"{enumeration.prefix}_{name} = {value}" for name, value, _ in enumeration.members]
    return "\n".join(lines) + "\n"
