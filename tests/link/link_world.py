"""A device with its flash, a bad channel, a gateway with its store, and a backend: what the link tests play with.

The device is the real journal and DeviceLink; the gateway the real GatewayLink over a model of the store, with the same
state kept and lost over a restart as emgate's. Every guarantee is checked where it could first be broken.
"""

import hashlib
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import common.journal
from common.epoch import begin_epoch
from common.journal import Journal
from common.keys import Keys
from common.segment import file_name, frame, records
from emgate.keys.sealing import Ccm
from emwire import constants, device_codec, envelope
from emwire.errors import WireError
from emwire.gateway_link import first_counter
from emwire.link import DeviceLink, GatewayLink, Received, lost_range

Identity = tuple[int, int]
KEY = bytes(range(16))
DEVICE_ID = 0x1234


class PowerCut(Exception):
    """The device's power fails while it writes down a key."""


class WatchedCcm:
    """The host's AES-CCM, remembering every key and nonce: the same two may only ever seal the same bytes."""

    def __init__(self, world: "World", key: bytes = KEY) -> None:
        self._world = world
        self._key = bytes(key)
        self._ccm = Ccm(self._key)

    def seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        before = self._world.sealed.setdefault((self._key, nonce), (plaintext, associated))
        assert before == (plaintext, associated), "a nonce sealed two different things"
        if plaintext[:1] == bytes([constants.MESSAGE_ACKNOWLEDGEMENT]):
            self._world.check_acknowledgement(plaintext)
        return self._ccm.seal(nonce, plaintext, associated)

    def open(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        return self._ccm.open(nonce, ciphertext, associated)


class World:
    """Everything, with `now_ms` of the device's present boot."""

    def __init__(self, path: Path, capacity_bytes: int = 1 << 20, window: int = 8) -> None:
        self.path = path
        self.capacity_bytes = capacity_bytes
        self.window = window
        self.sealed: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        # Keys: what the device was provisioned with, and the operator's registry.
        self.keys_made = 0
        self.provisioned = KEY
        self.first_epoch = 1
        self.registry: tuple[int, bytes, bytes | None] = (0, KEY, None)
        self.tear: tuple[int, int] | None = None
        self.gateway_s = 1000
        self.highest_s = 1000
        self.lowest_s = 0  # what the clock is not set back below
        self.again: set[Identity] = set()  # a restored store delivers these a second time
        self.now_ms = 0
        self.made: dict[Identity, tuple[bool, bytes]] = {}
        self.alarms: set[Identity] = set()
        self.wiped: set[Identity] = set()  # went with a flash that was emptied: the device did not free them
        self.lost_here: set[Identity] = set()  # gap records on the device's flash tell of these
        self.number = 0
        self.refused = 0  # routine records for which alarms left no room
        # The channel: frames on their way, and all that ever were.
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.seen_up: list[bytes] = []
        self.seen_down: list[bytes] = []
        # The store: survives a restart of the gateway.
        self.store: dict[Identity, tuple[bool, bytes]] = {}
        self.ever_stored: set[Identity] = set()
        self.once_stored: set[Identity] = set()  # perhaps in a store that was replaced by an older copy
        self.undelivered: list[Identity] = []
        self.marks: dict[int, tuple[int, int]] = {}
        self.up_counter: tuple[int, int] | None = None
        self.down_reserved: dict[int, int] = {}
        self.key_in_use: tuple[int, bytes] | None = None
        self.down_epochs: dict[bytes, int] = {}
        # The backend: append-only.
        self.backend: list[tuple[Identity, bytes]] = []
        self.in_backend: set[Identity] = set()
        self.lost_stored: set[Identity] = set()
        self.lost_delivered: set[Identity] = set()
        self.pending: list[Received] = []
        self.boot()
        self.start_gateway()

    # -- device -------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.epoch = begin_epoch(str(self.path), first_epoch=self.first_epoch)
        self.journal = Journal(
            str(self.path),
            self.epoch,
            capacity_bytes=self.capacity_bytes,
            alarm_reserve_bytes=self.capacity_bytes // 4,
            segment_bytes=512,
            durable=False,
            on_append=self._appended,
        )
        made = [sequence for epoch, sequence in self.made if epoch == self.journal.previous_epoch]
        assert self.journal.previous_epoch_records == (max(made) + 1 if made else 0)
        assert self.journal.damaged_bytes == 0
        self.keys = Keys(str(self.path), {"key": self.provisioned.hex()}, lambda key: WatchedCcm(self, key))
        self.keys._slots.write = self._tearing(self.keys._slots.write)  # type: ignore[method-assign]
        self.device = DeviceLink(DEVICE_ID, self.epoch, self.keys, self.journal, window=self.window)
        self.now_ms = 0
        self.started_over = 0
        self.accepted: set[bytes] = set()
        self._new_connection()

    def _appended(self, epoch: int, sequence: int, alarm: bool, payload: bytes) -> None:
        assert (epoch, sequence) not in self.made
        self.made[epoch, sequence] = (alarm, payload)
        if alarm:
            self.alarms.add((epoch, sequence))
        self.lost_here |= told(payload)

    def append(self, alarm: bool, size: int) -> None:
        self.number += 1
        payload = bytes([constants.MESSAGE_STATUS]) + self.number.to_bytes(4, "little") + bytes(size)
        sequence = self.journal.append(alarm, payload)
        identity = (self.epoch, sequence)
        if identity in self.made:
            assert self.made[identity] == (alarm, payload)
        else:
            assert not alarm, "an alarm found no room"
            assert identity in self.lost_here | self.untold(), "refused, and nothing tells of it"
            self.refused += 1

    def cut_power(self, written: int | None, alarm: bool, slot: int | None) -> None:
        """Restart; `written` bytes of a record, `slot` bytes of the watermarks were being written."""
        if written is not None:
            data = frame(alarm, self.epoch, self.journal.next_sequence, b"\x06unfinished")
            segment = self.journal._active[alarm]
            number = segment.number if segment else self.journal._numbers[alarm]
            with (self.path / "journal" / file_name(self.epoch, alarm, number)).open("ab") as file:
                file.write(data[:written])
            if written >= len(data):
                self._appended(self.epoch, self.journal.next_sequence, alarm, b"\x06unfinished")
        if slot is not None:
            slots = self.journal._slots
            target = self.path / f"watermarks.{(slots._generation + 1) & 1}"
            target.write_bytes((target.read_bytes() if target.exists() else bytes(64))[:slot])
        for writer in self.journal._writers:
            if writer is not None:
                writer.close()
        self.boot()

    def _tearing(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """A slot's write that power fails in, if `tear` is (so many writes later, bytes that get through).

        -1 byte: flash refuses, and power stays."""
        slots = self.keys._slots

        def torn(value: bytes) -> None:
            if self.tear is None:
                write(value)
                return
            count, size = self.tear
            self.tear = (count - 1, size) if count else None
            if not count and size < 0:
                raise OSError(28)
            write(value)
            if not count:
                target = Path(f"{slots._path}{slots._generation & 1}")
                target.write_bytes(target.read_bytes()[:size])
                raise PowerCut

        return torn

    def new_key(self) -> bytes:
        """One that was never used."""
        self.keys_made += 1
        return hashlib.sha256(b"%d" % self.keys_made).digest()[:16]

    def provision(self, wipe: bool) -> None:
        """The device comes back from the bench with a new key, its flash as it was or empty."""
        for writer in self.journal._writers:
            if writer is not None:
                writer.close()
        if wipe:
            self.wiped |= self.held()
            shutil.rmtree(self.path)
            self.path.mkdir()
            self.first_epoch = self.epoch + 1
            self._gone()
        self.provisioned = self.new_key()
        self.registry = (0, self.provisioned, None)
        self.start_gateway()
        self.boot()

    def _gone(self) -> None:
        """What no flash, store or backend holds any more was lost with a flash that was wiped."""
        for identity in list(self.made):
            if identity[0] < self.first_epoch and identity not in self.store and identity not in self.in_backend:
                del self.made[identity]
                self.alarms.discard(identity)

    def _new_connection(self) -> None:
        self.sent: set[Identity] = set()
        self.newest_sent: list[Identity | None] = [None, None]

    def connect(self) -> None:
        self._new_connection()
        self.device.opened(self.now_ms)

    def device_polls(self, limit: int) -> int:
        for count in range(limit):
            sent = self.device.poll(self.now_ms)
            if sent is None:
                due = self.device.deadline(self.now_ms)
                assert due is None or due > self.now_ms, "nothing to send, but due"
                return count
            control, epoch, counter = envelope.parse_header(sent)
            if not envelope.is_link(control):
                self._check_order(envelope.is_alarm(control), (epoch, counter))
            self.up.append(sent)
            self.seen_up.append(sent)
        return limit

    def _check_order(self, alarm: bool, identity: Identity) -> None:
        assert self.made[identity][0] == alarm
        if identity in self.sent:
            return
        newest = self.newest_sent[alarm]
        assert newest is None or newest < identity, "a lane out of order"
        self.newest_sent[alarm] = identity
        self.sent.add(identity)
        if not alarm:
            # No alarm waits to be sent for the first time, unless a whole window of them is under way.
            unsent = self.alarms - self.sent - self.once_stored - self.lost_here
            assert not unsent or len(self.device._flights[1]) >= self.window, "backlog before alarms"

    def device_receives(self, data: bytes) -> None:
        refused = self.device.refused
        try:
            messages = self.device.received(self.now_ms, data)
        except PowerCut:
            self.cut_power(None, False, None)
            return
        assert messages == [] or data[0] >> 2 == 0x38 >> 2
        if self.device.started_over != self.started_over:
            self.started_over = self.device.started_over
            self._new_connection()
        if data in self.accepted or self.down_epochs.get(data) != self.epoch:
            assert self.device.refused == refused + 1, "a replay, a stranger or an old epoch was believed"
        elif self.device.refused == refused:
            self.accepted.add(data)

    def held(self) -> set[Identity]:
        return {(epoch, sequence) for epoch, sequence, _, _ in records(str(self.path / "journal"))}

    # -- gateway ------------------------------------------------------------------------------------------

    def start_gateway(self) -> None:
        """As emgate's sessions load themselves: from committed state only."""
        self.pending = []
        self.pass_time(1)
        slot, key, next_key = self.registry
        following = (slot + 1) % envelope.SLOTS
        if next_key is not None and self.key_in_use == (following, next_key):
            slot, key, next_key = following, next_key, None
        self.gateway = GatewayLink(DEVICE_ID, WatchedCcm(self, key), self._reserve, slot)
        if next_key is not None:
            self.gateway.offer(following, WatchedCcm(self, next_key))
        waiting = set(self.undelivered)
        for epoch in sorted({*self.marks, *(epoch for epoch, _ in self.store)}):
            stored, delivered = self.marks.get(epoch, (0, 0))
            mine = sorted(sequence for of_epoch, sequence in self.store if of_epoch == epoch)
            self.gateway.restore(
                epoch,
                stored,
                delivered,
                [(sequence, sequence) for sequence in mine if sequence >= stored],
                [(s, s) for s in mine if s >= delivered and (epoch, s) not in waiting],
            )
        for identity, (_, payload) in self.store.items():
            lost = lost_range(payload)
            if lost is not None:
                self.gateway.restore_lost(*lost, identity not in waiting)
        if self.up_counter is not None:
            self.gateway.restore_up_counter(*self.up_counter)

    def _reserve(self, epoch: int, count: int) -> int:
        first = max(self.down_reserved.get(epoch, 0), first_counter(self.gateway_s))
        self.down_reserved[epoch] = first + count
        self.highest_s = max(self.highest_s, (first + count) // 256)
        self.pass_time(1)
        return first

    def pass_time(self, seconds: int) -> None:
        """Of the gateway's clock, which may also be set back: after an older store not behind what that one gave out
        (docs/envelope.md)."""
        self.gateway_s = max(self.lowest_s, self.gateway_s + seconds)
        self.highest_s = max(self.highest_s, self.gateway_s)

    def back_up(self) -> Any:
        """A copy of the gateway's store."""
        return deepcopy(
            (
                self.store,
                self.ever_stored,
                self.undelivered,
                self.marks,
                self.up_counter,
                self.down_reserved,
                self.key_in_use,
                self.lost_stored,
            )
        )

    def put_back(self, backup: Any) -> None:
        """The store is an older copy of itself; the clock is right."""
        (
            self.store,
            self.ever_stored,
            self.undelivered,
            self.marks,
            self.up_counter,
            self.down_reserved,
            self.key_in_use,
            self.lost_stored,
        ) = deepcopy(backup)
        self.again = {identity for identity in self.undelivered if identity in self.in_backend}
        self._gone()
        self.gateway_s = self.lowest_s = self.highest_s + 2
        self.start_gateway()

    def change_key(self) -> None:
        """The operator writes a next key into the registry, once the one before is in use."""
        slot, _, next_key = self.registry
        if next_key is not None:
            following = (slot + 1) % envelope.SLOTS
            if self.key_in_use != (following, next_key):
                return
            self.registry = (following, next_key, None)
        self.registry = (*self.registry[:2], self.new_key())
        self.start_gateway()

    def send_key(self) -> None:
        next_key = self.registry[2]
        if self.gateway.offered is not None and next_key is not None and self.gateway.epoch is not None:
            self._send_down([self.gateway.seal(device_codec.encode_key_update(self.gateway.offered, next_key))])

    def gateway_receives(self, data: bytes) -> None:
        try:
            received = self.gateway.received(data)
        except WireError:
            return
        assert data in self.seen_up, "a frame that no device sealed was believed"
        if received.kind == envelope.RECORD:
            assert self.made[received.epoch, received.sequence] == (received.alarm, received.payload)
            self.pending.append(received)
        elif received.message and received.message[0] == constants.MESSAGE_POLL:
            self._send_down([self.gateway.seal(device_codec.encode_time(1, 0, 0))])

    def commit(self) -> None:
        for received in self.pending:
            identity = (received.epoch, received.sequence)
            if identity not in self.ever_stored:
                self.store[identity] = (received.alarm, received.payload)
                self.ever_stored.add(identity)
                if identity in self.once_stored and identity in self.in_backend:
                    self.again.add(identity)  # the store that it was in is gone
                self.once_stored.add(identity)
                self.undelivered.append(identity)
                self.lost_stored |= told(received.payload)
        if self.gateway.retirable:
            next_key = self.registry[2]
            assert next_key is not None
            self.key_in_use = (self.gateway.slot, next_key)
            self.gateway.retire()
        for received in self.pending:
            self.gateway.stored(received.epoch, received.sequence, received.payload)
        self.pending = []

    def deliver(self, count: int) -> None:
        self.undelivered.sort(key=lambda identity: not self.store[identity][0])
        batch, self.undelivered = self.undelivered[:count], self.undelivered[count:]
        for identity in batch:
            payload = self.store[identity][1]
            if identity in self.in_backend:
                assert identity in self.again, "delivered twice"
            else:
                self.backend.append((identity, payload))
            self.in_backend.add(identity)
            self.lost_delivered |= told(payload)
        for identity in batch:
            self.gateway.delivered(*identity, self.store[identity][1])

    def note_marks(self) -> None:
        """What emgate's store does now and then: watermarks, the up counter, and room made below them."""
        for epoch, stored, delivered in self.gateway.changed_watermarks():
            before = self.marks.get(epoch, (0, 0))
            self.marks[epoch] = (max(before[0], stored), max(before[1], delivered))
        self.up_counter = self.gateway.next_up_counter()

    def prune(self) -> None:
        waiting = set(self.undelivered)
        for identity in list(self.store):
            epoch, sequence = identity
            below = sequence < min(self.marks.get(epoch, (0, 0)))
            if below and identity not in waiting and not told(self.store[identity][1]):
                del self.store[identity]

    def acknowledge(self) -> None:
        self._send_down(self.gateway.acknowledgements())

    def _send_down(self, frames: list[bytes]) -> None:
        self.down += frames
        self.seen_down += frames
        for data in frames:
            assert self.gateway.epoch is not None
            self.down_epochs[data] = self.gateway.epoch

    def check_acknowledgement(self, plaintext: bytes) -> None:
        _, epoch, stored, delivered, ranges = device_codec.decode(plaintext)
        for sequence in [*range(stored), *(s for first, last in ranges for s in range(first, last + 1))]:
            known = self.ever_stored | self.in_backend | self.lost_stored | self.lost_here
            assert (epoch, sequence) in known, "not in the store"
        for sequence in range(delivered):
            identity = (epoch, sequence)
            assert identity in self.in_backend | self.lost_delivered | self.lost_here, "not in the backend"

    # -- checks -------------------------------------------------------------------------------------------

    def check_freed(self) -> None:
        freed = set(self.made) - self.held() - self.wiped
        assert freed <= self.in_backend | self.lost_here | self.untold(), "freed what the backend does not have"

    def untold(self) -> set[Identity]:
        """Lost ranges of which the gap record is not written yet: they are in the journal's slots."""
        return {
            (lost[0], sequence)
            for lost in self.journal._lost
            if lost[4] != common.journal._TOLD
            for sequence in range(lost[1], lost[2] + 1)
        }

    def settle(self) -> None:
        """A good channel and time: everything that was made is in the backend once, and the flash is free."""
        if self.journal.next_sequence == 0:
            self.append(False, 0)  # hello, after which what was lost is told
        self.up, self.down = [], []
        self.connect()
        self.tear = None
        for turn in range(3000):
            moved = self.device_polls(1000)
            for data in self._take(self.up):
                self.gateway_receives(data)
            self.commit()
            self.deliver(1000)
            self.acknowledge()
            if self.gateway.offered is not None and turn % 8 == 0:
                self.send_key()
            for data in self._take(self.down):
                self.device_receives(data)
            if not moved and self.gateway.offered is None:
                due = self.device.deadline(self.now_ms)
                if due is None:
                    break
                self.now_ms = due
        assert self.device.idle and self.device.answered
        assert self.keys.slot == self.gateway.slot and self.gateway.offered is None, "the key was not changed"
        expected = {identity: payload for identity, (_, payload) in self.made.items()}
        missing = {identity for identity in expected if identity not in self.in_backend}
        assert missing <= self.lost_delivered, "a record is lost, and nothing tells of it"
        assert dict(self.backend) == {
            identity: payload for identity, payload in expected.items() if identity not in missing
        }
        assert len(self.backend) == len(self.in_backend)
        assert not self.journal.undelivered
        assert self.gateway.watermarks(self.epoch) == (self.journal.next_sequence,) * 2
        assert {epoch for epoch, _ in self.held()} <= {self.epoch}

    def _take(self, frames: list[bytes]) -> list[bytes]:
        taken = list(frames)
        frames.clear()
        return taken


def told(payload: bytes) -> set[Identity]:
    """Identities that a gap record declares lost."""
    lost = lost_range(payload)
    return set() if lost is None else {(lost[0], sequence) for sequence in range(lost[1], lost[2] + 1)}


def flip(data: bytes, bit: int) -> bytes:
    """One bit of a frame changed."""
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


__all__ = ["DEVICE_ID", "KEY", "World", "flip"]
