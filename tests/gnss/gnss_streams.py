"""Receiver streams made for tests: sentences, NAV-PVT messages, and running a stream through the driver."""

import struct

from drivers import ubx
from drivers.gnss import Receiver


def sentence(body: str) -> bytes:
    checksum = 0
    for byte in body.encode():
        checksum ^= byte
    return f"${body}*{checksum:02X}\r\n".encode()


def epoch(second: int, latitude: str = "5130.1000", quality: int = 1, mode: int = 3, date: str = "010626") -> bytes:
    """GGA, GSA, RMC of 12:00:<second>."""
    time = f"1200{second:02d}.00"
    status = "A" if quality else "V"
    return (
        sentence(f"GNGGA,{time},{latitude},N,00007.2000,W,{quality},09,0.9,30.0,M,47.0,M,,")
        + sentence(f"GNGSA,A,{mode},01,02,03,04,,,,,,,,,1.8,0.9,1.5")
        + sentence(f"GNRMC,{time},{status},{latitude},N,00007.2000,W,10.0,090.0,{date},,,A")
    )


def pvt(second: int, **changed: int) -> bytes:
    """NAV-PVT of 2026-06-01 12:00:<second>, 51.501667 N 0.12 W, 5 m/s east, 3D."""
    value = {
        "year": 2026, "valid": 7, "nano": 0, "fix_type": 3, "flags": 1, "latitude": 515016667, "longitude": -1200000,
        "speed": 5000, "flags3": 0,
    } | changed  # fmt: skip
    payload = struct.pack("<IHBBBBBB", 1000 * second, value["year"], 6, 1, 12, 0, second, value["valid"])
    payload += struct.pack("<IiBBBB", 20, value["nano"], value["fix_type"], value["flags"], 0, 11)
    payload += struct.pack("<iiiiII", value["longitude"], value["latitude"], 77000, 30000, 1500, 2000)
    payload += struct.pack("<iiiiiIIHH", 0, value["speed"], 0, value["speed"], 9000000, 100, 100, 150, value["flags3"])
    return ubx.message(ubx.NAV_PVT, payload + bytes(12))


def run(stream: bytes, chunk: int = 4096, **options: int) -> tuple[list, Receiver]:
    """All fixes of a stream fed in chunks, and the receiver."""
    receiver = Receiver(**options)
    fixes = []
    for start in range(0, len(stream), chunk):
        fixes += receiver.feed(stream[start : start + chunk])
    return fixes + receiver.flush(), receiver
