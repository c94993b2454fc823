"""The other end of the control socket: how a command asks a running gateway (see control_socket.py)."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from emgate.errors import ConfigError

SOCKET = "control.sock"
ANSWER_S = 30.0
"""The gateway answers at once, or its loop or its store is stuck."""
LONGEST_WAIT_S = 3600.0
"""For the end of a request; whoever asks for more is refused."""


class ControlClient:
    """A connection to the gateway on a state directory.

    ConnectionRefusedError: nobody listens. ConfigError: we may not ask, or what is asked is refused (with the reason).
    TimeoutError: there was no answer for `patience_s`. Any other ConnectionError: it went away."""

    def __init__(self, state_directory: Path, patience_s: float = ANSWER_S) -> None:
        path = state_directory / SOCKET
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(patience_s)
        try:
            self._connection.connect(short(path))
        except OSError as error:
            self._connection.close()
            if isinstance(error, PermissionError):
                raise ConfigError(f"{path}: {error.strerror}: run this as the gateway's user, or as root") from None
            raise ConnectionRefusedError(f"{path}: {error.strerror or error}") from None
        self._lines = self._connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._connection.close()

    def ask(self, **asked: Any) -> dict[str, Any]:
        """One question, and its first answer."""
        return next(self.answers(**asked))

    def answers(self, **asked: Any) -> Iterator[dict[str, Any]]:
        """One question, and every answer to it."""
        try:
            self._connection.sendall(json.dumps(asked).encode() + b"\n")
            more = True
            while more:
                line = self._lines.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionResetError
                answer: dict[str, Any] = json.loads(line)
                if not answer["ok"]:
                    raise ConfigError(answer["reason"])
                yield answer
                more = answer.get("more", False)
        except TimeoutError:
            raise TimeoutError("the gateway does not answer; look into its log") from None
        except ConnectionError:
            raise ConnectionResetError("the gateway went away before it answered") from None


def short(path: Path) -> str:
    """A socket's path has at most 107 bytes: relative to where we are if that is shorter."""
    return min((str(path), os.path.relpath(path)), key=len)
