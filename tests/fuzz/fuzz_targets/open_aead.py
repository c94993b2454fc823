"""Stands for the cipher so that a fuzzer reaches what lies behind it: encrypts nothing, judges no tag."""

from emwire.envelope import HEADER_SIZE, TAG_SIZE
from emwire.errors import WireError


class OpenAead:
    """As emwire.envelope.Aead."""

    def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """The plaintext and eight zeros."""
        assert len(nonce) == 13
        return plaintext + bytes(TAG_SIZE)

    def open(self, nonce: bytes, ciphertext_and_tag: bytes, associated: bytes) -> bytes:
        """All but the last eight bytes."""
        assert len(nonce) == 13
        if len(ciphertext_and_tag) < TAG_SIZE:
            raise WireError("authentication", HEADER_SIZE)
        return ciphertext_and_tag[:-TAG_SIZE]
