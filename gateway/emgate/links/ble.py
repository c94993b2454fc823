"""The BLE link: a central (bleak) that finds tags by their service, connects while they have something to say, and
moves datagrams as fragments over the Nordic UART service.

One task scans and connects, one device at a time, because few adapters connect while they scan; every connection then
has a task of its own. Time-outs that concern a device run on the gateway's clock, so that they hold in simulated time.
When the radio listened and when it did not is kept in a ledger (emgate.links.listening), and whether it hears at all in
emgate.links.silence: for that it takes the advertisements of strangers too, and forgets them within a minute.
"""

import asyncio
import contextlib
import importlib
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import structlog
from bleak import BleakClient, BleakScanner
from bleak.args.bluez import BlueZScannerArgs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError
from emwire import constants, fragments
from emwire.framing import MAXIMUM_DATAGRAM

from emgate.clock import Clock
from emgate.config import BleSection
from emgate.links import Events, Received, ble_known
from emgate.links.ble_choice import Choice
from emgate.links.ble_timing import Timing
from emgate.links.listening import Ledger
from emgate.links.silence import Ears
from emgate.own_records import evidence_of
from emgate.supervisor import first_of

log = structlog.get_logger(__name__)

SERVICE_UUID = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
RX_UUID = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
TX_UUID = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"

# What a tag's receive buffer holds (firmware/drivers/ble_link.py): MTU 247 less the ATT header.
MAXIMUM_WRITE = 244
# Bleak and its BlueZ manager keep 2.4 kB of every address since scanning began (tracemalloc, 4,096 of them). A crowd
# has hundreds; more is made up, and forgotten: 10 MB at most.
MAXIMUM_SEEN = 4096
# What bleak puts for BlueZ saying something of a device without having heard it: its bond, the end of a scan.
NO_RSSI = -127
# Frames on their way down to one device: a window of acknowledgements, time and configuration are fewer than ten.
MAXIMUM_OUTBOX = 64
# Frames of one connection that are not committed yet; a device has at most a window of 8 under way.
MAXIMUM_PENDING = 64
# A reset costs every connection: for two missed starts in a row, or one tag out of reach, it would be too much.
STUCK_STARTS = 3
STUCK_ADDRESSES = 4
# The radio's own CRC lets no damaged fragment through: so many between two whole datagrams are no tag.
MAXIMUM_RUBBISH = 100
# A disconnection takes a connection interval; a stack that needs longer is stuck.
CLOSE_TIMEOUT_S = 5.0
DEVICE_ID = struct.Struct("<I")
MAXIMUM_FRAME = MAXIMUM_DATAGRAM - DEVICE_ID.size


class Adapter(Protocol):
    """What carries bleak: its own backend, or bumble's."""

    lost: asyncio.Event
    reason: str
    """Why it was lost."""
    steady: bool
    """Whether it listens all the time that it scans; otherwise only while `discovering`."""
    discovering: bool

    async def open(self) -> None:
        """OSError: not there."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...

    async def reset(self) -> None:
        """Switch it off and on; OSError when that fails, or only opening it anew helps."""
        ...

    async def forget(self, address: str) -> None:
        """Drop a device's bond. Never raises."""
        ...

    @property
    def scanner_arguments(self) -> BlueZScannerArgs:
        """For bleak's `bluez=`."""
        ...

    def backends(self) -> tuple[type[BaseBleakScanner] | None, type[BaseBleakClient] | None]:
        """For bleak's `backend=`."""
        ...


class PlatformAdapter:
    """Bleak's own backend where there is no BlueZ; a lost adapter shows when scanning is started anew."""

    reason = "the adapter is gone"
    steady = True
    scanner_arguments: BlueZScannerArgs = {}

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.discovering = True

    async def reset(self) -> None:
        """No interface for it."""
        raise OSError("the adapter is stuck: switch Bluetooth off and on")

    async def forget(self, address: str) -> None:
        """No interface for it."""

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def backends(self) -> tuple[None, None]:
        """The platform's."""
        return (None, None)


def make_adapter(settings: BleSection, changed: Callable[[], None]) -> Adapter:
    """The configured adapter; OSError when bumble is configured and not installed. `changed`: of `discovering`."""
    if settings.backend == "bluez":
        if sys.platform != "linux":
            return PlatformAdapter()
        from emgate.links.ble_bluez import BluezAdapter  # D-Bus, only there

        return BluezAdapter(settings.transport, changed)
    try:
        module = importlib.import_module("emgate.links.ble_bumble")
    except ImportError as error:
        raise OSError(f'[ble] backend = "bumble" needs the package {error.name}') from None
    return cast(Adapter, module.BumbleAdapter(settings.transport or "usb:0"))


class BleLink:
    """A Link (see emgate.links) over one BLE adapter."""

    kind = "ble"

    def __init__(
        self,
        settings: BleSection,
        received: Received,
        clock: Clock,
        *,
        slots: int = 4,
        timing: Timing | None = None,
        events: Events | None = None,
        kept: Path | None = None,
    ) -> None:
        """`kept`: the file of the addresses that are known."""
        self.name = f"ble:{settings.transport or settings.backend}"
        self.up = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self.statistics: Counter[str] = Counter()
        """What is no drop: connections, scans, adapter resets, and the ledger's milliseconds."""
        self.timing = timing or Timing()
        self.clock = clock
        self._settings = settings
        self._received = received
        known = {} if kept is None else ble_known.read(kept)
        self._choice: Choice[BLEDevice] = Choice(clock, self.timing, slots, self.counters, self.statistics, known)
        self._kept = kept
        self._kept_learnt = 0  # how many of them are in the file
        self._changed = asyncio.Event()
        self._events = events
        self.ears = Ears()
        self.ledger = Ledger(clock, self.statistics, events, constants.RECEIVER_BLE, self.ears)
        self._silence_s: int | None = None  # how long the silence has lasted that the backend was told of
        self._seen: set[str] = set()  # addresses since scanning began
        self._scanning = False
        self._stuck: str | None = None  # why the adapter needs a reset
        self._unreachable: set[str] = set()  # addresses that could not be connected to since one could, or a tag spoke
        self._reset_for_strangers = False  # since the last connection
        self._routes: dict[int, _Connection] = {}

    async def run(self) -> None:
        """Scan and serve until the adapter is lost (OSError) or the task cancelled."""
        loop = asyncio.get_running_loop()
        deaf_since_s = loop.time()

        def changed() -> None:
            nonlocal deaf_since_s
            if self._scanning:
                hears = adapter.steady or adapter.discovering
                self.ledger.now(constants.DEAF_NONE if hears else constants.DEAF_ASLEEP)
                if not hears:
                    deaf_since_s = loop.time()

        def deaf_s() -> float:
            return loop.time() - deaf_since_s if self.ledger.state == constants.DEAF_ASLEEP else 0.0

        adapter = make_adapter(self._settings, changed)
        self._stuck = None
        self._unreachable.clear()
        await adapter.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(adapter))
                group.create_task(self._watch_listening(deaf_s))
                group.create_task(self._watch_known())
                group.create_task(self._scan(adapter, group, changed))
        except BaseExceptionGroup as errors:
            if (lost := first_of(errors, BleakError, OSError, EOFError)) is None:
                raise
            raise OSError(f"{self.name}: {lost}") from None
        finally:
            self.up.clear()
            self._scanning = False
            self.ledger.now(constants.DEAF_FAULT)
            self._choice.nobody_is_there()
            self._routes.clear()
            await adapter.close()
            await self._keep()

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Queue a frame for a connected device."""
        connection = self._routes.get(device_id)
        return connection is not None and await connection.send(device_id, frame)

    def proven(self, device_id: int) -> None:
        """Each connection is told by itself."""

    @property
    def pairs(self) -> bool:
        """Whether devices are paired with on connecting."""
        return self._settings.pair

    def slot_wanted(self, connection: "_Connection") -> bool:
        """Whether somebody waits for this one to finish."""
        return self._choice.in_the_way(connection.address)

    # -- scanning and connecting ------------------------------------------------------------------------------

    async def _watch(self, adapter: Adapter) -> None:
        await adapter.lost.wait()
        raise OSError(adapter.reason)

    async def _keep(self) -> None:
        """Write which addresses are known, if that has changed."""
        learnt = self.statistics["addresses_learnt"]
        if self._kept is not None and learnt != self._kept_learnt:
            self._kept_learnt = learnt
            await asyncio.to_thread(ble_known.write, self._kept, dict(self._choice.addresses))

    async def _watch_known(self) -> None:
        while True:
            await asyncio.sleep(self.timing.keep_s)
            await self._keep()

    async def _watch_listening(self, deaf_s: Callable[[], float]) -> None:
        while True:
            self.ledger.told()
            self._tell_silence()
            if deaf_s() >= self.timing.deaf_s:
                self._is_stuck(f"it scans and has not listened for {deaf_s():.0f} s")
            await asyncio.sleep(self.timing.watch_s)

    def _tell_silence(self) -> None:
        """To the backend, when silence is found and when it ends; and see whether the adapter is to blame."""
        if self.ears.silent:
            found = self._silence_s is None
            self._silence_s = self.ledger.unheard_ms // 1000
            if found:
                self._silence_event(constants.EVENT_GATEWAY_HEARS_NOTHING, f"usually {self.ears.usual:.1f} senders/min")
                self._is_stuck(f"it scans and has heard nothing for {self._silence_s} s")
        elif self._silence_s is not None:
            self._silence_event(constants.EVENT_GATEWAY_HEARS_AGAIN)
            self._silence_s = None

    def _silence_event(self, event_type: int, *evidence: str) -> None:
        assert self._silence_s is not None
        hears = event_type == constants.EVENT_GATEWAY_HEARS_AGAIN
        self.statistics["silences"] += not hears
        log.warning("hears again" if hears else "hears nothing", link=self.name, s=self._silence_s, usual=evidence)
        if self._events is not None:
            lines = evidence_of(self.name, *evidence)
            self._events.event(event_type, value=self._silence_s, evidence=lines, alarm=True)

    def _is_stuck(self, reason: str) -> None:
        self._stuck = self._stuck or reason
        self._changed.set()

    async def _scan(self, adapter: Adapter, group: asyncio.TaskGroup, changed: Callable[[], None]) -> None:
        scanner_backend, client_backend = adapter.backends()
        failures = 0
        while True:
            if self._stuck is not None:
                await self._reset(adapter, self._stuck)
            self._seen.clear()
            scanner = BleakScanner(  # not by service: strangers tell whether the radio hears at all
                self._detected,
                backend=scanner_backend,
                bluez=adapter.scanner_arguments,
            )
            try:
                async with asyncio.timeout(self.timing.start_s):
                    await scanner.start()
            except (BleakError, OSError, EOFError, TimeoutError) as error:
                self.ledger.now(constants.DEAF_FAULT)
                self.counters["scan_failed"] += 1
                failures += 1
                if adapter.lost.is_set() or adapter.steady:
                    raise OSError(f"scanning cannot be started: {error!r}") from None
                if failures >= STUCK_STARTS:
                    self._is_stuck(f"scanning cannot be started: {str(error) or type(error).__name__}")
                    failures = 0
                await asyncio.sleep(self.timing.retry_s)
                continue
            failures = 0
            self.statistics["scans"] += 1
            self._scanning = True
            changed()
            self.up.set()
            try:
                chosen = await self._next_candidate()
            finally:
                self._scanning = False
                self.ledger.now(constants.DEAF_BUSY)
                with contextlib.suppress(BleakError, OSError, EOFError, TimeoutError, AssertionError):
                    async with asyncio.timeout(self.timing.start_s):
                        await scanner.stop()
            if chosen is not None:
                address, device = chosen
                began_ms = self.clock.elapsed_ms()
                connection = _Connection(
                    self, address, device, client_backend, adapter, self._choice.timeout_s(address)
                )
                if await connection.open():
                    self._unreachable.clear()
                    self._reset_for_strangers = False
                    self._choice.connected(address)
                    group.create_task(self._serve(connection))
                else:
                    self._choice.failed(address, self.clock.elapsed_ms() - began_ms)
                    if not adapter.lost.is_set():
                        self._not_reached(address)

    def _not_reached(self, address: str) -> None:
        """Several tags in a row: is the adapter to blame? Strangers say little of it, and a reset costs the tags their
        connections: they count only while no tag is known, and once."""
        stranger = not self._choice.knows(address)
        if stranger and (self._reset_for_strangers or not self._choice.knows_nobody):
            return
        self._unreachable.add(address)
        if len(self._unreachable) >= STUCK_ADDRESSES:
            self._reset_for_strangers = stranger
            self._is_stuck(f"none of {len(self._unreachable)} tags could be connected to")

    async def _reset(self, adapter: Adapter, reason: str) -> None:
        """Switch the adapter off and on, and tell everybody; OSError when that does not help."""
        self._stuck = None
        self._unreachable.clear()
        self.ledger.now(constants.DEAF_RESET)
        self.counters["adapter_resets"] += 1
        log.warning("resetting the adapter", link=self.name, reason=reason)
        if self._events is not None:
            self._events.event(constants.EVENT_GATEWAY_ADAPTER_RESET, evidence=evidence_of(self.name, reason))
        await adapter.reset()

    def _detected(self, device: BLEDevice, advertisement: AdvertisementData) -> None:
        address = device.address
        if advertisement.rssi != NO_RSSI:
            self.ears.heard(address)
        self._seen.add(address)
        if len(self._seen) == MAXIMUM_SEEN:
            self._changed.set()
        if SERVICE_UUID in advertisement.service_uuids and self._choice.heard(address, device):
            self._changed.set()

    async def _next_candidate(self) -> tuple[str, BLEDevice] | None:
        """Whose turn it is, once there is a slot; None when scanning should start anew."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timing.refresh_s):
                while (chosen := self._choice.next()) is None:
                    if self._stuck is not None or len(self._seen) >= MAXIMUM_SEEN:
                        return None
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.timing.tick_s if self._choice.somebody_waits else None):
                            await self._changed.wait()
                return chosen
        return None

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await connection.serve()
        finally:
            self._choice.ended(connection.address, connection.proved, connection.age_ms)
            for device_id in [d for d, c in self._routes.items() if c is connection]:
                del self._routes[device_id]
            self._changed.set()

    def spoke(self, connection: "_Connection") -> None:
        """Something came over a connection: if it is a tag's, the adapter works."""
        self.ears.heard(connection.address)
        if connection.proved:
            self._unreachable.clear()

    def proven_by(self, connection: "_Connection", device_id: int) -> None:
        """The device itself speaks over this connection."""
        if connection.up.is_set():  # a commit may take longer than its connection
            self._routes[device_id] = connection
        self._choice.proven(connection.address, device_id)

    def datagram(self, connection: "_Connection", datagram: bytes) -> "asyncio.Future[bool] | None":
        """Pass what a device sent to the session; None when it is no datagram."""
        if len(datagram) <= DEVICE_ID.size:
            self.counters["short"] += 1
            return None
        (device_id,) = DEVICE_ID.unpack_from(datagram)
        return self._received(connection, device_id, datagram[DEVICE_ID.size :])


class _Connection:
    """One connected tag. A Link of its own to sessions: an answer goes where its question came from."""

    kind = "ble"

    def __init__(
        self,
        link: BleLink,
        address: str,
        device: BLEDevice,
        backend: type[BaseBleakClient] | None,
        adapter: Adapter,
        timeout_s: float,
    ) -> None:
        self.address = address
        self.proved = False  # a frame came that its device alone can have made
        self.name = link.name
        self.up = asyncio.Event()
        self.counters = link.counters
        self._adapter = adapter
        self.outbox: deque[bytes] = deque()
        self._link = link
        self._gone = False
        self._wake = asyncio.Event()
        self._pending = 0
        self._active_ms = self._began_ms = link.clock.elapsed_ms()
        self._reassembler = fragments.Reassembler()
        self._rubbish_before = 0  # fragments of no use when the last datagram was whole
        self._rx: BleakGATTCharacteristic | None = None
        self._timeout_s = timeout_s
        self._client = BleakClient(
            device,
            self._disconnected,
            timeout=timeout_s,
            pair=link.pairs,
            backend=backend,
            services=[SERVICE_UUID],
        )

    async def open(self) -> bool:
        """Connect and discover; a failure is counted and the device left alone for a while."""
        try:
            async with asyncio.timeout(2 * self._timeout_s):  # bleak's own does not cover all of it
                await self._client.connect()
            self._rx = self._client.services.get_characteristic(RX_UUID)
            if self._rx is None:
                raise BleakError("no Nordic UART service")
        except (BleakError, OSError, EOFError, TimeoutError, AssertionError) as error:
            self._link.counters["connect_failed"] += 1
            log.info("cannot connect", link=self._link.name, address=self.address, error=repr(error))
            await self._close()
            if "Authentication" in str(error):  # one side has lost the bond: with the next attempt a new one is made
                self._link.counters["bond_dropped"] += 1
                await self._adapter.forget(self.address)
            return False
        self._link.statistics["connections"] += 1
        return True

    async def serve(self) -> None:
        """Subscribe, say so, then write what goes down until the device is silent or gone."""
        try:
            await self._client.start_notify(TX_UUID, self._notified)
            self.up.set()
            # The tag's stack does not tell it of the subscription: an empty write does.
            await self._write(b"")
            self._active_ms = self._link.clock.elapsed_ms()
            self._began_ms = self._active_ms
            while not self._gone and not self._idle() and not self._had_its_turn():
                if self.outbox:
                    await self._write_datagram(self.outbox.popleft())
                    continue
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._link.timing.tick_s):
                        await self._wake.wait()
        except (BleakError, OSError, EOFError, AssertionError) as error:
            self._link.counters["connection_lost"] += 1
            log.info("connection lost", link=self._link.name, address=self.address, error=repr(error))
        finally:
            self.up.clear()
            if self.outbox:
                self._link.counters["unsent"] += len(self.outbox)
            for reason in ("stray", "interrupted", "damaged", "oversize"):
                self._link.counters[f"fragments_{reason}"] += getattr(self._reassembler, reason)
            await self._close()

    async def run(self) -> None:
        """The link runs it."""
        raise NotImplementedError

    async def send(self, device_id: int, frame: bytes) -> bool:
        """Queue a frame."""
        if not self.up.is_set():
            return False
        if len(self.outbox) >= MAXIMUM_OUTBOX:
            self.counters["send_queue_full"] += 1
            return False
        if len(frame) > MAXIMUM_FRAME:
            self.counters["too_long"] += 1
            return False
        self.outbox.append(DEVICE_ID.pack(device_id) + frame)
        self._wake.set()
        return True

    def proven(self, device_id: int) -> None:
        """No recording: the device itself."""
        self.proved = self.proved or not self._gone
        self._link.proven_by(self, device_id)

    async def _close(self) -> None:
        with contextlib.suppress(BleakError, OSError, EOFError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.disconnect()

    def _disconnected(self, client: BleakClient) -> None:
        self._gone = True
        self._wake.set()

    def _idle(self) -> bool:
        now_ms = self._link.clock.elapsed_ms()
        if self.outbox or self._pending:
            self._active_ms = now_ms
        timing = self._link.timing
        return now_ms - self._active_ms >= (timing.idle_ms if self._link.slot_wanted(self) else timing.maximum_idle_ms)

    def _had_its_turn(self) -> bool:
        """Long enough, while another waits; a tag not amid what goes down."""
        timing = self._link.timing
        if self.age_ms < (timing.turn_ms if self.proved else timing.prove_ms) or not self._link.slot_wanted(self):
            return False
        if self.proved and (self.outbox or self._pending):
            return False
        self._link.statistics["turns_ended" if self.proved else "strangers_ended"] += 1
        return True

    @property
    def age_ms(self) -> int:
        """How long it has had its slot."""
        return self._link.clock.elapsed_ms() - self._began_ms

    async def _write_datagram(self, datagram: bytes) -> None:
        assert self._rx is not None
        size = min(MAXIMUM_WRITE, max(fragments.LEAST_PAYLOAD, self._rx.max_write_without_response_size))
        parts = fragments.fragment(datagram, size)
        for part in parts[:-1]:
            await self._write(part, response=False)
        # The answer to the last one says that all of them arrived, and keeps the pace to what the tag takes.
        await self._write(parts[-1])
        self._active_ms = self._link.clock.elapsed_ms()

    async def _write(self, part: bytes, response: bool = True) -> None:
        assert self._rx is not None
        await self._client.write_gatt_char(self._rx, part, response=response)

    def _notified(self, characteristic: BleakGATTCharacteristic, data: bytearray) -> None:
        self._active_ms = self._link.clock.elapsed_ms()
        self._link.spoke(self)
        reassembler = self._reassembler
        datagram = reassembler.feed(bytes(data))
        rubbish = reassembler.stray + reassembler.interrupted + reassembler.damaged + reassembler.oversize
        if datagram is None:
            if rubbish - self._rubbish_before >= MAXIMUM_RUBBISH and not self._gone:
                # Hung up, and left alone ever longer: it holds a slot, and the radio's time.
                self.counters["rubbish"] += 1
                self.proved = False
                self._gone = True
                self._wake.set()
            return
        self._rubbish_before = rubbish
        if self._pending >= MAXIMUM_PENDING:
            self._link.counters["receive_overrun"] += 1
            return
        dealt_with = self._link.datagram(self, datagram)
        if dealt_with is not None:
            self._pending += 1
            dealt_with.add_done_callback(self._dealt_with)

    def _dealt_with(self, future: "asyncio.Future[bool]") -> None:
        self._pending -= 1
