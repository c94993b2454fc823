# The boot epoch: a number that no two boots of a device share. Every nonce contains it.
import os
import struct

from common.slots import Slots

# u16 on the wire. 65,534 boots are 12 years at 15 a day; after that the device needs a new key.
LAST_EPOCH = 0xFFFF
# Both slots unreadable: what the journal shows may not be the last epoch that sealed something, so skip some.
DAMAGE_MARGIN = 64


def begin_epoch(storage_path, journal_folder="journal", first_epoch=1):
    """Count this boot: the new epoch, durable on return. OSError if it cannot be kept: then nothing may be sealed.

    `first_epoch`: of a device provisioned anew after its flash was wiped, so that no record's identity comes twice."""
    slots = Slots(storage_path + "/epoch.")
    last = 0
    if slots.value is not None:
        # A spoilt slot was torn while it was written, or held the epoch after this one: skip that.
        last = struct.unpack("<H", slots.value)[0] + slots.damaged
    journalled = _newest_journalled(storage_path + "/" + journal_folder)
    if slots.value is None and (slots.damaged or journalled):
        last = journalled + DAMAGE_MARGIN
    epoch = max(max(last, journalled) + 1, first_epoch)
    if epoch > LAST_EPOCH:
        raise OSError("boot epochs exhausted: the device needs a new key")
    slots.write(struct.pack("<H", epoch))
    return epoch


def _newest_journalled(folder):
    # Segment files begin with their epoch, see common.journal.
    newest = 0
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for name in names:
        if name.endswith(".seg"):
            try:
                newest = max(newest, int(name[:5]))
            except ValueError:
                pass
    return newest
