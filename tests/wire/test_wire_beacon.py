"""The pid's advertisement and the judgement of its counters."""

import json
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from emwire import beacon, constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_kit import VECTORS, Peer, outcome

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

AUTHENTIC = constants.AUTHENTICITY_AUTHENTIC
COPIED = constants.AUTHENTICITY_COPIED
REPLAYED = constants.AUTHENTICITY_REPLAYED


class Aes:
    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())

    def encrypt(self, block: bytes) -> bytes:
        return self._cipher.encryptor().update(block)

    def decrypt(self, block: bytes) -> bytes:
        return self._cipher.decryptor().update(block)


def swap(block: bytes) -> bytes:
    """The peer's stand-in for a block cipher."""
    return bytes(byte ^ 0x5A for byte in reversed(block))


@relaxed
@given(
    device_id=st.integers(0, 0xFFFFFFFF),
    counter=st.integers(0, 0xFFFFFFFF),
    status=st.integers(0, 255),
    battery=st.integers(0, 100) | st.just(255),
    before=st.lists(st.binary(max_size=8).map(lambda body: bytes([len(body) + 1, 9]) + body), max_size=2),
)
def test_round_trip(peer: Peer, device_id: int, counter: int, status: int, battery: int, before: list[bytes]) -> None:
    advertisement = beacon.build(swap, device_id, counter, status, battery)
    assert len(advertisement) == beacon.SIZE
    assert peer.call("beacon_build", device_id, counter, status, battery) == ("ok", advertisement)
    data = b"".join(before) + advertisement
    token = beacon.find(data)
    assert token is not None and peer.call("beacon_find", data) == ("ok", token)
    assert beacon.open_token(swap, device_id, token) == (counter, status, battery)
    assert peer.call("beacon_open", device_id, token) == ("ok", (counter, status, battery))


def test_golden_beacons() -> None:
    for vector in json.loads((VECTORS / "beacons.json").read_text()):
        aes = Aes(bytes.fromhex(vector["key"]))
        values = [vector[name] for name in ("device_id", "counter", "status", "battery_percent")]
        advertisement = bytes.fromhex(vector["advertisement"])
        assert beacon.build(aes.encrypt, *values) == advertisement
        token = beacon.find(advertisement)
        assert token is not None and beacon.open_token(aes.decrypt, values[0], token) == tuple(values[1:])


@pytest.mark.parametrize(
    ("values", "reason", "offset"),
    [
        ((1 << 32, 0, 0, 0), "range", 11),
        ((0, -1, 0, 0), "range", 5),
        ((0, 0, 256, 0), "range", 9),
        ((0, 0, 0, 101), "range", 10),
        ((0, 0, 0, 254), "range", 10),
        ((0, 0.0, 0, 0), "type", 5),
        ((0, 0, 0, None), "type", 10),
    ],
)
def test_values_that_do_not_fit(peer: Peer, values: tuple[Any, ...], reason: str, offset: int) -> None:
    assert outcome(lambda: beacon.build(swap, *values)) == ("refused", reason, offset)
    assert peer.call("beacon_build", *values) == ("refused", reason, offset)


def test_every_change_of_a_token_is_refused() -> None:
    aes = Aes(bytes(range(16)))
    token = beacon.find(beacon.build(aes.encrypt, 7, 70000, 1, 55))
    assert token is not None
    for bit in range(128):
        changed = (int.from_bytes(token, "little") ^ 1 << bit).to_bytes(16, "little")
        assert outcome(lambda c=changed: beacon.open_token(aes.decrypt, 7, c)) == ("refused", "authentication", 0)  # type: ignore[misc]
    assert outcome(lambda: beacon.open_token(aes.decrypt, 8, token)) == ("refused", "authentication", 0)
    assert outcome(lambda: beacon.open_token(Aes(bytes(16)).decrypt, 7, token)) == ("refused", "authentication", 0)
    assert outcome(lambda: beacon.open_token(aes.decrypt, 7, token[:15])) == ("refused", "length", 15)
    assert outcome(lambda: beacon.open_token(aes.decrypt, 7, token + b"\0")) == ("refused", "length", 17)


@relaxed
@given(data=st.binary(max_size=62))
def test_any_advertisement_is_searched_alike(peer: Peer, data: bytes) -> None:
    advertisement = beacon.build(swap, 1, 2, 0, 3)
    for candidate in (data, data + advertisement, advertisement[:-1], advertisement[:5] + data):
        assert peer.call("beacon_find", candidate) == ("ok", beacon.find(candidate))


def test_other_advertisements_are_not_ours() -> None:
    ours = beacon.build(swap, 1, 2, 0, 3)
    assert beacon.find(b"\x02\x01\x06" + ours) == ours[5:]
    assert beacon.find(b"\0" + ours) is None  # nothing counts behind a zero length
    assert beacon.find(ours[:2] + b"\x4c\x00" + ours[4:]) is None  # another company
    assert beacon.find(ours[:4] + b"\x02" + ours[5:]) is None  # another version
    assert beacon.find(b"\x15" + ours[1:] + b"\0") is None  # longer


def judge(peer: Peer, *heard: tuple[int, float]) -> list[int]:
    """Verdicts on (counter, seconds), on both Pythons."""
    in_ms = [(counter, int(seconds * 1000)) for counter, seconds in heard]
    watch = beacon.BeaconWatch(1)
    verdicts = [watch.heard(counter, now_ms) for counter, now_ms in in_ms]
    assert peer.call("beacon_judge", in_ms) == ("ok", tuple(verdicts))
    assert watch.authentic + watch.copied + watch.replayed == len(heard)
    return verdicts


def test_an_honest_pid_is_authentic(peer: Peer) -> None:
    heard = [(counter, 10 * counter + repeat) for counter in range(100, 140) for repeat in range(0, 10, 2)]
    assert set(judge(peer, *heard)) == {AUTHENTIC}


def test_a_jump_forward_is_legal(peer: Peer) -> None:
    assert judge(peer, (5, 0), (6, 10), (1024, 20), (1025, 30)) == [AUTHENTIC] * 4


def test_a_report_slightly_late_is_authentic(peer: Peer) -> None:
    assert judge(peer, (5, 0), (7, 20), (6, 20.1)) == [AUTHENTIC] * 3


def test_a_recording_played_later_is_replayed(peer: Peer) -> None:
    assert judge(peer, (50, 0), (60, 100), (50, 200), (50, 201)) == [AUTHENTIC, AUTHENTIC, REPLAYED, REPLAYED]
    assert judge(peer, (60, 100), (20, 101))[1] == REPLAYED  # never heard, but far behind
    assert judge(peer, (60, 100), (59, 131))[1] == REPLAYED  # little behind, but too late


def test_the_last_token_kept_alive_is_copied(peer: Peer) -> None:
    assert judge(peer, (50, 0), (50, 29), (50, 31), (50, 3600)) == [AUTHENTIC, AUTHENTIC, COPIED, COPIED]


def test_two_senders_on_the_air_are_copied(peer: Peer) -> None:
    verdicts = judge(peer, (200, 0), (500, 5), (201, 10), (501, 15), (202, 20), (502, 25), (203, 30))
    assert verdicts == [AUTHENTIC, AUTHENTIC, REPLAYED, AUTHENTIC, COPIED, AUTHENTIC, COPIED]


def test_two_replays_far_apart_are_not_two_senders(peer: Peer) -> None:
    verdicts = judge(peer, (100, 0), (20, 1), (101, 10), (500, 4000), (21, 4001))
    assert verdicts == [AUTHENTIC, REPLAYED, AUTHENTIC, AUTHENTIC, REPLAYED]


def test_a_restart_knows_the_newest_counter() -> None:
    watch = beacon.BeaconWatch(1, newest_counter=500)
    assert watch.heard(400, 0) == REPLAYED
    assert watch.heard(500, 0) == AUTHENTIC  # still on the air
    assert watch.heard(500, 31_000) == COPIED
    assert watch.heard(501, 32_000) == AUTHENTIC


def test_memory_is_bounded() -> None:
    noise = random.Random(1)
    watch = beacon.BeaconWatch(1, remembered=16)
    for step in range(5000):
        watch.heard(noise.randrange(1 << 24) if step % 2 else step, step)
        assert len(watch._recent) <= 16
