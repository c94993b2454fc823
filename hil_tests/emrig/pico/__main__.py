"""`python -m emrig.pico FOLDER [--image IMAGE.uf2]`: run an emulated Pico and print the path of its serial port."""

import argparse
import signal
import sys
from pathlib import Path

from emrig.pico.target import ImageMissing, Pico


def main() -> None:
    """Until interrupted."""
    parser = argparse.ArgumentParser(prog="emrig.pico", description="An emulated Raspberry Pi Pico with MicroPython.")
    parser.add_argument("folder", type=Path, help="where its flash is kept: flash.bin; a new one is made")
    parser.add_argument("--image", type=Path, help="MicroPython for a new flash (UF2); default: what `make pico` built")
    arguments = parser.parse_args()
    ending = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        pico = Pico(arguments.folder, arguments.image)
    except ImageMissing as error:
        sys.exit(str(error))
    with pico:
        link = arguments.folder / "usb"
        link.unlink(missing_ok=True)
        link.symlink_to(pico.port)
        print(f"{pico.port} ({link}): mpremote connect {pico.port}; Ctrl-C ends", flush=True)
        signal.sigwait(ending)
        link.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
