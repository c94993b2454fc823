# Segment files of the journal: their names, the frame of a record in them, and reading them after damage.
#
# Name: EEEEEa-NNNNN.seg or EEEEEr-NNNNN.seg (boot epoch, lane alarm/routine, running number).
# Frame, little endian: marker u8 (0xA4 | alarm) | length u16 | epoch u16 | sequence u24 | payload | CRC-32 of it all.
import struct
from binascii import crc32

MARKER = 0xA4
HEADER_SIZE = 8
CRC_SIZE = 4
OVERHEAD = HEADER_SIZE + CRC_SIZE
# emwire.envelope.MAXIMUM_PLAINTEXT: what fits into one datagram.
MAXIMUM_PAYLOAD = 1006
# Read at a time while looking for the next record behind damage.
_SEARCH = 512


def frame(alarm, epoch, sequence, payload):
    data = struct.pack("<BHHBH", MARKER | (1 if alarm else 0), len(payload), epoch, sequence & 0xFF, sequence >> 8)
    data += payload
    return data + struct.pack("<I", crc32(data))


def file_name(epoch, alarm, number):
    return "%05d%s-%05d.seg" % (epoch, "a" if alarm else "r", number)


def parse_name(name):
    """(epoch, alarm, number), or None for a file that is not a segment."""
    if len(name) != 16 or name[5] not in "ar" or name[6] != "-" or not name.endswith(".seg"):
        return None
    try:
        return int(name[:5]), name[5] == "a", int(name[7:12])
    except ValueError:
        return None


def read_at(file, offset, alarm, epoch):
    """(sequence, payload) of the record that begins at offset, or None if none does."""
    file.seek(offset)
    head = file.read(HEADER_SIZE)
    if len(head) < HEADER_SIZE or head[0] != MARKER | (1 if alarm else 0):
        return None
    _, length, of_epoch, low, high = struct.unpack("<BHHBH", head)
    if of_epoch != epoch or length > MAXIMUM_PAYLOAD:
        return None
    rest = file.read(length + CRC_SIZE)
    if len(rest) < length + CRC_SIZE:
        return None
    payload = rest[:length]
    if struct.unpack("<I", rest[length:])[0] != crc32(payload, crc32(head)):
        return None
    return low | (high << 8), payload


class Reader:
    """Iterates over (offset, sequence, payload) of the readable records of one segment file from an offset on.

    `damaged`: bytes skipped between records. `tail`: bytes behind the last one. `cut`: the tail is what is left of a
    single record of which the end is missing, as a write that did not finish leaves it; if instead all of it is there
    but spoilt, `spoilt_sequence` is what it says its sequence was (-1: nothing).
    """

    def __init__(self, file, alarm, epoch, offset=0, after=-1):
        self._file = file
        self._alarm = alarm
        self._epoch = epoch
        self._after = after
        self.end = offset
        self.damaged = 0
        self.tail = 0
        self.cut = False
        self.spoilt_sequence = -1

    def __iter__(self):
        while True:
            found = self._read(self.end)
            start = self.end
            while found is None:
                start = self._candidate(start + 1)
                if start < 0:
                    self._measure_tail()
                    return
                found = self._read(start)
            self.damaged += start - self.end
            sequence, payload = found
            self.end = start + OVERHEAD + len(payload)
            self._after = sequence
            yield start, sequence, payload

    def _read(self, offset):
        found = read_at(self._file, offset, self._alarm, self._epoch)
        # Sequences rise within a file; what does not is a leftover inside damage.
        if found is not None and found[0] <= self._after:
            return None
        return found

    def _candidate(self, offset):
        marker = bytes((MARKER | (1 if self._alarm else 0),))
        while True:
            self._file.seek(offset)
            chunk = self._file.read(_SEARCH)
            if not chunk:
                return -1
            place = chunk.find(marker)
            if place >= 0:
                return offset + place
            offset += len(chunk)

    def _measure_tail(self):
        self._file.seek(0, 2)
        self.tail = self._file.tell() - self.end
        if not self.tail:
            return
        self._file.seek(self.end)
        head = self._file.read(HEADER_SIZE)
        if len(head) < HEADER_SIZE:
            self.cut = True
            return
        marker, length, of_epoch, low, high = struct.unpack("<BHHBH", head)
        if marker != MARKER | (1 if self._alarm else 0) or of_epoch != self._epoch or length > MAXIMUM_PAYLOAD:
            return
        if self.tail < OVERHEAD + length:
            self.cut = True
        else:
            self.spoilt_sequence = low | (high << 8)


def records(folder):
    """(epoch, sequence, alarm, payload) of every readable record in a journal's folder; for tools and tests."""
    import os

    found = []
    for name in os.listdir(folder):
        parsed = parse_name(name)
        if parsed:
            found.append(parsed + (name,))
    for epoch, alarm, _, name in sorted(found):
        with open(folder + "/" + name, "rb") as file:
            for _, sequence, payload in Reader(file, 1 if alarm else 0, epoch):
                yield epoch, sequence, alarm, payload
