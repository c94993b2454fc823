"""Every recording against what gpsd derived from it, on MicroPython and on CPython."""

import io
import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import gnss_oracle as oracle
import pytest
import replay_gnss
from emrig import gnss_replay

RECORDINGS = (
    "april6_2019",
    "bt451",
    "bu303-climbing",
    "bu303-moving",
    "bu303-nofix",
    "bu303-stillfix",
    "mt3339",
    "neo-m8n",
    "quectel-L70",
    "quectel-eg25-g",
    "quectel-l76k-nmea",
    "tcp-torture",
    "telit-he910",
    "ublox-8",
    "ublox-neo-m8n",
)

# The exceptions, all of them. A recording or fix that no longer needs its entry fails.
SIRF = "SiRF binary protocol: neither NMEA nor UBX, so nothing of it may be taken for a fix"
NOT_SUPPORTED = {
    "bu303-climbing": SIRF,
    "bu303-moving": SIRF,
    "bu303-nofix": SIRF,
    "bu303-stillfix": SIRF,
}
# Fixes that the oracle lacks, by time of day; all are in the recording's own bytes.
GPSD_SYNCHRONISING = "gpsd uses up the first NAV-PVT in recognising the receiver"
GPSD_WAITING = "the recording ends, or is spliced, before the sentence at which gpsd reports the epoch"
FIXES_BEYOND_ORACLE = {
    ("ublox-neo-m8n", "08:50:00.800"): GPSD_SYNCHRONISING,
    ("ublox-neo-m8n", "08:50:05.400"): GPSD_WAITING,
    ("bt451", "15:25:08.500"): GPSD_WAITING,
    ("quectel-l76k-nmea", "05:53:04.000"): GPSD_WAITING,
}
# The other way round: a recording that ends in the middle of an epoch, before its GSA, which might have said "no fix".
ENDS_BEFORE_GSA = ("quectel-eg25-g", "19:15:33.980")
# gpsd moves a date 1024 weeks on where it mistrusts it; the receiver's own date is what the driver gives.
DATE_1024_WEEKS_LATE_IN_ORACLE = {"neo-m8n", "tcp-torture"}

TOLERANCE_DEGREES = 1e-6
TOLERANCE_M_PER_S = 0.1


@pytest.fixture(scope="module")
def replays(shared_data, micropython):
    """Fixes of a recording as `emtag replay gnss` prints them; each recording is run once."""
    known = {}

    def get(name):
        if name not in known:
            output, log = io.StringIO(), io.StringIO()
            gnss_replay.replay(shared_data / "gnss" / f"{name}.log", output, log)
            known[name] = (output.getvalue(), log.getvalue())
        return known[name]

    return get


def fixes_of(replays, name):
    return [json.loads(line) for line in replays(name)[0].splitlines()]


def near(fix, latitude, longitude):
    # A hair above the tolerance for the oracle's own rounding to nine decimals.
    limit = TOLERANCE_DEGREES + 1e-9
    return abs(fix["latitude"] - latitude) <= limit and abs(fix["longitude"] - longitude) <= limit


def clock(iso):
    return iso[11:23] if iso else None


def test_every_recording_is_listed(shared_data):
    assert {path.stem for path in (shared_data / "gnss").glob("*.log")} == set(RECORDINGS)


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_position_of_the_oracle_comes_out(name, replays, shared_data):
    """Each TPV's position is a fix of the same time; the epoch's last TPV has its mode and speed too."""
    fixes = fixes_of(replays, name)
    groups = oracle.epochs(oracle.reports(shared_data / "gnss" / f"{name}.log.chk"))
    if name in NOT_SUPPORTED:
        assert fixes == []
        return
    worst = Counter()
    matched = set()
    for group in groups:
        for report in group:
            candidates = [
                index
                for index, fix in enumerate(fixes)
                if near(fix, report.latitude, report.longitude)
                and (report.time is None or fix["gpsDate"] is None or clock(report.time) == clock(fix["gpsDate"]))
            ]
            if (name, clock(report.time)) == ENDS_BEFORE_GSA:
                assert not candidates and group is groups[-1]
                continue
            assert candidates, f"no fix for {report}"
            matched.update(candidates)
            assert report.time is None or any(fixes[index]["gpsDate"] for index in candidates)
        last = group[-1]
        if not candidates:
            continue
        same = [fixes[index] for index in candidates if fixes[index]["mode"] == last.mode]
        assert same, f"no fix of mode {last.mode} for {last}"
        if last.speed is not None:
            misses = [abs(fix["speed"] / 3.6 - last.speed) for fix in same if fix["speed"] is not None]
            assert misses and min(misses) <= TOLERANCE_M_PER_S, f"speed differs for {last}"
            worst["speed"] = max(worst["speed"], min(misses))
            worst["speeds"] += 1
        worst["degrees"] = max(
            worst["degrees"],
            min(max(abs(f["latitude"] - last.latitude), abs(f["longitude"] - last.longitude)) for f in same),
        )
    beyond = {(name, clock(fix["gpsDate"])) for index, fix in enumerate(fixes) if index not in matched}
    assert beyond == {key for key in FIXES_BEYOND_ORACLE if key[0] == name}
    print(
        f"{name}: {sum(map(len, groups))} TPVs with a position in {len(groups)} epochs, {len(fixes)} fixes, "
        f"{worst['speeds']} speeds; worst {worst['degrees']:.2e} degree, {worst['speed']:.3f} m/s"
    )


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name not in NOT_SUPPORTED])
def test_one_fix_an_epoch_from_its_own_sentences(name, replays, shared_data):
    """No fix but from a sentence of its time (NMEA), none twice, and no position where gpsd reports none."""
    fixes = fixes_of(replays, name)
    times = [fix["gpsDate"] for fix in fixes if fix["gpsDate"]]
    assert len(times) == len(set(times))
    reports = oracle.reports(shared_data / "gnss" / f"{name}.log.chk")
    assert fixes, "a recording with fixes"
    stream = gnss_replay.recorded_bytes((shared_data / "gnss" / f"{name}.log").read_bytes())
    sentences = oracle.sentence_positions(stream)
    if not sentences:  # UBX
        return
    everywhere = {position for positions in sentences.values() for position in positions}
    for fix in fixes:
        time = clock(fix["gpsDate"])
        positions = sentences[time.replace(":", "")] if time else everywhere
        assert any(near(fix, *position) for position in positions), fix
    lost = {clock(report.time) for report in reports if report.mode < 2 and report.time}
    assert not lost & {clock(time) for time in times}


def test_stretches_without_a_fix_yield_nothing(replays, shared_data):
    """What comes before the first position in the recordings that begin without a fix, fed alone."""
    from drivers.gnss import Receiver

    for name, first in (("bt451", b"$GPGLL,5547"), ("telit-he910", b"$GPGGA,1051"), ("quectel-eg25-g", b"$GPGGA,1915")):
        stream = (shared_data / "gnss" / f"{name}.log").read_bytes()
        start = stream[: stream.index(first)]
        receiver = Receiver()
        assert receiver.feed(start) + receiver.flush() == []
        assert receiver.epochs.cause == 2 and receiver.epochs.voids > 10, name


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name not in NOT_SUPPORTED])
def test_dates_are_the_oracles_except_for_its_week_rollover(name, replays, shared_data):
    dates = {clock(fix["gpsDate"]): fix["gpsDate"] for fix in fixes_of(replays, name) if fix["gpsDate"]}
    shift = timedelta(weeks=1024 if name in DATE_1024_WEEKS_LATE_IN_ORACLE else 0)
    compared = 0
    for report in oracle.reports(shared_data / "gnss" / f"{name}.log.chk"):
        if report.latitude is not None and report.time and (name, clock(report.time)) != ENDS_BEFORE_GSA:
            ours = datetime.fromisoformat(dates[clock(report.time)])
            assert ours + shift == datetime.fromisoformat(report.time)
            compared += 1
    assert compared


@pytest.mark.parametrize("name", RECORDINGS)
def test_cpython_prints_the_same(name, replays, shared_data):
    stream = gnss_replay.recorded_bytes((shared_data / "gnss" / f"{name}.log").read_bytes())
    lines = []
    receiver = replay_gnss.replay(io.BytesIO(stream), 512, lines.append)
    assert "".join(line + "\n" for line in lines) == replays(name)[0]
    assert f"{name}.log: {replay_gnss.summary(receiver)}" == replays(name)[1].splitlines()[0]


def test_no_fix_and_missing_files_are_told_apart(shared_data, tmp_path, capsys):
    assert gnss_replay.main(shared_data / "gnss" / "bu303-nofix.log") == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "no NMEA sentence" in captured.err
    assert gnss_replay.main(tmp_path / "absent.log") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "absent.log: No such file" in captured.err
    remarks: Path = tmp_path / "remarks.log"
    remarks.write_bytes(b"# only\n# remarks")
    assert gnss_replay.main(remarks) == 1
    assert "holds no bytes" in capsys.readouterr().err


def test_without_an_interpreter_the_message_says_so(shared_data, monkeypatch, capsys):
    monkeypatch.setenv("EMTAG_MICROPYTHON", "/nonexistent/micropython")
    assert gnss_replay.main(shared_data / "gnss" / "april6_2019.log") == 1
    assert "EMTAG_MICROPYTHON" in capsys.readouterr().err
