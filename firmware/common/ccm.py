# AES-128-CCM (RFC 3610, 13-byte nonce, 8-byte tag) on MicroPython's cryptolib, which has ECB and CBC only:
# two C calls a frame. A board without cryptolib takes common/aes.py.
import struct

try:
    from cryptolib import aes
except ImportError:
    from common.aes import aes  # type: ignore[assignment]

from emwire.errors import WireError

_ECB = 1
_CBC = 2
_ZEROS = bytes(16)
_TAG = 8
# RFC 3610 §2.2: associated data present, (tag - 2) / 2, length field of 2 bytes minus one.
_FLAGS = 0x40 | (((_TAG - 2) // 2) << 3) | 1


def _xor(left, right):
    # One big integer each: some 10 times faster than a byte loop in the interpreter.
    size = len(left)
    value = int.from_bytes(left, "big") ^ int.from_bytes(right[:size], "big")
    return value.to_bytes(size, "big")


class Ccm:
    """One device's key; the interface emwire.envelope expects of an AEAD."""

    def __init__(self, key):
        if len(key) != 16:
            raise ValueError("a device key is 16 bytes")
        self._key = bytes(key)
        self._ecb = aes(self._key, _ECB)

    def seal(self, nonce, plaintext, associated):
        stream = self._stream(nonce, len(plaintext))
        tag = self._mac(nonce, plaintext, associated)
        return _xor(plaintext, stream[16:]) + _xor(tag, stream)

    def open(self, nonce, ciphertext_and_tag, associated):
        if len(ciphertext_and_tag) < _TAG:
            raise WireError("authentication", 6)
        ciphertext = ciphertext_and_tag[:-_TAG]
        stream = self._stream(nonce, len(ciphertext))
        plaintext = _xor(ciphertext, stream[16:])
        tag = _xor(self._mac(nonce, plaintext, associated), stream)
        difference = 0
        for index in range(_TAG):
            difference |= tag[index] ^ ciphertext_and_tag[index - _TAG]
        if difference:
            raise WireError("authentication", 6)
        return plaintext

    def _stream(self, nonce, size):
        # Counter block 0 seals the tag, 1… the message.
        blocks = 1 + (size + 15) // 16
        counters = bytearray(blocks * 16)
        prefix = b"\x01" + nonce
        for index in range(blocks):
            start = index * 16
            counters[start : start + 14] = prefix
            counters[start + 14] = index >> 8
            counters[start + 15] = index & 0xFF
        return self._ecb.encrypt(counters)

    def _mac(self, nonce, plaintext, associated):
        size = 18 + len(associated)
        head = bytes([_FLAGS]) + nonce + struct.pack(">HH", len(plaintext), len(associated)) + associated
        head += _ZEROS[: -size % 16]
        blocks = head + plaintext + _ZEROS[: -len(plaintext) % 16]
        # A CBC object chains from call to call, so each frame takes its own.
        return aes(self._key, _CBC, _ZEROS).encrypt(blocks)[-16:][:_TAG]
