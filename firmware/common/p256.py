# ECDSA signatures over P-256 with SHA-256 (FIPS 186-5), verified only: nothing here is secret, so nothing need be
# constant in time. About 11 ms on a PC and 1 s on an RP2040, once per update and at each boot in the middle of one.
from hashlib import sha256

# The curve y² = x³ - 3x + b over the field of P, its base point and that point's order: SP 800-186, 3.2.1.3.
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
# A point in Jacobian coordinates is (X, Y, Z) for x = X/Z², y = Y/Z³; Z = 0 is the point at infinity.
INFINITY = (0, 1, 0)
BITS = 256
# Of the ladder between two pauses: 16 doublings are some 60 ms on an RP2040.
BITS_PER_STEP = 16


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """public_key: x, y and signature: r, s, each 32 bytes big endian."""
    verdict = None
    for verdict in verify_in_steps(public_key, signature, sha256(message).digest()):
        pass
    return verdict is True


def verify_in_steps(public_key: bytes, signature: bytes, digest: bytes):
    """The same for a message's SHA-256 as a generator: None whenever others may run, at last True or False."""
    if len(public_key) != 64 or len(signature) != 64 or len(digest) != 32:
        yield False
        return
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    key = (int.from_bytes(public_key[:32], "big"), int.from_bytes(public_key[32:], "big"))
    if not (0 < r < ORDER and 0 < s < ORDER and on_curve(key)):
        yield False
        return
    inverse = invert(s, ORDER)
    base_factor = int.from_bytes(digest, "big") * inverse % ORDER
    key_factor = r * inverse % ORDER
    yield None
    # Both multiplications in one ladder (Shamir's trick): a bit of each factor picks what is added.
    both = affine(add((BASE[0], BASE[1], 1), key))
    addends = (None, BASE, key, both)
    point = INFINITY
    for bit in range(BITS - 1, -1, -1):
        point = double(point)
        choice = (base_factor >> bit & 1) | (key_factor >> bit & 1) << 1
        addend = addends[choice]
        if addend is not None:
            point = add(point, addend)
        if bit % BITS_PER_STEP == 0:
            yield None
    result = affine(point)
    yield result is not None and result[0] % ORDER == r


def on_curve(point) -> bool:
    """Whether an affine point is one of the curve, in the one way to write it."""
    x, y = point
    return 0 <= x < P and 0 <= y < P and (y * y - x * x * x + 3 * x - B) % P == 0


def invert(value, modulus):
    # Extended Euclid: on MicroPython far faster than raising to modulus - 2.
    gained, other, left, right = 0, 1, modulus, value % modulus
    while right:
        quotient = left // right
        left, right = right, left - quotient * right
        gained, other = other, gained - quotient * other
    return gained % modulus


def double(point):
    """2·point, for a = -3: "dbl-2001-b" of the Explicit-Formulas Database."""
    x, y, z = point
    if not z:
        return INFINITY
    delta = z * z % P
    gamma = y * y % P
    beta = x * gamma % P
    alpha = 3 * (x - delta) * (x + delta) % P
    doubled_x = (alpha * alpha - 8 * beta) % P
    doubled_y = (alpha * (4 * beta - doubled_x) - 8 * gamma * gamma) % P
    return doubled_x, doubled_y, 2 * y * z % P


def add(point, addend):
    """point + addend, which is affine and None for infinity: mixed addition as in Cohen, Miyaji and Ono (1998)."""
    if addend is None:
        return point
    x, y, z = point
    if not z:
        return addend[0], addend[1], 1
    z_squared = z * z % P
    apart = (addend[0] * z_squared - x) % P
    rise = (addend[1] * z_squared * z - y) % P
    if not apart:
        return INFINITY if rise else double(point)
    apart_squared = apart * apart % P
    apart_cubed = apart_squared * apart % P
    shifted = x * apart_squared % P
    sum_x = (rise * rise - apart_cubed - 2 * shifted) % P
    return sum_x, (rise * (shifted - sum_x) - y * apart_cubed) % P, z * apart % P


def affine(point):
    """(x, y), or None for infinity."""
    x, y, z = point
    if not z:
        return None
    inverse = invert(z, P)
    square = inverse * inverse % P
    return x * square % P, y * square * inverse % P
