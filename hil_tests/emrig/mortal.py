"""Processes that end with the one that started them, however that ends."""

import shutil
from collections.abc import Sequence

SETPRIV = shutil.which("setpriv")  # util-linux; elsewhere a killed parent leaves its children behind


def mortal(*command: str) -> Sequence[str]:
    """The command to start instead: the kernel kills it when the thread that started it is gone."""
    return (SETPRIV, "--pdeathsig", "KILL", *command) if SETPRIV else command
