"""One session per device: verify, deduplicate, commit, acknowledge; then time and configuration.

Nothing here waits for a disk or a radio: frames come in by a callback, commits come back by futures, and what goes
down leaves from one short task per device. An acknowledgement can only speak of what GatewayLink was told is stored,
and it is told from the commit's own callback.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import structlog
from emwire import codec, constants, envelope
from emwire.errors import WireError
from emwire.gateway_link import COUNTER_BLOCK, RANGES_PER_ACKNOWLEDGEMENT
from emwire.link import GatewayLink, Received, lost_range

from emgate.clock import Clock
from emgate.devices import adoption
from emgate.devices.counter_share import CounterShare
from emgate.devices.registry import Device, Registry
from emgate.down.downlink import FLUSH_MESSAGES, Downlink
from emgate.keys.sealing import Ccm, fingerprint
from emgate.links import Link
from emgate.store.store import Outcome, Record, Store

log = structlog.get_logger(__name__)

COUNTERS_LOW = 48
"""Reserve anew below this: one flush seals time, configuration and the acknowledgements of several epochs."""
CONFIGURATION_AGAIN_MS = 60_000
"""How long a configuration in flight may take to show as applied in a record before it is sent again."""
KEY_AGAIN_MS = 60_000
"""How long a new key may take to show in a frame before it is sent again."""
HELLO = bytes([constants.MESSAGE_HELLO])
TELLS_CONFIGURATION = (codec.Hello, codec.Status)
MAXIMUM_REPEATS = 32
"""Repeated records of one device on one link that wait for their answer, some 20 ms: a device has 16 under way."""
QUARANTINE_PER_S, QUARANTINE_BURST = 10.0, 100.0
"""Evidence enough of a wrong key or a stranger, and no way to fill a disk: 10 kB/s at most."""


class DeviceStatus:
    """What the status table shows of a device. Times are unix ms; None = not known yet."""

    __slots__ = (
        "battery_percent",
        "configuration_version",
        "delivered",
        "duplicates",
        "gaps",
        "last_received_ms",
        "last_recorded_ms",
        "link",
        "lost_records",
        "newest",
        "refused",
        "stored",
    )

    def __init__(self) -> None:
        self.link: str | None = None
        self.last_received_ms: int | None = None
        self.last_recorded_ms: int | None = None
        self.battery_percent: int | None = None
        self.configuration_version: int | None = None
        self.stored = 0
        self.delivered = 0
        self.duplicates = 0
        self.refused: Counter[str] = Counter()
        self.newest = (-1, -1)  # (epoch, sequence) that battery and configuration are from: back-fill comes late
        self.gaps = 0
        self.lost_records = 0


class Session:
    """The gateway's end of one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.link = GatewayLink(device.device_id, Ccm(device.key), slot=device.key_slot)
        self.status = DeviceStatus()
        self.via: Link | None = None  # where the last authentic frame came from that cannot be a recording
        self.repeats: dict[Link, set[tuple[int, int]]] = {}  # stored, and came from elsewhere
        self.committing: dict[tuple[int, int], asyncio.Future[bool]] = {}
        self.send_time = False
        self.send_configuration = False
        self.configuration_sent_ms: int | None = None
        self.send_key = False
        self.key_sent_ms: int | None = None
        self.noting_key = False
        self.up_counter_noted: tuple[int, int] | None = None
        self.due = False  # something is to be sent
        self.timer: asyncio.TimerHandle | None = None
        self.flushing: asyncio.Task[None] | None = None

    def take_keys(self, in_use: tuple[int, bytes] | None) -> None:
        """Go by the registry, and by what the store knows of the key in use: one that was replaced never returns."""
        device = self.device
        if device.next_key is None:
            return
        if in_use == (device.next_slot, fingerprint(device.next_key)):
            self.link = GatewayLink(device.device_id, Ccm(device.next_key), slot=device.next_slot)
        else:
            self.link.offer(device.next_slot, Ccm(device.next_key))


class Sessions:
    """All sessions of a gateway."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        clock: Clock,
        *,
        acknowledge_within_ms: int = 20,
        downlink: Downlink | None = None,
        counter_share: CounterShare | None = None,
    ) -> None:
        """`counter_share`: where gateways share a fleet. They have stores of their own, and no nonce may be used by two
        of them."""
        self.counters: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.downlink = downlink or Downlink()
        self.downlink.attach(self.nudge)
        self._share = counter_share or CounterShare()
        self._registry = registry
        self._store = store
        self._clock = clock
        self._delay_s = acknowledge_within_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._sessions = {device.device_id: Session(device) for device in registry if not device.revoked}
        self._quarantine_tokens = QUARANTINE_BURST
        self._quarantine_filled = self._loop.time()
        self._closing = False

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    async def load(self) -> None:
        """Go on from where the store says the last run ended. Before any link starts."""
        counts = await self._store.counts()
        keys = await self._store.keys_in_use()
        for session in self._sessions.values():
            await self._load(session, keys, counts)
        for device_id in self._sessions.keys() & await adoption.waiting(self._store):
            await self._adopt(self._sessions[device_id])

    async def _load(
        self, session: Session, keys: dict[int, tuple[int, bytes]], counts: dict[int, tuple[int, int]]
    ) -> None:
        device_id = session.device.device_id
        session.take_keys(keys.get(device_id))
        link = session.link
        session.status.stored, session.status.delivered = counts.get(device_id, (0, 0))
        for state in await self._store.epochs(device_id):
            link.restore(
                state.epoch,
                state.stored_through,
                state.delivered_through,
                state.stored_above,
                state.delivered_above,
            )
        for gap in await self._store.gap_records(device_id):
            session.status.gaps += 1
            lost = lost_range(gap.payload)
            if lost is not None:
                link.restore_lost(*lost, gap.delivered)
                session.status.lost_records += lost[2] - lost[1] + 1
        for record in await self._store.latest(device_id):
            self._observe(session, record)
        for epoch, next_counter in sorted((await self._store.up_counters(device_id)).items()):
            link.restore_up_counter(epoch, next_counter)

    async def _adopt(self, session: Session) -> None:
        """A device that was unknown or revoked is known now: what it sent meanwhile counts."""
        for record in await adoption.adopt(self._store, session, self.counters):
            self._count(session, record)

    def knows(self, device_id: int) -> bool:
        """Whether this gateway answers to the device."""
        return device_id in self._sessions

    def acknowledge_within(self, milliseconds: int) -> None:
        """Gather acknowledgements so long, from now on."""
        self._delay_s = milliseconds / 1000

    async def apply(self, registry: Registry) -> list[int]:
        """Go by another registry from now on; the devices for which something changed. Other sessions go on as they
        are. A device that is no longer listed is refused from its next frame on, as a stranger."""
        changed = [device for device in registry if self._registry.get(device.device_id) != device]
        gone = [device.device_id for device in self._registry if registry.get(device.device_id) is None]
        gone += [device.device_id for device in changed if device.revoked]
        changed = [device for device in changed if not device.revoked]
        keys = await self._store.keys_in_use()
        counts = await self._store.counts() if changed else {}
        fresh = {}
        for device in changed:
            known = self._sessions.get(device.device_id)
            if known is not None and known.device.model_copy(update={"configuration": device.configuration}) == device:
                known.device = device
                self._consider_configuration(known)
                continue
            fresh[device.device_id] = session = Session(device)
            await self._load(session, keys, counts)
        # Nothing is awaited from here on. What the old sessions have under way ends with them: a record that is being
        # committed is in the store, and found there when its device repeats it.
        for device_id in (*gone, *fresh):
            old = self._sessions.pop(device_id, None)
            if old is not None and old.timer is not None:
                old.timer.cancel()
        for device_id, session in fresh.items():
            self._sessions[device_id] = session
        self._registry = registry
        for device_id in fresh.keys() & await adoption.waiting(self._store):
            await self._adopt(fresh[device_id])
        return [*gone, *(device.device_id for device in changed)]

    # -- up ---------------------------------------------------------------------------------------------------

    def received(self, link: Link, device_id: int, frame: bytes) -> "asyncio.Future[bool]":
        """The callback of every link; see emgate.links.Received."""
        if self._closing:
            return self._done(False)
        self.counters["frames"] += 1
        session = self._sessions.get(device_id)
        if session is None:
            listed = self._registry.get(device_id)
            self._refuse(link, device_id, adoption.UNKNOWN if listed is None else adoption.REVOKED, frame)
            return self._done(True)
        try:
            received = session.link.received(frame)
        except WireError as error:
            reason = str(error.args[0])
            session.status.refused[reason] += 1
            self._refuse(link, device_id, reason, frame)
            return self._done(True)
        if session.device.next_key is not None:
            self._consider_key(session)
        if self.downlink.wants(device_id):
            self._flush_soon(session)
        if received.kind == envelope.LINK:
            self._heard_anew(session, link)
            return self._link_message(session, received)
        return self._record(session, link, received)

    def _heard_anew(self, session: Session, link: Link) -> None:
        """The device itself is there: a link message or record later than all that came before. What may be a recording
        moves nothing."""
        session.via = link
        session.status.link = link.kind
        link.proven(session.device.device_id)

    def _heard_again(self, session: Session, link: Link, identity: tuple[int, int]) -> None:
        """A record came that was stored already, or is older than what the device has told of since: by the device,
        which has not heard of it, or by somebody who recorded it. So it alone is confirmed where it came from."""
        waiting = session.repeats.setdefault(link, set())
        if len(waiting) < MAXIMUM_REPEATS:
            waiting.add(identity)
        else:
            self.counters["repeats_not_answered"] += 1
        self._flush_soon(session)

    def _link_message(self, session: Session, received: Received) -> "asyncio.Future[bool]":
        self.counters["link_messages"] += 1
        message = received.message
        if message is not None and message[0] in (constants.MESSAGE_SYNC, constants.MESSAGE_POLL):
            session.send_time = True
            self._consider_configuration(session)
        else:
            self.counters["unknown_link_messages"] += 1
        self._flush_soon(session)
        return self._done(True)

    def _record(self, session: Session, link: Link, received: Received) -> "asyncio.Future[bool]":
        identity = (received.epoch, received.sequence)
        under_way = session.committing.get(identity)
        if under_way is not None:
            self._count_duplicate(session)

            def dealt(done: "asyncio.Future[bool]") -> None:
                if link is not session.via and not done.cancelled() and done.result():
                    self._heard_again(session, link, identity)

            under_way.add_done_callback(dealt)
            return under_way
        now_ms = self._clock.now_ms()
        dealt_with: asyncio.Future[bool] = self._loop.create_future()
        session.committing[identity] = dealt_with
        record = Record(
            session.device.device_id,
            received.epoch,
            received.sequence,
            received.alarm,
            now_ms,
            link.kind,
            received.payload,
        )
        self._store.put(record, partial(self._committed, session, link, received.newest, dealt_with))
        if received.payload[:1] == HELLO:
            session.send_time = True  # a device that has just started wants the time before its hello is on disk
            self._flush_soon(session)
        return dealt_with

    def _committed(
        self,
        session: Session,
        link: Link,
        newest: bool,
        dealt_with: "asyncio.Future[bool]",
        record: Record,
        outcome: Outcome,
    ) -> None:
        session.committing.pop((record.epoch, record.sequence), None)
        if outcome is Outcome.REFUSED:
            self.counters["not_stored"] += 1
        else:
            if outcome is Outcome.STORED and newest:
                self._heard_anew(session, link)
            elif outcome is Outcome.STORED and (session.via is None or not session.via.up.is_set()):
                session.via = link
            # A conflict is acknowledged too: what came is kept in quarantine, and waiting would stop the device.
            if outcome is Outcome.STORED or link is session.via:
                session.link.stored(record.epoch, record.sequence, record.payload)
                session.due = True
                if session.timer is None:
                    self._flush_soon(session)
            if link is not session.via:
                self._heard_again(session, link, (record.epoch, record.sequence))
            if outcome is Outcome.STORED:
                self._count(session, record)
                if session.device.configuration is not None:
                    self._consider_configuration(session)
            elif outcome is Outcome.DUPLICATE:
                self._count_duplicate(session)
            else:
                self.refused["identity_conflict"] += 1
                session.status.refused["identity_conflict"] += 1
                log.error(
                    "a device used one identity for two records; the second is in quarantine",
                    device=record.device_id,
                    epoch=record.epoch,
                    sequence=record.sequence,
                )
        if not dealt_with.done():
            dealt_with.set_result(outcome is not Outcome.REFUSED)

    def _count_duplicate(self, session: Session) -> None:
        self.counters["duplicates"] += 1
        session.status.duplicates += 1

    def _observe(self, session: Session, record: Record) -> codec.Message | None:
        """Note what the status table and the configuration need; the record itself is the backend's to understand."""
        status = session.status
        status.last_received_ms = record.received_time_ms
        try:
            message = codec.decode(record.payload)
        except WireError:
            return None
        recorded_time_s: int = getattr(message, "recorded_time_s", 0)
        if recorded_time_s:
            status.last_recorded_ms = (recorded_time_s + constants.TIME_EPOCH_UNIX_S) * 1000
        if isinstance(message, TELLS_CONFIGURATION) and (record.epoch, record.sequence) > status.newest:
            status.newest = (record.epoch, record.sequence)
            status.configuration_version = message.configuration_version
            if isinstance(message, codec.Status) and message.battery_percent <= 100:
                status.battery_percent = message.battery_percent
        return message

    def _count(self, session: Session, record: Record) -> None:
        """Take a new record into the books."""
        session.status.stored += 1
        self.counters["stored"] += 1
        message = self._observe(session, record)
        if message is None:
            self.counters["undecodable"] += 1  # stored and passed on all the same
            return
        self.downlink.observed(session.device.device_id, message)
        if isinstance(message, codec.Unknown):
            self.counters["unknown_message_types"] += 1
        elif isinstance(message, codec.Gap):
            session.status.gaps += 1
            lost = lost_range(record.payload)
            if lost is not None:
                session.status.lost_records += lost[2] - lost[1] + 1

    def _consider_configuration(self, session: Session) -> None:
        wanted = session.device.configuration
        applied = session.status.configuration_version
        if wanted is None or applied is None or applied >= wanted.version:
            return
        now_ms = self._clock.now_ms()
        sent_ms = session.configuration_sent_ms
        if sent_ms is None or not 0 <= now_ms - sent_ms < CONFIGURATION_AGAIN_MS:
            session.send_configuration = True
            self._flush_soon(session)

    def _consider_key(self, session: Session) -> None:
        """Give the device its next key until it uses it; then commit that, and refuse the old one."""
        link = session.link
        if link.offered is not None:
            now_ms = self._clock.now_ms()
            if session.key_sent_ms is None or not 0 <= now_ms - session.key_sent_ms < KEY_AGAIN_MS:
                session.send_key = True
                self._flush_soon(session)
        elif link.retirable and not session.noting_key:
            session.noting_key = True
            session.send_key = False
            key = session.device.next_key
            assert key is not None, "only then one was offered"
            noted = self._store.note_key(session.device.device_id, link.slot, fingerprint(key))
            noted.add_done_callback(partial(self._key_noted, session))

    def _key_noted(self, session: Session, done: "asyncio.Future[bool]") -> None:
        session.noting_key = False
        if done.cancelled() or not done.result():
            return  # with the next frame again
        session.link.retire()
        self.counters["keys_changed"] += 1
        log.info("device uses its new key", device=session.device.device_id, slot=session.link.slot)

    def _refuse(self, link: Link, device_id: int, reason: str, frame: bytes) -> None:
        self.refused[reason] += 1
        now = self._loop.time()
        self._quarantine_tokens = min(
            QUARANTINE_BURST, self._quarantine_tokens + (now - self._quarantine_filled) * QUARANTINE_PER_S
        )
        self._quarantine_filled = now
        if self._quarantine_tokens < 1:
            self.counters["quarantine_skipped"] += 1
            return
        self._quarantine_tokens -= 1
        log.warning("frame refused", reason=reason, device=device_id, link=link.name, bytes=len(frame))
        self._store.quarantine(self._clock.now_ms(), link.kind, device_id, reason, frame)

    def _done(self, result: bool) -> "asyncio.Future[bool]":
        future: asyncio.Future[bool] = self._loop.create_future()
        future.set_result(result)
        return future

    # -- the backend's side -----------------------------------------------------------------------------------

    def delivered(self, records: Iterable[Record]) -> None:
        """The backend has committed these, and the cursor says so on disk."""
        touched: dict[int, Session] = {}
        for record in records:
            session = self._sessions.get(record.device_id)
            if session is None:  # taken out of the registry meanwhile
                continue
            session.link.delivered(record.epoch, record.sequence, record.payload)
            session.status.delivered += 1
            self.counters["delivered"] += 1
            touched[record.device_id] = session
        for session in touched.values():
            self._flush_soon(session)

    async def heed_deliveries(self) -> None:
        """More may be delivered than `delivered` told, because a target is not waited for any more: ask the store."""
        counts = await self._store.counts()
        for session in list(self._sessions.values()):
            link, device_id = session.link, session.device.device_id
            session.status.delivered = counts.get(device_id, (0, 0))[1]
            for state in await self._store.epochs(device_id):
                link.restore(state.epoch, 0, state.delivered_through, (), state.delivered_above)
                if state.delivered_through:
                    link.stored(state.epoch, state.delivered_through - 1)  # so that the device hears of it
            for gap in await self._store.gap_records(device_id):
                lost = lost_range(gap.payload)
                if lost is not None:
                    link.restore_lost(*lost, gap.delivered)
            self._flush_soon(session)

    def take_back(self, device_id: int, epoch: int, first: int, last: int) -> None:
        """The store has given these up: the device is to send them again."""
        session = self._sessions.get(device_id)
        if session is not None:
            session.link.take_back(epoch, first, last)
            self._flush_soon(session)

    def marks(self) -> list[tuple[int, int, int, int]]:
        """(device_id, epoch, stored_through, delivered_through) that moved since the last call."""
        return [
            (device_id, *mark)
            for device_id, session in self._sessions.items()
            for mark in session.link.changed_watermarks()
        ]

    # -- down -------------------------------------------------------------------------------------------------

    def nudge(self, device_id: int) -> None:
        """The downlink has something for this device: now if its link is up, else at its next contact."""
        session = self._sessions.get(device_id)
        if session is not None and session.via is not None:
            self._flush_soon(session)

    def _flush_soon(self, session: Session) -> None:
        """Within the coalescing delay, in one task per device."""
        session.due = True
        if session.timer is None and not self._closing:
            session.timer = self._loop.call_later(self._delay_s, self._flush_now, session)

    def _flush_now(self, session: Session) -> None:
        session.timer = None
        if session.flushing is not None and not session.flushing.done():
            session.flushing.add_done_callback(lambda _: self._flush_soon(session))
            return
        session.flushing = self._loop.create_task(self._flush(session))

    async def _flush(self, session: Session) -> None:
        session.due = False
        try:
            await self._send_what_is_due(session)
            await self._answer_repeats(session)
        except Exception:  # a defect with one device must not end in a task that nobody looks at
            self.counters["flush_failed"] += 1
            log.exception("sending failed", device=session.device.device_id)

    async def _send_what_is_due(self, session: Session) -> None:
        via = session.via
        epoch = session.link.epoch
        if via is None or epoch is None or not via.up.is_set():
            return  # on its next contact
        counter = session.link.next_up_counter()
        if counter is not None and counter != session.up_counter_noted:
            session.up_counter_noted = counter
            self._store.note_up_counter(session.device.device_id, *counter)
        if not await self._has_counters(session, epoch):
            return
        try:
            frames = self._frames(session)
        except WireError as error:  # more frames than counters were reserved for: with the next flush
            self.counters["no_down_counters"] += 1
            log.error("cannot seal", device=session.device.device_id, reason=str(error))
            return
        for frame, sent in frames:
            if not await via.send(session.device.device_id, frame):
                # Nothing is repeated from here: the device asks again, by a poll or by sending the record again.
                self.counters["down_not_sent"] += 1
                return
            self.counters["down_frames"] += 1
            if sent is not None:
                sent()
        # More than fits one flush. A source that gives nothing, whatever it says, must not keep us busy.
        if any(sent for _, sent in frames) and self.downlink.wants(session.device.device_id):
            self._flush_soon(session)

    async def _has_counters(self, session: Session, epoch: int) -> bool:
        """Whether there are down counters to seal with; reserved anew when they run low."""
        share = self._share
        now_s, ms = divmod(self._clock.now_ms(), 1000)
        at_least = share.at_least(now_s - constants.TIME_EPOCH_UNIX_S, ms)
        if share.places > 1:  # the device may have been another's since, while ours gave out none
            session.link.skip_counters(at_least)
        if session.link.counters_left() >= COUNTERS_LOW:
            return True
        # Reserved from the time on, a store put back from an older copy repeats none (docs/envelope.md).
        block = COUNTER_BLOCK * share.places
        first = await self._store.reserve_down_counters(session.device.device_id, epoch, block, at_least)
        if first is None:
            self.counters["no_down_counters"] += 1
            return False
        share.used(first + block)
        session.link.grant(epoch, first + (share.place - first) % share.places, first + block, share.places)
        return True

    async def _answer_repeats(self, session: Session) -> None:
        """Confirm repeated records where they came from. What is due to the device itself has left before."""
        repeats, session.repeats = session.repeats, {}
        epoch = session.link.epoch
        if not repeats or epoch is None or not await self._has_counters(session, epoch):
            return
        for link, identities in repeats.items():
            for acknowledgement in self._confirmations(session, identities):
                if session.link.counters_left() <= 0:
                    self.counters["no_down_counters"] += 1
                elif await link.send(session.device.device_id, session.link.seal(acknowledgement)):
                    self.counters["down_frames"] += 1
                else:
                    self.counters["down_not_sent"] += 1

    def _confirmations(self, session: Session, identities: set[tuple[int, int]]) -> Iterator[bytes]:
        for epoch in {epoch for epoch, _ in identities}:
            stored, delivered = session.link.watermarks(epoch)
            ranges = [(sequence, sequence) for of, sequence in sorted(identities) if of == epoch]
            for at in range(0, len(ranges), RANGES_PER_ACKNOWLEDGEMENT):
                part = ranges[at : at + RANGES_PER_ACKNOWLEDGEMENT]
                yield codec.Acknowledgement(epoch, stored, min(delivered, stored), part).encode()

    def _frames(self, session: Session) -> list[tuple[bytes, Callable[[], None] | None]]:
        """Sealed frames, and what to call when one has left."""
        link = session.link
        frames: list[tuple[bytes, Callable[[], None] | None]] = []
        if session.send_time:
            session.send_time = False
            now_ms = self._clock.now_ms()
            time_s = now_ms // 1000 - constants.TIME_EPOCH_UNIX_S
            if time_s > 0:
                message = codec.Time(time_s, now_ms % 1000, self._clock.uncertainty_ms())
                frames.append((link.seal(message.encode()), None))
            else:
                self.counters["own_clock_not_set"] += 1
        if session.send_configuration:
            session.send_configuration = False
            wanted = session.device.configuration
            assert wanted is not None, "only then it is to be sent"
            session.configuration_sent_ms = self._clock.now_ms()
            configuration = codec.Configuration(
                wanted.version,
                wanted.report_interval_s,
                wanted.fix_interval_s,
                wanted.presence_window_s,
                wanted.sample_interval_s,
                wanted.status_interval_s,
                [codec.BeaconKey(beacon.beacon_id, beacon.key) for beacon in wanted.beacons],
            )
            frames.append((link.seal(configuration.encode()), None))
        # Before the acknowledgements: a device that has them may hang up. COUNTERS_LOW leaves counters for both.
        due = self.downlink.due(session.device.device_id, FLUSH_MESSAGES)
        frames += [(link.seal(each.message), each.sent) for each in due]
        frames += [(frame, None) for frame in link.acknowledgements()]
        if session.send_key:
            session.send_key = False
            wanted_key = session.device.next_key
            if link.offered is not None and wanted_key is not None:
                session.key_sent_ms = self._clock.now_ms()
                self.counters["keys_sent"] += 1
                # Last: once the device has it, it opens nothing under the old one.
                frames.append((link.seal(codec.KeyUpdate(link.offered, wanted_key).encode()), None))
        return frames

    async def close(self) -> None:
        """Take nothing any more, await the commits under way, and send what is due for them."""
        self._closing = True
        await self._store.drain()
        await asyncio.gather(*(self._finish(session) for session in self._sessions.values()))

    async def _finish(self, session: Session) -> None:
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None
        if session.flushing is not None and not session.flushing.done():
            await asyncio.wait([session.flushing])
        if session.due:
            await self._flush(session)
