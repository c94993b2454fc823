# Positions on flash from the moment they are taken until a position block with them is in the journal.
#
# One file of fixed frames: a position, or a mark "the next N of them go into record S of epoch E", written before that
# record. After a reset a mark whose record is in the journal takes its positions away; the others are made into a
# block. The file begins anew once all of it is in blocks: at one position a minute it stays below one erase block of
# 4 KiB, and each write costs the file system one block: 1,440 a day, spread over the flash by littlefs. A megabyte
# with 100,000 erasures a block then lasts 48 years.
import os
import struct
from binascii import crc32

from common.slots import sync

_POSITION = 0x50
_MARK = 0x4D
# kind u8, time u32, latitude, longitude, speed i32, direction i16, precision i32, satellites i8, HDOP i32, mechanism u8
_FORMAT = "<BIiiihibiB"
_MARK_FORMAT = "<BBHI"
_BODY = struct.calcsize(_FORMAT)
FRAME = _BODY + 4
# With marks between them: well inside a block of flash.
MAXIMUM_BYTES = 4096


class FixLog:
    """`fixes`: those in no block yet, oldest first. A failed write is counted; the position stays in RAM."""

    def __init__(self, storage_path: str, epoch: int, has_record):
        """has_record(epoch, sequence): whether the journal has it, or it was delivered."""
        self.fixes = []
        self.write_failures = 0
        self.damaged_bytes = 0  # at recovery
        self.recovered = 0
        self._path = storage_path + "/fixes.log"
        self._epoch = epoch
        self._file = None
        self._size = 0
        self._recover(has_record)

    def append(self, fix: tuple) -> None:
        """On return it is on flash, or counted as a failure and in RAM only."""
        self.fixes.append(fix)
        self._write(struct.pack(_FORMAT, _POSITION, *fix))

    def into_record(self, count: int, sequence: int) -> None:
        """The oldest `count` positions are about to become the present epoch's record of that sequence."""
        self._write(struct.pack(_MARK_FORMAT, _MARK, count, self._epoch, sequence))

    def recorded(self, count: int, durable: bool) -> None:
        """That record is made; durable: on flash already, not waiting in RAM."""
        del self.fixes[:count]
        if durable and not self.fixes:
            self._begin()

    def _write(self, body):
        body = body + bytes(_BODY - len(body))
        try:
            if self._file is None:
                # What a torn write left at the end is written over, so that frames stay where they belong.
                self._file = open(self._path, "r+b" if self._size else "wb")
                self._file.seek(self._size)
            if self._size + FRAME > MAXIMUM_BYTES:
                raise OSError(28)
            self._file.write(body + struct.pack("<I", crc32(body)))
            sync(self._file)
            self._size += FRAME
        except OSError:
            self.write_failures += 1
            self._close()

    def _begin(self):
        self._close()
        self._size = 0
        try:
            os.remove(self._path)
        except OSError:
            pass  # opened with "wb" next time

    def _close(self):
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self.write_failures += 1
            self._file = None

    def _recover(self, has_record):
        try:
            with open(self._path, "rb") as file:
                while True:
                    frame = file.read(FRAME)
                    if len(frame) < FRAME:
                        break  # the end, or a write that did not finish
                    self._size += FRAME
                    if struct.unpack("<I", frame[_BODY:])[0] != crc32(frame[:_BODY]):
                        self.damaged_bytes += FRAME
                    elif frame[0] == _POSITION:
                        self.fixes.append(struct.unpack(_FORMAT, frame[:_BODY])[1:])
                    elif frame[0] == _MARK:
                        self._take_mark(frame, has_record)
        except OSError:
            return
        self.recovered = len(self.fixes)
        if not self.fixes:
            self._begin()

    def _take_mark(self, frame, has_record):
        _, count, epoch, sequence = struct.unpack(_MARK_FORMAT, frame[: struct.calcsize(_MARK_FORMAT)])
        if has_record(epoch, sequence):
            del self.fixes[:count]
