"""A board that is not there: real MicroPython on the unix port behind a pty, with a folder as its flash."""

import os
import select
import subprocess
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from emrig.flash import repl
from mpremote.transport_serial import SerialTransport

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# A cut cable or a board without power answers nothing; a test need not wait a minute for that.
SHORT_S = 1.0
# It starts at once, where a chip takes a second.
PROMPT_S = 0.5


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the attempt that is cut; a whole one is given its time, however busy the machine is."""
    with monkeypatch.context() as patch:
        patch.setattr(repl, "ANSWER_S", SHORT_S)
        patch.setattr(repl, "PROMPT_S", SHORT_S)
        # Before it sends a statement mpremote itself waits for the prompt: ten seconds, which nobody can tell it.
        patch.setattr(SerialTransport.read_until, "__defaults__", (SHORT_S, None, None))
        yield


class PretendBoard:
    """`port` is its serial port. `cut_after` bytes from the host it loses power, until `repair()`.

    `rom`: the file with the part of its flash that code runs from in place; None if its MicroPython has none.
    """

    def __init__(self, micropython: str, flash: Path, rom_bytes: int = 0, heap: str = "1m") -> None:
        self.flash = flash
        flash.mkdir(exist_ok=True)
        self.rom = flash.with_name(flash.name + ".rom") if rom_bytes else None
        if self.rom is not None:
            # What a part holds that was something else before.
            self.rom.write_bytes(bytes(range(256)) * (rom_bytes // 256))
        self.starts = 0
        self._heap = heap
        self._started = threading.Condition()
        self.received = 0
        self.cut_after: int | None = None
        self._micropython = micropython
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._wake, self._woken = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._woken, b"x")
        self._thread.join()
        for descriptor in (self._master, self._slave, self._wake, self._woken):
            os.close(descriptor)

    def await_start(self, number: int) -> None:
        """Until it has started so often: what is said to it before is lost with the process that it was said to."""
        with self._started:
            assert self._started.wait_for(lambda: self.starts >= number, 60)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._started:
            self.starts += 1
            self._started.notify_all()
        path = [HERE / "device", ROOT / "tests" / "boards" / "device", ROOT / "tests" / "tags" / "device"]
        return subprocess.Popen(
            [self._micropython, "-X", f"heapsize={self._heap}", HERE / "device" / "raw_repl.py", self.flash]
            + ([] if self.rom is None else [self.rom]),
            env={**os.environ, "MICROPYPATH": ":".join((".frozen", *map(str, path)))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=self.flash,
        )

    def _serve(self) -> None:
        process = self._start()
        while True:
            assert process.stdin is not None and process.stdout is not None
            readable, _, _ = select.select([self._master, process.stdout, self._wake], [], [])
            if self._wake in readable:
                process.kill()
                process.wait()
                return
            if process.stdout in readable:
                data = os.read(process.stdout.fileno(), 65536)
                if data:
                    os.write(self._master, data)
                else:
                    process.wait()
                    process = self._start()
                    continue
            if self._master in readable:
                data = os.read(self._master, 4096)
                if self.cut_after is not None and self.received + len(data) > self.cut_after:
                    data = data[: max(0, self.cut_after - self.received)]
                self.received += len(data)
                if data:
                    try:
                        process.stdin.write(data)
                    except BrokenPipeError:
                        pass
                if self.cut_after is not None and self.received >= self.cut_after:
                    # The power goes, in the middle of whatever it does, and comes back without a word.
                    process.kill()
                    process.wait()
                    process = self._start()
                    self.cut_after = None
