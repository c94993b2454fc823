"""The gateway's end of the link with one device: verifies, tells what to store, acknowledges. Sans-IO.

The session stores what `received` returns, calls `stored` after the commit and `delivered` after the backend's,
and sends what `acknowledgements` returns. What must outlive a restart is handed in by `restore`, `restore_lost`
and `restore_up_counter` (and the key that the device uses), and handed out by `changed_watermarks`, `lost_range` and
`next_up_counter` (and `retirable`); down counters come from blocks that the store has committed as used before
(`grant`). Runs on both Pythons.
"""

import struct

from emwire import constants, device_codec, envelope
from emwire.errors import WireError
from emwire.ranges import RangeSet
from emwire.replay import ReplayWindow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# A device restarts rarely; one in a boot loop must not fill the gateway's memory (each epoch some 500 bytes).
MAXIMUM_EPOCHS = 256
# Holes of one epoch. Alarms ahead of a backlog make one each; a device's flash holds far fewer.
MAXIMUM_RANGES = 16384
# Gap records received and not yet delivered whose range is remembered here; a session that passes the payload
# to `stored` and `delivered` does not depend on it.
MAXIMUM_GAPS = 1024
# Stored sequences that wait to be named in an acknowledgement: 4 messages of 8 ranges.
MAXIMUM_RECENT = 32
RANGES_PER_ACKNOWLEDGEMENT = 8
# Down counters asked for at a time, and what the clock adds to `first_counter` in a second: whoever takes no more
# than a block a second stays behind the clock.
COUNTER_BLOCK = 256


class Received:
    """An authentic frame: a record (payload = its plaintext) or a link message (message = as decoded)."""

    __slots__ = ("alarm", "epoch", "kind", "message", "newest", "payload", "sequence")

    def __init__(
        self,
        kind: int,
        epoch: int,
        sequence: int,
        alarm: bool,
        payload: bytes,
        message: "tuple[object, ...] | None" = None,
        newest: bool = True,
    ) -> None:
        """Kind is envelope.RECORD or envelope.LINK; a link message's sequence is its counter.

        Newest: nobody can have recorded it before the device was last heard; False means that this cannot be told."""
        self.kind = kind
        self.epoch = epoch
        self.sequence = sequence
        self.alarm = alarm
        self.payload = payload
        self.message = message
        self.newest = newest


class _Epoch:
    __slots__ = ("delivered", "dirty", "next_sequence", "recent", "stored", "written")

    def __init__(self) -> None:
        self.stored = RangeSet()
        self.delivered = RangeSet()
        self.next_sequence = 0
        self.recent: list[int] = []
        self.dirty = False
        self.written = (0, 0)

    def finished(self) -> bool:
        return self.delivered.through >= self.next_sequence and not len(self.delivered)


def first_counter(time_s: int, ms: int = 0) -> int:
    """The lowest down counter to grant at a time (s and ms since 2010; below 0 = unknown, then 0). u40 lasts 136 years.

    A gateway whose store is an older copy of itself has forgotten which counters it used; its clock has not."""
    return time_s * COUNTER_BLOCK + ms * COUNTER_BLOCK // 1000 if time_s > 0 else 0


def lost_range(payload: bytes) -> "tuple[int, int, int] | None":
    """(epoch, first, last inclusive) that a record declares lost, if it is a gap record that says so."""
    if not payload or payload[0] != constants.MESSAGE_GAP:
        return None
    try:
        message = device_codec.decode(payload)
    except WireError:
        return None
    epoch, first, last, cause = message[5:9]
    if last < first or cause not in (constants.GAP_STORAGE_FULL, constants.GAP_STORAGE_DAMAGED):
        return None
    return epoch, first, last


class GatewayLink:
    """State of one device. Nothing is believed before it is authenticated; no method does I/O."""

    def __init__(
        self,
        device_id: int,
        aead: "envelope.Aead",
        reserve_down: "Callable[[int, int], int] | None" = None,
        slot: int = 0,
    ) -> None:
        """The aead is the device's key in that slot, as far as is known; `offer` another.

        reserve_down(epoch, count) commits down counters as used and returns the first; or see `grant`."""
        self.device_id = device_id
        self._packed_id = struct.pack("<I", device_id)
        self.epoch: int | None = None  # boot epoch the device is in, as far as authentic frames tell
        self.refused = 0
        self.slot = slot  # seals frames down
        self.offered: int | None = None  # slot of a key that the device has not used yet
        self._aeads = {slot: aead}
        self._reserve_down = reserve_down
        self._epochs: dict[int, _Epoch] = {}
        self._up = ReplayWindow()
        self._down_epoch = -1
        self._down_next = 0
        self._down_end = 0
        self._down_step = 1
        self._gaps: dict[tuple[int, int], tuple[int, int, int]] = {}

    # -- state that outlives a restart --------------------------------------------------------------------

    def restore(
        self,
        epoch: int,
        stored_through: int,
        delivered_through: int,
        stored_above: "Iterable[tuple[int, int]]" = (),
        delivered_above: "Iterable[tuple[int, int]]" = (),
    ) -> None:
        """What the store knows of an epoch: watermarks (all below) and the ranges (inclusive) above them."""
        self._note_epoch(epoch)
        state = self._state(epoch)
        for numbers, through, items in (
            (state.stored, stored_through, stored_above),
            (state.delivered, delivered_through, delivered_above),
        ):
            numbers.add(0, through - 1)
            for first, last in items:
                numbers.add(first, last)
        state.next_sequence = max(state.next_sequence, stored_through)
        state.written = (state.stored.through, state.delivered.through)

    def restore_lost(self, epoch: int, first: int, last: int, delivered: bool) -> None:
        """A range that a stored gap record declares lost, and whether that record is delivered."""
        state = self._state(epoch)
        state.stored.add(first, last)
        if delivered:
            state.delivered.add(first, last)

    def restore_up_counter(self, epoch: int, next_counter: int) -> None:
        """The first link counter not yet seen in an epoch; without it old link frames can be replayed."""
        self._note_epoch(epoch)
        if epoch == self.epoch:
            self._up = ReplayWindow(next_counter)

    def next_up_counter(self) -> "tuple[int, int] | None":
        """(epoch, first unseen link counter), for `restore_up_counter`."""
        return None if self.epoch is None else (self.epoch, self._up.next_counter)

    def changed_watermarks(self) -> "list[tuple[int, int, int]]":
        """(epoch, stored_through, delivered_through) of the epochs in which one moved since the last call."""
        changed = []
        for epoch, state in self._epochs.items():
            marks = (state.stored.through, state.delivered.through)
            if marks != state.written:
                state.written = marks
                changed.append((epoch, marks[0], marks[1]))
        return changed

    def watermarks(self, epoch: int) -> "tuple[int, int]":
        """(stored_through, delivered_through) of an epoch; (0, 0) if nothing is known."""
        state = self._epochs.get(epoch)
        return (0, 0) if state is None else (state.stored.through, state.delivered.through)

    def grant(self, epoch: int, first: int, end: int, step: int = 1) -> None:
        """Down counters first, first + step… below end of an epoch are this link's to use once; the store has committed
        that."""
        self._down_epoch = epoch
        self._down_next = first
        self._down_end = end
        self._down_step = step

    def skip_counters(self, below: int) -> None:
        """Use none below this any more: another gateway may have been heard by the device meanwhile, and a device takes
        none from behind the highest."""
        if self._down_next < below:
            self._down_next += -(-(below - self._down_next) // self._down_step) * self._down_step

    def counters_left(self) -> int:
        """Down frames that can still be sealed for the present epoch without a new grant."""
        if self._down_epoch != self.epoch:
            return 0
        return max(0, -(-(self._down_end - self._down_next) // self._down_step))

    # -- keys ---------------------------------------------------------------------------------------------

    def offer(self, slot: int, aead: "envelope.Aead") -> None:
        """The device has been or will be told this key (key_update): taken from now on besides the present one."""
        if not 0 <= slot < envelope.SLOTS or slot in self._aeads:
            raise WireError("key", 0)
        self.offered = slot
        self._aeads[slot] = aead

    @property
    def retirable(self) -> bool:
        """A key is still taken that the device has replaced."""
        return self.offered is None and len(self._aeads) > 1

    def retire(self) -> None:
        """It is committed that the device uses the new key: refuse the old one from now on."""
        if self.offered is None:
            self._aeads = {self.slot: self._aeads[self.slot]}

    # -- frames -------------------------------------------------------------------------------------------

    def received(self, frame: bytes) -> Received:
        """Open a frame; WireError if it is not an authentic, fresh frame of this device.

        Reasons: those of the envelope ("version": newer than this program, keep it raw), "direction",
        "replay" (link counter seen before), and of the codec for a malformed link message.
        """
        try:
            return self._received(frame)
        except WireError:
            self.refused += 1
            raise

    def _received(self, frame: bytes) -> Received:
        control, epoch, counter = envelope.parse_header(frame)
        if control & 16:  # the bits as in envelope: a call for each is a tenth of a frame
            raise WireError("direction", 0)
        slot = control & 3
        aead = self._aeads.get(slot)
        if aead is None:
            raise WireError("key", 0)
        # As envelope.open_parsed, which packs the number anew for each: a tenth of a frame.
        head = bytes(frame[: envelope.HEADER_SIZE])
        nonce, associated = self._packed_id + head + b"\0\0\0", head + self._packed_id
        payload = aead.open(nonce, bytes(frame[envelope.HEADER_SIZE :]), associated)
        if slot == self.offered:
            # The device keeps the key: only then does it seal with it, and from then on it opens nothing else.
            self.slot = slot
            self.offered = None
        if control & 8:
            return self._link_message(epoch, counter, payload)
        if epoch != self.epoch:
            self._note_epoch(epoch)
        state = self._state(epoch)
        newest = epoch == self.epoch and counter >= state.next_sequence
        if counter >= state.next_sequence:
            state.next_sequence = counter + 1
        lost = lost_range(payload)
        if lost is not None:
            if len(self._gaps) >= MAXIMUM_GAPS:
                self._gaps.pop(next(iter(self._gaps)))
            self._gaps[(epoch, counter)] = lost
        return Received(envelope.RECORD, epoch, counter, control & 4 != 0, payload, newest=newest)

    def _link_message(self, epoch: int, counter: int, payload: bytes) -> Received:
        if self.epoch is not None and epoch < self.epoch:
            raise WireError("replay", 1)
        self._note_epoch(epoch)
        if not self._up.take(counter):
            raise WireError("replay", 3)
        message = device_codec.decode(payload)
        if message[0] == constants.MESSAGE_SYNC:
            self._synchronise(message[1], message[2], message[3])
        elif message[0] == constants.MESSAGE_POLL:
            for state in self._epochs.values():
                state.dirty = state.dirty or not state.finished()
            self._state(epoch).dirty = True
        return Received(envelope.LINK, epoch, counter, False, payload, message)

    def _synchronise(self, epoch: int, oldest_sequence: int, next_sequence: int) -> None:
        # What the device no longer holds it freed as delivered, or declares lost: not awaited.
        state = self._state(epoch)
        state.stored.add(0, oldest_sequence - 1)
        state.delivered.add(0, oldest_sequence - 1)
        state.next_sequence = max(state.next_sequence, next_sequence)
        state.dirty = True

    def stored(self, epoch: int, sequence: int, payload: "bytes | None" = None) -> None:
        """The record is committed (now or before); name it in the next acknowledgement."""
        state = self._state(epoch)
        if len(state.stored) < MAXIMUM_RANGES:
            state.stored.add(sequence, sequence)
        recent = state.recent
        if len(recent) >= MAXIMUM_RECENT:
            recent.pop(0)
        recent.append(sequence)
        state.dirty = True
        lost = self._lost(epoch, sequence, payload)
        if lost is not None:
            other = self._state(lost[0])
            if other.stored.add(lost[1], lost[2]):
                other.dirty = True

    def take_back(self, epoch: int, first: int, last: int) -> None:
        """The store has given these up: they are not called stored any more, so that the device sends them again."""
        state = self._state(epoch)
        state.stored.discard(first, last)
        state.dirty = True

    def delivered(self, epoch: int, sequence: int, payload: "bytes | None" = None) -> None:
        """The backend has committed the record."""
        state = self._state(epoch)
        before = state.delivered.through
        if len(state.delivered) < MAXIMUM_RANGES:
            state.delivered.add(sequence, sequence)
        state.dirty = state.dirty or state.delivered.through != before
        lost = self._lost(epoch, sequence, payload)
        if lost is not None:
            other = self._state(lost[0])
            if other.delivered.add(lost[1], lost[2]):
                other.dirty = True
            self._gaps.pop((epoch, sequence), None)

    def _lost(self, epoch: int, sequence: int, payload: "bytes | None") -> "tuple[int, int, int] | None":
        return lost_range(payload) if payload is not None else self._gaps.get((epoch, sequence))

    # -- down ---------------------------------------------------------------------------------------------

    def acknowledgements(self) -> "list[bytes]":
        """Sealed frames that tell the device what has changed; none while no counters are left."""
        frames: list[bytes] = []
        if self.epoch is None:
            return frames
        for epoch, state in self._epochs.items():
            while state.dirty and self._counter_ready():
                frames.append(self.seal(self._acknowledgement(epoch, state)))
        return frames

    def _acknowledgement(self, epoch: int, state: _Epoch) -> bytes:
        # As RFC 2018 advises, what came last is named first: the device waits for exactly that.
        ranges: list[tuple[int, int]] = []
        while state.recent and len(ranges) < RANGES_PER_ACKNOWLEDGEMENT:
            held = state.stored.range_of(state.recent.pop())
            if held is not None and held not in ranges:
                ranges.append(held)
        if not state.recent:
            state.dirty = False
            for held in state.stored.ranges()[:RANGES_PER_ACKNOWLEDGEMENT]:
                if len(ranges) < RANGES_PER_ACKNOWLEDGEMENT and held not in ranges:
                    ranges.append(held)
        through = min(state.stored.through, envelope.MAXIMUM_COUNTER)
        delivered = min(state.delivered.through, through)
        return device_codec.encode_acknowledgement(epoch, through, delivered, tuple(ranges))

    def seal(self, message: bytes) -> bytes:
        """A down frame for the device's present boot; WireError("counter") if no boot or counter is known."""
        if self.epoch is None or not self._counter_ready():
            raise WireError("counter", 1)
        counter = self._down_next
        self._down_next += self._down_step
        control = envelope.control_byte(envelope.DOWN, envelope.LINK, False, self.slot)
        return envelope.seal(self._aeads[self.slot], self.device_id, control, self.epoch, counter, message)

    def _counter_ready(self) -> bool:
        if self.counters_left() <= 0 and self._reserve_down is not None and self.epoch is not None:
            first = self._reserve_down(self.epoch, COUNTER_BLOCK)
            self.grant(self.epoch, first, first + COUNTER_BLOCK)
        return self.counters_left() > 0 and self._down_next <= envelope.MAXIMUM_DOWN_COUNTER

    # -- epochs -------------------------------------------------------------------------------------------

    def _note_epoch(self, epoch: int) -> None:
        if self.epoch is None or epoch > self.epoch:
            self.epoch = epoch
            self._up = ReplayWindow()

    def _state(self, epoch: int) -> _Epoch:
        state = self._epochs.get(epoch)
        if state is None:
            if len(self._epochs) >= MAXIMUM_EPOCHS:
                self._evict()
            state = self._epochs[epoch] = _Epoch()
        return state

    def _evict(self) -> None:
        # A finished epoch costs nothing to forget; otherwise the oldest, which the next sync brings back.
        victim = min(self._epochs, key=self._worth)
        del self._epochs[victim]

    def _worth(self, epoch: int) -> "tuple[bool, bool, int]":
        return epoch == self.epoch, not self._epochs[epoch].finished(), epoch
