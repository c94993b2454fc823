"""Syntax trees by one thread at a time.

CPython 3.11's `ast` keeps its depth of recursion for all threads at once: boards of a rack, flashed side by side, broke
each other's with "AST constructor recursion depth mismatch".
"""

import ast
import threading
from typing import Any

alone = threading.RLock()
"""Held by whoever makes or compiles a tree."""


def parse(source: str) -> ast.Module:
    """As ast.parse()."""
    with alone:
        return ast.parse(source)


def literal(text: str) -> Any:
    """As ast.literal_eval(). ValueError, SyntaxError."""
    with alone:
        return ast.literal_eval(text)
