"""Advertising and scanning in virtual time, RSSI, suppression, recordings; the radio's calls without a device."""

import itertools
import struct

import pytest
from emrig.air import Air, BeaconRecording
from emrig.clock import VirtualClock
from emrig.micropython import ble_wire as wire

PID, HOME = 0x21, 0x22
DAY_MS = 86_400_000


async def test_a_day_of_beacons(bench):
    """Each renewed beacon is heard in virtual time, as fast as the machine goes."""
    await bench.device("home", HOME, "scanner")
    await bench.device("pid", PID, "beacon", interval_ms=10_000)
    await bench.run(hours=24.01)
    reports = [r for r in bench.reports["home"] if "heard" in r]
    assert len(reports) == 24
    # Renewing a token restarts the advertising: each counter value is heard at least once.
    assert sum(r["distinct"] for r in reports) == pytest.approx(8640, abs=24)
    assert reports[-1]["last"] == pytest.approx(8640, abs=3)
    assert reports[-1]["listened_ms"] == DAY_MS and reports[-1]["deaf_ms"] == 0
    assert reports[-1]["restarts"] == 0 and reports[-1]["dropped"] == 0


async def test_a_scanner_with_a_duty_cycle_misses_what_it_says_it_misses(bench):
    await bench.device("home", HOME, "scanner", duty_percent=30)
    await bench.device("pid", PID, "beacon", interval_ms=1_000)
    await bench.run(hours=3.001)
    reports = [r for r in bench.reports["home"] if "heard" in r]
    heard = sum(r["distinct"] for r in reports)
    assert heard / (3 * 3600) == pytest.approx(0.3, abs=0.1)
    assert reports[-1]["listened_ms"] == 3 * 3_600_000 * 30 // 100
    assert reports[-1]["listened_ms"] + reports[-1]["deaf_ms"] == 3 * 3_600_000


async def test_a_corrupt_rssi_reaches_the_firmware_and_is_rejected_there(bench):
    values = itertools.cycle([-60, 42, 20, -127])
    bench.air.rssi_dbm = lambda transmitter, receiver, now_ms: next(values)
    await bench.device("home", HOME, "scanner", report_ms=60_000)
    await bench.device("pid", PID, "beacon", interval_ms=1_000)
    await bench.run(until=lambda: bool(bench.reported("home", "heard")))
    report = next(r for r in bench.reports["home"] if "heard" in r)
    assert report["rejected"] == pytest.approx(report["heard"] / 4, abs=2)
    assert set(report["rssi"]) <= {-60, 127, 20, -127} and 127 in report["rssi"]


async def test_a_dead_device_is_not_heard(bench):
    await bench.device("home", HOME, "scanner", report_ms=60_000)
    pid = await bench.device("pid", PID, "beacon", interval_ms=1_000)
    await bench.run(until=lambda: len(bench.reported("home", "heard")) == 1)
    pid.kill()
    await bench.run(until=lambda: len(bench.reported("home", "heard")) == 3)
    assert bench.reported("home", "heard")[0] > 50
    assert bench.reported("home", "heard")[2] == 0
    bench.rig.start(pid)
    await bench.run(until=lambda: len(bench.reported("home", "heard")) == 5)
    assert bench.reported("home", "heard")[4] > 50


class Radios:
    """Two radios without MicroPython."""

    def __init__(self) -> None:
        self.clock = VirtualClock(0)
        self.air = Air(self.clock)
        self.heard: list[tuple[int, int, bytes]] = []

    async def begin(self) -> None:
        await self.air.add_device(PID, self._deliver)
        await self.air.add_device(HOME, self._deliver)
        for device_id in (PID, HOME):
            self.call(device_id, wire.CALL_ACTIVE, b"\1")

    def _deliver(self, device_id: int, operation: int, payload: bytes) -> None:
        self.heard.append((self.clock.now_ms(), operation, payload))

    def call(self, device_id: int, operation: int, payload: bytes = b"") -> bytes:
        return self.air.handle_call(device_id, operation, payload)

    def until(self, when_ms: int) -> None:
        while (due := self.clock.next_due_ms()) is not None and due <= when_ms:
            self.clock.advance(due)
        self.clock.advance(when_ms)


async def test_advertising_events_follow_the_interval_and_the_specifications_delay():
    radios = Radios()
    await radios.begin()
    radios.call(HOME, wire.CALL_SCAN, struct.pack(wire.SCAN, 0, 100_000, 100_000, 0))
    assert radios.call(PID, wire.CALL_ADVERTISE, wire.pack_advertise(100_000, False, b"\2\1\6", b"")) == b"\0"
    radios.until(10_000)
    times = [when for when, operation, _ in radios.heard if operation == wire.IRQ_SCAN_RESULT]
    assert len(times) in (100, 101)
    assert all(100 * n <= when <= 100 * n + 10 for n, when in enumerate(times))
    assert len({when % 100 for when in times}) > 5
    radios.call(PID, wire.CALL_ADVERTISE_STOP)
    radios.heard.clear()
    radios.until(20_000)
    assert not radios.heard


@pytest.mark.parametrize("interval_us", [19_999, 10_240_001])
async def test_intervals_that_no_radio_accepts(interval_us):
    radios = Radios()
    await radios.begin()
    answer = radios.call(PID, wire.CALL_ADVERTISE, wire.pack_advertise(interval_us, True, b"", b""))
    assert answer == bytes((wire.EINVAL,))


async def test_active_scanning_gets_the_response_and_rssi_is_per_pair():
    radios = Radios()
    await radios.begin()
    radios.air.rssi_dbm = lambda t, r, now_ms: {(PID, HOME): -77}.get((t, r)) if now_ms < 5_000 else None
    radios.call(HOME, wire.CALL_SCAN, struct.pack(wire.SCAN, 60_000, 100_000, 100_000, 1))
    radios.call(PID, wire.CALL_ADVERTISE, wire.pack_advertise(1_000_000, True, b"\2\1\6", b"\3\x09ab"))
    radios.until(4_500)
    results = [p for _, operation, p in radios.heard if operation == wire.IRQ_SCAN_RESULT]
    kinds = [struct.unpack_from(wire.SCAN_RESULT, p)[2:] for p in results]
    assert kinds == [(wire.ADV_IND, -77), (wire.SCAN_RSP, -77)] * 5
    assert {p[9:] for p in results} == {b"\2\1\6", b"\3\x09ab"}
    radios.heard.clear()
    radios.until(59_999)
    assert not radios.heard
    radios.until(60_000)
    assert radios.heard == [(60_000, wire.IRQ_SCAN_DONE, b"")]


@pytest.mark.parametrize("payload", [b"", b"\1", b"\1\2\3\4\5\6\7\x08\x09\x0a\x0b"])
@pytest.mark.parametrize("operation", range(60, 80))
async def test_malformed_calls_are_answered_with_an_error(operation, payload):
    radios = Radios()
    await radios.begin()
    assert len(radios.call(PID, operation, payload)) >= 1


# -- recordings -----------------------------------------------------------------------------------------------------


def test_recording_maps_time_to_what_was_heard(tmp_path):
    path = tmp_path / "beacons.mbd"
    path.write_text("100.0,a,x,-70,1,2\n100.5,b,x,-80\n101.0,a,x,42\n102.0,a,x,-72\n104.0,a,x,-74\n")
    recording = BeaconRecording.read(path)
    assert recording.receiver == "a" and recording.duration_ms == 4000 and recording.spacing_ms == 1000
    assert [recording.rssi_dbm(ms) for ms in (0, 499, 1000, 1600, 2500, 2501, 3499, 3500, 4500, 4501)] == [
        -70, -70, 42, -72, -72, None, None, -74, -74, None,
    ]  # fmt: skip
    assert recording.repeated_rssi_dbm(5000) == 42
    assert BeaconRecording.read(path, "b").samples == [(500, -80)]


@pytest.mark.parametrize(
    "text", ["", "x,a,b,-70\n", "1.0,a,b\n", "1.0,a,b,-129\n", "1.0,a,b,128\n", "1.0,a,b,\n", "\x00\xff\n"]
)
def test_bad_recordings_name_their_line(tmp_path, text):
    path = tmp_path / "beacons.mbd"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"beacons\.mbd"):
        BeaconRecording.read(path)


def test_recording_without_the_receiver(tmp_path):
    path = tmp_path / "beacons.mbd"
    path.write_text("100.0,a,x,-70\n")
    with pytest.raises(ValueError, match="it has a"):
        BeaconRecording.read(path, "z")


def test_recordings_of_a_real_beacon(shared_data):
    files = sorted((shared_data / "ble").glob("*.mbd"))
    if not files:
        pytest.skip("needs ../shared/data/ble")
    for path in files:
        recording = BeaconRecording.read(path)
        assert 300 < recording.spacing_ms < 600
        heard = [recording.rssi_dbm(ms) for ms in range(0, recording.duration_ms, recording.spacing_ms)]
        assert sum(value is not None for value in heard) / len(heard) > 0.8


async def test_a_recording_heard_by_the_firmware(bench, shared_data):
    path = shared_data / "ble" / "straight_02_all_sensors.mbd"
    if not path.exists():
        pytest.skip("needs ../shared/data/ble/straight_02_all_sensors.mbd")
    recording = BeaconRecording.read(path)
    bench.air.rssi_dbm = lambda transmitter, receiver, now_ms: recording.rssi_dbm(now_ms)
    await bench.device("home", HOME, "scanner", report_ms=recording.duration_ms + 60_000)
    await bench.device("pid", PID, "beacon", interval_ms=500)
    await bench.run(until=lambda: bool(bench.reported("home", "heard")))
    expected = sum(recording.rssi_dbm(ms) is not None for ms in range(0, recording.duration_ms, 500))
    assert bench.reported("home", "heard")[0] == pytest.approx(expected, rel=0.15)
    assert all(-110 < rssi < -40 for rssi in bench.reported("home", "rssi")[0])
