"""Observes one device at its boundary while it runs, and keeps the account of its charge."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from emrig.clock import Timer
from emrig.flash.boards import pins_of
from emrig.micropython import ble_wire
from emrig.micropython import rig_wire as w
from emrig.power.charge import HOUR_MS, Charges, Level
from emrig.power.processor import Usage, UsageUnknown, file_bytes, usage
from emrig.power.table import Table
from emrig.station import Station
from emrig.target import Part

# Of 30 days.
MONTH_H = 720
# Virtual time after power-on at which the model has started; compiling its source is nothing that a board would do.
STARTED_MS = 5_000
UARTS = ("gnss", "modem", "host")
ADCS = ("battery", "alcohol_cell", "contact_infrared", "skin_temperature", "fibre_light")
ADVERTISEMENT_HEAD = struct.calcsize(ble_wire.ADVERTISE)
CONTACTS = ("strap", "case")
"""Close to ground: then their pull-up's current flows."""
WAITS = ("sleep", "idle")


class Meter:
    """Attach to a station's device before it is started (station.on_wired); settle() before reading."""

    def __init__(self, station: Station, name: str, table: Table, board: str, battery: str, slow: float, wait: str):
        """slow: seconds of the board for one of this machine; wait: what the processor does while every task waits."""
        self.counters: Counter[str] = Counter()
        self.charges = Charges(station.clock.unix_start_ms)
        self._station, self.name, self.table, self._board = station, name, table, board
        self.device = station.rig.devices[name]
        self._clock = station.clock
        self._slow = slow
        volts = table[f"batteries.{battery}.volts"]
        self._volts, self._efficiency = volts, self.of("efficiency")
        self._factor = self.battery_factor(self.of("supply_volts"))
        self._levels: list[Level] = []
        self.counts: list[Callable[[], None]] = []
        """What is read from a counter, to be charged at every look."""
        self.on_kill: list[Callable[[], None]] = []
        self._usage: Usage | None = None
        self._base_files = self._base_wire = 0
        asleep = self.of("sleep_ma") if wait == "sleep" else self.of("idle_ma")
        self.level("processor asleep" if wait == "sleep" else "processor waiting").set(asleep, 0)
        self._awake_ma = max(0.0, self.of("idle_ma") - asleep)
        self._running_ma = max(0.0, self.of("running_ma") - asleep)
        if wait == "sleep" and self.of("poll_ms"):
            self.level("processor polling").set(self.of("running_ma") * self.of("wake_ms") / self.of("poll_ms"), 0)
        self.level("board").set(self.of("board_ma"), 0)
        capacity = table[f"batteries.{battery}.capacity_mah"]
        loss = capacity * table[f"batteries.{battery}.self_discharge_percent_a_month"] / 100 / MONTH_H
        self._levels.append(Level(self.charges, "self-discharge", 0, loss))
        self._awake = self.level("processor awake")
        self._awake_timer: Timer | None = None
        self._held = False
        self._watch_processor()
        self._watch_pins()
        self._watch_contacts()
        Radio(self, station)
        if name in station.receivers:
            Receiver(self, station)
        if name in station.modems:
            ModemWatch(self, station)
        self._clock.call_later(HOUR_MS, self._hourly)

    # -- for the watchers

    def of(self, figure: str) -> float:
        """A figure of the board."""
        return self.table[f"boards.{self._board}.{figure}"]

    def battery_factor(self, supply_volts: float) -> float:
        """Charge of the cell for each of a part with this supply."""
        # Fed directly, or through a linear regulator, a part's current is the cell's.
        return 1.0 if self._efficiency >= 1 else supply_volts / (self._volts * self._efficiency)

    def level(self, consumer: str, factor: float | None = None) -> Level:
        """A current that is set as it changes; factor: as battery_factor(), by default the board's."""
        level = Level(self.charges, consumer, self._clock.now_ms(), factor=self._factor if factor is None else factor)
        self._levels.append(level)
        return level

    def pulse(self, consumer: str, microcoulombs: float, factor: float | None = None) -> None:
        """A charge that is taken now; factor: as level()."""
        factor = self._factor if factor is None else factor
        self.charges.pulse(consumer, microcoulombs * factor, self._clock.now_ms())

    # -- processor, flash

    def _watch_processor(self) -> None:
        device = self.device
        step, feed, start, kill = device.step, device.feed, device.start, device.kill
        if "host" in device.parts:
            self.level("processor listening").set(min(self.of("uart_listen_ma"), self._awake_ma), 0)

        def watched_step(now_ms: int) -> None:
            self.counters["wakes"] += 1
            self.pulse("processor awake", self.of("wake_ms") * self._awake_ma)
            step(now_ms)

        def watched_feed(channel: str, kind: int, payload: bytes) -> None:
            if channel in UARTS and kind == w.DATA:
                self._uart_used()
            feed(channel, kind, payload)

        def watched_start() -> None:
            start()
            self._clock.call_later(STARTED_MS, self._begin_usage)

        def watched_kill() -> None:
            self._take_usage()
            self._usage = None
            for dead in self.on_kill:
                dead()
            kill()

        device.step, device.feed = watched_step, watched_feed  # type: ignore[method-assign]
        device.start, device.kill = watched_start, watched_kill  # type: ignore[method-assign]
        for channel in UARTS:
            if channel in device.parts:
                device.parts[channel] = _Watched(device.parts[channel], lambda kind, payload: self._uart_used())

    def _uart_used(self) -> None:
        hold_ms = round(self.of("uart_awake_ms"))
        if not hold_ms or "host" in self.device.parts:
            return  # the latter listens all the time
        if self._awake_timer:
            self._awake_timer.cancel()
        self._awake_timer = self._clock.call_later(hold_ms, self._uart_quiet)
        self._set_awake()

    def _uart_quiet(self) -> None:
        self._awake_timer = None
        self._set_awake()

    def hold(self, held: bool) -> None:
        """A modem that may speak at any time, and so does not doze, keeps the processor awake."""
        self._held = held and bool(self.of("uart_awake_ms"))
        self._set_awake()

    def _set_awake(self) -> None:
        awake = self._held or self._awake_timer is not None
        self._awake.set(self._awake_ma if awake else 0.0, self._clock.now_ms())

    def _begin_usage(self) -> None:
        try:
            self._usage = usage(self.device.pid)
        except UsageUnknown:
            return
        self._base_wire, self._base_files = self.device.bytes_out, file_bytes(self.device)

    def _take_usage(self) -> None:
        """Charge what the process has used since the last look."""
        if self._usage is None:
            return
        try:
            now = usage(self.device.pid)
        except UsageUnknown:
            return
        before, self._usage = self._usage, now
        wire, files = self.device.bytes_out, file_bytes(self.device)
        board_s = (now.processor_s - before.processor_s) * self._slow
        written = now.written_bytes - before.written_bytes - (wire - self._base_wire) - (files - self._base_files)
        self._base_wire, self._base_files = wire, files
        self.counters["processor_ms"] += round(board_s * 1000)
        self.counters["flash_bytes"] += max(0, written)
        self.pulse("processor running", board_s * 1000 * self._running_ma)
        flash = max(0, written) * self.of("flash_byte_uc") * self.of("flash_overhead_factor")
        self.pulse("flash", flash)

    # -- pins and samples

    def _watch_pins(self) -> None:
        parts = self.device.parts
        vibration, sample = self.level("vibration"), self.level("alcohol cell")
        motor = self.table["vibration.motor_ma"]
        parts["vibration"] = self._switch(parts["vibration"], vibration, 0.0, motor)
        if "alcohol_sample" in parts:
            standby, working = self.table["alcohol.standby_ma"], self.table["alcohol.sample_ma"]
            sample.set(standby, self._clock.now_ms())
            parts["alcohol_sample"] = self._switch(parts["alcohol_sample"], sample, standby, standby + working)
        for channel in ADCS:
            if channel in parts:
                parts[channel] = _Watched(parts[channel], on_call=lambda *_, channel=channel: self._sampled(channel))

    def _switch(self, part: Part, level: Level, off: float, on: float) -> Part:
        return _Watched(part, lambda kind, payload: level.set(on if payload[0] else off, self._clock.now_ms()))

    def _sampled(self, channel: str) -> None:
        self.counters["samples"] += 1
        self.pulse("samples", self.of("adc_uc"))
        if channel == "contact_infrared":
            self.pulse("alcohol cell", self.table["alcohol.infrared_uc"])

    def _watch_contacts(self) -> None:
        """A closed contact's current, from when the firmware first looks at it: what it never does is not fitted."""
        pins = pins_of(self._board)
        fed: dict[str, Callable[[], None]] = {}
        for name in CONTACTS:
            if (part := self.device.parts.get(name)) is not None:
                fed[name] = self._contact(name, part, pins)
        feed = self.device.feed

        def watched_feed(channel: str, kind: int, payload: bytes) -> None:
            if channel in fed and kind == w.PIN:
                fed[channel]()
            feed(channel, kind, payload)

        self.device.feed = watched_feed  # type: ignore[method-assign]

    def _contact(self, name: str, part: Part, pins: dict[str, Any]) -> Callable[[], None]:
        _, pull_up, inverted = pins["PIN_IN"][name]
        # Volts by kilohms are milliamperes.
        closed_ma = self.of("supply_volts") / (self.of("pull_up_kohm") if pull_up else pins["CONTACT_KOHM"])
        level = self.level("contacts")
        looked_at = False

        def changed() -> None:
            closed = (part.call(w.READ, b"") == b"\1") == inverted
            level.set(closed_ma if looked_at and closed else 0.0, self._clock.now_ms())

        def asked(*_: object) -> None:
            nonlocal looked_at
            if not looked_at:
                looked_at = True
                changed()

        self.device.parts[name] = _Watched(part, on_call=asked)
        return changed

    # -- time

    def settle(self) -> None:
        """Account for everything up to now."""
        self._take_usage()
        for count in self.counts:
            count()
        for level in self._levels:
            level.settle(self._clock.now_ms())

    def _hourly(self) -> None:
        self.settle()
        self._clock.call_later(HOUR_MS, self._hourly)


class Receiver:
    """The satellite receiver's states."""

    def __init__(self, meter: Meter, station: Station) -> None:
        table, clock = meter.table, station.clock
        levels = {state: meter.level(f"receiver {state}") for state in ("off", "asleep", "acquiring", "tracking")}
        orbits = meter.level("receiver reading orbits")
        currents = {state: table[f"receiver.{state}_ma"] for state in levels}
        extra = table["receiver.orbits_s_an_hour"] / 3600 * (currents["tracking"] - currents["asleep"])
        levels["off"].set(currents["off"], clock.now_ms())

        def changed(state: str) -> None:
            now = clock.now_ms()
            for name, level in levels.items():
                level.set(currents[name] if name == state else 0.0, now)
            # Only a receiver that is left to sleep by itself reads them by itself.
            orbits.set(extra if state == "asleep" else 0.0, now)
            if state == "asleep":
                meter.counters["receiver_sleeps"] += 1
            if state in ("asleep", "off"):  # it found a position, or is given up
                meter.counters["receiver_attempts"] += 1

        station.receivers[meter.name].on_state = changed


class ModemWatch:
    """The modem's states, its radio connection and its bytes."""

    def __init__(self, meter: Meter, station: Station) -> None:
        self._meter, self._table, self._clock = meter, meter.table, station.clock
        self._modem = station.modems[meter.name]
        self._factor = meter.battery_factor(self._table["modem.supply_volts"])
        self._level = meter.level("modem idle", self._factor)
        self._connected = meter.level("modem connected", self._factor)
        self._base = {
            state: self._table[f"modem.{figure}_ma"]
            for state, figure in (
                ("off", "off"),
                ("asleep", "asleep"),
                ("starting", "starting"),
                ("searching", "searching"),
                ("registered", "idle"),
                ("dozing", "sleep"),
            )
        }
        self._state = "off"
        self._tail: Timer | None = None
        self._keep_alive: Timer | None = None
        self._modem.on_state = self._changed
        self._modem.on_traffic = self._traffic
        self._set()

    def _changed(self, state: str) -> None:
        self._state = state
        self._meter.hold(state in ("starting", "searching", "registered"))
        if state not in ("registered", "dozing"):
            self._end()
        self._set()

    def _set(self) -> None:
        now = self._clock.now_ms()
        connected = self._table["modem.connected_ma"] if self._tail else 0.0
        # With its radio connection open it does not sleep; the larger figure contains the smaller.
        self._connected.set(connected, now)
        self._level.set(0.0 if connected else self._base[self._state], now)

    def _traffic(self, up: int, down: int) -> None:
        table, meter = self._table, self._meter
        header = table["modem.header_bytes"]
        meter.counters["modem_bytes_up"] += up
        meter.counters["modem_bytes_down"] += down
        if self._tail:
            self._tail.cancel()
        else:
            meter.counters["modem_connections"] += 1
            meter.pulse("modem transmitting", table["modem.connect_uc"], self._factor)
        airtime_ms = (up + 2 * header) / table["modem.transmit_bytes_a_s"] * 1000
        extra = table["modem.transmit_ma"] - table["modem.connected_ma"]
        meter.pulse("modem transmitting", airtime_ms * extra, self._factor)
        self._tail = self._clock.call_later(round(table["modem.connected_tail_s"] * 1000), self._end)
        if self._keep_alive:
            self._keep_alive.cancel()
        self._keep_alive = self._clock.call_later(round(table["modem.keep_alive_s"] * 1000), self._ping)
        self._set()

    def _end(self) -> None:
        if self._tail:
            self._tail.cancel()
            self._tail = None
        self._set()

    def _ping(self) -> None:
        self._keep_alive = None
        if self._modem.in_session and self._modem.coverage:
            self._meter.counters["modem_pings"] += 1
            self._traffic(2, 2)


class Radio:
    """Bluetooth: advertising events, scan windows, connections."""

    def __init__(self, meter: Meter, station: Station) -> None:
        self._meter, self._clock = meter, station.clock
        self._radio = station.air.radios[station.device(meter.name).device_id]
        self._on = meter.level("bluetooth on")
        self._scan = meter.level("bluetooth scanning")
        self._connection = meter.level("bluetooth connected")
        self._events = 0
        self._event_uc = 0.0
        device = meter.device
        device.parts["ble"] = _Watched(device.parts["ble"], on_call=self._called)
        feed = device.feed

        def watched_feed(channel: str, kind: int, payload: bytes) -> None:
            if channel == "ble" and kind == w.NOTIFY:
                self._interrupt(payload[0], payload[1:])
            feed(channel, kind, payload)

        device.feed = watched_feed  # type: ignore[method-assign]
        meter.counts.append(self._count)
        meter.on_kill.append(self._off)

    def _of(self, figure: str) -> float:
        return self._meter.of(figure)

    def _count(self) -> None:
        """Charge the advertising events since the last look."""
        events = self._radio.controller.advertiser.events
        self._meter.counters["advertisements"] += events - self._events
        self._meter.pulse("bluetooth advertising", (events - self._events) * self._event_uc)
        self._events = events

    def _called(self, operation: int, argument: bytes) -> None:
        now = self._clock.now_ms()
        if operation == ble_wire.CALL_ACTIVE:
            self._count()
            self._on.set(self._of("radio_on_ma") if argument[0] else 0.0, now)
            if not argument[0]:
                self._off()
        elif operation == ble_wire.CALL_ADVERTISE:
            self._count()
            _, connectable, data, _ = ble_wire.unpack_advertise(argument)
            self._event_uc = self._of("advertisement_uc") + len(data) * self._of("advertisement_byte_uc")
            self._event_uc += self._of("scan_request_uc") if connectable else 0.0
        elif operation == ble_wire.CALL_SCAN:
            _, interval_us, window_us, _ = struct.unpack(ble_wire.SCAN, argument)
            self._scan.set(self._of("radio_receive_ma") * min(1.0, window_us / max(interval_us, 1)), now)
        elif operation == ble_wire.CALL_SCAN_STOP:
            self._scan.set(0.0, now)
        elif operation == ble_wire.CALL_NOTIFY:
            self._bytes(len(argument))

    def _off(self) -> None:
        self._count()
        for level in (self._on, self._scan, self._connection):
            level.set(0.0, self._clock.now_ms())

    def _interrupt(self, operation: int, payload: bytes) -> None:
        now = self._clock.now_ms()
        if operation == ble_wire.IRQ_SCAN_DONE:
            self._scan.set(0.0, now)
        elif operation == ble_wire.IRQ_CENTRAL_CONNECT:
            self._count()
            # Microcoulombs an event over milliseconds between events are milliamperes.
            self._connection.set(self._of("connection_event_uc") / self._meter.table["bluetooth.interval_ms"], now)
        elif operation == ble_wire.IRQ_CENTRAL_DISCONNECT:
            self._connection.set(0.0, now)
        elif operation == ble_wire.IRQ_GATTS_WRITE:
            self._bytes(len(payload))

    def _bytes(self, count: int) -> None:
        self._meter.counters["bluetooth_bytes"] += count
        self._meter.pulse("bluetooth connected", count * self._of("connection_byte_uc"))


class _Watched:
    """A part that tells what passes through it."""

    def __init__(
        self,
        part: Part,
        on_output: Callable[[int, bytes], None] | None = None,
        on_call: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._part, self._on_output, self._on_call = part, on_output, on_call

    def output(self, kind: int, payload: bytes) -> None:
        if self._on_output:
            self._on_output(kind, payload)
        self._part.output(kind, payload)

    def call(self, operation: int, argument: bytes) -> bytes:
        if self._on_call:
            self._on_call(operation, argument)
        return self._part.call(operation, argument)
