"""The journal against power cuts, damage, a full flash and a flash that refuses."""

import errno
import os
import random
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import common.journal
import pytest
from common.epoch import DAMAGE_MARGIN, begin_epoch
from common.journal import LAST_SEQUENCE, Journal
from common.segment import MAXIMUM_PAYLOAD, OVERHEAD, Reader, parse_name, records
from emwire import constants, device_codec
from emwire.errors import WireError
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
Made = dict[tuple[int, int], tuple[bool, bytes]]


def payload_of(number: int, size: int = 40) -> bytes:
    """A record of a type that the journal does not look into."""
    return bytes([constants.MESSAGE_STATUS]) + struct.pack("<I", number) + bytes(max(0, size - 5))


def held(path: Path) -> Made:
    return {(e, s): (alarm, payload) for e, s, alarm, payload in records(str(path / "journal"))}


def gaps(journal_records: Made) -> set[tuple[int, int]]:
    """Identities that gap records declare lost."""
    lost = set()
    for _, payload in journal_records.values():
        if payload[0] == constants.MESSAGE_GAP:
            epoch, first, last = device_codec.decode(payload)[5:8]
            lost |= {(epoch, sequence) for sequence in range(first, last + 1)}
    return lost


def fill(path: Path, count: int, alarm_every: int = 5, **options: object) -> tuple[Journal, Made]:
    made: Made = {}
    journal = Journal(
        str(path),
        begin_epoch(str(path)),
        durable=False,
        on_append=lambda epoch, sequence, alarm, payload: made.__setitem__((epoch, sequence), (alarm, payload)),
        **options,
    )
    for number in range(count):
        journal.append(number % alarm_every == 0, payload_of(number))
    return journal, made


def in_lane(journal: Journal, alarm: bool) -> list[tuple[int, int]]:
    entries = []
    entry = journal.next_to_send(alarm)
    while entry is not None:
        entries.append((entry[0], entry[1]))
        assert journal.read(entry) is not None
        entry = journal.next_to_send(alarm, entry)
    return entries


def test_records_come_back_in_order_and_alarms_apart(tmp_path: Path) -> None:
    journal, made = fill(tmp_path, 700)
    assert list(made) == [(1, number) for number in range(700)]
    assert in_lane(journal, True) == [(1, number) for number in range(0, 700, 5)]
    assert in_lane(journal, False) == [(1, number) for number in range(700) if number % 5]
    assert journal.records == 700
    journal.stored(1, 350)
    assert in_lane(journal, False)[0] == (1, 351)
    journal.alarms_stored(1, 601)
    assert in_lane(journal, True)[0] == (1, 605)


def test_next_boot_knows_what_the_last_one_made(tmp_path: Path) -> None:
    journal, _ = fill(tmp_path, 123)
    journal.stored(1, 123)
    journal.delivered(1, 123)
    again = Journal(str(tmp_path), begin_epoch(str(tmp_path)), durable=False)
    assert (again.previous_epoch, again.previous_epoch_records) == (1, 123)
    # A boot that made nothing says nothing; the next still tells of the last one that did.
    third = Journal(str(tmp_path), begin_epoch(str(tmp_path)), durable=False)
    assert (third.epoch, third.previous_epoch, third.previous_epoch_records) == (3, 1, 123)


def test_flash_is_freed_only_below_delivered(tmp_path: Path) -> None:
    journal, made = fill(tmp_path, 700)
    journal.stored(1, 700)
    assert held(tmp_path) == made
    journal.delivered(1, 400)
    left = held(tmp_path)
    assert {(1, number) for number in range(400, 700)} <= set(left)
    assert len(left) < 600
    again = Journal(str(tmp_path), begin_epoch(str(tmp_path)), durable=False)
    assert again.epochs() == [(1, 400, 700), (2, 0, 0)]
    again.append(False, payload_of(0))
    assert not gaps(held(tmp_path))
    again.stored(1, 700)
    again.delivered(1, 700)
    assert set(held(tmp_path)) == {(2, 0)}


@pytest.mark.parametrize("alarm", [False, True])
def test_last_write_torn_at_every_byte(tmp_path: Path, alarm: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _, made = fill(source, 30)
    last = payload_of(99, 61)
    before = {file.name: file.stat().st_size for file in (source / "journal").iterdir()}
    journal = Journal(str(source), begin_epoch(str(source)), durable=False)
    journal.append(alarm, payload_of(98))
    before |= {name.name: name.stat().st_size for name in (source / "journal").iterdir() if "00002" in name.name}
    journal.append(alarm, last)
    made[(2, 0)] = (alarm, payload_of(98))
    torn = next(file for file in (source / "journal").glob("00002*"))
    size = torn.stat().st_size
    assert size == before[torn.name] + OVERHEAD + len(last)
    for end in range(before[torn.name], size + 1):
        target = tmp_path / f"cut{end}"
        shutil.copytree(source, target)
        os.truncate(target / "journal" / torn.name, end)
        again = Journal(str(target), begin_epoch(str(target)), durable=False)
        found = dict(made)
        if end == size:
            found[(2, 1)] = (alarm, last)
        assert held(target) == found
        assert again.previous_epoch_records == (2 if end == size else 1)
        assert again.torn_bytes == (end - before[torn.name] if end < size else 0)
        assert again.damaged_bytes == 0
        again.append(False, payload_of(100))
        # Nothing is written behind the torn end, and nothing is declared lost.
        assert (target / "journal" / torn.name).stat().st_size == end
        assert held(target) == found | {(3, 0): (False, payload_of(100))}
        shutil.rmtree(target)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_anywhere_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage")
    journal, made = fill(path, 260)
    delivered = data.draw(st.integers(0, 259), label="delivered")
    journal.stored(1, delivered)
    journal.delivered(1, delivered)
    journal.close()
    for _ in range(data.draw(st.integers(1, 3), label="spots")):
        file = data.draw(st.sampled_from(sorted((path / "journal").iterdir())), label="file")
        content = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(content) - 1), label="start")
        size = data.draw(st.integers(1, 100), label="size")
        filler = data.draw(st.sampled_from([b"\0", b"\xff", b"\xa4", b"\xa5"]), label="filler")
        content[start : start + size] = filler * len(content[start : start + size])
        file.write_bytes(content)
    readable = held(path)
    assert all(made[identity] == record for identity, record in readable.items())
    again = Journal(str(path), begin_epoch(str(path)), durable=False)
    known = again.previous_epoch_records
    again.append(False, payload_of(1000))
    lost = {(1, number) for number in range(delivered, known)} - set(readable)
    assert gaps(held(path)) == lost
    if len(readable) < len(made) and lost:
        assert again.damaged_bytes > 0
    # What is behind the last readable record cannot be counted, and at most three records are.
    assert known >= 260 - 3 * 3
    # The next boot finds it told, and does not tell it again.
    count = len(held(path))
    third = Journal(str(path), begin_epoch(str(path)), durable=False)
    third.append(False, payload_of(1001))
    assert len(held(path)) == count + 1


@pytest.mark.parametrize("place", [0, 300, 8100])
def test_damage_while_running_is_told(tmp_path: Path, place: int) -> None:
    journal, made = fill(tmp_path, 400, alarm_every=50)
    file = tmp_path / "journal" / "00001r-00000.seg"
    content = bytearray(file.read_bytes())
    content[place : place + 20] = bytes(20)
    file.write_bytes(content)
    found = set(in_lane(journal, True)) | set(in_lane(journal, False))
    left = held(tmp_path)
    missing = set(made) - set(left)
    assert missing and gaps(left) == missing
    assert found == {(1, number) for number in range(400)} - missing
    in_lane(journal, False)
    assert len(held(tmp_path)) == len(left)  # told once


def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    _, made = fill(tmp_path, 700, alarm_every=50)
    victim = tmp_path / "journal" / "00001r-00001.seg"
    before = held(tmp_path)
    victim.unlink()
    missing = set(before) - set(held(tmp_path))
    assert len(missing) > 100
    again = Journal(str(tmp_path), begin_epoch(str(tmp_path)), durable=False)
    again.append(False, payload_of(0))
    assert gaps(held(tmp_path)) == missing
    assert again.dropped_records == len(missing)
    assert set(made) == set(before)


def test_full_flash_drops_oldest_routine_and_tells(tmp_path: Path) -> None:
    journal, made = fill(tmp_path, 4000, alarm_every=40, capacity_bytes=65536, alarm_reserve_bytes=16384)
    left = held(tmp_path)
    assert journal.bytes <= 65536
    assert sum(file.stat().st_size for file in (tmp_path / "journal").iterdir()) <= 65536
    lost = gaps(left)
    assert lost and not lost & set(left)
    assert lost | set(left) >= set(made)
    # No alarm is lost, and the newest routine records are there.
    assert not [identity for identity in lost if made[identity][0]]
    newest = max(identity for identity in made if not made[identity][0])
    assert newest in left
    assert journal.dropped_records == len(lost)
    assert journal.untold_ranges == 0


def test_alarms_have_the_last_word(tmp_path: Path) -> None:
    journal, made = fill(tmp_path, 3000, alarm_every=1, capacity_bytes=65536, alarm_reserve_bytes=16384)
    left = held(tmp_path)
    assert journal.bytes <= 65536
    assert max(made) in left
    assert gaps(left) | set(left) >= set(made)
    # Routine records get what alarms leave, and push out none.
    alarms = {identity for identity, (alarm, _) in left.items() if alarm}
    for number in range(400):
        journal.append(False, payload_of(number))
    left = held(tmp_path)
    assert journal.bytes <= 65536
    assert alarms <= set(left)
    assert gaps(left) | set(left) >= set(made)
    assert journal.dropped_records == len(gaps(left))


def test_what_was_dropped_is_known_after_a_power_cut_before_it_is_told(tmp_path: Path) -> None:
    journal, made = fill(tmp_path, 600, alarm_every=1000)
    journal._drop(journal._lanes[0][0])
    missing = set(made) - set(held(tmp_path))
    again = Journal(str(tmp_path), begin_epoch(str(tmp_path)), durable=False)
    again.append(False, payload_of(0))
    assert gaps(held(tmp_path)) == missing
    causes = {
        device_codec.decode(payload)[8] for _, payload in held(tmp_path).values() if payload[0] == constants.MESSAGE_GAP
    }
    assert causes == {constants.GAP_STORAGE_FULL}


class Flaky:
    """A file system that refuses: stands where common.journal finds open()."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.partial = 0

    def open(self, path: str, mode: str, buffering: int = -1) -> object:
        file = open(path, mode, buffering)  # noqa: SIM115, PTH123
        return _FlakyFile(self, file) if "w" in mode else file


class _FlakyFile:
    def __init__(self, flaky: Flaky, file: object) -> None:
        self._flaky = flaky
        self._file = file

    def write(self, data: bytes) -> int:
        if self._flaky.error is not None:
            if self._flaky.partial:
                self._file.write(data[: self._flaky.partial])
            raise OSError(self._flaky.error, "injected")
        return self._file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("partial", [0, 11])
def test_refusing_flash_loses_nothing_that_fits_in_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, partial: int
) -> None:
    flaky = Flaky()
    monkeypatch.setattr(common.journal, "open", flaky.open, raising=False)
    journal, made = fill(tmp_path, 20)
    flaky.error, flaky.partial = error, partial
    for number in range(20, 30):
        assert journal.append(number % 2 == 0, payload_of(number)) == number
    assert journal.waiting == 10 and journal.write_errors > 0
    assert (1, 20) not in made
    assert not in_lane(journal, True)[4:]  # what is not durable is not sent
    flaky.error = None
    assert journal.retry()
    assert journal.waiting == 0
    left = held(tmp_path)
    assert {number for _, number in left} >= set(range(20 if error == errno.EIO else 30)) - gaps_numbers(left)
    assert gaps(left) | set(left) >= {(1, number) for number in range(30)}
    assert in_lane(journal, False) == sorted(in_lane(journal, False))


def gaps_numbers(left: Made) -> set[int]:
    return {sequence for _, sequence in gaps(left)}


def test_ram_for_waiting_records_is_bounded_and_what_falls_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky()
    monkeypatch.setattr(common.journal, "open", flaky.open, raising=False)
    journal, _ = fill(tmp_path, 20)
    flaky.error = errno.EIO
    for number in range(20, 220):
        journal.append(number % 10 == 0, payload_of(number))
    assert journal.waiting <= common.journal.WAITING_RECORDS
    flaky.error = None
    assert journal.retry()
    left = held(tmp_path)
    assert gaps(left) | set(left) >= {(1, number) for number in range(220)}
    assert {(1, number) for number in range(20, 220, 10)} <= set(left)  # alarms stayed
    assert journal.dropped_records == len(gaps(left))


def test_refusals_of_append(tmp_path: Path) -> None:
    journal, _ = fill(tmp_path, 1)
    assert journal.append(False, bytes([6]) * MAXIMUM_PAYLOAD) == 1
    with pytest.raises(WireError, match="oversize"):
        journal.append(False, bytes(MAXIMUM_PAYLOAD + 1))
    journal.next_sequence = LAST_SEQUENCE
    assert journal.reboot_wanted
    assert journal.append(False, payload_of(2)) == LAST_SEQUENCE
    with pytest.raises(OverflowError):
        journal.append(False, payload_of(3))
    assert journal.refused == 2


def test_a_used_epoch_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with pytest.raises(ValueError, match="epoch"):
        Journal(str(tmp_path), 1)


def test_epochs_never_repeat(tmp_path: Path) -> None:
    path = str(tmp_path)
    seen = [begin_epoch(path) for _ in range(5)]
    assert seen == [1, 2, 3, 4, 5]
    slots = sorted(tmp_path.glob("epoch.*"))
    assert len(slots) == 2
    for slot in slots:  # torn at any byte, or rotten: still above all that were used
        good = slot.read_bytes()
        for cut in range(len(good)):
            slot.write_bytes(good[:cut])
            other = {file: file.read_bytes() for file in tmp_path.glob("epoch.*")}
            assert begin_epoch(path) > 5
            for file, content in other.items():
                file.write_bytes(content)
        slot.write_bytes(good)
    for slot in slots:
        slot.write_bytes(b"\xff" * 14)
    assert begin_epoch(path) > DAMAGE_MARGIN


def test_epochs_end_in_an_error_not_in_a_repetition(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "65535r-00000.seg").write_bytes(b"")
    with pytest.raises(OSError, match="new key"):
        begin_epoch(str(tmp_path))


APPEND_FOR_EVER = """
import sys
from common.epoch import begin_epoch
from common.journal import Journal
path = sys.argv[1]
journal = Journal(path, begin_epoch(path), segment_bytes=2048)
print("e", journal.epoch, journal.previous_epoch, journal.previous_epoch_records)
number = 0
while True:
    alarm = number % 7 == 3
    sequence = journal.append(alarm, bytes([6]) + bytes([number & 255]) * (20 + number % 90))
    print(sequence)
    number += 1
"""


def expected_record(number: int) -> tuple[bool, bytes]:
    return number % 7 == 3, bytes([6]) + bytes([number & 255]) * (20 + number % 90)


def newest_record_file(path: Path, epoch: int) -> tuple[Path, int] | None:
    """The file that ends with the newest record of an epoch, and that record's size."""
    mine = [(s, alarm, payload) for (e, s), (alarm, payload) in held(path).items() if e == epoch]
    if not mine:
        return None
    _, alarm, payload = max(mine)
    lane = "a" if alarm else "r"
    return max((path / "journal").glob(f"{epoch:05d}{lane}-*")), OVERHEAD + len(payload)


def test_kill_at_50_moments_and_tear(tmp_path: Path, micropython: str) -> None:
    chance = random.Random(7)
    program = tmp_path / "append.py"
    program.write_text(APPEND_FOR_EVER)
    flash = tmp_path / "flash"
    flash.mkdir()
    environment = {"MICROPYPATH": f"{ROOT / 'protocol'}:{ROOT / 'firmware'}"}
    made: dict[int, int] = {}  # epoch: how many records must be there
    for _ in range(50):
        process = subprocess.Popen(
            [micropython, str(program), str(flash)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline().split()
        epoch = int(first[1])
        assert epoch not in made
        before = [e for e in made if made[e]]
        if before:
            assert (int(first[2]), int(first[3])) == (max(before), made[max(before)])
        printed = 0
        for _ in range(chance.randrange(60)):
            printed = int(process.stdout.readline()) + 1
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        process.wait()
        whole = [int(line) for line in rest if line.isdigit()]
        # The last line may be cut; all but it were printed after their append had returned.
        printed = max([printed, *[number + 1 for number in whole[:-1]]])
        mine = {s: record for (e, s), record in held(flash).items() if e == epoch}
        assert sorted(mine) == list(range(len(mine)))
        assert len(mine) >= printed
        assert all(record == expected_record(number) for number, record in mine.items())
        made[epoch] = len(mine)
        newest = newest_record_file(flash, epoch)
        if newest is not None and chance.random() < 0.7:
            file, size = newest
            os.truncate(file, file.stat().st_size - trailing_bytes(file) - chance.randrange(1, size + 1))
            made[epoch] -= 1
    total = held(flash)
    for epoch, count in made.items():
        assert sorted(s for e, s in total if e == epoch) == list(range(count))
    assert sum(made.values()) > 500


def trailing_bytes(file: Path) -> int:
    """Bytes behind the last whole record of a file."""
    epoch, alarm, _ = parse_name(file.name)
    with file.open("rb") as opened:
        reader = Reader(opened, 1 if alarm else 0, epoch)
        for _ in reader:
            pass
    return reader.tail
