"""The device's end of the link: sends the journal's records, alarms first, until they are stored. Sans-IO.

Call `opened` when the transport stands, then `poll` until it gives None and again at `deadline`; hand in what
arrives. Nothing of a frame is kept in RAM: a retransmission is read and sealed anew, to the same bytes. Runs on both
Pythons.
"""

from emwire import constants, device_codec, envelope
from emwire.errors import WireError
from emwire.replay import ReplayWindow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    # (epoch, sequence, alarm, segment number, offset, size)
    Entry = tuple[int, int, bool, int, int, int]

    class Journal(Protocol):
        """What the link needs of firmware/common/journal.py."""

        @property
        def undelivered(self) -> bool:
            """Whether the backend lacks something."""

        @property
        def reboot_wanted(self) -> bool:
            """Whether sequences run out."""

        def epochs(self) -> "list[tuple[int, int, int]]":
            """(epoch, oldest, next) of each retained epoch."""

        def next_to_send(self, alarm: bool, after: "Entry | None" = None) -> "Entry | None":
            """The record behind `after` in a lane, or the first not stored."""

        def read(self, entry: "Entry") -> "bytes | None":
            """Its payload, if it is still there."""

        def stored(self, epoch: int, through: int) -> None:
            """Take note of a watermark."""

        @property
        def backlog(self) -> int:
            """How many records are not stored."""

        def alarms_stored(self, epoch: int, through: int) -> None:
            """Take note of a watermark of the alarm lane."""

        def delivered(self, epoch: int, through: int) -> None:
            """Take note of a watermark."""

        def forgotten(self, epoch: int, through: int, sent: "tuple[int, int]") -> bool:
            """The gateway lacks what it had: note that; True if records have to be sent again."""

        def tell_again(self, epoch: int, sequence: int) -> None:
            """The gateway does not know that this sequence is lost."""


# Frames of a lane under way at once: 8 of 250 B fill 2 s of a 9600 Bd line and are one group commit at the gateway;
# an acknowledgement names 8 ranges.
WINDOW = 8
# NIJ 1004.00 §5.4.1 gives an alarm 180 s to the data centre: with 20 s, doubled, three attempts (at 0, 20, 60 s) leave
# 120 s for the last. Above any round trip that works: LTE-M with eDRX sleeps up to 10 s.
RETRANSMIT_MS = 20000
# While nothing answers: one attempt in 5 min costs next to nothing and finds the gateway back soon.
RETRANSMIT_LIMIT_MS = 300000
# Everything is stored but not delivered, the link is open: ask again, less and less often while nothing changes.
DELIVERY_POLL_MS = 60000
DELIVERY_POLL_LIMIT_MS = 960000
# Link counters left when the device should restart for a new epoch: a tenth.
_REBOOT_COUNTER = 15000000


class _Flight:
    """A record under way."""

    __slots__ = ("attempts", "due_ms", "entry", "order")

    def __init__(self, entry: "Entry") -> None:
        self.entry = entry
        self.attempts = 0
        self.due_ms = 0
        self.order = 0


class DeviceLink:
    """Link of one boot epoch. `refused` counts frames that were not believed, `sent` frames handed out."""

    def __init__(
        self,
        device_id: int,
        epoch: int,
        aead: "envelope.Aead",
        journal: "Journal",
        window: int = WINDOW,
        retransmit_ms: int = RETRANSMIT_MS,
        retransmit_limit_ms: int = RETRANSMIT_LIMIT_MS,
        delivery_poll_ms: int = DELIVERY_POLL_MS,
    ) -> None:
        """The epoch is durable already (common.epoch); the journal is that epoch's.

        An aead that has `slot` and `update(slot, key)` (common.keys) lets the gateway change the key."""
        self.device_id = device_id
        self.epoch = epoch
        self.window = window
        self.retransmit_ms = retransmit_ms
        self.retransmit_limit_ms = retransmit_limit_ms
        self.delivery_poll_ms = delivery_poll_ms
        self.refused = 0
        self.sent = 0
        self.retransmitted = 0
        self.started_over = 0  # the gateway had lost records that it once called stored
        self.is_open = False
        self._aead = aead
        self.journal = journal
        self._down = ReplayWindow()
        self._counter = 0
        self._order = 0
        self._flights: tuple[list[_Flight], list[_Flight]] = ([], [])
        self._cursors: list[Entry | None] = [None, None]
        self._syncs: list[tuple[int, int, int]] = []
        self._unanswered: dict[int, int] = {}  # epoch: when to send its sync again
        self._sync_attempts = 0
        self._resynced: tuple[int, int] | None = None  # for this word of the gateway a sync was sent again
        self._poll_due_ms: int | None = None
        self._poll_attempts = 0
        self.time_wanted = False
        self.asked_ms: int | None = None  # when the oldest unanswered poll of this connection was sent

    # -- life of a connection -----------------------------------------------------------------------------

    def opened(self, now_ms: int) -> None:
        """The transport stands: start over from what is known as stored."""
        self.closed()
        self.is_open = True
        self._syncs = self.journal.epochs()
        # The present epoch first: it tells the gateway which boot this is.
        self._syncs.sort(key=lambda item: item[0] != self.epoch)
        self._sync_attempts = 0
        self._resynced = None
        self.ask()

    def closed(self) -> None:
        """The transport is lost: nothing is under way any more."""
        self.is_open = False
        for lane in (0, 1):
            del self._flights[lane][:]
            self._cursors[lane] = None
        self._syncs = []
        self._unanswered = {}
        self._poll_due_ms = None
        self.asked_ms = None

    def ask(self) -> None:
        """Ask for the time (and for acknowledgements) at the next poll, and again until it comes."""
        self.time_wanted = True
        self._poll_attempts = 0
        self._poll_due_ms = 0

    @property
    def idle(self) -> bool:
        """Nothing is unsent or unacknowledged-as-stored, as far as the gateway has told."""
        if self._syncs or self._flights[0] or self._flights[1]:
            return False
        return self._next(0) is None and self._next(1) is None

    @property
    def alarm_waits(self) -> bool:
        """An alarm is not yet acknowledged as stored."""
        return bool(self._flights[1]) or self._next(1) is not None

    @property
    def answered(self) -> bool:
        """The gateway has given the time and acknowledged every epoch since the link opened."""
        return self.is_open and not self.time_wanted and not self._syncs and not self._unanswered

    @property
    def reboot_wanted(self) -> bool:
        """Counters of this epoch run out: restart when it suits."""
        return self._counter >= _REBOOT_COUNTER or self.journal.reboot_wanted

    # -- sending ------------------------------------------------------------------------------------------

    def poll(self, now_ms: int) -> "bytes | None":
        """The next frame to send now, or None until `deadline`."""
        if not self.is_open:
            return None
        frame = None
        if self._syncs and self._syncs[0][0] == self.epoch:
            frame = self._sync(now_ms)
        frame = frame or self._record(1, now_ms) or self._sync(now_ms) or self._ask(now_ms)
        frame = frame or self._record(0, now_ms)
        if frame is not None:
            self.sent += 1
        return frame

    def deadline(self, now_ms: int) -> "int | None":
        """When to poll again; now_ms if there is something to send, None if only an event can change that."""
        if not self.is_open:
            return None
        if self._syncs:
            return now_ms
        due = self._poll_due_ms
        for lane in (0, 1):
            flights = self._flights[lane]
            if len(flights) < self.window and self._next(lane) is not None:
                return now_ms
            for flight in flights:
                if due is None or flight.due_ms < due:
                    due = flight.due_ms
        for at_ms in self._unanswered.values():
            if due is None or at_ms < due:
                due = at_ms
        return None if due is None else max(due, now_ms)

    def _next(self, lane: int) -> "Entry | None":
        return self.journal.next_to_send(lane == 1, self._cursors[lane])

    def _delay_ms(self, attempts: int) -> int:
        return min(self.retransmit_ms << min(attempts, 16), self.retransmit_limit_ms)

    def _record(self, lane: int, now_ms: int) -> "bytes | None":
        flights = self._flights[lane]
        while True:
            flight = None
            for candidate in flights:
                if candidate.due_ms <= now_ms and (flight is None or candidate.order < flight.order):
                    flight = candidate
            if flight is None:
                if len(flights) >= self.window:
                    return None
                entry = self._next(lane)
                if entry is None:
                    return None
                self._cursors[lane] = entry
                flight = _Flight(entry)
                flights.append(flight)
            elif flight.attempts:
                self.retransmitted += 1
            entry = flight.entry
            payload = self.journal.read(entry)
            if payload is None:  # dropped, freed or damaged in the meantime
                flights.remove(flight)
                continue
            flight.due_ms = now_ms + self._delay_ms(flight.attempts)
            flight.attempts += 1
            self._order += 1
            flight.order = self._order
            control = envelope.control_byte(envelope.UP, envelope.RECORD, lane == 1, self._slot())
            return envelope.seal(self._aead, self.device_id, control, entry[0], entry[1], payload)

    def _sync(self, now_ms: int) -> "bytes | None":
        if not self._syncs:
            for epoch in list(self._unanswered):
                if self._unanswered[epoch] <= now_ms:
                    self._syncs = [item for item in self.journal.epochs() if item[0] in self._unanswered]
                    self._unanswered = {}
                    self._sync_attempts += 1
                    break
        if not self._syncs:
            return None
        epoch, oldest, following = self._syncs.pop(0)
        self._unanswered[epoch] = now_ms + self._delay_ms(self._sync_attempts)
        return self._link_message(device_codec.encode_sync(epoch, oldest, following))

    def _ask(self, now_ms: int) -> "bytes | None":
        if self._poll_due_ms is None or self._poll_due_ms > now_ms:
            return None
        if self.time_wanted:
            self._poll_due_ms = now_ms + self._delay_ms(self._poll_attempts)
        elif self.journal.undelivered:
            self._poll_due_ms = now_ms + self._delivery_delay_ms()
        else:
            self._poll_due_ms = None
            return None
        self._poll_attempts += 1
        if self.asked_ms is None:
            self.asked_ms = now_ms
        return self._link_message(device_codec.encode_poll())

    def _delivery_delay_ms(self) -> int:
        return min(self.delivery_poll_ms << min(self._poll_attempts, 16), DELIVERY_POLL_LIMIT_MS)

    def _link_message(self, message: bytes) -> "bytes | None":
        if self._counter > envelope.MAXIMUM_COUNTER:
            return None
        counter = self._counter
        self._counter += 1
        control = envelope.control_byte(envelope.UP, envelope.LINK, False, self._slot())
        return envelope.seal(self._aead, self.device_id, control, self.epoch, counter, message)

    def _slot(self) -> int:
        return getattr(self._aead, "slot", 0)

    # -- receiving ----------------------------------------------------------------------------------------

    def received(self, now_ms: int, frame: bytes) -> "list[tuple[Any, ...]]":
        """Messages for the application (time, configuration), as device_codec gives them; never raises."""
        try:
            message, newest = self._open(frame)
        except WireError:
            self.refused += 1
            return []
        if message[0] == constants.MESSAGE_ACKNOWLEDGEMENT:
            self._acknowledged(now_ms, message[1], message[2], message[3], message[4])
            if newest:
                self._compare(message[1], message[2])
            return []
        if message[0] == constants.MESSAGE_KEY_UPDATE:
            update = getattr(self._aead, "update", None)
            if update is not None and update(message[1], message[2]):
                self.ask()  # the first frame under the new key tells the gateway
            return []
        if message[0] == constants.MESSAGE_TIME:
            self.time_wanted = False
            self._poll_attempts = 0
            self._poll_due_ms = now_ms + self.delivery_poll_ms if self.journal.undelivered else None
        return [message]

    def _open(self, frame: bytes) -> "tuple[tuple[Any, ...], bool]":
        """The message, and whether it is the gateway's newest word."""
        # What the header shows is judged first: it costs nothing, and opening costs two passes of AES.
        control, _, counter = envelope.parse_header(frame)
        if not envelope.is_down(control) or not envelope.is_link(control):
            raise WireError("direction", 0)
        if envelope.key_slot(control) != self._slot():
            raise WireError("key", 0)
        plaintext = envelope.open_frame(self._aead, self.device_id, frame, self.epoch)[3]
        newest = counter >= self._down.next_counter
        if not self._down.take(counter):
            raise WireError("replay", 1)
        return device_codec.decode(plaintext), newest

    def _acknowledged(
        self, now_ms: int, epoch: int, stored: int, delivered: int, ranges: "tuple[tuple[int, int], ...]"
    ) -> None:
        self._unanswered.pop(epoch, None)
        newest_routine = self._settle(0, now_ms, epoch, stored, ranges, 0)
        newest_alarm = self._settle(1, now_ms, epoch, stored, ranges, newest_routine)
        progress = newest_routine > 0 or newest_alarm > 0
        before = self.journal.undelivered
        self.journal.stored(epoch, stored)
        self.journal.alarms_stored(epoch, self._alarms_below(epoch))
        self.journal.delivered(epoch, min(delivered, stored))
        undelivered = self.journal.undelivered
        if not self.time_wanted:
            if not undelivered:
                self._poll_due_ms = None
            elif progress or before != undelivered or self._poll_due_ms is None:
                self._poll_attempts = 0
                self._poll_due_ms = now_ms + self.delivery_poll_ms

    def _compare(self, epoch: int, stored: int) -> None:
        """The gateway's store may be an older copy of itself: what it lacks by its newest word is sent again."""
        for flights in self._flights:
            for flight in flights:
                if flight.entry[0] == epoch and flight.entry[1] == stored:
                    return  # on its way
        sent = [-1, -1]
        for lane in (0, 1):
            cursor = self._cursors[lane]
            if cursor is not None and cursor[0] >= epoch:
                sent[lane] = cursor[1] if cursor[0] == epoch else envelope.MAXIMUM_COUNTER
        if self.journal.forgotten(epoch, stored, (sent[0], sent[1])):
            self.started_over += 1
            for lane in (0, 1):
                del self._flights[lane][:]
                self._cursors[lane] = None
            return
        for item in self.journal.epochs():
            if item[0] == epoch and stored < item[1] and self._resynced != (epoch, stored):
                self._resynced = (epoch, stored)
                self._syncs.append(item)
        if not self.alarm_waits:
            self.journal.tell_again(epoch, stored)

    def _settle(
        self, lane: int, now_ms: int, epoch: int, stored: int, ranges: "tuple[tuple[int, int], ...]", newest: int
    ) -> int:
        """Strike out what is stored; what was sent before it and is not stored is taken for lost on the way.

        `newest`: the order of what else is stored; returned is that of what was struck out. A routine record stored
        shows an alarm before it lost, not the other way round: a full gateway takes alarms alone."""
        flights = self._flights[lane]
        found = 0
        for flight in list(flights):
            if flight.entry[0] == epoch and _named(flight.entry[1], stored, ranges):
                found = max(found, flight.order)
                flights.remove(flight)
        newest = max(newest, found)
        for flight in flights:
            if flight.entry[0] == epoch and flight.order < newest:
                flight.due_ms = now_ms
        return found

    def _alarms_below(self, epoch: int) -> int:
        """Alarms of the epoch below this sequence are stored: they were sent in order and none is under way."""
        under_way = [flight.entry[1] for flight in self._flights[1] if flight.entry[0] == epoch]
        if under_way:
            return min(under_way)
        cursor = self._cursors[1]
        if cursor is None or cursor[0] < epoch:
            return 0
        return cursor[1] + 1 if cursor[0] == epoch else envelope.MAXIMUM_COUNTER


def _named(sequence: int, stored: int, ranges: "tuple[tuple[int, int], ...]") -> bool:
    return sequence < stored or any(first <= sequence <= last for first, last in ranges)
