"""`emtag replay gnss FILE`: a recording through the firmware's receiver driver on MicroPython, fixes as JSON lines."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, TextIO

from emrig import interpreter, paths

HEAP = "1M"
_DELAY_COOKIE = b"# Delay-Cookie:"


class ReplayError(RuntimeError):
    """The recording could not be replayed; the text says why and what to do."""


def recorded_bytes(recording: bytes) -> bytes:
    """What the receiver sent: without the recorder's remarks at the top, and without its delay marks.

    Recordings in the format of gpsd's test suite begin with lines of `#`. A remark `# Delay-Cookie: X seconds` says
    that the recorder put X between bytes to tell a player where to pause; those are not the receiver's.
    """
    start = 0
    cookie = b""
    while recording[start : start + 1] == b"#":
        end = recording.find(b"\n", start)
        remark = recording[start : end if end >= 0 else len(recording)]
        if remark.startswith(_DELAY_COOKIE):
            words = remark[len(_DELAY_COOKIE) :].split()
            if words and len(words[0]) == 1:
                cookie = words[0]
        start = end + 1 if end >= 0 else len(recording)
    stream = recording[start:]
    return stream.replace(cookie, b"") if cookie else stream


def replay(recording: Path, output: TextIO, log: TextIO) -> int:
    """Write one JSON object per fix to `output` as they come, a summary to `log`; the number of fixes."""
    try:
        stream = recorded_bytes(recording.read_bytes())
    except OSError as error:
        raise ReplayError(f"{recording}: {error.strerror}") from None
    if not stream:
        raise ReplayError(f"{recording}: holds no bytes of a receiver")
    with tempfile.TemporaryFile() as source:
        source.write(stream)
        source.seek(0)
        return _run(source, recording, output, log)


def _run(source: BinaryIO, recording: Path, output: TextIO, log: TextIO) -> int:
    firmware = paths.firmware_folder()
    script = firmware / "replay_gnss.py"
    if not script.is_file():
        raise ReplayError(f"{script} is missing: the installation is incomplete")
    try:
        start = interpreter.command(interpreter.find())
    except interpreter.InterpreterMissing as error:
        raise ReplayError(str(error)) from None
    modules = f"{firmware}:{paths.protocol_folder()}:.frozen"
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*start, "-X", f"heapsize={HEAP}", str(script)],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "MICROPYPATH": modules},
            text=True,
            encoding="ascii",
        ) as child,
    ):
        assert child.stdout is not None
        fixes = 0
        try:
            for line in child.stdout:
                output.write(line)
                output.flush()
                fixes += 1
        except BaseException:
            child.kill()
            raise
        status = child.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if status != 0:
        raise ReplayError(f"{recording}: the receiver driver stopped (status {status}): {said or 'no message'}")
    log.write(f"{recording.name}: {said}\n")
    if "sentences=0 messages=0" in said:
        log.write(f"{recording.name}: no NMEA sentence and no UBX message in it; other formats are not supported\n")
    return fixes


def main(recording: Path) -> int:
    """The command: exit status 0, or 1 with a plain message on standard error."""
    try:
        replay(recording, sys.stdout, sys.stderr)
    except ReplayError as error:
        sys.stderr.write(f"emtag replay gnss: {error}\n")
        return 1
    except BrokenPipeError:
        # Whoever read the fixes has had enough; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
