"""The link's rules one by one; test_link_machine.py has them all at once."""

import itertools
from pathlib import Path

import pytest
from common.epoch import begin_epoch
from common.journal import Journal
from emgate.keys.sealing import Ccm
from emwire import constants, device_codec, envelope
from emwire.device_link import RETRANSMIT_LIMIT_MS, RETRANSMIT_MS, WINDOW
from emwire.errors import WireError
from emwire.link import DeviceLink, GatewayLink, RangeSet, lost_range
from emwire.replay import WINDOW as REPLAY_WINDOW
from emwire.replay import ReplayWindow
from hypothesis import given
from hypothesis import strategies as st

KEY = bytes(range(16))
DEVICE_ID = 7


class Pair:
    """A device and a gateway on one desk; `reserved` is what the gateway's store knows of down counters."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reserved = 0
        self.boot()
        self.gateway = GatewayLink(DEVICE_ID, Ccm(KEY), self.reserve)

    def boot(self) -> None:
        self.journal = Journal(str(self.path), begin_epoch(str(self.path)), durable=False)
        self.device = DeviceLink(DEVICE_ID, self.journal.epoch, Ccm(KEY), self.journal)

    def reserve(self, epoch: int, count: int) -> int:
        self.reserved += count
        return self.reserved - count

    def append(self, count: int, alarm: bool = False) -> None:
        for number in range(count):
            self.journal.append(alarm, bytes([constants.MESSAGE_STATUS, number & 255]))

    def sends(self, now_ms: int) -> list[bytes]:
        frames = []
        while (frame := self.device.poll(now_ms)) is not None:
            frames.append(frame)
        return frames

    def stores(self, frames: list[bytes], delivered: bool = False) -> None:
        for frame in frames:
            received = self.gateway.received(frame)
            if received.kind == envelope.RECORD:
                self.gateway.stored(received.epoch, received.sequence, received.payload)
                if delivered:
                    self.gateway.delivered(received.epoch, received.sequence, received.payload)

    def acknowledges(self, now_ms: int) -> None:
        for frame in self.gateway.acknowledgements():
            assert self.device.received(now_ms, frame) == []


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def identities(frames: list[bytes]) -> list[tuple[int, int]]:
    """(epoch, sequence) of the records among frames."""
    headers = [envelope.parse_header(frame) for frame in frames]
    return [(epoch, counter) for control, epoch, counter in headers if not envelope.is_link(control)]


def messages(frames: list[bytes]) -> list[int]:
    """Types of the link messages among frames."""
    opened = [envelope.open_frame(Ccm(KEY), DEVICE_ID, frame, 1) for frame in frames]
    return [plaintext[0] for control, _, _, plaintext in opened if envelope.is_link(control)]


def test_nothing_is_sent_before_the_link_is_open(pair: Pair) -> None:
    pair.append(3)
    assert pair.device.poll(0) is None
    assert pair.device.deadline(0) is None
    pair.device.opened(0)
    assert pair.device.deadline(0) == 0
    frames = pair.sends(0)
    assert messages(frames) == [constants.MESSAGE_SYNC, constants.MESSAGE_POLL]
    assert identities(frames) == [(1, 0), (1, 1), (1, 2)]


def test_window_alarms_first_and_no_more_than_a_window_each(pair: Pair) -> None:
    pair.append(20)
    pair.append(10, alarm=True)
    pair.device.opened(0)
    sent = identities(pair.sends(0))
    assert sent == [(1, number) for number in range(20, 28)] + [(1, number) for number in range(WINDOW)]


def test_an_alarm_overtakes_what_waits(pair: Pair) -> None:
    pair.append(100)
    pair.device.opened(0)
    pair.sends(0)
    pair.append(1, alarm=True)
    assert identities(pair.sends(1)) == [(1, 100)]


def test_retransmission_is_identical_and_ever_later(pair: Pair) -> None:
    pair.append(1)
    pair.device.opened(0)
    first = next(frame for frame in pair.sends(0) if identities([frame]))
    due = []
    now = 0
    for _ in range(8):
        now += 1
        while not (again := [frame for frame in pair.sends(now) if identities([frame])]):
            now = pair.device.deadline(now)
        assert again == [first]
        due.append(now)
    waits = [later - earlier for earlier, later in zip([0, *due], due, strict=False)]
    assert waits[:4] == [RETRANSMIT_MS << attempt for attempt in range(4)]
    assert waits[-1] == RETRANSMIT_LIMIT_MS
    assert pair.device.retransmitted == 8


def test_what_overtook_shows_what_is_lost(pair: Pair) -> None:
    pair.append(5)
    pair.device.opened(0)
    frames = pair.sends(0)
    lost = identities(frames).index((1, 1)) + len(frames) - 5
    pair.stores(frames[:lost] + frames[lost + 1 :])
    pair.acknowledges(100)
    # Long before the time-out, only the one, and once.
    assert pair.sends(100) == [frames[lost]]
    assert pair.sends(101) == []
    pair.acknowledges(102)
    pair.stores([frames[lost]])
    pair.acknowledges(103)
    assert pair.device.idle
    assert pair.gateway.watermarks(1) == (5, 0)


def test_an_alarm_lost_before_routine_records_is_sent_again_at_once_and_not_the_other_way_round(pair: Pair) -> None:
    pair.append(2)
    pair.append(1, alarm=True)
    pair.device.opened(0)
    records = [frame for frame in pair.sends(0) if identities([frame])]
    assert identities(records) == [(1, 2), (1, 0), (1, 1)]
    alarm, first, _ = records
    pair.stores([first])
    pair.acknowledges(100)
    assert pair.sends(100) == [alarm]
    # A gateway that is full takes alarms alone: what it refuses is not offered with each of them.
    pair.stores([alarm])
    pair.acknowledges(200)
    assert pair.sends(200) == []


def test_older_epochs_go_before_newer_and_alarms_before_all(pair: Pair) -> None:
    pair.append(3)
    pair.append(1, alarm=True)
    pair.boot()
    pair.append(3)
    pair.append(1, alarm=True)
    pair.device.opened(0)
    frames = pair.sends(0)
    assert identities(frames) == [(1, 3), (2, 3), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert messages(frames).count(constants.MESSAGE_SYNC) == 2
    pair.stores(frames, delivered=True)
    assert (pair.gateway.watermarks(1), pair.gateway.watermarks(2)) == ((4, 4), (4, 4))
    pair.acknowledges(1)
    assert pair.journal.epochs() == [(2, 4, 4)]


def test_sync_and_poll_are_repeated_until_answered(pair: Pair) -> None:
    pair.device.opened(0)
    assert len(messages(pair.sends(0))) == 2
    now = pair.device.deadline(0)
    assert now == RETRANSMIT_MS
    frames = pair.sends(now)
    assert sorted(messages(frames)) == [constants.MESSAGE_SYNC, constants.MESSAGE_POLL]
    assert not pair.device.answered
    pair.stores(frames)
    pair.acknowledges(now)
    time = pair.gateway.seal(device_codec.encode_time(5, 6, 7))
    assert pair.device.received(now, time) == [(constants.MESSAGE_TIME, 5, 6, 7)]
    assert pair.device.answered and pair.device.idle
    assert pair.device.deadline(now) is None  # tickless: nothing to wait for


def test_undelivered_records_are_asked_after_ever_less_often(pair: Pair) -> None:
    pair.append(1)
    pair.device.opened(0)
    pair.stores(pair.sends(0))
    pair.acknowledges(0)
    pair.device.received(0, pair.gateway.seal(device_codec.encode_time(5, 6, 7)))
    asked = []
    now = 0
    for _ in range(6):
        now = pair.device.deadline(now)
        asked.append(now)
        assert messages(pair.sends(now)) == [constants.MESSAGE_POLL]
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert waits == sorted(waits) and waits[0] < waits[-1]
    pair.gateway.delivered(1, 0)
    pair.acknowledges(now)
    assert pair.device.deadline(now) is None


def test_only_the_present_boots_fresh_authentic_down_frames_count(pair: Pair) -> None:
    pair.append(2)
    pair.device.opened(0)
    frames = pair.sends(0)
    pair.stores(frames)
    good = pair.gateway.acknowledgements()[0]
    device = pair.device
    for number, bad in enumerate(
        [
            b"",
            good[:-1],
            good + b"\0",
            bytes([good[0] ^ 16]) + good[1:],
            frames[-1],  # its own frame, reflected
            envelope.seal(Ccm(bytes(16)), DEVICE_ID, 0x38, 1, 9, b"\x81" + bytes(8)),
            envelope.seal(Ccm(KEY), DEVICE_ID + 1, 0x38, 1, 9, b"\x81" + bytes(8)),
            envelope.seal(Ccm(KEY), DEVICE_ID, 0x38, 2, 9, b"\x81" + bytes(8)),
            envelope.seal(Ccm(KEY), DEVICE_ID, 0x38, 1, 9, b"\x81short"),
        ],
        start=1,
    ):
        assert device.received(1, bad) == []
        assert device.refused == number
        assert not device.idle
    device.received(1, good)
    assert device.refused == 9 and device.idle
    device.received(1, good)
    assert device.refused == 10
    pair.append(1)
    pair.boot()
    pair.device.opened(0)
    pair.device.received(1, good)
    assert pair.device.refused == 1


def test_a_watermark_beyond_what_was_made_frees_nothing_more(pair: Pair) -> None:
    pair.append(2)
    pair.device.opened(0)
    pair.sends(0)
    acknowledgement = device_codec.encode_acknowledgement(1, 1000, 1000, ())
    pair.device.received(0, envelope.seal(Ccm(KEY), DEVICE_ID, 0x38, 1, 0, acknowledgement))
    assert pair.journal.epochs() == [(1, 2, 2)]
    pair.append(1)
    assert pair.journal.epochs() == [(1, 2, 3)]
    assert identities(pair.sends(1)) == [(1, 2)]


def test_down_counters_are_not_reused_by_a_restarted_gateway(pair: Pair) -> None:
    pair.device.opened(0)
    pair.stores(pair.sends(0))
    first = pair.gateway.seal(b"\x81" + bytes(8))
    pair.gateway = GatewayLink(DEVICE_ID, Ccm(KEY), pair.reserve)
    pair.gateway.restore(1, 0, 0)
    second = pair.gateway.seal(b"\x81" + bytes(7) + b"\1")
    assert first[:6] != second[:6]


def test_without_counters_nothing_is_sealed(pair: Pair) -> None:
    gateway = GatewayLink(DEVICE_ID, Ccm(KEY))
    pair.device.opened(0)
    gateway.received(pair.sends(0)[0])
    assert gateway.acknowledgements() == []
    with pytest.raises(WireError, match="counter"):
        gateway.seal(b"\x81" + bytes(8))
    gateway.grant(1, envelope.MAXIMUM_DOWN_COUNTER, envelope.MAXIMUM_DOWN_COUNTER + 10)
    assert len(gateway.acknowledgements()) == 1
    with pytest.raises(WireError, match="counter"):
        gateway.seal(b"\x81" + bytes(8))


def test_device_asks_for_a_reboot_when_counters_run_out(pair: Pair) -> None:
    assert not pair.device.reboot_wanted
    pair.append(1)
    pair.device._counter = envelope.MAXIMUM_COUNTER
    pair.device.opened(0)
    frames = pair.sends(0)
    assert pair.device.reboot_wanted
    # One last link message, then none; records still go.
    assert len(messages(frames)) == 1
    assert identities(frames) == [(1, 0)]


def test_replayed_link_frames_are_refused_across_restarts_too(pair: Pair) -> None:
    pair.append(1)
    pair.device.opened(0)
    frames = pair.sends(0)
    pair.stores(frames)
    links = [frame for frame in frames if not identities([frame])]
    for frame in links:
        with pytest.raises(WireError, match="replay"):
            pair.gateway.received(frame)
    counter = pair.gateway.next_up_counter()
    assert counter == (1, 2)
    again = GatewayLink(DEVICE_ID, Ccm(KEY))
    again.restore_up_counter(*counter)
    for frame in links:
        with pytest.raises(WireError, match="replay"):
            again.received(frame)
    assert again.refused == len(links)
    # A record again is no replay but a retransmission.
    record = next(frame for frame in frames if identities([frame]))
    assert again.received(record).sequence == 0


def test_link_frames_of_an_earlier_boot_are_refused(pair: Pair) -> None:
    pair.device.opened(0)
    old = pair.sends(0)
    pair.boot()
    pair.device.opened(0)
    pair.stores(pair.sends(0))
    for frame in old:
        with pytest.raises(WireError, match="replay"):
            pair.gateway.received(frame)


def test_newer_versions_and_unknown_types(pair: Pair) -> None:
    with pytest.raises(WireError, match="version"):
        pair.gateway.received(envelope.seal(Ccm(KEY), DEVICE_ID, 0x40, 1, 0, b"of the future"))
    unknown = pair.gateway.received(envelope.seal(Ccm(KEY), DEVICE_ID, 0x20, 1, 0, b"\x3fof the future"))
    assert (unknown.kind, unknown.payload) == (envelope.RECORD, b"\x3fof the future")
    link = pair.gateway.received(envelope.seal(Ccm(KEY), DEVICE_ID, 0x28, 1, 0, b"\x4fof the future"))
    assert (link.kind, link.message) == (envelope.LINK, (0x4F, b"of the future"))


def test_many_alarms_ahead_of_a_backlog_are_all_named(pair: Pair) -> None:
    for number in range(40):
        frame = envelope.seal(Ccm(KEY), DEVICE_ID, 0x24, 1, number * 3 + 1, b"\x05")
        pair.stores([frame])
        if number % 20 == 19:
            named = set()
            for sealed in pair.gateway.acknowledgements():
                ranges = device_codec.decode(envelope.open_frame(Ccm(KEY), DEVICE_ID, sealed, 1)[3])[4]
                named |= {sequence for first, last in ranges for sequence in range(first, last + 1)}
            assert {n * 3 + 1 for n in range(number - 19, number + 1)} <= named
    assert pair.gateway.acknowledgements() == []


def test_gaps_move_the_watermark_once_stored(pair: Pair) -> None:
    gap = device_codec.encode_gap(0, 0, 0, 0, 1, 0, 9, constants.GAP_STORAGE_FULL)
    deaf = device_codec.encode_gap(0, 0, 0, 0, 1, 20, 29, constants.GAP_RADIO_DEAF)
    assert lost_range(gap) == (1, 0, 9)
    assert lost_range(deaf) is None  # nothing was journalled there that could be missing
    assert lost_range(b"\x07broken") is None
    pair.gateway.received(envelope.seal(Ccm(KEY), DEVICE_ID, 0x24, 1, 10, gap))
    assert pair.gateway.watermarks(1) == (0, 0)
    pair.gateway.stored(1, 10)
    assert pair.gateway.watermarks(1) == (11, 0)
    pair.gateway.delivered(1, 10)
    assert pair.gateway.watermarks(1) == (11, 11)


def test_memory_for_epochs_is_bounded_and_the_present_one_stays(pair: Pair) -> None:
    for epoch in range(1, 1000):
        pair.stores([envelope.seal(Ccm(KEY), DEVICE_ID, 0x20, epoch, 0, b"\x06")], delivered=epoch % 2 == 0)
    assert len(pair.gateway._epochs) == 256
    assert pair.gateway.watermarks(999) == (1, 0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 12)), max_size=40), st.integers(0, 20))
def test_range_set_is_a_set(additions: list[tuple[int, int]], through: int) -> None:
    ranges = RangeSet(through)
    numbers = set(range(through))
    for first, more in additions:
        news = set(range(first, first + more + 1)) - numbers
        assert ranges.add(first, first + more) == bool(news)
        numbers |= news
        assert {number for number in range(90) if number in ranges} == numbers
        expected = next(number for number in range(100) if number not in numbers)
        assert ranges.through == expected
        flat = [number for item in ranges.ranges() for number in item]
        assert flat == sorted(flat)
        ends = list(zip(ranges.ranges(), ranges.ranges()[1:], strict=False))
        assert all(left[1] + 1 < right[0] for left, right in ends)  # never two where one would do


@given(st.lists(st.integers(0, 100), max_size=80), st.integers(0, 5))
def test_replay_window_takes_each_once(counters: list[int], start: int) -> None:
    window = ReplayWindow(start)
    taken: set[int] = set(range(start))
    highest = start - 1
    for counter in counters:
        expected = counter not in taken and counter > highest - REPLAY_WINDOW
        assert window.take(counter) == expected
        taken.add(counter)
        highest = max(highest, counter)
        assert window.next_counter == highest + 1
