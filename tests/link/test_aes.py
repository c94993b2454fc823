"""AES-128 in plain Python, for boards without cryptolib: as published, and as others compute it."""

import json
import subprocess
from pathlib import Path

import pytest
from common.aes import CBC, ECB, aes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from emgate.keys.sealing import Ccm
from emrig.images import firmware_image
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
# FIPS 197: appendix B and C.1.
PUBLISHED = [
    ("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
    ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
]
KEYS = st.binary(min_size=16, max_size=16)
BLOCKS = st.integers(0, 5).flatmap(lambda count: st.binary(min_size=16 * count, max_size=16 * count))
ON_MICROPYTHON = """
import json
from binascii import hexlify, unhexlify
from cryptolib import aes
from common import ccm
out = []
for key, block, sealed in json.loads(input()):
    cipher = aes(unhexlify(key), 1)
    made = cipher.encrypt(unhexlify(block))
    assert cipher.decrypt(made) == unhexlify(block)
    nonce = bytes(range(13))
    frame = ccm.Ccm(unhexlify(key)).seal(nonce, unhexlify(sealed), b"emtag")
    assert ccm.Ccm(unhexlify(key)).open(nonce, frame, b"emtag") == unhexlify(sealed)
    out.append([hexlify(made).decode(), hexlify(frame).decode()])
print(json.dumps(out))
"""


@pytest.mark.parametrize(("key", "plain", "sealed"), PUBLISHED)
def test_fips_197(key: str, plain: str, sealed: str) -> None:
    cipher = aes(bytes.fromhex(key), ECB)
    assert cipher.encrypt(bytes.fromhex(plain)).hex() == sealed
    assert cipher.decrypt(bytes.fromhex(sealed)).hex() == plain


@given(KEYS, BLOCKS)
def test_both_ways_as_cryptography_does(key: bytes, data: bytes) -> None:
    other = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    sealed = other.update(data) + other.finalize()
    assert aes(key, ECB).encrypt(data) == sealed
    assert aes(key, ECB).decrypt(sealed) == data


@given(KEYS, KEYS, BLOCKS, BLOCKS)
def test_chained_from_call_to_call(key: bytes, vector: bytes, first: bytes, second: bytes) -> None:
    other = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    cipher = aes(key, CBC, vector)
    assert cipher.encrypt(first) + cipher.encrypt(second) == other.update(first + second) + other.finalize()


def test_what_it_has_not_is_refused() -> None:
    for key, mode, *vector in ((bytes(15), ECB), (bytes(32), ECB), (bytes(16), 6), (bytes(16), CBC)):
        with pytest.raises(ValueError):
            aes(key, mode, *vector)
    with pytest.raises(ValueError):
        aes(bytes(16), ECB).encrypt(bytes(15))
    with pytest.raises(ValueError):
        aes(bytes(16), CBC, bytes(16)).decrypt(bytes(16))


def test_on_micropython_it_takes_cryptolibs_place(micropython: str, tmp_path: Path) -> None:
    # What is on the path comes before the built-in module (MP_REGISTER_EXTENSIBLE_MODULE).
    (tmp_path / "cryptolib.py").write_text("from common.aes import aes\n")
    jobs = [(key, plain, bytes(range(size)).hex()) for key, plain, _ in PUBLISHED for size in (0, 1, 15, 16, 17, 64)]
    done = subprocess.run(
        [micropython, "-c", ON_MICROPYTHON],
        input=json.dumps(jobs) + "\n",
        capture_output=True,
        text=True,
        env={"MICROPYPATH": f"{tmp_path}:{ROOT / 'protocol'}:{ROOT / 'firmware'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nonce = bytes(range(13))
    expected = [
        [sealed, Ccm(bytes.fromhex(key)).seal(nonce, bytes(range(size)), b"emtag").hex()]
        for key, _, sealed in PUBLISHED
        for size in (0, 1, 15, 16, 17, 64)
    ]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.parametrize("board", ["nrf52840", "pico_w"])
def test_only_an_image_for_a_board_without_cryptolib_has_it(board: str) -> None:
    lacking = firmware_image.LACKING.get(board, frozenset())
    found = firmware_image.modules(["tags.pid", "common.ccm"], lacking)
    texts = {path: firmware_image.decided(source.read_text(), lacking) for path, source in found.items()}
    assert ("common/aes.py" in texts) == (board == "nrf52840")
    for path in ("tags/pid.py", "common/ccm.py"):
        assert ("from cryptolib" in texts[path], "from common.aes" in texts[path]) == (
            (False, True) if board == "nrf52840" else (True, False)
        )
