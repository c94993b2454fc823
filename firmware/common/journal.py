# The journal: every record on flash before anything else happens to it, until the backend has it.
#
# Each lane of each boot epoch has its own chain of segment files (common.segment), so that routine records can be
# dropped without touching alarms. RAM holds one small entry per segment, never one per record. Watermarks, and ranges
# that were lost, are in two alternating slots (common.slots).
import os
import struct

from emwire import constants, device_codec
from emwire.errors import WireError

from common.segment import MAXIMUM_PAYLOAD, OVERHEAD, Reader, file_name, frame, parse_name, read_at
from common.slots import Slots, sync

try:
    from typing import Callable
except ImportError:
    pass

# Two erase blocks of the usual 4 KiB: small enough that freeing is timely, large enough that a 1 MB journal
# has no more than 128 of them to remember.
SEGMENT_BYTES = 8192
# A file system gives out whole blocks.
BLOCK_BYTES = 4096
# Sequences are u24 and the watermark behind the last must fit too. At one record a second: 194 days.
LAST_SEQUENCE = 0xFFFFFE
# From here on the device should restart when it suits it: a tenth of the range is left.
REBOOT_SEQUENCE = 15000000
# Watermarks are written after so much progress: what a restart can cost in frames sent again.
MARK_EVERY = 64
# Records that flash refuses wait in RAM: half an hour at one a minute; oldest routine out first.
WAITING_RECORDS = 32
WAITING_BYTES = 8192
# Lost ranges remembered until the gateway has moved past them; 10 bytes each in the slot.
LOST_RANGES = 64
_ENOSPC = 28
# What is known of a lost range: no gap record tells of it yet; one waits for flash; one is on flash.
_UNTOLD = 1
_WAITS = 2
_TOLD = 0
# Writing gap records can itself drop segments and so make more of them: rounds in one call.
_GAP_ROUNDS = 4


class _Segment:
    __slots__ = ("epoch", "alarm", "number", "first", "next", "size", "records", "doubted")

    def __init__(self, epoch, alarm, number):
        self.epoch = epoch
        self.alarm = alarm
        self.number = number
        self.first = -1
        self.next = 0
        self.size = 0
        self.records = 0
        self.doubted = False  # damage was found after recovery, and is accounted for

    def allocated(self):
        return max(BLOCK_BYTES, -(-self.size // BLOCK_BYTES) * BLOCK_BYTES)


class _Marks:
    # Per epoch; all are "next" numbers: everything below is stored, its alarms are stored, is delivered, was made.
    __slots__ = ("stored", "alarms", "delivered", "next")

    def __init__(self):
        self.stored = 0
        self.alarms = 0
        self.delivered = 0
        self.next = 0


class Journal:
    """Records of the present epoch and of earlier ones that are not delivered.

    `stamp()` gives the header fields of a gap record (clock_source, clock_uncertainty_ms, recorded_time_s, uptime_s).
    `on_append(epoch, sequence, alarm, payload)` is called after a record is durable. `durable=False` leaves out the
    wait for the medium, for simulations in which the file system outlives the process.
    """

    def __init__(
        self,
        storage_path: str,
        epoch: int,
        capacity_bytes: int = 1048576,
        alarm_reserve_bytes: int = 65536,
        segment_bytes: int = SEGMENT_BYTES,
        stamp: "Callable[[], tuple] | None" = None,
        on_append: "Callable[[int, int, bool, bytes], None] | None" = None,
        durable: bool = True,
    ):
        self.epoch = epoch
        self.capacity_bytes = capacity_bytes
        self.alarm_reserve_bytes = alarm_reserve_bytes
        self.segment_bytes = segment_bytes
        self.stamp = stamp
        self.on_append = on_append
        self.next_sequence = 0
        # Counters: every loss has one.
        self.dropped_records = 0  # gave way to newer ones or found no room
        self.damaged_bytes = 0  # unreadable at recovery
        self.torn_bytes = 0  # left by a write that did not finish
        self.write_errors = 0
        self.untold_ranges = 0  # lost ranges that nothing tells of, because there were too many
        self.refused = 0  # append() refused: too long, or sequences exhausted
        # Of the last boot that made records, for hello.
        self.previous_epoch = 0
        self.previous_epoch_records = 0
        self._durable = durable
        self._folder = storage_path + "/journal"
        self._lanes = ([], [])  # routine, alarm: segments by (epoch, number)
        self._used = [0, 0]  # allocated bytes of each lane
        self._active = [None, None]
        self._numbers = [0, 0]
        self._writers = [None, None]
        self._waiting = ([], [])
        self._reader_name = None
        self._reader = None
        self._marks = {}
        self._lost = []  # [epoch, first, last, cause, _UNTOLD | _WAITS | _TOLD]
        self._progress = 0
        self._busy = False
        try:
            os.mkdir(self._folder)
        except OSError:
            pass
        self._slots = Slots(storage_path + "/watermarks.")
        self._load_marks()
        self._recover()

    # -- making records -----------------------------------------------------------------------------------

    def append(self, alarm: bool, payload: bytes) -> int:
        """Keep a record; its sequence. On return it is durable, or, if flash refused, counted and waiting in RAM.

        WireError if it fits into no frame; OverflowError once sequences are exhausted (restart for a new epoch).
        """
        if len(payload) > MAXIMUM_PAYLOAD:
            self.refused += 1
            raise WireError("oversize", MAXIMUM_PAYLOAD)
        if self.next_sequence > LAST_SEQUENCE:
            self.refused += 1
            raise OverflowError("sequences exhausted: restart")
        first = self.next_sequence == 0
        sequence = self._take(alarm, payload)
        self.retry()
        if first:
            self._free()
        return sequence

    def retry(self) -> bool:
        """Write what waits in RAM, alarms first; True if nothing waits any more."""
        if self._busy:
            return False
        self._busy = True
        try:
            rounds = 0
            while self._write_waiting(1) and self._write_waiting(0):
                if self.waiting:
                    continue
                if rounds == _GAP_ROUNDS or not self._queue_gaps():
                    return True
                rounds += 1
            return False
        finally:
            self._busy = False

    @property
    def waiting(self) -> int:
        """Records in RAM that flash has not taken yet."""
        return len(self._waiting[0]) + len(self._waiting[1])

    @property
    def reboot_wanted(self) -> bool:
        """Sequences run out."""
        return self.next_sequence >= REBOOT_SEQUENCE

    def _take(self, alarm, payload):
        sequence = self.next_sequence
        self.next_sequence += 1
        self._marks[self.epoch].next = self.next_sequence
        self._waiting[1 if alarm else 0].append((sequence, bytes(payload)))
        return sequence

    def _write_waiting(self, lane):
        waiting = self._waiting[lane]
        while waiting:
            sequence, payload = waiting[0]
            written = self._write(lane, sequence, payload)
            if written is None:
                self._bound_waiting()
                return False
            waiting.pop(0)
            if written:
                if payload[0] == constants.MESSAGE_GAP:
                    self._mark_lost(payload, _TOLD)
                if self.on_append:
                    self.on_append(self.epoch, sequence, bool(lane), payload)
            else:
                self._lose(self.epoch, sequence, sequence, constants.GAP_STORAGE_FULL, 1)
        return True

    def _bound_waiting(self):
        routine, alarms = self._waiting
        while self.waiting > WAITING_RECORDS or _bytes(routine) + _bytes(alarms) > WAITING_BYTES:
            sequence, payload = (routine or alarms).pop(0)
            if payload[0] == constants.MESSAGE_GAP:
                self._mark_lost(payload, _UNTOLD)
            self._lose(self.epoch, sequence, sequence, constants.GAP_STORAGE_FULL, 1)

    def _write(self, lane, sequence, payload):
        # True: durable. False: no room for its lane. None: flash refuses.
        data = frame(lane, self.epoch, sequence, payload)
        for attempt in (0, 1):
            segment = self._active[lane]
            if segment is not None and segment.size + len(data) > self.segment_bytes:
                self._close(lane)
                segment = None
            size = 0 if segment is None else segment.size
            more = -(-(size + len(data)) // BLOCK_BYTES) * BLOCK_BYTES
            if segment is not None:
                more -= segment.allocated()
            if not self._make_room(lane, more):
                return False
            segment = self._active[lane]
            try:
                if segment is None:
                    segment = self._open(lane)
                if self._writers[lane].write(data) != len(data):
                    raise OSError(_ENOSPC)
                if self._durable:
                    sync(self._writers[lane])
            except OSError as error:
                self.write_errors += 1
                self._abandon(lane)
                if attempt or error.args[0] != _ENOSPC or not self._drop_oldest(lane):
                    return None
                continue
            self._used[lane] -= segment.allocated() if segment.records else 0
            if segment.first < 0:
                segment.first = sequence
            segment.next = sequence + 1
            segment.size += len(data)
            segment.records += 1
            self._used[lane] += segment.allocated()
            return True
        return None

    def _open(self, lane):
        segment = _Segment(self.epoch, lane, self._numbers[lane])
        # "wb": a file that a failed write left under this name is not built upon.
        self._writers[lane] = open(self._path(segment), "wb", 0)
        self._numbers[lane] += 1
        self._active[lane] = segment
        self._lanes[lane].append(segment)
        return segment

    def _close(self, lane):
        writer = self._writers[lane]
        self._writers[lane] = None
        self._active[lane] = None
        if writer is not None:
            try:
                writer.close()
            except OSError:
                self.write_errors += 1

    def _abandon(self, lane):
        # After a failed write the end of the file is not known: the next record begins a new one.
        segment = self._active[lane]
        self._close(lane)
        if segment is not None and not segment.records:
            self._lanes[lane].remove(segment)
            self._unlink(segment)

    # -- room ---------------------------------------------------------------------------------------------

    def _make_room(self, lane, more):
        while more > 0 and not self._fits(lane, more):
            if not self._drop_oldest(lane):
                return False
        return True

    def _fits(self, lane, more):
        routine, alarms = self._used
        if lane:
            return routine + alarms + more <= self.capacity_bytes
        return routine + more <= self.capacity_bytes - max(self.alarm_reserve_bytes, alarms)

    def _drop_oldest(self, lane):
        # Oldest routine first: it was sent first, so what is stored goes before what is not. Alarms only for alarms.
        victims = self._lanes[0]
        if not victims and lane:
            victims = self._lanes[1]
        if not victims:
            return False
        segment = victims[0]
        if segment is self._active[segment.alarm]:
            if segment.alarm:
                return False
            self._close(0)
        self._drop(segment)
        return True

    def _drop(self, segment):
        delivered = self._marks[segment.epoch].delivered
        first, last = -1, -2
        try:
            with open(self._path(segment), "rb") as file:
                for _, sequence, payload in Reader(file, segment.alarm, segment.epoch):
                    if sequence < delivered:
                        continue
                    self.dropped_records += 1
                    if payload[0] == constants.MESSAGE_GAP:
                        self._carry_over(payload)
                    if sequence != last + 1:
                        self._lose(segment.epoch, first, last, constants.GAP_STORAGE_FULL, 0)
                        first = sequence
                    last = sequence
        except OSError:
            self.write_errors += 1
        self._lose(segment.epoch, first, last, constants.GAP_STORAGE_FULL, 0)
        # The cause outlives a power cut between here and the gap record.
        self._save_marks()
        self._remove(segment)

    def _carry_over(self, payload):
        # A gap record is itself dropped: what it told is told again, unless a newer one tells of more.
        epoch, first, last, cause = device_codec.decode(payload)[5:9]
        marks = self._marks.get(epoch)
        if marks is None or marks.delivered > last:
            return
        for lost in self._lost:
            if lost[:4] == [epoch, first, last, cause]:
                lost[4] = _UNTOLD
                return
        self._lose(epoch, first, last, cause, 0)

    def _lose(self, epoch, first, last, cause, records):
        if first < 0:
            return
        self.dropped_records += records
        for lost in self._lost:
            if lost[0] == epoch and lost[1] <= first and last <= lost[2]:
                return
        # Joined with what is lost beside it: one gap record tells of both, again if need be.
        joined = [epoch, first, last, cause, _UNTOLD]
        kept = []
        for lost in self._lost:
            beside = lost[1] <= joined[2] + 1 and joined[1] <= lost[2] + 1
            if (lost[0], lost[3]) == (epoch, cause) and lost[4] != _WAITS and beside:
                joined[1] = min(joined[1], lost[1])
                joined[2] = max(joined[2], lost[2])
            else:
                kept.append(lost)
        self._lost = kept
        self._remember_lost(joined)

    def _remember_lost(self, lost):
        self._lost.append(lost)
        if len(self._lost) > LOST_RANGES:
            for index, other in enumerate(self._lost):
                if other[4] == _TOLD:
                    self._lost.pop(index)
                    return
            self._lost.pop(0)
            self.untold_ranges += 1

    def _mark_lost(self, payload, told):
        fields = list(device_codec.decode(payload)[5:9])
        for lost in self._lost:
            if lost[4] == _WAITS and lost[:4] == fields:
                lost[4] = told
                return

    def _queue_gaps(self):
        # Gap records follow the first record of a boot (hello), and wait for flash like any other.
        if not self.next_sequence:
            return False
        queued = False
        for lost in list(self._lost):
            if lost[4] == _UNTOLD and self.next_sequence <= LAST_SEQUENCE:
                lost[4] = _WAITS
                header = self.stamp() if self.stamp else (constants.CLOCK_UNKNOWN, 65535, 0, 0)
                self._take(True, device_codec.encode_gap(*header, lost[0], lost[1], lost[2], lost[3]))
                queued = True
        return queued

    # -- what the gateway told ----------------------------------------------------------------------------

    def stored(self, epoch: int, through: int):
        """All records of an epoch below `through` are in the gateway's store."""
        marks = self._marks.get(epoch)
        if marks is not None:
            through = min(through, marks.next)
            if through > marks.stored:
                self._progress += through - marks.stored
                marks.stored = through
                self._save_now_and_then()

    def alarms_stored(self, epoch: int, through: int):
        """All alarms of an epoch below `through` are in the gateway's store."""
        marks = self._marks.get(epoch)
        if marks is not None:
            through = min(through, marks.next)
            if through > marks.alarms:
                self._progress += 1
                marks.alarms = through
                self._save_now_and_then()

    def delivered(self, epoch: int, through: int):
        """All records of an epoch below `through` are in the backend: their flash is free."""
        marks = self._marks.get(epoch)
        if marks is not None:
            through = min(through, marks.next)
            if through > marks.delivered:
                marks.delivered = through
                self._free()

    def forgotten(self, epoch: int, through: int, sent: "tuple[int, int]") -> bool:
        """The gateway's newest word is that it lacks the record `through`, which is not under way.

        `sent`: per lane the newest sequence sent on this connection, -1 for none. True if the record is here and was
        taken for stored: the gateway's store is older than it was, and all from there counts as not stored again."""
        marks = self._marks.get(epoch)
        if marks is None or through >= marks.next:
            return False
        taken = (max(marks.stored, sent[0] + 1), max(marks.stored, marks.alarms, sent[1] + 1))
        for lane in (0, 1):
            if through < taken[lane] and self._holds(lane, epoch, through):
                marks.stored = min(marks.stored, through)
                marks.alarms = min(marks.alarms, through)
                return True
        return False

    def _holds(self, lane, epoch, sequence):
        for segment in self._lanes[lane]:
            if segment.epoch == epoch and segment.records and segment.first <= sequence < segment.next:
                file = self._open_reader(segment)
                if file is None:
                    return False
                for start, found, _ in Reader(file, lane, epoch):
                    if found >= sequence or start >= segment.size:
                        return found == sequence and start < segment.size
        return False

    def tell_again(self, epoch: int, sequence: int):
        """The gateway has all alarms, and still waits for this sequence: if it is lost, a new gap record tells so."""
        for lost in self._lost:
            if lost[0] == epoch and lost[1] <= sequence <= lost[2] and lost[4] == _TOLD:
                lost[4] = _UNTOLD
                self.retry()
                return

    def _free(self):
        # Before the first record of a boot nothing goes: the last segments tell hello how many records there were.
        if not self.next_sequence:
            return
        free = []
        for lane in (0, 1):
            for segment in self._lanes[lane]:
                if segment is not self._active[lane] and segment.next <= self._marks[segment.epoch].delivered:
                    free.append(segment)
        # First the watermark: recovery takes what is missing above it for lost.
        if free and self._save_marks():
            for segment in free:
                self._remove(segment)
        self._forget()

    def _forget(self):
        # Epochs of which everything is delivered and nothing is on flash, and lost ranges below the watermark.
        for epoch in list(self._marks):
            marks = self._marks[epoch]
            if epoch != self.epoch and marks.delivered >= marks.next and not self._has_segments(epoch):
                del self._marks[epoch]
        kept = []
        for lost in self._lost:
            marks = self._marks.get(lost[0])
            if lost[4] != _TOLD or (marks is not None and marks.delivered <= lost[2]):
                kept.append(lost)
        self._lost = kept

    def _has_segments(self, epoch):
        for segments in self._lanes:
            for segment in segments:
                if segment.epoch == epoch:
                    return True
        return False

    # -- reading ------------------------------------------------------------------------------------------

    def epochs(self):
        """(epoch, oldest_sequence, next_sequence) of every epoch with something not delivered, and of the present.

        Below the oldest, everything is delivered or told lost by a gap record.
        """
        result = []
        for epoch in sorted(self._marks):
            marks = self._marks[epoch]
            if epoch == self.epoch or marks.delivered < marks.next:
                oldest = marks.delivered
                for lost in sorted(self._lost):
                    if lost[0] == epoch and lost[4] == _TOLD and lost[1] <= oldest <= lost[2]:
                        oldest = lost[2] + 1
                result.append((epoch, oldest, marks.next))
        return result

    def has(self, epoch: int, sequence: int) -> bool:
        """Whether a routine record is readable on flash, or was delivered."""
        marks = self._marks.get(epoch)
        # An epoch that is not known any more was delivered whole.
        return marks is None or sequence < marks.delivered or self._holds(0, epoch, sequence)

    @property
    def records(self) -> int:
        """Records on flash."""
        return sum(segment.records for segments in self._lanes for segment in segments)

    @property
    def bytes(self) -> int:
        """Flash they take."""
        return self._used[0] + self._used[1]

    @property
    def undelivered(self) -> bool:
        for marks in self._marks.values():
            if marks.delivered < marks.next:
                return True
        return False

    @property
    def backlog(self) -> int:
        """Records not stored, as far as the watermarks tell."""
        return sum(marks.next - marks.stored for marks in self._marks.values())

    def next_to_send(self, alarm: bool, after=None):
        """The record behind `after` in its lane, or the first one not stored; None if there is none.

        (epoch, sequence, alarm, segment number, offset, size): oldest epoch first, rising sequences.
        """
        lane = 1 if alarm else 0
        doubtful = None
        entry = None
        for segment in self._lanes[lane]:
            if not segment.records:
                continue
            marks = self._marks[segment.epoch]
            from_sequence = max(marks.stored, marks.alarms) if lane else marks.stored
            offset = 0
            if after is not None:
                if (segment.epoch, segment.number) < (after[0], after[3]):
                    continue
                if segment.epoch == after[0]:
                    from_sequence = max(from_sequence, after[1] + 1)
                    if segment.number == after[3]:
                        offset = after[4] + after[5]
            if segment.next <= from_sequence or offset >= segment.size:
                continue
            file = self._open_reader(segment)
            if file is None:
                continue
            reader = Reader(file, lane, segment.epoch, offset)
            for start, sequence, payload in reader:
                if start >= segment.size:
                    break
                if sequence >= from_sequence:
                    entry = segment.epoch, sequence, alarm, segment.number, start, OVERHEAD + len(payload)
                    break
            if reader.damaged or (entry is None and reader.end < segment.size):
                doubtful = segment
            if entry is not None:
                break
        if doubtful is not None:
            self._doubt(doubtful)
        return entry

    def read(self, entry):
        """The payload of an entry of next_to_send; None if it was dropped, freed or damaged since."""
        lane = 1 if entry[2] else 0
        for segment in self._lanes[lane]:
            if segment.epoch == entry[0] and segment.number == entry[3]:
                file = self._open_reader(segment)
                found = file and read_at(file, entry[4], lane, entry[0])
                if found and found[0] == entry[1]:
                    return found[1]
                self._doubt(segment)
                return None
        return None

    def _doubt(self, segment):
        # Flash has rotted since recovery: find out what is missing, once a segment and boot, and tell.
        if segment.doubted:
            return
        segment.doubted = True
        try:
            self._audit(segment.epoch)
        except OSError:
            self.write_errors += 1
        self.retry()

    def _open_reader(self, segment):
        # The uplink reads record after record from one segment: keep it open.
        name = self._path(segment)
        if self._reader_name != name:
            self._close_reader()
            try:
                self._reader = open(name, "rb")
            except OSError:
                self.write_errors += 1
                return None
            self._reader_name = name
        return self._reader

    def _close_reader(self):
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._reader_name = None

    def close(self):
        """Write the watermarks and close the files."""
        self._save_marks()
        self._close_reader()
        self._close(0)
        self._close(1)

    # -- recovery -----------------------------------------------------------------------------------------

    def _recover(self):
        self._marks[self.epoch] = _Marks()
        found = []
        for name in os.listdir(self._folder):
            parsed = parse_name(name)
            if parsed:
                found.append(parsed)
        found.sort()
        spoilt = []
        held = {}
        for epoch, alarm, number in found:
            if epoch >= self.epoch:
                raise ValueError("the journal has records of this epoch already")
            self._index(_Segment(epoch, 1 if alarm else 0, number), spoilt, held)
        for epoch, sequence in spoilt:
            if sequence == self._marks[epoch].next:
                self._marks[epoch].next += 1
        for epoch in sorted(self._marks):
            marks = self._marks[epoch]
            if epoch != self.epoch and marks.next:
                if held.get(epoch, 0) < marks.next - marks.delivered:
                    self._audit(epoch)
                self.previous_epoch = epoch
                self.previous_epoch_records = marks.next

    def _index(self, segment, spoilt, held):
        # held: per epoch, how many sequences from the delivered watermark on there are.
        epoch = segment.epoch
        lane = segment.alarm
        marks = self._marks.get(epoch)
        if marks is None:
            marks = self._marks[epoch] = _Marks()
        before = self._lanes[lane][-1] if self._lanes[lane] else None
        count_from = marks.delivered
        if before is not None and before.epoch == epoch:
            count_from = max(count_from, before.next)
        try:
            with open(self._path(segment), "rb") as file:
                reader = Reader(file, lane, epoch)
                for _, sequence, payload in reader:
                    if segment.first < 0:
                        segment.first = sequence
                    segment.next = sequence + 1
                    segment.records += 1
                    if sequence >= count_from:
                        held[epoch] = held.get(epoch, 0) + 1
                    if payload[0] == constants.MESSAGE_GAP:
                        self._note_told(payload)
        except OSError:
            self.write_errors += 1
            return
        self.damaged_bytes += reader.damaged
        if reader.cut:
            self.torn_bytes += reader.tail
        else:
            self.damaged_bytes += reader.tail
            if reader.spoilt_sequence >= 0:
                spoilt.append((epoch, reader.spoilt_sequence))
        if not segment.records:
            self._unlink(segment)
            return
        segment.size = reader.end
        marks.next = max(marks.next, segment.next)
        self._lanes[lane].append(segment)
        self._used[lane] += segment.allocated()

    def _note_told(self, payload):
        # A gap record on flash: its range needs no other.
        epoch, first, last, cause = device_codec.decode(payload)[5:9]
        for lost in self._lost:
            if lost[:3] == [epoch, first, last]:
                lost[4] = _TOLD
                return
        self._remember_lost([epoch, first, last, cause, _TOLD])

    def _audit(self, epoch):
        # Every sequence from the delivered watermark on is in one of the lanes, or known lost, or found missing here.
        marks = self._marks[epoch]
        end = marks.next
        if epoch == self.epoch:
            for waiting in self._waiting:
                if waiting:
                    end = min(end, waiting[0][0])
        streams = [self._sequences(lane, epoch) for lane in (0, 1)]
        heads = [next(stream, None) for stream in streams]
        expected = marks.delivered
        while heads[0] is not None or heads[1] is not None:
            lane = 1 if heads[0] is None or (heads[1] is not None and heads[1] < heads[0]) else 0
            sequence = heads[lane]
            heads[lane] = next(streams[lane], None)
            if sequence >= expected:
                self._missing(epoch, expected, min(sequence, end) - 1)
                expected = sequence + 1
        self._missing(epoch, expected, end - 1)

    def _sequences(self, lane, epoch):
        for segment in self._lanes[lane]:
            if segment.epoch == epoch:
                with open(self._path(segment), "rb") as file:
                    for _, sequence, _ in Reader(file, lane, epoch):
                        yield sequence

    def _missing(self, epoch, first, last):
        # Leave out what is known already.
        known = sorted([(lost[1], lost[2]) for lost in self._lost if lost[0] == epoch])
        for known_first, known_last in known:
            if known_last < first or known_first > last:
                continue
            if known_first > first:
                self._lose(epoch, first, known_first - 1, constants.GAP_STORAGE_DAMAGED, known_first - first)
            first = known_last + 1
        if first <= last:
            self._lose(epoch, first, last, constants.GAP_STORAGE_DAMAGED, last + 1 - first)

    # -- files --------------------------------------------------------------------------------------------

    def _path(self, segment):
        return self._folder + "/" + file_name(segment.epoch, segment.alarm, segment.number)

    def _remove(self, segment):
        lane = segment.alarm
        self._lanes[lane].remove(segment)
        if segment.records:
            self._used[lane] -= segment.allocated()
        self._unlink(segment)

    def _unlink(self, segment):
        name = self._path(segment)
        if name == self._reader_name:
            self._close_reader()
        try:
            os.remove(name)
        except OSError:
            self.write_errors += 1

    def _save_now_and_then(self):
        if self._progress >= MARK_EVERY:
            self._save_marks()

    def _save_marks(self):
        data = struct.pack("<H", len(self._marks))
        for epoch in sorted(self._marks):
            marks = self._marks[epoch]
            data += struct.pack("<HIIII", epoch, marks.stored, marks.alarms, marks.delivered, marks.next)
        for epoch, first, last, cause, told in self._lost:
            # What waits in RAM is not told before it is on flash.
            data += struct.pack("<HIIBB", epoch, first, last, cause, _TOLD if told == _TOLD else _UNTOLD)
        try:
            self._slots.write(data)
        except OSError:
            self.write_errors += 1
            return False
        self._progress = 0
        return True

    def _load_marks(self):
        data = self._slots.value
        if data is None:
            return
        count = struct.unpack("<H", data[:2])[0]
        offset = 2
        for _ in range(count):
            marks = _Marks()
            epoch, marks.stored, marks.alarms, marks.delivered, marks.next = struct.unpack(
                "<HIIII", data[offset : offset + 18]
            )
            self._marks[epoch] = marks
            offset += 18
        while offset < len(data):
            self._lost.append(list(struct.unpack("<HIIBB", data[offset : offset + 12])))
            offset += 12


def _bytes(waiting):
    return sum(len(payload) for _, payload in waiting)
