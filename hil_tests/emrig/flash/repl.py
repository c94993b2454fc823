"""A board's MicroPython, spoken to through mpremote's transport: facts, files, hashes, reset."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Self

import serial
from mpremote import transport_serial
from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport

from emrig.flash.errors import FlashError, NoAnswerError
from emrig.images import syntax_trees

# The transport prints what it did not expect. Redirecting stdout would take from it what other boards' threads print.
vars(transport_serial)["print"] = lambda *_, **__: None

# An emulated board is some 40 times slower than a real one, on which hashing the longest file takes half a second.
ANSWER_S = 60
# For the prompt, once; an emulated board takes a second.
PROMPT_S = 4
# A board may be in the midst of its start.
STARTING_S = 3 * PROMPT_S
# After a reset USB comes back within seconds; an emulated board boots in about ten.
RECONNECT_S = 40
# A chunk travels in base64 inside a statement that the board compiles in its heap: 1 KiB takes some 3 KiB there.
CHUNK_BYTES = 1024
# Where the port has no unique_id: the nRF52840's number, FICR, DEVICEID (its product specification).
FACTS = """
import sys, os, json, gc
board = getattr(sys.implementation, '_machine', '')
try:
    from machine import unique_id
    serial = unique_id().hex()
except (ImportError, AttributeError):
    serial = ''
    if 'nrf52840' in board.lower():
        from machine import mem32
        serial = '%08x%08x' % (mem32[0x10000064], mem32[0x10000060])
s = os.statvfs('/')
print(json.dumps({'machine': board, 'platform': sys.platform,
    'version': '.'.join(str(part) for part in sys.implementation.version[:3]), 'serial': serial,
    'mpy': getattr(sys.implementation, '_mpy', 0), 'free_bytes': s[1] * s[3], 'blocks': s[2],
    'heap_bytes': gc.mem_alloc() + gc.mem_free()}))
"""
TREE = """
import os
def walk(path):
    for entry in os.ilistdir(path or '/'):
        full = path + '/' + entry[0]
        if entry[1] & 0x4000:
            walk(full)
        else:
            print(repr(full))
walk(%r)
"""
HASHES = """
import hashlib
import io
buffer = memoryview(bytearray(%d))
for path in %r:
    try:
        file = open(path, 'rb')
    except OSError:
        continue
    digest = hashlib.sha256()
    while True:
        count = file.readinto(buffer)
        if not count:
            break
        digest.update(buffer[:count])
    file.close()
    print(repr((path, digest.digest().hex())))
"""
MAKE_FOLDERS = """
import os
for folder in %r:
    try:
        os.mkdir(folder)
    except OSError as error:
        if error.errno != 17:
            raise
"""
REMOVE = """
import os
for path in %r:
    try:
        os.remove(path)
    except OSError as error:
        if error.errno != 2:
            raise
"""
HAS_MODULES = """
missing = []
for name in %r:
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
print(repr(missing))
"""


class Repl:
    """The raw REPL of one board. Every failure is a FlashError that names the port."""

    def __init__(self, port: str) -> None:
        self.port = port
        self._transport: SerialTransport | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, within_s: float = STARTING_S, must_be_there: bool = True) -> None:
        """Interrupt whatever runs and enter the raw REPL; tries again until within_s have passed.

        must_be_there: a port that does not exist is no board that restarts."""
        end = time.monotonic() + within_s
        while True:
            try:
                self._connect()
                return
            except (TransportError, OSError, serial.SerialException) as error:
                self.close()
                if time.monotonic() < end and (os.path.exists(self.port) or not must_be_there):  # noqa: PTH110
                    time.sleep(0.2)
                    continue
                kind: type[FlashError] = NoAnswerError
                if not os.path.exists(self.port):  # noqa: PTH110 - a port need not be a path (rfc2217://…)
                    what = "there is no such port: plug the board in; `mpremote connect list` names the ports"
                elif isinstance(error, OSError) and not isinstance(error, TransportError):
                    kind = FlashError
                    what = f"cannot open it ({error}): close what else uses it, and be a member of its group"
                else:
                    what = (
                        f"no MicroPython answers ({error}): press reset, or put MicroPython on it first with "
                        "--base-image FILE"
                    )
                raise kind(f"{self.port}: {what}") from None

    def _connect(self) -> None:
        self._transport = SerialTransport(self.port)
        line = self._transport.serial
        # A board that died, or is amid its reset, must not be waited for for ever.
        line.write_timeout = ANSWER_S
        line.timeout = PROMPT_S
        self._transport.enter_raw_repl(soft_reset=False, timeout_overall=PROMPT_S)
        line.timeout = ANSWER_S

    def close(self) -> None:
        """Leave the port to others."""
        if self._transport is not None:
            try:
                self._transport.close()
            except (OSError, serial.SerialException):
                pass
            self._transport = None

    def run(self, code: str) -> str:
        """Run code and return what it printed; FlashError with the board's traceback."""
        with self._told():
            output, error = self._live.exec_raw(code, timeout=ANSWER_S)
            if error:
                raise FlashError(f"{self.port}: the board refused a step:\n{error.decode(errors='replace')}")
            text: str = output.decode(errors="replace")
            return text

    def facts(self) -> dict[str, Any]:
        """machine, platform, version, serial, mpy, free_bytes, heap_bytes."""
        facts: dict[str, Any] = json.loads(self.run(FACTS))
        # Nothing is mounted there: MicroPython's os.statvfs gives zeros, its Zephyr port has the files at /flash.
        if not facts["blocks"]:
            raise FlashError(
                f"MicroPython on {self.port} has no files at /: put an image on it that has (docs/flashing.md); "
                "nothing was changed"
            )
        return facts

    def missing_modules(self, names: list[str]) -> list[str]:
        """Those of the names that this MicroPython has not."""
        missing: list[str] = syntax_trees.literal(self.run(HAS_MODULES % (names,)))
        return missing

    def files(self, folder: str = "") -> list[str]:
        """Full paths of all files below a folder ("" is the root); none where there is no such folder."""
        if folder and not self.exists(folder):
            return []
        return [syntax_trees.literal(line) for line in self.run(TREE % folder).splitlines() if line.strip()]

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        with self._told():
            return bool(self._live.fs_exists(path))

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        with self._told():
            return bytes(self._live.fs_readfile(path, chunk_size=CHUNK_BYTES))

    def write(self, path: str, data: bytes) -> None:
        """Write a file under another name, then rename: a cut leaves the old file or none."""
        temporary = path + ".new"
        self.run(f"import os\nfrom binascii import a2b_base64 as u\nf=open({temporary!r},'wb')\nw=f.write")
        for at in range(0, len(data), CHUNK_BYTES):
            self.run(f"w(u({base64.b64encode(data[at : at + CHUNK_BYTES])!r}))")
        self.run(f"f.close()\nos.rename({temporary!r}, {path!r})")

    def make_folders_for(self, paths: Iterable[str]) -> None:
        """All folders above these files, outer ones first."""
        parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"/"}
        self.run(MAKE_FOLDERS % (sorted(parents),))

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; one that is not there is none the less gone."""
        self.run(REMOVE % (sorted(paths),))

    def hashes(self, paths: Iterable[str]) -> dict[str, str]:
        """SHA-256 of those files that exist, computed by the board."""
        lines = self.run(HASHES % (CHUNK_BYTES, sorted(paths))).splitlines()
        return dict(syntax_trees.literal(line) for line in lines if line.strip())

    def reset(self) -> None:
        """Reset the board as its button would, without waiting for it."""
        self._leave("reset")

    def start_boot_loader(self) -> None:
        """As its BOOTSEL button would, without waiting for it."""
        self._leave("bootloader")

    def _leave(self, by: str) -> None:
        with self._told():
            self._live.exec_raw_no_follow(f"import machine\nmachine.{by}()")
        self.close()

    @property
    def _live(self) -> SerialTransport:
        assert self._transport is not None, "connect first"
        return self._transport

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except TransportExecError as error:
            raise FlashError(f"{self.port}: the board refused a step:\n{error.error_output}") from None
        except (TransportError, OSError, serial.SerialException, SyntaxError, ValueError) as error:
            raise FlashError(
                f"{self.port}: the board stopped answering ({error}): check cable and power, then flash it again"
            ) from None


def literal(output: str) -> Any:
    """What a board printed as a literal of Python."""
    try:
        return syntax_trees.literal(output.strip())
    except (ValueError, SyntaxError):
        raise FlashError(f"the board answered {output[:200]!r}: flash it again") from None


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()
