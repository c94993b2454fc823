"""The gateway as a record source of its own: what happens to it reaches the backend as a device's records do.

Its records have an identity like any other (device, epoch, sequence), are committed in the store and delivered by the
uplinks. The device id follows from the gateway's name; every start takes another epoch, by chance and never one that
the store knows, so that neither a lost store nor a copy put back makes two records of one identity.
"""

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable

import structlog
from emwire import codec, constants
from emwire.errors import WireError

from emgate.clock import UNKNOWN_UNCERTAINTY_MS, Clock
from emgate.gateway_number import LINK, device_id_of
from emgate.loss_evidence import LostRange
from emgate.store.store import Outcome, Record, Store

log = structlog.get_logger(__name__)

MAXIMUM_EPOCH, MAXIMUM_SEQUENCE = 0xFFFF, 0xFF_FFFF
MAXIMUM_EVIDENCE = 64  # bytes, as the catalogue's `event` has it
MAXIMUM_WAITING = 1000
"""Records that the store does not take at present: 100 kB, and hours of the events that rate limits let through."""
MARK_EACH = 100
"""Watermarks move with each so many records, so that pruning finds the older ones; one small row a time."""
RETRY_S = 5.0
"""As often as the store itself tries a full disk."""

Make = Callable[[int, int, int, int], codec.Message]
"""From (clock_source, clock_uncertainty_ms, recorded_time_s, uptime_s) to a record's message."""


def evidence_of(*lines: str) -> bytes:
    """Text as an event's evidence, cut to what fits."""
    return "\n".join(lines).encode()[:MAXIMUM_EVIDENCE].decode(errors="ignore").encode()


class OwnRecords:
    """Makes records in the gateway's name. `await open()` first; nothing here blocks or raises."""

    def __init__(self, gateway_id: str, store: Store, clock: Clock) -> None:
        self.device_id = device_id_of(gateway_id)
        self.epoch = 0
        self.counters: Counter[str] = Counter()
        self._gateway_id = gateway_id
        self._store = store
        self._clock = clock
        self._started_s = time.monotonic()
        self._sequence = 0
        self._known: set[int] = set()
        self._committing: set[asyncio.Future[Outcome]] = set()
        self._refused: deque[Record] = deque()
        self._stored: dict[tuple[int, int], Callable[[], object]] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._untold = 0  # dropped, and no record of this is stored yet
        self._telling: set[tuple[int, int]] = set()  # the record that is to say so, if it is on its way

    async def open(self) -> None:
        """Begin an epoch and say that the gateway has started."""
        states = await self._store.epochs(self.device_id)
        self._known = {state.epoch for state in states}
        self._mark({state.epoch: 1 + state.stored_above[-1][1] for state in states if state.stored_above})
        self._begin_epoch()
        self.event(constants.EVENT_GATEWAY_STARTED, evidence=evidence_of(self._gateway_id))

    def event(
        self,
        event_type: int,
        *,
        subject_id: int = 0,
        value: int = 0,
        evidence: bytes = b"",
        alarm: bool = False,
        stored: Callable[[], object] | None = None,
    ) -> None:
        """An event of now. `subject_id`: the device it is about, 0 = the gateway itself. `stored`: called then."""
        value = max(-(1 << 31), min(value, (1 << 31) - 1))
        self.add(
            lambda source, uncertainty_ms, now_s, uptime_s: codec.Event(
                source, uncertainty_ms, now_s, uptime_s, event_type, now_s, subject_id, value,
                evidence[:MAXIMUM_EVIDENCE],
            ),
            alarm=alarm,
            stored=stored,
        )  # fmt: skip

    def add(self, make: Make, *, alarm: bool = False, stored: Callable[[], object] | None = None) -> None:
        """Any record: `make` gets the four fields that every record begins with."""
        if len(self._committing) + len(self._refused) >= MAXIMUM_WAITING:
            self.counters["dropped"] += 1
            self._untold += 1
            return
        uncertainty_ms = self._clock.uncertainty_ms()
        source = constants.CLOCK_RETAINED if uncertainty_ms == UNKNOWN_UNCERTAINTY_MS else constants.CLOCK_GATEWAY
        now_ms = self._clock.now_ms()
        now_s = min(max(0, now_ms // 1000 - constants.TIME_EPOCH_UNIX_S), 0xFFFF_FFFF)
        try:
            payload = make(source, uncertainty_ms, now_s, int(time.monotonic() - self._started_s)).encode()
        except WireError as error:  # a caller's defect
            self.counters["not_encoded"] += 1
            log.error("own record refused", reason=str(error))
            return
        if self._sequence > MAXIMUM_SEQUENCE:
            self._begin_epoch()
        record = Record(self.device_id, self.epoch, self._sequence, alarm, max(0, now_ms), LINK, payload)
        self._sequence += 1
        self.counters["made"] += 1
        if stored is not None:
            self._stored[record.epoch, record.sequence] = stored
        self._append(record)

    async def close(self) -> None:
        """Wait for the commits under way; before the store is closed."""
        if self._retry is not None:
            self._retry.cancel()
            self._append_again()
        await self._committed()
        self._give_up()
        await self._committed()
        if self._retry is not None:
            self._retry.cancel()

    def _give_up(self) -> None:
        """What is not stored now never will be. An alarm that says so has the disk's reserve; else the log has it."""
        lost = [record for record in self._refused if (record.epoch, record.sequence) not in self._telling]
        self.counters["dropped"] += len(lost)
        number = self._untold + len(lost)
        if not number:
            return
        log.error("own records could not be stored", records=number)
        self._refused.clear()
        self._telling.clear()
        self._untold = 0
        mine = [record.sequence for record in lost if record.epoch == self.epoch]
        where = LostRange(self.epoch, min(mine), max(mine), constants.GAP_STORAGE_FULL).encode() if mine else b""
        self.event(constants.EVENT_GATEWAY_RECORDS_LOST, value=number, evidence=where, alarm=True)

    async def _committed(self) -> None:
        while self._committing:  # one may bring another: how many were dropped
            await asyncio.wait(self._committing)

    def _begin_epoch(self) -> None:
        free = MAXIMUM_EPOCH - len(self._known)
        while True:
            self.epoch = 1 + secrets.randbelow(MAXIMUM_EPOCH)
            if self.epoch not in self._known or free <= 0:
                break
        self._known.add(self.epoch)
        self._sequence = 0

    def _append(self, record: Record) -> None:
        future = self._store.append(record)
        self._committing.add(future)

        def done(future: "asyncio.Future[Outcome]") -> None:
            self._committing.discard(future)
            outcome = Outcome.REFUSED if future.cancelled() else future.result()
            self.counters[outcome.value] += 1
            if outcome is not Outcome.REFUSED and (stored := self._stored.pop((record.epoch, record.sequence), None)):
                stored()
            if outcome is Outcome.STORED and record.sequence % MARK_EACH == MARK_EACH - 1:
                self._mark({record.epoch: record.sequence + 1})
            if outcome is Outcome.STORED and self._untold and not self._telling and not self._refused:
                self._tell_dropped()
            if outcome is Outcome.REFUSED:
                self._refused.append(record)
                if self._retry is None:
                    self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._append_again)

        future.add_done_callback(done)

    def _tell_dropped(self) -> None:
        """There is room again: how many records found none."""
        number = self._untold
        self._telling.add((self.epoch, self._sequence))

        def stored() -> None:
            self._untold -= number
            self._telling.clear()

        self.event(constants.EVENT_GATEWAY_RECORDS_LOST, value=number, alarm=True, stored=stored)

    def _mark(self, through: dict[int, int]) -> None:
        """Let these be pruned one day. That they are delivered is not claimed by this: pruning asks the cursors."""
        if through:
            self._store.mark([(self.device_id, epoch, mark, mark) for epoch, mark in through.items()])

    def _append_again(self) -> None:
        self._retry = None
        refused, self._refused = self._refused, deque()
        for record in refused:
            self._append(record)
