"""Heap that the device codec takes on MicroPython, message by message: all of it, and what the results alone need."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "wire"))

from allocation import measure

INTERPRETER = Path(sys.executable).with_name("micropython")


def main() -> None:
    """Print the table; the ordinary form of each message."""
    if not INTERPRETER.exists():
        print("needs a MicroPython interpreter beside Python")
        return
    titles = "".join(f" {title:>8}" for title in ("encode", "result", "beside", "decode", "result", "beside"))
    print(f"bytes of heap, 64-bit{titles}")
    for entry in measure(str(INTERPRETER)):
        if entry.case == "pattern":
            print(
                f"{entry.message:21} {entry.encoding:8} {entry.encoded:8} {entry.beside_encoding:8}"
                f" {entry.decoding:8} {entry.decoded:8} {entry.beside_decoding:8}"
            )


if __name__ == "__main__":
    main()
