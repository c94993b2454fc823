# AES-128 (FIPS 197) in plain Python, with the interface of MicroPython's cryptolib, for a board that has none: ECB both
# ways, CBC to encrypt. In bytes throughout: words of 32 bits would be big integers.
ECB = 1
CBC = 2


def _tables():
    # S-box, and its doubles and threefolds in the field; p goes through the field by powers of 3, q by those of 1/3.
    box, double, threefold = bytearray(256), bytearray(256), bytearray(256)
    p = q = 1
    while True:
        p ^= (p << 1) ^ (0x11B if p & 0x80 else 0)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        if q & 0x80:
            q ^= 0x09
        box[p] = (q ^ _turned(q, 1) ^ _turned(q, 2) ^ _turned(q, 3) ^ _turned(q, 4)) ^ 0x63
        if p == 1:
            break
    box[0] = 0x63
    for at in range(256):
        double[at] = _double(box[at])
        threefold[at] = double[at] ^ box[at]
    return bytes(box), bytes(double), bytes(threefold)


def _turned(byte, bits):
    return (byte << bits | byte >> (8 - bits)) & 0xFF


def _double(byte):
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


_S, _S2, _S3 = _tables()
# Made when something is decrypted first: a beacon never does.
_inverse = []


def _make_inverse():
    inverse = bytearray(256)
    for at in range(256):
        inverse[_S[at]] = at
    _inverse.append(bytes(inverse))
    _inverse.append(bytes([_double(byte) for byte in range(256)]))


class aes:
    """As cryptolib.aes."""

    def __init__(self, key, mode, vector=None):
        if len(key) != 16:
            raise ValueError("key")
        if mode != ECB and mode != CBC or (vector is None) != (mode == ECB):
            raise ValueError("mode")
        words = bytearray(key)
        constant = 1
        for at in range(16, 176, 4):
            a, b, c, d = words[at - 4], words[at - 3], words[at - 2], words[at - 1]
            if at & 15 == 0:
                a, b, c, d = _S[b] ^ constant, _S[c], _S[d], _S[a]
                constant = _double(constant)
            for byte in (a, b, c, d):
                words.append(byte ^ words[len(words) - 16])
        self._keys = bytes(words)
        self._last = None if vector is None else bytes(vector)

    def encrypt(self, data):
        return self._each(self._encrypt, data)

    def decrypt(self, data):
        if self._last is not None:
            raise ValueError("mode")
        if not _inverse:
            _make_inverse()
        return self._each(self._decrypt, data)

    def _each(self, turn, data):
        if len(data) & 15:
            raise ValueError("blksize % 16")
        made = bytearray(len(data))
        for at in range(0, len(data), 16):
            block = data[at : at + 16]
            if self._last is None:
                made[at : at + 16] = turn(block)
            else:
                block = [block[index] ^ self._last[index] for index in range(16)]
                self._last = made[at : at + 16] = turn(block)
        return bytes(made)

    def _encrypt(self, x):
        # Written out, as a pid on a coin cell does it every 10 s for years: a loop over columns takes 1.4 times as
        # long.
        s, s2, s3, k = _S, _S2, _S3, self._keys
        a, b, c, d, e, f, g, h, i, j, r, m, n, o, p, q = [x[at] ^ k[at] for at in range(16)]
        for at in range(16, 160, 16):
            k = self._keys[at : at + 16]
            a, b, c, d, e, f, g, h, i, j, r, m, n, o, p, q = (
                s2[a] ^ s3[f] ^ s[r] ^ s[q] ^ k[0],
                s[a] ^ s2[f] ^ s3[r] ^ s[q] ^ k[1],
                s[a] ^ s[f] ^ s2[r] ^ s3[q] ^ k[2],
                s3[a] ^ s[f] ^ s[r] ^ s2[q] ^ k[3],
                s2[e] ^ s3[j] ^ s[p] ^ s[d] ^ k[4],
                s[e] ^ s2[j] ^ s3[p] ^ s[d] ^ k[5],
                s[e] ^ s[j] ^ s2[p] ^ s3[d] ^ k[6],
                s3[e] ^ s[j] ^ s[p] ^ s2[d] ^ k[7],
                s2[i] ^ s3[o] ^ s[c] ^ s[h] ^ k[8],
                s[i] ^ s2[o] ^ s3[c] ^ s[h] ^ k[9],
                s[i] ^ s[o] ^ s2[c] ^ s3[h] ^ k[10],
                s3[i] ^ s[o] ^ s[c] ^ s2[h] ^ k[11],
                s2[n] ^ s3[b] ^ s[g] ^ s[m] ^ k[12],
                s[n] ^ s2[b] ^ s3[g] ^ s[m] ^ k[13],
                s[n] ^ s[b] ^ s2[g] ^ s3[m] ^ k[14],
                s3[n] ^ s[b] ^ s[g] ^ s2[m] ^ k[15],
            )
        k = self._keys
        x = (a, f, r, q, e, j, p, d, i, o, c, h, n, b, g, m)
        return bytes([s[x[at]] ^ k[160 + at] for at in range(16)])

    def _decrypt(self, x):
        inverse, double = _inverse
        k = self._keys
        x = [x[index] ^ k[160 + index] for index in range(16)]
        at = 144
        while True:
            # Byte 5 i went to place i; so place i goes back to 5 i, that is -3 i the other way round.
            x = [inverse[x[-3 * index & 15]] ^ k[at + index] for index in range(16)]
            if not at:
                return bytes(x)
            for n in range(0, 16, 4):
                a, b, c, d = x[n], x[n + 1], x[n + 2], x[n + 3]
                # The inverse of a column's mixing is this, and then the mixing.
                u = double[double[a ^ c]]
                v = double[double[b ^ d]]
                a, b, c, d = a ^ u, b ^ v, c ^ u, d ^ v
                whole = a ^ b ^ c ^ d
                x[n] = a ^ whole ^ double[a ^ b]
                x[n + 1] = b ^ whole ^ double[b ^ c]
                x[n + 2] = c ^ whole ^ double[c ^ d]
                x[n + 3] = d ^ whole ^ double[d ^ a]
            at -= 16
