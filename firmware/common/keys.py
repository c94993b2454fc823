# The key that seals and opens a device's frames: the provisioned one, until the gateway gives it another.
# Written down in both slots before it is used, so that neither a power cut nor a spoilt slot brings the old one back.
import struct
from binascii import unhexlify
from hashlib import sha256

from common.ccm import Ccm
from common.slots import Slots

SLOTS = 4
KEY_SIZE = 16
# Says for which provisioned key a change was made: a device that is provisioned anew forgets it.
_CHECK_SIZE = 4
_FORMAT = "<4sB16s"


class Keys:
    """The one key in use, as emwire.envelope expects an AEAD, with its slot; `update` changes it."""

    def __init__(self, storage_path: str, identity: dict, make=Ccm):
        """identity: "key" (32 hexadecimal digits). make(key) gives an AEAD."""
        self._make = make
        provisioned = unhexlify(identity["key"])
        self.write_failures = 0
        self._check = sha256(b"emtag provisioned key" + provisioned).digest()[:_CHECK_SIZE]
        self._slots = Slots(storage_path + "/key.")
        self._take(0, provisioned)
        value = self._slots.value
        if value is not None and len(value) == struct.calcsize(_FORMAT):
            check, slot, key = struct.unpack(_FORMAT, value)
            if check == self._check:
                self._take(slot, key)
                # A power cut between the two writes, or a slot that has rotted since.
                if self._slots.damaged or self._slots.copies < 2:
                    self._write()

    def _take(self, slot, key):
        self.slot = slot
        self._key = key
        self._aead = self._make(key)

    def update(self, slot: int, key: bytes) -> bool:
        """Keep and use a new key for another slot; False if it is no other slot, or flash refused."""
        if slot == self.slot or not 0 <= slot < SLOTS or len(key) != KEY_SIZE:
            return False
        if not self._write(slot, key):
            return False
        self._take(slot, bytes(key))
        self._write()
        return True

    def _write(self, slot=None, key=None):
        slot, key = (self.slot, self._key) if key is None else (slot, key)
        try:
            self._slots.write(struct.pack(_FORMAT, self._check, slot, key))
        except OSError:
            self.write_failures += 1
            return False
        return True

    def seal(self, nonce, plaintext, associated):
        return self._aead.seal(nonce, plaintext, associated)

    def open(self, nonce, ciphertext_and_tag, associated):
        return self._aead.open(nonce, ciphertext_and_tag, associated)
