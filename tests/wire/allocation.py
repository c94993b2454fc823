"""What the device codec takes from the heap of a real MicroPython, message by message."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
# Vectors of the ordinary, the shortest and the longest form of each message.
CASES = ("lowest", "pattern", "highest")


@dataclass(frozen=True)
class Allocation:
    """Heap bytes of one message's encoding and decoding, and what their results need of it."""

    message: str
    case: str
    values: dict[str, Any]
    encoding: int
    encoded: int
    decoding: int
    decoded: int

    @property
    def beside_encoding(self) -> int:
        return self.encoding - self.encoded

    @property
    def beside_decoding(self) -> int:
        return self.decoding - self.decoded


def measure(interpreter: str) -> list[Allocation]:
    """Of every message in every case. Bytes of a 64-bit port: a 32-bit board takes half."""
    vectors = json.loads((ROOT / "protocol" / "vectors" / "messages.json").read_text())
    chosen = [vector for vector in vectors if vector["case"] in CASES]
    lines = "".join(json.dumps([vector["message"], list(vector["values"].values())]) + "\n" for vector in chosen)
    answer = subprocess.run(
        [interpreter, str(Path(__file__).parent / "device" / "wire_allocation.py")],
        input=lines,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"MICROPYPATH": str(ROOT / "protocol")},
    )
    measured = [json.loads(line) for line in answer.stdout.splitlines()]
    return [
        Allocation(vector["message"], vector["case"], vector["values"], *numbers)
        for vector, numbers in zip(chosen, measured, strict=True)
    ]
