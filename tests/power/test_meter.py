"""What the meter makes of what passes a device's boundary; the charges are reckoned by hand from round figures."""

import importlib
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from emrig.clock import VirtualClock
from emrig.micropython import ble_wire
from emrig.micropython import rig_wire as w
from emrig.models.parts import AdcChannel, InputPin, OutputPin
from emrig.models.receiver import SyntheticReceiver
from emrig.models.ublox import Sky
from emrig.paths import firmware_folder
from emrig.power import processor
from emrig.power import table as tables
from emrig.power.charge import HOUR_MS
from emrig.power.meter import Meter
from emrig.power.table import Figure, Table

MAH = HOUR_MS  # mA for ms in a mAh
BOARD = {
    "supply_volts": 3.0,
    "efficiency": 1.0,
    "running_ma": 51.0,
    "idle_ma": 11.0,
    "sleep_ma": 1.0,
    "wake_ms": 5.0,
    "uart_awake_ms": 2000.0,
    "poll_ms": 1000.0,
}


@pytest.fixture(autouse=True)
def firmware_on_the_path() -> Iterator[None]:
    sys.path.append(str(firmware_folder()))
    yield
    sys.path.remove(str(firmware_folder()))


def round_figures(**more: float) -> Table:
    """The table with easy numbers where a test reckons with them."""
    table = tables.load()
    figures = dict(table.figures)
    values = {f"boards.nrf52840.{name}": value for name, value in BOARD.items()} | {
        name.replace("__", "."): value for name, value in more.items()
    }
    for name, value in values.items():
        assert name in figures, name
        figures[name] = Figure(name, value, "test", False)
    return Table(figures)


class Board:
    """A device without a process."""

    name = "tag"

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts, self.pid, self.bytes_out = folder, {}, os.getpid(), 0
        self.steps: list[int] = []
        OutputPin(self, "vibration")  # type: ignore[arg-type]
        AdcChannel(self, "battery", lambda: 37_000)  # type: ignore[arg-type]
        self.parts["ble"] = SimpleNamespace(call=lambda operation, argument: b"\0", output=lambda kind, payload: None)

    def step(self, now_ms: int) -> None:
        self.steps.append(now_ms)

    def feed(self, channel: str, kind: int, payload: bytes) -> None:
        """Nobody takes it."""

    def start(self) -> None:
        """On."""

    def kill(self) -> None:
        """Off."""


class Bench:
    """A station of one such device."""

    def __init__(self, folder: Path, model: str = "pid") -> None:
        self.clock = VirtualClock(1_780_272_000_000)
        self.board = Board(folder)
        self.rig = SimpleNamespace(devices={"tag": self.board}, clock=self.clock)
        self.advertiser = SimpleNamespace(events=0)
        radio = SimpleNamespace(controller=SimpleNamespace(advertiser=self.advertiser))
        self.air = SimpleNamespace(radios={7: radio})
        self.receivers: dict[str, SyntheticReceiver] = {}
        self.modems: dict[str, Any] = {}

    def device(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(device_id=7)

    def meter(self, table: Table, slow: float = 1.0, wait: str = "sleep", board: str = "nrf52840") -> Meter:
        return Meter(self, "tag", table, board, "pid", slow, wait)  # type: ignore[arg-type]

    def pass_to(self, now_ms: int) -> None:
        """Virtual time passes from one timer to the next, as in the rig."""
        while (due := self.clock.next_due_ms()) is not None and due <= now_ms:
            self.clock.advance(due)
        self.clock.advance(now_ms)


def mas(meter: Meter, consumer: str) -> float:
    """mA seconds so far."""
    meter.settle()
    return meter.charges.totals().get(consumer, 0.0) * 3600


def test_processor_wakes_and_waits_for_a_uart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.board.parts["modem"] = SimpleNamespace(output=lambda kind, payload: None)
    meter = bench.meter(round_figures())
    bench.pass_to(10_000)
    bench.board.step(10_000)
    # Bytes at 10 s and 11 s: awake until 13 s.
    bench.board.feed("modem", w.DATA, b"RDY")
    bench.pass_to(11_000)
    bench.board.parts["modem"].output(w.DATA, b"AT\r")
    bench.pass_to(100_000)
    assert mas(meter, "processor asleep") == pytest.approx(100 * 1.0)
    assert mas(meter, "processor polling") == pytest.approx(100 * 0.005 * 51.0)
    assert mas(meter, "processor awake") == pytest.approx(3 * (11.0 - 1.0) + 0.005 * (11.0 - 1.0))
    assert meter.counters["wakes"] == 1 and bench.board.steps == [10_000]


def test_a_processor_that_does_not_sleep(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(round_figures(), wait="idle")
    bench.board.step(0)
    bench.pass_to(100_000)
    assert mas(meter, "processor waiting") == pytest.approx(100 * 11.0)
    assert mas(meter, "processor awake") == mas(meter, "processor asleep") == 0


@pytest.mark.parametrize(("board", "kohm"), [("nrf52840", 4700), ("esp32s3", 1000), ("pico_w", 65)])
def test_a_closed_contact_takes_its_pull_ups_current(tmp_path: Path, board: str, kohm: float) -> None:
    bench = Bench(tmp_path)
    pins = {name: InputPin(bench.board, name, level) for name, level in (("strap", 1), ("case", 0))}  # type: ignore[arg-type]
    figures = {f"boards__{board}__{name}": value for name, value in (("supply_volts", 3.0), ("efficiency", 1.0))}
    meter = bench.meter(round_figures(**figures), board=board)
    parts = bench.board.parts
    parts["strap"].call(w.READ, b"")
    bench.pass_to(100_000)
    one = 3.0 / kohm
    assert mas(meter, "contacts") == pytest.approx(100 * one), "the case's contact, which nobody asks for, is not there"
    parts["case"].call(w.READ, b"")
    bench.pass_to(200_000)
    assert mas(meter, "contacts") == pytest.approx(300 * one)
    pins["strap"].set(0)
    pins["case"].set(1)
    bench.pass_to(900_000)
    assert mas(meter, "contacts") == pytest.approx(300 * one), "open"


def test_a_converter_turns_the_boards_current_into_the_batterys(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(round_figures(**{"boards__nrf52840__supply_volts": 3.3, "boards__nrf52840__efficiency": 0.8}))
    bench.pass_to(100_000)
    assert mas(meter, "processor asleep") == pytest.approx(100 * 3.3 / (3.0 * 0.8))


def test_receiver_by_its_power_pin_and_what_it_is_told(tmp_path: Path) -> None:
    ubx_setup = importlib.import_module("drivers.ubx_setup")
    bench = Bench(tmp_path)
    receiver = SyntheticReceiver(bench.rig, bench.board, lambda: Sky(51.0, 0.0), "ubx")  # type: ignore[arg-type]
    bench.receivers["tag"] = receiver
    meter = bench.meter(
        round_figures(
            receiver__off_ma=0.0,
            receiver__asleep_ma=0.5,
            receiver__acquiring_ma=32.0,
            receiver__tracking_ma=29.0,
            receiver__orbits_s_an_hour=36.0,
        )
    )
    bench.pass_to(10_000)
    bench.board.parts["gnss_power"].output(w.PIN, b"\1")
    bench.pass_to(110_000)
    # Cold start: 26 s until it has a position, then 74 s with one.
    assert mas(meter, "receiver acquiring") == pytest.approx(26 * 32.0)
    assert mas(meter, "receiver tracking") == pytest.approx(74 * 29.0)
    assert mas(meter, "receiver asleep") == 0
    bench.board.parts["gnss"].output(w.DATA, ubx_setup.every(60, 60))
    bench.pass_to(120_000)  # told at 110 s, asleep at 111 s, awake again at the full minute
    before = {state: mas(meter, f"receiver {state}") for state in ("acquiring", "tracking", "asleep", "reading orbits")}
    assert before["tracking"] == pytest.approx(75 * 29.0)
    bench.pass_to(720_000)
    after = {state: mas(meter, f"receiver {state}") - value for state, value in before.items()}
    # Ten minutes, in each 2 s awake.
    assert after["acquiring"] == pytest.approx(10 * 2 * 32.0)
    assert after["asleep"] == pytest.approx(10 * 58 * 0.5)
    assert after["reading orbits"] == pytest.approx(10 * 58 * 36 / 3600 * (29.0 - 0.5))
    assert after["tracking"] == 0
    bench.board.parts["gnss_power"].output(w.PIN, b"\0")
    bench.pass_to(1_000_000)
    assert mas(meter, "receiver acquiring") == pytest.approx(before["acquiring"] + after["acquiring"])


def test_modem_by_state_and_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    modem = SimpleNamespace(in_session=False, coverage=True)
    bench.modems["tag"] = modem
    meter = bench.meter(
        round_figures(
            modem__off_ma=0.0,
            modem__idle_ma=11.0,
            modem__sleep_ma=1.0,
            modem__starting_ma=30.0,
            modem__connected_ma=40.0,
            modem__connected_tail_s=10.0,
            modem__connect_uc=60_000.0,
            modem__transmit_ma=140.0,
            modem__transmit_bytes_a_s=1000.0,
            modem__header_bytes=50.0,
            modem__keep_alive_s=300.0,
        )
    )
    bench.pass_to(100_000)
    modem.on_state("starting")
    bench.pass_to(102_000)
    modem.on_state("registered")
    bench.pass_to(110_000)
    modem.on_traffic(400, 20)
    bench.pass_to(115_000)
    modem.on_traffic(900, 20)  # the connection is still open: until 125 s
    bench.pass_to(125_000)
    modem.on_state("dozing")
    bench.pass_to(225_000)
    assert mas(meter, "modem idle") == pytest.approx(2 * 30.0 + 8 * 11.0 + 100 * 1.0)
    # Until it dozes it may speak at any time, and the processor listens.
    assert mas(meter, "processor awake") == pytest.approx(25 * (11.0 - 1.0))
    assert mas(meter, "modem connected") == pytest.approx(15 * 40.0)
    # 60 mC for one connection, then 0.5 s and 1 s on the air, above what the connection takes anyway.
    assert mas(meter, "modem transmitting") == pytest.approx(60.0 + (0.5 + 1.0) * 100.0)
    modem.in_session = True
    bench.pass_to(114_000 + 301_000)
    assert meter.counters["modem_pings"] == 1 and meter.counters["modem_connections"] == 2
    modem.in_session = False
    modem.on_state("off")
    ended = mas(meter, "modem connected")
    bench.pass_to(2_000_000)
    assert mas(meter, "modem connected") == ended


def test_radio_by_events_windows_and_connections(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(
        round_figures(
            boards__nrf52840__advertisement_uc=10.0,
            boards__nrf52840__advertisement_byte_uc=0.5,
            boards__nrf52840__scan_request_uc=4.0,
            boards__nrf52840__radio_receive_ma=6.0,
            boards__nrf52840__radio_on_ma=2.0,
            boards__nrf52840__connection_event_uc=8.0,
            boards__nrf52840__connection_byte_uc=0.25,
            bluetooth__interval_ms=40.0,
        )
    )
    ble = bench.board.parts["ble"]
    assert ble.call(ble_wire.CALL_ACTIVE, b"\1") == b"\0"
    ble.call(ble_wire.CALL_ADVERTISE, ble_wire.pack_advertise(1_000_000, False, bytes(20), b""))
    bench.advertiser.events = 3
    ble.call(ble_wire.CALL_ADVERTISE, ble_wire.pack_advertise(1_000_000, True, bytes(10), b""))
    bench.advertiser.events = 5
    assert mas(meter, "bluetooth advertising") == pytest.approx((3 * 20.0 + 2 * 19.0) / 1000)
    # A quarter of 10 s.
    ble.call(ble_wire.CALL_SCAN, struct.pack(ble_wire.SCAN, 60_000, 100_000, 25_000, 0))
    bench.pass_to(10_000)
    bench.board.feed("ble", w.NOTIFY, bytes((ble_wire.IRQ_SCAN_DONE,)))
    bench.board.feed("ble", w.NOTIFY, bytes((ble_wire.IRQ_CENTRAL_CONNECT,)) + bytes(9))
    ble.call(ble_wire.CALL_NOTIFY, bytes(100))
    bench.pass_to(30_000)
    bench.board.feed("ble", w.NOTIFY, bytes((ble_wire.IRQ_CENTRAL_DISCONNECT,)) + bytes(9))
    bench.pass_to(40_000)
    ble.call(ble_wire.CALL_ACTIVE, b"\0")
    bench.pass_to(100_000)
    assert mas(meter, "bluetooth scanning") == pytest.approx(10 * 6.0 / 4)
    assert mas(meter, "bluetooth connected") == pytest.approx(20 * 8.0 / 40 + 100 * 0.25 / 1000)
    assert mas(meter, "bluetooth on") == pytest.approx(40 * 2.0)


def test_a_reset_ends_what_the_radio_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(round_figures(boards__nrf52840__radio_receive_ma=6.0))
    bench.board.parts["ble"].call(ble_wire.CALL_SCAN, struct.pack(ble_wire.SCAN, 0, 100_000, 100_000, 0))
    bench.pass_to(10_000)
    bench.board.kill()
    bench.pass_to(60_000)
    assert mas(meter, "bluetooth scanning") == pytest.approx(10 * 6.0)


def test_motor_and_samples(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(round_figures(vibration__motor_ma=75.0, boards__nrf52840__adc_uc=2.0))
    bench.board.parts["vibration"].output(w.PIN, b"\1")
    bench.pass_to(500)
    bench.board.parts["vibration"].output(w.PIN, b"\0")
    assert bench.board.parts["battery"].call(w.READ, b"") == (37_000).to_bytes(2, "little")
    bench.pass_to(5_000)
    assert mas(meter, "vibration") == pytest.approx(0.5 * 75.0)
    assert mas(meter, "samples") == pytest.approx(0.002)


def test_the_cell_loses_charge_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = bench.meter(
        round_figures(batteries__pid__capacity_mah=720.0, batteries__pid__self_discharge_percent_a_month=1.0)
    )
    bench.pass_to(100 * HOUR_MS)
    meter.settle()
    # A hundredth in 720 h is 0.01 mAh an hour.
    assert meter.charges.totals()["self-discharge"] == pytest.approx(1.0)


def test_what_a_process_used(tmp_path: Path) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("needs Linux's /proc")
    bench = Bench(tmp_path)
    meter = bench.meter(round_figures(), slow=100.0)
    bench.board.start()
    bench.pass_to(5_000)
    before = processor.usage(os.getpid())
    with (tmp_path / "journal").open("wb", buffering=0) as file:
        file.write(bytes(5_000))
    with (tmp_path / "made.log").open("wb", buffering=0) as file:
        file.write(bytes(3_000))  # the rig's own book
    while processor.usage(os.getpid()).processor_s < before.processor_s + 0.02:
        pass
    meter.settle()
    used_s = processor.usage(os.getpid()).processor_s - before.processor_s
    assert 0.02 * 100 * 50.0 <= mas(meter, "processor running") <= (used_s + 1.0) * 100 * 50.0
    assert 5_000 <= meter.counters["flash_bytes"] < 8_000


def test_a_boards_time_for_this_machines() -> None:
    table = tables.load()
    # Here 10 ms what takes an RP2040 0.9 s: 90 times slower, and others as their CoreMark.
    assert processor.slowness(table, "pico_w", 0.01) == pytest.approx(90)
    expected = 90 * table["reference.rp2040_coremark"] / table["boards.nrf52840.coremark"]
    assert processor.slowness(table, "nrf52840", 0.01) == pytest.approx(expected)
