"""Envelope and AES-CCM: both implementations agree, and nothing that was touched opens."""

import hashlib
import hmac
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from emgate.keys.sealing import Ccm, derive_device_key
from emwire import envelope
from emwire.errors import WireError
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(16))

ON_MICROPYTHON = """
import sys, json
from binascii import hexlify, unhexlify
from common.ccm import Ccm
from emwire import envelope
from emwire.errors import WireError
def answer(job):
    kind, key, rest = job[0], unhexlify(job[1]), job[2:]
    aead = Ccm(key)
    try:
        if kind == "aead":
            return hexlify(aead.seal(*[unhexlify(part) for part in rest])).decode()
        if kind == "seal":
            return hexlify(envelope.seal(aead, rest[0], rest[1], rest[2], rest[3], unhexlify(rest[4]))).decode()
        control, epoch, counter, plaintext = envelope.open_frame(aead, rest[0], unhexlify(rest[1]), rest[2])
        return [control, epoch, counter, hexlify(plaintext).decode()]
    except WireError as error:
        return {"reason": error.reason, "offset": error.offset}
for line in sys.stdin:
    print(json.dumps([answer(job) for job in json.loads(line)]))
"""


@pytest.fixture(scope="module")
def ask_micropython(micropython: str) -> Callable[[list[list[object]]], list[object]]:
    """Answers of common.ccm on MicroPython to a list of jobs."""
    path = f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"

    def ask(jobs: list[list[object]]) -> list[object]:
        done = subprocess.run(
            [micropython, "-X", "heapsize=16M", "-c", ON_MICROPYTHON],
            input=json.dumps(jobs) + "\n",
            capture_output=True,
            text=True,
            env={"MICROPYPATH": path},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    return ask


def sample(strategy: st.SearchStrategy[object], count: int) -> list[object]:
    """`count` examples, drawn once, so that one MicroPython process can answer them all."""
    drawn: list[object] = []

    @settings(max_examples=count * 2, database=None, deadline=None, derandomize=True)
    @given(strategy)
    def draw(value: object) -> None:
        drawn.append(value)

    draw()
    return drawn


VECTORS = st.tuples(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=13, max_size=13),
    st.one_of(st.binary(max_size=70), st.integers(0, 1006).map(lambda size: (bytes(range(256)) * 4)[:size])),
    st.binary(min_size=1, max_size=40),
)


def test_micropython_seals_as_cryptography_does(ask_micropython) -> None:
    vectors = sample(VECTORS, 450)
    assert len(vectors) >= 400
    jobs = [["aead", *(part.hex() for part in vector)] for vector in vectors]
    expected = [Ccm(key).seal(nonce, text, associated).hex() for key, nonce, text, associated in vectors]
    assert ask_micropython(jobs) == expected


def test_rfc3610_packet_vector_1() -> None:
    # RFC 3610 §8, packet vector 1: L = 2, tag of 8 bytes.
    key = bytes.fromhex("C0C1C2C3C4C5C6C7C8C9CACBCCCDCECF")
    nonce = bytes.fromhex("00000003020100A0A1A2A3A4A5")
    header = bytes.fromhex("0001020304050607")
    text = bytes(range(8, 0x1F))
    sealed = "588C979A61C663D2F066D0C2C0F989806D5F6B61DAC38417E8D12CFDF926E0"
    assert Ccm(key).seal(nonce, text, header) == bytes.fromhex(sealed)


FRAMES = st.tuples(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0x20, 0x24, 0x28, 0x29, 0x38, 0x3B]),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFF),
    st.binary(max_size=48),
)


def outcome(device_id: int, frame: bytes, down_epoch: int) -> object:
    try:
        control, epoch, counter, plaintext = envelope.open_frame(Ccm(KEY), device_id, frame, down_epoch)
    except WireError as error:
        return {"reason": error.reason, "offset": error.offset}
    return [control, epoch, counter, plaintext.hex()]


def damaged(frame: bytes) -> list[bytes]:
    """Every single-bit and whole-byte change of every byte, every truncation, some extensions."""
    changed = [
        frame[:place] + bytes([frame[place] ^ mask]) + frame[place + 1 :]
        for place in range(len(frame))
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255)
    ]
    changed += [frame[:size] for size in range(len(frame))]
    changed += [frame + extra for extra in (b"\0", b"\xff", frame[:1], frame, bytes(1100))]
    return changed


def test_every_damage_is_refused_alike_on_both(ask_micropython) -> None:
    jobs: list[list[object]] = []
    expected = []
    for device_id, control, epoch, counter, plaintext in sample(FRAMES, 12)[-12:]:
        frame = envelope.seal(Ccm(KEY), device_id, control, epoch, counter, plaintext)
        intact = outcome(device_id, frame, epoch)
        assert intact == [control, epoch, counter, plaintext.hex()]
        jobs.append(["open", KEY.hex(), device_id, frame.hex(), epoch])
        expected.append(intact)
        for bad in damaged(frame):
            refused = outcome(device_id, bad, epoch)
            assert isinstance(refused, dict), bad.hex()
            jobs.append(["open", KEY.hex(), device_id, bad.hex(), epoch])
            expected.append(refused)
        jobs.append(["seal", KEY.hex(), device_id, control, epoch, counter, plaintext.hex()])
        expected.append(frame.hex())
    assert len(jobs) > 2000
    assert ask_micropython(jobs) == expected


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=64))
def test_a_frame_opens_only_for_its_device(device_id: int, other: int, plaintext: bytes) -> None:
    frame = envelope.seal(Ccm(KEY), device_id, 0x20, 1, 2, plaintext)
    if other == device_id:
        assert envelope.open_frame(Ccm(KEY), other, frame)[3] == plaintext
    else:
        with pytest.raises(WireError):
            envelope.open_frame(Ccm(KEY), other, frame)


@given(st.binary(max_size=1100))
def test_any_bytes_give_the_one_error(data: bytes) -> None:
    with pytest.raises(WireError):
        envelope.open_frame(Ccm(KEY), 7, data)


def test_bounds_of_a_frame() -> None:
    aead = Ccm(KEY)
    largest = envelope.seal(aead, 7, 0x20, 1, 2, bytes(envelope.MAXIMUM_PLAINTEXT))
    assert len(largest) == envelope.MAXIMUM_FRAME
    assert envelope.open_frame(aead, 7, largest)[3] == bytes(envelope.MAXIMUM_PLAINTEXT)
    with pytest.raises(WireError, match="oversize"):
        envelope.seal(aead, 7, 0x20, 1, 2, bytes(envelope.MAXIMUM_PLAINTEXT + 1))
    outside = (
        (0x20, 0x10000, 0),
        (0x20, 0, 1 << 24),
        (0x20, -1, 0),
        (256, 0, 0),
        (0x38, 0, 1 << 40),
        (0x38, 1 << 16, 0),
    )
    for control, epoch, counter in outside:
        with pytest.raises(WireError, match="range"):
            envelope.seal(aead, 7, control, epoch, counter, b"")


def test_a_newer_version_is_named_as_such() -> None:
    frame = envelope.seal(Ccm(KEY), 7, 0x40, 1, 2, b"of a later version")
    with pytest.raises(WireError) as caught:
        envelope.open_frame(Ccm(KEY), 7, frame)
    assert (caught.value.reason, caught.value.offset) == ("version", 0)


def test_device_keys_differ_and_are_stable() -> None:
    master = bytes(32)
    keys = {derive_device_key(master, device_id, generation) for device_id in range(100) for generation in range(3)}
    assert len(keys) == 300
    assert all(len(key) == 16 for key in keys)
    # RFC 5869 by hand: HMAC(HMAC(salt = 32 zeros, master), info | 1), cut to 16 bytes.
    extracted = hmac.digest(bytes(32), master, hashlib.sha256)
    expected = hmac.digest(extracted, b"emtag device key 1" + b"\x07\0\0\0\2\0\0\0" + b"\x01", hashlib.sha256)[:16]
    assert derive_device_key(master, 7, 2) == expected


@given(st.integers(0, 0xFFFFFF), st.integers(0, 0xFFFF), st.binary(min_size=1, max_size=64))
def test_no_frame_can_be_reflected(counter: int, epoch: int, plaintext: bytes) -> None:
    """The direction is in the nonce and authenticated: turned around, a frame opens for nobody."""
    for direction in (envelope.UP, envelope.DOWN):
        control = envelope.control_byte(direction, envelope.LINK)
        frame = envelope.seal(Ccm(KEY), 7, control, epoch, counter, plaintext)
        turned = bytes([frame[0] ^ 0x10]) + frame[1:]
        for seen in (0, epoch, None):
            with pytest.raises(WireError):
                envelope.open_frame(Ccm(KEY), 7, turned, seen)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_down_frame_opens_only_in_its_boot(epoch: int, other: int) -> None:
    frame = envelope.seal(Ccm(KEY), 7, 0x38, epoch, 1 << 39, b"\x81")
    assert len(frame) == 1 + envelope.OVERHEAD
    if epoch == other:
        assert envelope.open_frame(Ccm(KEY), 7, frame, other)[:3] == (0x38, epoch, 1 << 39)
    else:
        with pytest.raises(WireError, match="authentication"):
            envelope.open_frame(Ccm(KEY), 7, frame, other)
