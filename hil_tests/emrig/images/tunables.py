"""The firmware's table of tunables as a board has it: a text and bytes in flash, where a tuple would be in RAM."""

from __future__ import annotations

import ast
import struct
from collections.abc import Mapping

from emrig.images.names import assigned

PATH = "common/settings.py"
_TABLE = "TABLE"
_VARIABLES = (_TABLE, "_PREFIX")
_FUNCTIONS = ("_named", "_numbered")
# After each name stands the row's number above this, as one byte that is in no name.
_ABOVE = 128
_LAST = 255 - _ABOVE
# In place of the source's functions of the same names.
_SOURCE = """
import struct
def _named(name):
    at = {names}.find(b"|" + name.encode() + b":")
    return None if at < 0 else (name,) + struct.unpack_from("<iii", {values}, {names}[at + len(name) + 2] * 12 - 1536)
def _numbered(parameter):
    row = {numbers}.find(bytes((parameter,)))
    if row < 0:
        return None
    at = {names}.find(bytes((58, row + 128)))
    return _named({names}[{names}.rfind(b"|", 0, at) + 1 : at].decode())
"""


def names(module: ast.Module) -> set[str]:
    """Of the rows."""
    return {row[0] for row in _rows(module) or ()}


def pack(module: ast.Module, integers: Mapping[str, int]) -> None:
    """Change the settings' module; integers: the catalogue's constants."""
    rows = _rows(module)
    if rows is None:
        return
    if len(rows) > _LAST:
        raise ValueError(f"{PATH}: more than {_LAST} rows")
    texts = b"".join(b"|%s:%c" % (row[0].encode(), number + _ABOVE) for number, row in enumerate(rows))
    values = b"".join(struct.pack("<iii", *row[1:]) for row in rows)
    numbers = bytes(integers[f"PARAMETER_{row[0].upper()}"] for row in rows)
    made = ast.parse(_SOURCE.format(names=repr(texts), values=repr(values), numbers=repr(numbers)))
    module.body = [
        node
        for node in module.body
        if assigned(node) not in _VARIABLES and not (isinstance(node, ast.FunctionDef) and node.name in _FUNCTIONS)
    ]
    at = next(n for n, node in enumerate(module.body) if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    module.body[at:at] = made.body


def _rows(module: ast.Module) -> tuple[tuple[str, int, int, int], ...] | None:
    for node in module.body:
        if isinstance(node, ast.Assign) and assigned(node) == _TABLE:
            rows: tuple[tuple[str, int, int, int], ...] = ast.literal_eval(node.value)
            return rows
    return None
