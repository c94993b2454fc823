# Picks the firmware that a boot runs: folder a or b of the flash, or slot a or b of the part that code runs from in
# place (rom_slots.py), the newer one on trial. Counts boots for both.
# It is written to a board once and never updated, so it imports nothing that is: its slots repeat common/slots.py.
import os
import struct
from binascii import crc32

try:
    import rom_slots
except ImportError:
    # `emtag flash` leaves it away where firmware is in folders.
    rom_slots = None  # type: ignore[assignment]

# As common/slots.py: magic, generation u32, value, CRC-32 of all before; two files written in turn.
_MAGIC = b"emS1"
# The value: layout 1, then the five attributes of BootState.
_VALUE = "<BBBBBB"
_LAYOUT = 1
FOLDERS = ("a", "b")
# No folder: on trial nothing, or active what is on the module path already (a development tree).
NONE = 255
# The last file that goes into a folder: who has it is whole. Its name is part of this module's contract.
MARKER = "image.json"
# Boots that an image on trial gets to be confirmed: one for a crash, one for a battery taken out, and a last one.
TRIAL_BOOTS = 3
# Why there was a rollback.
CRASHED = 1
NOT_CONFIRMED = 2
# The selector's answer for this boot: a BootState, None if nobody asked it.
booted = None


class BootState:
    """Attributes as on flash, and of this boot: `running` (index of FOLDERS or NONE). `save()` keeps them."""

    def __init__(self, root):
        self.root = root
        self.rom = rom_slots.find() if rom_slots else None  # None: firmware is in folders
        self.running = NONE
        self.active = NONE  # confirmed
        self.trial = NONE  # not yet
        self.trial_boots = 0  # this one included
        self.boots = 0  # of the active one, this one included, since the last that was called healthy
        self.rolled_back = 0  # CRASHED or NOT_CONFIRMED until the firmware has reported it
        self.save_failures = 0
        self._generation = 0
        for number in (0, 1):
            self._read(root + "/boot." + str(number))
        if not self._generation:
            # A new device, or both slots spoilt. What is whole runs; an update leaves the marker to one only.
            self.active = self._whole(0, 1)

    def folder(self, index):
        """Where the modules of FOLDERS[index] are; None for NONE."""
        if index == NONE:
            return None
        return ("" if self.rom else self.root) + "/" + FOLDERS[index]

    def healthy(self):
        """This boot is none of those that count towards safe mode."""
        if self.boots:
            self.boots = 0
            self.save()

    def save(self):
        """Atomic; False if flash refused, then what was there before is there still."""
        generation = self._generation + 1
        fields = (self.active, self.trial, self.trial_boots, self.boots, self.rolled_back)
        data = _MAGIC + struct.pack("<I", generation) + struct.pack(_VALUE, _LAYOUT, *fields)
        try:
            with open(self.root + "/boot." + str(generation & 1), "wb") as file:
                file.write(data + struct.pack("<I", crc32(data)))
                file.flush()
                if hasattr(os, "fsync"):
                    os.fsync(file.fileno())
                elif hasattr(os, "sync"):
                    os.sync()
        except OSError:
            self.save_failures += 1
            return False
        self._generation = generation
        return True

    def _read(self, path):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return
        if len(data) != 12 + struct.calcsize(_VALUE) or data[:4] != _MAGIC:
            return
        generation = struct.unpack("<I", data[4:8])[0]
        layout, active, trial, trial_boots, boots, rolled_back = struct.unpack(_VALUE, data[8:-4])
        if struct.unpack("<I", data[-4:])[0] == crc32(data[:-4]) and layout == _LAYOUT:
            if generation > self._generation:
                self._generation = generation
                self.active, self.trial = active, trial
                self.trial_boots, self.boots, self.rolled_back = trial_boots, boots, rolled_back

    def _whole(self, *indices):
        for index in indices:
            if index >= len(FOLDERS):
                continue
            if self.rom:
                if self.rom.whole(index):
                    return index
            else:
                try:
                    os.stat(self.folder(index) + "/" + MARKER)
                    return index
                except OSError:
                    pass
        return NONE

    def _choose(self):
        if self.trial != NONE and (self.trial_boots >= TRIAL_BOOTS or self._whole(self.trial) == NONE):
            self.trial = NONE
            self.trial_boots = self.boots = 0
            self.rolled_back = CRASHED
        trial = self.trial
        if trial != NONE:
            self.trial_boots += 1
        else:
            self.boots = min(self.boots + 1, 255)
        # What cannot be counted is not tried: a boot that hangs would never end.
        saved = self.save()
        if trial != NONE and saved:
            self.running = trial
        elif self.active != NONE:
            self.running = self._whole(self.active, 1 - self.active if self.active < 2 else NONE)


def begin(root):
    """Count this boot; the folder whose modules it runs, None for those on the module path. `root` holds a and b."""
    global booted
    booted = BootState(root)
    booted._choose()
    folder = booted.folder(booted.running)
    if booted.rom and folder:
        try:
            booted.rom.mount(booted.running, folder)
        except OSError:
            # Signed, but no ROMFS: there is nothing to import, and this counts as a boot that failed.
            pass
    return folder
