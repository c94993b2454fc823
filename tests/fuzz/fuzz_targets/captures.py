"""Captures given to `emtag decode`: every frame and every fault is told, nothing is raised."""

import io
from collections import Counter

from emgate.captures.frames import FrameReader
from emgate.captures.sessions import read_pcap, read_serial


def check(data: bytes) -> None:
    """Byte 0 chooses between pcap and serial bytes, the rest is the file."""
    if not data:
        return
    file, reader = io.BytesIO(data[1:]), FrameReader(lambda _: ())
    entries = read_serial(file, reader) if data[0] & 1 else read_pcap(file, reader, Counter())
    for told, packet in entries:
        assert ("error" in told) == ("offset" in told) == ("layer" in told)
        assert packet is None or isinstance(packet[1], bytes)
