"""The host's AES-128-CCM for emwire.envelope, and the keys of devices derived from a gateway's master key."""

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from emwire.envelope import HEADER_SIZE, TAG_SIZE
from emwire.errors import WireError

KEY_SIZE = 16  # AES-128


class Ccm:
    """AES-128-CCM with one device's key, as emwire.envelope.Aead."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Take the 16-byte key of a device; ValueError for any other length."""
        if len(key) != KEY_SIZE:
            raise ValueError("a device key is 16 bytes")
        self._cipher = AESCCM(key, tag_length=TAG_SIZE)

    def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Ciphertext followed by the 8-byte tag."""
        return self._cipher.encrypt(nonce, plaintext, associated)

    def open(self, nonce: bytes, ciphertext_and_tag: bytes, associated: bytes) -> bytes:
        """The plaintext, or WireError("authentication", 6)."""
        if len(ciphertext_and_tag) < TAG_SIZE:
            raise WireError("authentication", HEADER_SIZE)
        try:
            return self._cipher.decrypt(nonce, ciphertext_and_tag, associated)
        except InvalidTag:
            raise WireError("authentication", HEADER_SIZE) from None


def derive_device_key(master: bytes, device_id: int, generation: int = 0) -> bytes:
    """The 16-byte key of a device: HKDF-SHA256 (RFC 5869) of the master key, bound to device and generation.

    Each provisioning and each change of a device's key takes the next generation: none is ever used again."""
    info = b"emtag device key 1" + struct.pack("<II", device_id, generation)
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(master)


def fingerprint(key: bytes) -> bytes:
    """Tells keys apart without telling them: the first 8 bytes of a domain-separated SHA-256."""
    digest = Hash(SHA256())
    digest.update(b"emtag key fingerprint" + key)
    return digest.finalize()[:8]
