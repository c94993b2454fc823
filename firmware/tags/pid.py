# The RF tag that a home unit hears: beacons with a counter that never goes back, strap and battery in each.
import struct
from binascii import unhexlify

from common import safe_mode
from common.settings import Settings
from common.slots import Slots
from common.supervisor import Supervisor
from common.wait import Signal
from drivers import strap
from drivers.battery import COIN_CURVE, UNKNOWN_PERCENT, Battery
from drivers.beacon_radio import Advertiser
from emwire import beacon, constants

try:
    from cryptolib import aes
except ImportError:
    from common.aes import aes  # type: ignore[assignment]

# Counters reserved on flash at a time: a write every 2.8 h at one token in 10 s, 3,000 a year, and a reset skips
# no more than so many of four thousand million.
RESERVE = 1024
# A new token each interval; a presence window of 300 s has 30 of them.
INTERVAL_S = 10
# The radio sends each token so often: a collision costs one of them, not the token.
REPEATS = 2
# Tokens between two looks at the battery: 5 min.
BATTERY_EVERY = 30
# After a failure so many tokens say so: an hour, in which a home unit hears some of them.
FAULT_TOKENS = 360
# After so many without a failure to send, the boot is none that failed (10 min, as the other models').
HEALTHY_TOKENS = 60
_ECB = 1


class Counter:
    """Numbers that are never given twice, whatever happens to the power."""

    def __init__(self, storage_path):
        self._slots = Slots(storage_path + "/beacon.")
        value = self._slots.value
        self._next = self._reserved = struct.unpack("<I", value)[0] if value is not None else 0

    def take(self) -> int:
        """The next number; OSError if flash does not keep the reservation."""
        if self._next >= self._reserved:
            self._slots.write(struct.pack("<I", self._next + RESERVE))
            self._reserved = self._next + RESERVE
        number = self._next
        self._next += 1
        return number


class Pid:
    """A beacon and what it tells about itself."""

    def __init__(self, board, safe: bool = False):
        """safe: after boots that failed the beacon alone, with nothing that could fail it but radio and counter."""
        identity = board.identity
        self._device_id = identity["device_id"]
        self._encrypt = aes(unhexlify(identity.get("beacon_key", identity["key"])), _ECB).encrypt
        self._interval_s = identity.get("beacon_interval_s", INTERVAL_S)
        self._board = board
        self._counter = Counter(board.storage_path)
        self._safe = safe
        self._settings = Settings(board.storage_path, identity.get("settings"))
        self._battery = None if safe else Battery(board.adc("battery"), self._settings, curve=COIN_CURVE)
        self._watchdog = None
        # Tokens that still tell of a fault.
        self._faulty = FAULT_TOKENS if safe or board.reset_cause == constants.RESET_WATCHDOG else 0
        # How often the processor woke to do something: what its battery lasts by.
        self.wakes = 0
        self._advertiser = Advertiser(board.ble())
        self._strap = None
        self._strap_changed = Signal()
        # Tokens that still tell of a strap that flickers.
        self._strap_faulty = 0
        self._supervisor = Supervisor(board.clock.ticks_ms, board.log, self._on_failure)

    async def run(self):
        board = self._board
        make = getattr(board, "watchdog", None)
        if make is not None:
            self._watchdog = make(self._settings.watchdog_s * 1000)
        if not self._safe:
            self._supervisor.start(
                "strap",
                strap.watch,
                board.pin_in("strap"),
                board.clock.ticks_ms,
                self._on_strap,
                self._settings,
                self._take_strap,
            )
        self._supervisor.start("beacon", self._send)
        await self._supervisor.wait()

    def _on_failure(self, name, error, count):
        self._faulty = FAULT_TOKENS

    def _measure(self):
        if self._battery is None:
            return UNKNOWN_PERCENT
        try:
            self._battery.measure()
            return self._battery.percent
        except (OSError, ValueError) as error:
            self._board.log("battery: %r" % error)
            self._faulty = FAULT_TOKENS
            return UNKNOWN_PERCENT

    def _take_strap(self, contact):
        self._strap = contact

    def _on_strap(self, kind, since_ms, value, evidence):
        if kind == strap.FAULT:
            self._strap_faulty = FAULT_TOKENS
        self._strap_changed.set()

    async def _send(self):
        due = 0
        sent = 0
        percent = UNKNOWN_PERCENT
        while True:
            if sent % BATTERY_EVERY == 0:
                percent = self._measure()
            status = beacon.STATUS_STRAP_OPEN if self._strap is not None and self._strap.open else 0
            if self._faulty:
                self._faulty -= 1
                status |= beacon.STATUS_FAULT
            if self._strap_faulty:
                self._strap_faulty -= 1
                status |= beacon.STATUS_STRAP_FAULT
            token = beacon.build(self._encrypt, self._device_id, self._counter.take(), status, percent)
            self._advertiser.advertise(self._interval_s * 1000 // REPEATS, token)
            if self._watchdog is not None:
                self._watchdog.feed()  # only what is on the air
            sent += 1
            if sent == HEALTHY_TOKENS and not self._safe:
                safe_mode.forgive()
            now = self._board.clock.ticks_ms()
            due = max(now, due + self._interval_s * 1000) if due else now + self._interval_s * 1000
            # A strap that opens is told at once.
            await self._strap_changed.wait(due - now)
            self.wakes += 1


async def run(board, safe=False):
    """The whole device, for ever."""
    await Pid(board, safe).run()
