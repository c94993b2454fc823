"""Whom the BLE link connects to, in simulated time: tags among hundreds of made-up addresses, and BlueZ's radio."""

from collections import Counter
from pathlib import Path

import pytest
from emgate.links import ble_known
from emgate.links.ble_choice import MAXIMUM_CANDIDATES, MAXIMUM_REMEMBERED, Choice
from emgate.links.ble_timing import Timing

STEP_MS = 100
DUPLICATES_MS = 15_000
"""BlueZ tells of each advertiser once in a discovery."""
CONNECT_MS, PROVE_MS = 1_500, 500
TIMING = Timing()


class Peer:
    """Somebody who offers the service: a tag (with its number), or whoever pretends to be one."""

    def __init__(self, address: str, device_id: int | None = None, *, answers: bool = True, leaves_ms: int = 0) -> None:
        self.address = address
        self.device_id = device_id
        self.answers = answers
        self.leaves_ms = leaves_ms  # the tag hangs up so long after it connected; 0 = never
        self.advertises = True
        self.phase_ms = sum(address.encode()) % 10 * 100
        self.told_ms = -DUPLICATES_MS
        self.slot_ms: int | None = None  # when it got one
        self.waits_ms: list[int] = []
        self.began_ms = 0
        self.thrown_off = 0


class Air:
    """One radio: it scans or connects."""

    def __init__(self, slots: int = 4) -> None:
        self.ms = 1_000_000
        self.counters: Counter[str] = Counter()
        self.statistics: Counter[str] = Counter()
        self.choice: Choice[Peer] = Choice(self, TIMING, slots, self.counters, self.statistics)
        self.peers: list[Peer] = []
        self.connecting: tuple[Peer, int, int] | None = None  # who, since when, until when
        self.listened_ms = 0
        self.scan_ms = self.ms

    def now_ms(self) -> int:
        return self.ms

    elapsed_ms = now_ms

    def uncertainty_ms(self) -> int:
        return 0

    def add(self, *peers: Peer) -> None:
        for peer in peers:
            peer.began_ms = self.ms
            self.peers.append(peer)

    def comes_back(self, peer: Peer) -> None:
        peer.advertises, peer.began_ms = True, self.ms

    def step(self) -> None:
        self.ms += STEP_MS
        for peer in self.peers:
            if peer.slot_ms is not None:
                self._goes_on(peer)
        if self.connecting is None:
            self._scan()
        elif self.ms >= self.connecting[2]:
            peer, since_ms, _ = self.connecting
            self.connecting = None
            self.scan_ms = self.ms
            for each in self.peers:
                each.told_ms = -DUPLICATES_MS
            if peer.answers and peer.advertises:
                self.choice.connected(peer.address)
                peer.slot_ms = self.ms
                peer.waits_ms.append(self.ms - peer.began_ms)
            else:
                self.choice.failed(peer.address, self.ms - since_ms)

    def _scan(self) -> None:
        self.listened_ms += STEP_MS
        for peer in self.peers:
            if not peer.advertises or peer.slot_ms is not None or self.ms - peer.told_ms < DUPLICATES_MS:
                continue
            if self.ms >= self.scan_ms + peer.phase_ms:
                peer.told_ms = self.ms
                self.choice.heard(peer.address, peer)
        chosen = self.choice.next()
        if chosen is not None:
            peer = chosen[1]
            quick = peer.answers and peer.advertises
            takes_ms = CONNECT_MS if quick else int(self.choice.timeout_s(peer.address) * 1000)
            self.connecting = (peer, self.ms, self.ms + takes_ms)

    def _goes_on(self, peer: Peer) -> None:
        assert peer.slot_ms is not None
        age_ms = self.ms - peer.slot_ms
        proven = peer.device_id is not None and age_ms >= PROVE_MS
        if proven:
            assert peer.device_id is not None
            self.choice.proven(peer.address, peer.device_id)
        turn_ms = TIMING.turn_ms if proven else TIMING.prove_ms
        leaves = bool(peer.leaves_ms) and age_ms >= peer.leaves_ms
        if leaves or (age_ms >= turn_ms and self.choice.in_the_way(peer.address)):
            peer.thrown_off += not leaves
            peer.advertises = not leaves
            peer.slot_ms = None
            peer.began_ms = self.ms
            self.choice.ended(peer.address, proven, age_ms)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 1000) // STEP_MS):
            self.step()


def silent(count: int) -> list[Peer]:
    return [Peer(f"made up {number}", answers=False) for number in range(count)]


def forgers(count: int) -> list[Peer]:
    return [Peer(f"forger {number}") for number in range(count)]


@pytest.mark.parametrize("crowd", [silent(30), silent(300), forgers(40), silent(150) + forgers(40)])
def test_a_known_tag_is_reached_within_seconds_whoever_else_advertises(crowd: list[Peer]) -> None:
    air = Air()
    tag, stays = Peer("tag", 1, leaves_ms=3_000), Peer("stays", 2)
    air.add(tag, stays)
    air.run(20)
    assert len(tag.waits_ms) == len(stays.waits_ms) == 1
    air.add(*crowd)
    air.run(120)
    listened_ms, began_ms = air.listened_ms, air.ms
    for _ in range(10):
        air.comes_back(tag)
        air.run(60)
    assert len(tag.waits_ms) == 11
    assert max(tag.waits_ms) <= 25_000, "a stranger's time-out, a second to be heard, and the connecting"
    assert stays.waits_ms[1:] == [] and not stays.thrown_off
    assert (air.listened_ms - listened_ms) / (air.ms - began_ms) > 0.45


def test_a_new_tag_has_its_turn_among_those_who_never_answer() -> None:
    """Those who have failed come after it."""
    air = Air()
    air.add(*silent(30))
    air.run(900)
    new = Peer("new", 7, leaves_ms=3_000)
    air.add(new)
    air.run(60)
    assert len(new.waits_ms) == 1


def test_after_a_start_many_tags_that_nobody_knows_yet_are_served_at_once() -> None:
    air = Air()
    tags = [Peer(f"tag {number}", number, leaves_ms=5_000) for number in range(30)]
    air.add(*tags)
    air.run(120)
    assert all(len(tag.waits_ms) == 1 for tag in tags)


def test_tags_that_stay_make_room_for_new_ones_and_for_each_other() -> None:
    """Six that never hang up on four slots, and a seventh that nobody knows."""
    air = Air()
    tags = [Peer(f"tag {number}", number) for number in range(6)]
    air.add(*tags)
    air.run(600)
    assert all(len(tag.waits_ms) >= 3 for tag in tags)
    new = Peer("new", 7)
    air.add(new)
    air.run(180)
    assert new.waits_ms


def test_a_tag_that_cannot_be_reached_for_a_while_is_tried_every_half_minute() -> None:
    air = Air()
    tag = Peer("tag", 1, leaves_ms=3_000)
    air.add(tag)
    air.run(20)
    for _ in range(20):
        air.choice.failed("tag", 20_000)
    air.comes_back(tag)
    air.run(TIMING.known_back_off_ms / 1000 + 20)
    assert len(tag.waits_ms) == 2


def test_who_has_left_is_not_tried() -> None:
    air = Air()
    for number in range(4):
        air.choice.connected(str(number))
    gone = Peer("gone")
    assert air.choice.heard("gone", gone) and not air.choice.heard("gone", gone)
    air.ms += TIMING.heard_ms + 1
    air.choice.ended("0", True, 0)
    assert air.choice.next() is None and not air.choice.somebody_waits
    assert air.statistics["candidates_left"] == 1


def test_a_device_has_one_address_and_memory_has_bounds() -> None:
    air = Air()
    choice = air.choice
    for number in range(20):
        choice.proven(f"many {number}", 1)
    assert [choice.knows(f"many {number}") for number in range(20)] == [False] * 19 + [True]
    for number in range(MAXIMUM_CANDIDATES + 50):
        choice.heard(f"made up {number}", Peer("x"))
    assert air.counters["too_many_candidates"] == 49  # and room for each tag
    assert choice.heard("many 19", Peer("x")), "a tag always finds room"
    for number in range(2 * MAXIMUM_REMEMBERED):
        choice.failed(f"made up {number}", 1)
    assert len(choice._strangers) == MAXIMUM_REMEMBERED


@pytest.mark.parametrize(
    "spoilt",
    [b"", b"[]", b"{", b'{"1": 5}', b'{"x": "y"}', b"[" * 100_000, b"\xff", b'{"1": "' + b"A" * ble_known.MOST_BYTES],
    ids=range(8),
)
def test_a_spoilt_file_of_known_addresses_is_learnt_anew(tmp_path: Path, spoilt: bytes) -> None:
    path = tmp_path / ble_known.FILE
    path.write_bytes(spoilt)
    assert ble_known.read(path) == {}
    ble_known.write(path, {7: "C0:00:00:00:00:01"})
    assert ble_known.read(path) == {7: "C0:00:00:00:00:01"}
    ble_known.write(tmp_path / "not there" / ble_known.FILE, {7: "x"})  # said, and no more
