"""A damaged stream yields no position that the undamaged one did not contain, on MicroPython as on CPython."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
import replay_gnss
from drivers.gnss import Receiver
from emrig.gnss_replay import recorded_bytes
from gnss_streams import epoch, pvt, run
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
NAMES = ("april6_2019", "bt451", "mt3339", "neo-m8n", "quectel-L70", "ublox-neo-m8n", "mixed")
# Enough for some 30 epochs of each; the corpus is replayed hundreds of times.
SIZE = 9000


def moving():
    """NMEA and UBX of a receiver in motion, every epoch another position."""
    return b"".join(
        epoch(s, latitude=f"5130.{1000 + 37 * s:04d}") + pvt(s, latitude=515016667 + 6167 * s) for s in range(60)
    )


@pytest.fixture(scope="module")
def streams(shared_data):
    folder = shared_data / "gnss"
    found = {n: recorded_bytes((folder / f"{n}.log").read_bytes())[:SIZE] for n in NAMES if n != "mixed"}
    return found | {"mixed": moving()[:SIZE]}


class Contents:
    """Every position that a stream's sentences and messages state, with its time of day, and the dates."""

    def __init__(self, stream):
        self.positions = set()
        receiver = Receiver()
        for name in ("observe", "observe_pvt"):
            setattr(receiver.epochs, name, self._spy(getattr(receiver.epochs, name)))
        fixes = receiver.feed(stream) + receiver.flush()
        self.days = {fix.time_s // 86400 for fix in fixes if fix.time_s is not None}
        self.anywhere = {position[1:] for position in self.positions}

    def _spy(self, observe):
        def spying(seen, *rest):
            if seen.latitude is not None:
                self.positions.add((seen.time_ms, seen.latitude, seen.longitude))
            observe(seen, *rest)

        return spying

    def allows(self, fix):
        position = (fix.latitude_microdegrees, fix.longitude_microdegrees)
        if fix.time_s is None:
            return position in self.anywhere
        time_ms = fix.time_s % 86400 * 1000 + fix.millisecond
        return fix.time_s // 86400 in self.days and (time_ms, *position) in self.positions


@pytest.fixture(scope="module")
def contents(streams):
    return {name: Contents(stream) for name, stream in streams.items()}


def damaged(stream, kind, at, length, value):
    """One fault: a run lost, one byte altered, a run doubled, everything between two points lost, noise put in."""
    at %= len(stream)
    if kind == "lost":
        return stream[:at] + stream[at + length :]
    if kind == "altered":
        return stream[:at] + bytes((stream[at] ^ (value % 255 + 1),)) + stream[at + 1 :]
    if kind == "doubled":
        return stream[: at + length] + stream[at:]
    if kind == "cut":
        other = value % len(stream)
        return stream[: min(at, other)] + stream[max(at, other) :]
    return stream[:at] + random.Random(value).randbytes(length) + stream[at:]


FAULTS = ("lost", "altered", "doubled", "cut", "noise")
faults = st.tuples(
    st.sampled_from(FAULTS),
    st.integers(0, SIZE - 1),
    st.sampled_from((1, 2, 3, 8, 30, 100, 300)),
    st.integers(0, 99999),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_fault_adds_no_position(name, streams, contents):
    @settings(max_examples=400, deadline=None)
    @given(faults)
    def check(fault):
        for fix in run(damaged(streams[name], *fault))[0]:
            assert contents[name].allows(fix), fix

    check()


def test_every_bit_of_an_epoch_flipped(streams, contents):
    """All single bits, of NMEA and of NAV-PVT; the other epochs still come out."""
    stream = epoch(0) + pvt(0) + epoch(1) + epoch(2, latitude="5130.2000")
    expected = run(stream)[0]
    known = Contents(stream)
    for index in range(len(stream)):
        for bit in range(8):
            wrong = bytearray(stream)
            wrong[index] ^= 1 << bit
            found = run(bytes(wrong))[0]
            assert all(known.allows(fix) for fix in found)
            assert len(found) >= len(expected) - 1


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_any_size_give_the_same(name, streams):
    stream = streams[name] if name != "mixed" else damaged(streams[name], "noise", 700, 300, 5)
    whole = run(stream, len(stream))[0]
    assert whole and run(stream, 1)[0] == whole and run(stream, 7)[0] == whole
    short = stream[:1500]
    for cut in range(len(short)):
        receiver = Receiver()
        found = receiver.feed(short[:cut]) + receiver.feed(short[cut:]) + receiver.flush()
        assert found == run(short)[0]


def test_micropython_gives_the_same_from_damaged_streams(streams, micropython, tmp_path):
    generator = random.Random(2026)
    corpus = [
        damaged(stream, generator.choice(FAULTS), generator.randrange(SIZE), generator.choice((1, 2, 30, 300)), seed)
        for seed in range(12)
        for stream in streams.values()
    ]
    path = tmp_path / "corpus"
    path.write_bytes(b"".join(struct.pack("<I", len(stream)) + stream for stream in corpus))
    script = Path(__file__).parent / "device" / "replay_many.py"
    done = subprocess.run(
        [micropython, script, path],
        env={**os.environ, "MICROPYPATH": f"{ROOT / 'firmware'}:.frozen"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = []
    for index, stream in enumerate(corpus):
        found, receiver = run(stream, 1 + index % 600)
        lines += [replay_gnss.line(fix) for fix in found]
        lines.append(replay_gnss.summary(receiver))
    assert done.stdout.splitlines() == lines
