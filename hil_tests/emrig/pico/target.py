"""What tests and the rig have in hand of an emulated Pico: its power, its USB port, its flash, its wire to the rig."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tty
from pathlib import Path

from emrig.pico import faster
from emrig.pico.chip import blank_flash

# Where `make pico` puts it.
IMAGE = Path(__file__).resolve().parents[3] / "var" / "pico" / "firmware.uf2"
# Longest that the emulator's process takes for a batch or a request, on a busy machine.
ANSWER_S = 60.0


class ImageMissing(RuntimeError):
    """There is no MicroPython image; the message says what to do."""


def find_image() -> Path:
    """EMTAG_PICO_IMAGE, else the one that `make pico` built."""
    image = Path(os.environ.get("EMTAG_PICO_IMAGE", IMAGE))
    if not image.is_file():
        raise ImageMissing(f"no MicroPython image for the emulated Pico at {image}: run `make pico`")
    return image


class Pico:
    """One emulated board in `folder`; its flash is `folder`/flash.bin and outlives it."""

    def __init__(self, folder: Path, image: Path | None = None) -> None:
        """A new board gets `image`, by default the one of `make pico`; an old one keeps its flash."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.flash = folder / "flash.bin"
        if not self.flash.exists():
            self.flash.write_bytes(blank_flash(image or find_image()))
        self._master, self._slave = os.openpty()
        # Raw before anybody writes; kept open here, so that the host may come and go.
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        """The path of its USB serial port."""
        self.wire, wire = socket.socketpair()
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_S)
        inherited = [self._master, wire.fileno(), control.fileno()]
        with (folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "emrig.pico.machine", str(self.flash), *map(str, inherited)],
                pass_fds=inherited,
                stdout=console,
                env=faster.environment(),
            )
        wire.close()
        control.close()
        self._cut = False

    def __enter__(self) -> Pico:
        self.power_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()

    def power_on(self, cut_after: int | None = None, share: float = 0.0, seed: int = 0) -> None:
        """From the beginning, with the flash as it is; cut_after: flash operations, see Chip.cut_after()."""
        self._cut = False
        self._ask(do="on", cut=None if cut_after is None else [cut_after, share, seed])

    def power_off(self) -> None:
        """At once, wherever it is."""
        self._ask(do="off")

    def reset(self) -> None:
        """Power off and on."""
        self.power_off()
        self.power_on()

    def status(self) -> dict[str, object]:
        """Whether it is on; its flash operations and emulated milliseconds since."""
        return self._ask(do="status")

    def save(self, path: Path) -> None:
        """Copy the flash away, power off."""
        self.power_off()
        shutil.copyfile(self.flash, path)

    def restore(self, path: Path) -> None:
        """Put a copy back, power off."""
        self.power_off()
        shutil.copyfile(path, self.flash)

    def wait_for_cut(self, timeout_s: float = ANSWER_S) -> bool:
        """Whether the power went by cut_after in time."""
        self._control.settimeout(timeout_s)
        try:
            while not self._cut:
                self._receive()
        except TimeoutError:
            return False
        finally:
            self._control.settimeout(ANSWER_S)
        return True

    def close(self) -> None:
        """End the process; the flash stays."""
        self._control.close()
        self.wire.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _ask(self, **request: object) -> dict[str, object]:
        self._control.send(json.dumps(request).encode())
        while True:
            answer = self._receive()
            if "event" not in answer:
                return answer

    def _receive(self) -> dict[str, object]:
        packet = self._control.recv(65536)
        if not packet:
            raise RuntimeError("the emulator's process ended")
        answer: dict[str, object] = json.loads(packet)
        if answer.get("event") == "cut":
            self._cut = True
        return answer
