# How the flash is shared between records and firmware, so that an update finds room without taking any from records.
import os

import selector

# A file system gives out whole blocks (littlefs on 4 KiB erase blocks).
BLOCK_BYTES = 4096
# The largest image of a board (`emtag firmware show`): ankle_gps for the ESP32-S3 has 157 kB in 78 files.
IMAGE_BYTES = 176 * 1024
# What a folder of it takes beyond that (277 kB): on average half a block for each file, and littlefs' two for each of
# 7 folders.
TREE_WASTE_BYTES = 288 * 1024
TREE_BYTES = IMAGE_BYTES + TREE_WASTE_BYTES
# Identity, keys, settings, orders, epoch, watermarks, selector, each in blocks of their own.
OTHER_BYTES = 24 * BLOCK_BYTES
# The journal is no larger than this: its segments are remembered in RAM (common/journal.py).
LARGEST_JOURNAL_BYTES = 1048576
# Twice the space that alarms have to themselves.
SMALLEST_JOURNAL_BYTES = 131072
# A month of the alcohol tag's readings (172 kB) beside the space that alarms have to themselves.
MONTH_JOURNAL_BYTES = 262144


def journal_bytes(storage_path: str, least_bytes: int = SMALLEST_JOURNAL_BYTES) -> int:
    """What the journal may take of the file system that this folder is on."""
    found = os.statvfs(storage_path)
    booted = selector.booted
    return journal_share(found[1] * found[2], booted is not None and booted.rom is not None, least_bytes)


def journal_share(total_bytes: int, in_rom: bool = False, least_bytes: int = SMALLEST_JOURNAL_BYTES) -> int:
    """in_rom: firmware is not on this file system."""
    if in_rom:
        left = total_bytes - OTHER_BYTES - IMAGE_BYTES
        return max(least_bytes, min(LARGEST_JOURNAL_BYTES, left))
    # Two folders, and the image on its way.
    left = total_bytes - OTHER_BYTES - 2 * TREE_BYTES - IMAGE_BYTES
    if left < least_bytes:
        # Too small for both: records come first, and new firmware by `emtag flash` alone.
        left = total_bytes - OTHER_BYTES - TREE_BYTES
    return max(least_bytes, min(LARGEST_JOURNAL_BYTES, left))


def free_bytes(path: str) -> int:
    """Left on the file system that holds this path."""
    found = os.statvfs(path)
    return found[1] * found[4]
