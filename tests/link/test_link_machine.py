"""Device, channel, gateway and store in every order that hypothesis can think of: nothing is lost, nothing doubled."""

import random
import shutil
import tempfile
from pathlib import Path

import common.journal
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from link_world import World, flip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash in blocks of 256 bytes, so that little data meets every boundary."""
    monkeypatch.setattr(common.journal, "BLOCK_BYTES", 256)


class LinkMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="emtag-link-"))
        self.world: World | None = None
        self.backup: object = None

    @initialize(capacity=st.sampled_from([1 << 20, 4096]), window=st.sampled_from([1, 3, 8]))
    def start(self, capacity: int, window: int) -> None:
        self.world = World(self.folder, capacity, window)

    # -- device

    @rule(alarm=st.booleans(), size=st.integers(0, 150), count=st.integers(1, 20))
    def append(self, alarm: bool, size: int, count: int) -> None:
        for _ in range(count):
            self.world.append(alarm, size)

    @rule(written=st.none() | st.integers(0, 30), alarm=st.booleans(), slot=st.none() | st.integers(0, 40))
    def device_restarts(self, written: int | None, alarm: bool, slot: int | None) -> None:
        self.world.cut_power(written, alarm, slot)

    @rule()
    def connect(self) -> None:
        self.world.connect()

    @rule()
    def disconnect(self) -> None:
        self.world.device.closed()

    @rule(limit=st.integers(1, 20))
    def device_sends(self, limit: int) -> None:
        self.world.device_polls(limit)

    @rule(milliseconds=st.sampled_from([1, 1000, 20_000, 60_000, 3_600_000, 86_400_000 * 30]))
    def time_passes(self, milliseconds: int) -> None:
        self.world.now_ms += milliseconds

    # -- channel

    @rule(place=st.integers(0, 1000), copies=st.sampled_from([0, 1, 1, 1, 2]), up=st.booleans())
    def channel_carries_one(self, place: int, copies: int, up: bool) -> None:
        frames = self.world.up if up else self.world.down
        if frames:
            data = frames.pop(place % len(frames))
            for _ in range(copies):
                self._hand_over(up, data)

    @rule(up=st.booleans())
    def channel_carries_all(self, up: bool) -> None:
        frames = self.world.up if up else self.world.down
        while frames:
            self._hand_over(up, frames.pop(0))

    @rule(place=st.integers(0, 1000), bit=st.integers(0, 100_000), up=st.booleans())
    def channel_flips_a_bit(self, place: int, bit: int, up: bool) -> None:
        frames = self.world.up if up else self.world.down
        if frames:
            self._hand_over(up, flip(frames.pop(place % len(frames)), bit))

    @rule(place=st.integers(0, 100_000), up=st.booleans())
    def somebody_replays(self, place: int, up: bool) -> None:
        frames = self.world.seen_up if up else self.world.seen_down
        if frames:
            self._hand_over(up, frames[place % len(frames)])

    @rule(place=st.integers(0, 100_000), up=st.booleans())
    def somebody_reflects(self, place: int, up: bool) -> None:
        frames = self.world.seen_up if up else self.world.seen_down
        if frames:
            self._hand_over(not up, frames[place % len(frames)])

    def _hand_over(self, up: bool, data: bytes) -> None:
        if up:
            self.world.gateway_receives(data)
        else:
            self.world.device_receives(data)

    # -- gateway

    @rule()
    def gateway_commits(self) -> None:
        self.world.commit()

    @rule(count=st.integers(1, 30))
    def backend_commits(self, count: int) -> None:
        self.world.deliver(count)

    @rule()
    def gateway_acknowledges(self) -> None:
        self.world.acknowledge()

    @rule(prune=st.booleans())
    def gateway_notes_marks(self, prune: bool) -> None:
        self.world.note_marks()
        if prune:
            self.world.prune()

    @rule()
    def gateway_restarts(self) -> None:
        self.world.start_gateway()

    @rule(seconds=st.sampled_from([-3600, 3600]))
    def gateway_clock_is_set(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def store_is_backed_up(self) -> None:
        self.backup = self.world.back_up()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def store_is_put_back(self) -> None:
        self.world.put_back(self.backup)

    # -- keys

    @rule()
    def operator_changes_the_key(self) -> None:
        self.world.change_key()

    @rule()
    def gateway_gives_the_key(self) -> None:
        self.world.send_key()

    @rule(writes=st.integers(0, 1), size=st.integers(-1, 40))
    def a_key_will_not_be_written(self, writes: int, size: int) -> None:
        self.world.tear = (writes, size)

    @rule(wipe=st.booleans())
    def device_is_provisioned_anew(self, wipe: bool) -> None:
        self.world.provision(wipe)

    @rule(delivered=st.integers(0, 8))
    def a_round(self, delivered: int) -> None:
        world = self.world
        world.device_polls(30)
        self.channel_carries_all(True)
        world.commit()
        world.send_key()
        world.deliver(delivered)
        world.acknowledge()
        self.channel_carries_all(False)

    @precondition(lambda self: self.world is not None)
    @invariant()
    def nothing_is_freed_too_early(self) -> None:
        self.world.check_freed()

    def teardown(self) -> None:
        if self.world is not None:
            self.world.settle()
        shutil.rmtree(self.folder, ignore_errors=True)


TestLink = LinkMachine.TestCase
TestLink.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(4))
def test_long_runs(tmp_path: Path, seed: int) -> None:
    """Thousands of records over a channel that loses a fifth, with restarts of both ends all along."""
    chance = random.Random(seed)
    world = World(tmp_path, 1 << 20 if seed % 2 else 16384)
    world.connect()
    backend_works = True
    backup = None
    for step in range(400):
        for _ in range(chance.randrange(6)):
            world.append(chance.random() < 0.1, chance.randrange(100))
        world.device_polls(50)
        for frames, hand_over in ((world.up, world.gateway_receives), (world.down, world.device_receives)):
            chance.shuffle(frames)
            for data in frames:
                if chance.random() < 0.8:
                    hand_over(data)
            frames.clear()
            if chance.random() < 0.8:
                world.commit()
            if backend_works and chance.random() < 0.5:
                world.deliver(chance.randrange(40))
                world.note_marks()
            world.acknowledge()
        world.now_ms += chance.choice((100, 5_000, 30_000))
        if chance.random() < 0.05:
            backend_works = not backend_works
        if chance.random() < 0.03:
            world.start_gateway()
        if chance.random() < 0.02:
            world.cut_power(chance.choice((None, chance.randrange(25))), chance.random() < 0.5, None)
            world.connect()
        if chance.random() < 0.05:
            world.connect()
        if chance.random() < 0.02:
            backup = world.back_up()
        if chance.random() < 0.02 and backup is not None:
            world.put_back(backup)
        if chance.random() < 0.03:
            world.change_key()
        if chance.random() < 0.3:
            world.send_key()
        if chance.random() < 0.01:
            world.provision(wipe=chance.random() < 0.3)
            world.connect()
        if step % 10 == 0:
            world.check_freed()
            world.prune()
    world.settle()
    assert len(world.made) > 800
