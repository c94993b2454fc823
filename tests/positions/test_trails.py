"""Recorded trails are read exactly, refused with file and line, and cost what the format promises."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from emgate.commands.trails import TrailError, measure, measure_file, read_trail, resample, to_wire, trail_size
from emwire import positions

PLT_HEADER = "Geolife trajectory\nWGS 84\nAltitude is in Feet\nReserved 3\n0,2,255,My Track,0,0,2,8421376\n0\n"
PLT_LINE = "39.999844,116.326752,0,492,39744.7492361111,2008-10-23,17:58:54\n"
# 2008-10-23T17:58:54Z in seconds after 2010-01-01.
PLT_TIME_S = 1224784734 - 1262304000


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def recordings(shared_data: Path) -> list[Path]:
    return sorted(path for path in (shared_data / "trails").iterdir() if path.suffix in (".plt", ".gpx"))


@pytest.mark.parametrize(
    ("interval_s", "promised", "reached"), [(None, 2.45, 2.16), (60, 3.85, 3.54)], ids=["native", "minute"]
)
def test_recorded_trails_keep_to_the_promised_size(
    shared_data: Path, interval_s: int | None, promised: float, reached: float
) -> None:
    total = measure(recordings(shared_data), interval_s)[-1]
    assert total["file"] is None
    assert total["bytes_per_fix"] <= promised
    assert total["bytes_per_fix"] <= reached  # what this encoder reaches: a loss of compression is noticed


def test_every_recorded_fix_is_read(shared_data: Path) -> None:
    for path in recordings(shared_data):
        text = path.read_text(encoding="utf-8")
        count = text.count("<trkpt ") if path.suffix == ".gpx" else len(text.splitlines()) - 6
        assert sum(map(len, read_trail(path))) == count


def test_degrees_come_from_the_decimal_text(shared_data: Path) -> None:
    path = shared_data / "trails" / "geolife_003_20081023175854.plt"
    lines = path.read_text(encoding="utf-8").splitlines()[6:]
    for line, (_, latitude, longitude) in zip(lines, read_trail(path)[0], strict=True):
        assert [Decimal(latitude), Decimal(longitude)] == [Decimal(x) * 1000000 for x in line.split(",")[:2]]


def test_plt(tmp_path: Path) -> None:
    path = write(tmp_path, "a.PLT", PLT_HEADER + PLT_LINE + "\n" + PLT_LINE)
    assert read_trail(path) == [[(PLT_TIME_S, 39999844, 116326752)] * 2]


def test_gpx_segments_times_and_namespaces(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a.gpx",
        """<?xml version="1.0"?><g:gpx xmlns:g="http://www.topografix.com/GPX/1/1"><g:time>2001-01-01T00:00:00Z</g:time>
        <g:wpt lat="1" lon="1"/><g:trk><g:trkseg/><g:trkseg>
        <g:trkpt lon="-0.0000005" lat="0.0000015"><g:ele>3</g:ele><g:time> 2010-01-01T00:00:07.9Z </g:time></g:trkpt>
        <g:trkpt lat="-90" lon="180.0"><g:time>2010-01-01T02:00:00+02:00</g:time></g:trkpt></g:trkseg>
        <g:trkseg><g:trkpt lat="1.5" lon="2"/></g:trkseg></g:trk></g:gpx>""",
    )
    assert read_trail(path) == [[(7, 2, 0), (0, -90000000, 180000000)], [(0, 1500000, 2000000)]]


@pytest.mark.parametrize(
    "text",
    [
        "gpsDate,latitude,longitude\n2010-01-01T00:01:00Z,51.5,-0.127\n",
        "\ufeffLongitude;LAT;other;Timestamp\r\n-0.127;51.5;x;1262304060\r\n\r\n",
        'id,"gps_date",Lat,Lng\n1,"2010-01-01 00:01:00",51.5000000,-0.127\n',
        "time,latitude_deg,long\n1262304060.99,5.15e1,-.127\n",
    ],
)
def test_csv_under_usual_names(tmp_path: Path, text: str) -> None:
    assert read_trail(write(tmp_path, "a.csv", text)) == [[(60, 51500000, -127000)]]


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("a.kml", "", 0, "give a .plt, .gpx or .csv"),
        ("a.plt", PLT_HEADER, 0, "no positions"),
        ("a.plt", PLT_HEADER + PLT_LINE + "39.9,116.3,0\n", 8, "3 values where 7 belong"),
        ("a.plt", PLT_HEADER + PLT_LINE.replace("39.999844", "x"), 7, "latitude 'x' is not a number"),
        ("a.plt", PLT_HEADER + PLT_LINE.replace("39.999844", "90.0000001"), 7, "beyond 90"),
        ("a.plt", PLT_HEADER + PLT_LINE.replace("39.999844", "NaN"), 7, "not a number"),
        ("a.plt", PLT_HEADER + PLT_LINE.replace("39.999844", "1e999999999"), 7, "beyond 90"),
        ("a.plt", PLT_HEADER + PLT_LINE.replace("17:58:54", "25:58:54"), 7, "neither ISO 8601 nor"),
        ("a.gpx", "<gpx>\n<trk>\n</gpx>", 3, "not XML"),
        ("a.gpx", "", 1, "not XML"),
        ("a.gpx", "<gpx/>", 0, "no positions"),
        ("a.gpx", "<gpx><trk><trkseg>\n<trkpt lat='1'/></trkseg></trk></gpx>", 2, "needs lat and lon"),
        ("a.gpx", "<gpx>\n\n<trkpt lat='1' lon='1'/></gpx>", 3, "belongs in a trkseg"),
        ("a.gpx", "<gpx><trkseg>\n<trkpt lat='1' lon='181'/></trkseg></gpx>", 2, "longitude 181 is beyond 180"),
        ("a.csv", "", 1, "no column gpsdate or"),
        ("a.csv", "time,lat\n1,2\n", 1, "no column longitude or"),
        ("a.csv", "time,lat,lon\n1262304060,1,2\n1577836860,1\n", 3, "2 values where the header has 3"),
        ("a.csv", "time,lat,lon\n1262304060000,1,2\n", 2, "are these milliseconds"),
        ("a.csv", "time,lat,lon\nnoon,1,2\n", 2, "time 'noon'"),
        ("a.csv", f"time,lat,lon\n{'9' * 30}E+999999,1,2\n", 2, "lies outside"),
        ("a.csv", "a" * 200000 + ",time,lat,lon\n", 1, "field larger than"),
    ],
)
def test_malformed_recordings(tmp_path: Path, name: str, text: str, line: int, problem: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(TrailError, match=problem) as caught:
        read_trail(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"time,lat,lon\n\xff\xfe")
    with pytest.raises(TrailError, match="not UTF-8"):
        read_trail(path)


def test_resampling_keeps_the_first_fix_after_each_interval() -> None:
    segment = [(t, 0, 0) for t in (-7, 0, 3, 9, 8, 13, 12, 30)]
    assert resample(segment, 10) == [(t, 0, 0) for t in (-7, 3, 13, 30)]
    assert resample([], 10) == []


def test_times_before_2010_wrap_on_the_wire() -> None:
    assert to_wire((-1, 2, 3)) == (2**32 - 1, 2, 3)


def test_backward_and_repeated_times_survive(tmp_path: Path) -> None:
    times = ("2008-10-23T17:58:54Z", "2008-10-23T17:58:54Z", "2008-10-23T17:58:50Z", "2026-01-01T00:00:00Z")
    rows = "".join(f"{time},1,2\n" for time in times)
    assert measure_file(write(tmp_path, "a.csv", "time,lat,lon\n" + rows))["fixes"] == 4


def test_command_prints_a_line_per_file_and_the_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path, "a.plt", PLT_HEADER + PLT_LINE * 3)
    second = write(tmp_path, "b.csv", "time,lat,lon\n1262304060,1,2\n")
    assert trail_size([first, second], block=2) == 0
    one, two, total = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (one["file"], one["fixes"], two["fixes"]) == (str(first), 3, 1)
    assert (total["file"], total["fixes"], total["bytes"]) == (None, 4, one["bytes"] + two["bytes"])
    assert total["bytes_per_fix"] == total["bytes"] / 4
    assert trail_size([first]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trail_size([tmp_path / "absent.gpx"]) == 1
    assert "absent.gpx: No such file" in capsys.readouterr().err
    good = write(tmp_path, "a.plt", PLT_HEADER + PLT_LINE)
    assert trail_size([good], block=256) == 2
    assert "--block must be 1 to 255" in capsys.readouterr().err
    assert trail_size([good], interval=0) == 2
    assert "--interval must be at least 1" in capsys.readouterr().err


def test_a_wrong_round_trip_is_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def off_by_one(data: bytes) -> list[tuple[int, ...]]:
        return [(fix[0], fix[1] + 1, fix[2]) for fix in positions.decode_block(data)]

    monkeypatch.setattr("emgate.commands.trails.decode_block", off_by_one)
    assert trail_size([write(tmp_path, "a.plt", PLT_HEADER + PLT_LINE)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "round trip failed: fix 0" in printed.err
