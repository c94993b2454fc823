"""A damaged stream yields no position that the undamaged one did not contain, on MicroPython as on CPython."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
import replay_gnss
from drivers.fixes import AGREEMENT_MICRODEGREES, EPOCHS_TO_RELEARN
from drivers.gnss import Receiver
from emrig.gnss_replay import recorded_bytes
from emrig.models.receiver import split_epochs
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
        epoch(s, latitude=f"5130.{1000 + 37 * s:04d}") + pvt(s, latitude=515016667 + 1850 * s // 3) for s in range(60)
    )


@pytest.fixture(scope="module")
def streams(shared_data):
    folder = shared_data / "gnss"
    found = {n: recorded_bytes((folder / f"{n}.log").read_bytes()) for n in NAMES if n != "mixed"}
    # Whole epochs: half of one is damage already.
    return {n: b"".join(list(split_epochs(s[:SIZE]))[:-1]) for n, s in (found | {"mixed": moving()}).items()}


class Contents:
    """The fixes of a stream; its sentences may differ in their last decimals, so that either may state the position."""

    def __init__(self, stream):
        self.fixes = run(stream)[0]

    def allows(self, fix):
        """One of them, or the same without its time."""
        return any(
            abs(fix.latitude_microdegrees - clean.latitude_microdegrees) <= AGREEMENT_MICRODEGREES
            and abs(fix.longitude_microdegrees - clean.longitude_microdegrees) <= AGREEMENT_MICRODEGREES
            and (fix.time_s is None or (fix.time_s, fix.millisecond) == (clean.time_s, clean.millisecond))
            for clean in self.fixes
        )


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


def test_no_fix_that_gsa_alone_says_outlives_the_loss_of_a_gsa():
    """GGA and RMC go on with their last position, wherever GSA is lost."""
    parts = [epoch(s, latitude=f"5130.{1000 + s:04d}", mode=1 if 3 <= s < 6 else 3) for s in range(8)]
    known = Contents(b"".join(parts))
    assert [fix.time_s % 60 for fix in known.fixes] == [0, 1, 2, 6, 7]
    stream = b"".join(parts)
    for index in range(len(stream)):
        wrong = stream[:index] + (b"?" if index % 2 else b"") + stream[index + 1 :]
        assert all(known.allows(fix) for fix in run(wrong)[0]), index


def test_a_receiver_that_stops_sending_gsa_is_believed_again_after_some_epochs():
    parts = [epoch(s, latitude=f"5130.{1000 + s:04d}") for s in range(20)]
    without = [part[: part.index(b"$GNGSA")] + part[part.index(b"$GNGSA") :].partition(b"\n")[2] for part in parts]
    fixes = run(b"".join(parts[:5] + without[5:]))[0]
    assert [fix.time_s % 60 for fix in fixes] == [*range(5), *range(5 + EPOCHS_TO_RELEARN, 20)]
    every_other = [each for pair in zip(parts[::2], without[1::2], strict=True) for each in pair]
    assert len(run(b"".join(every_other))[0]) == 20


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
