"""Recorded trails (.plt, .gpx, .csv) and what they take as position blocks.

A trail is a list of segments, a segment a list of `(time_s, latitude_microdegrees, longitude_microdegrees)`.
time_s counts from 2010-01-01T00:00:00Z like the wire's, is negative in older recordings and 0 where the recording has
no time; fractions of a second are dropped. Degrees are rounded from their decimal text, ties to even.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from math import floor
from pathlib import Path
from typing import Any
from xml.parsers import expat

from emwire.constants import TIME_EPOCH_UNIX_S
from emwire.errors import WireError
from emwire.positions import CORE, LATITUDE_LIMIT, LONGITUDE_LIMIT, MAXIMUM_FIXES, decode_block, encode_block

Fix = tuple[int, int, int]
Segment = list[Fix]

_EPOCH_UNIX_S = TIME_EPOCH_UNIX_S
_EPOCH = datetime.fromtimestamp(_EPOCH_UNIX_S, UTC)
# What the wire's 32 bits hold when times before 2010 wrap around: December 1941 to January 2078.
_TIME_LIMIT_S = 1 << 31

_PLT_HEADER_LINES = 6
_CSV_TIME = ("gpsdate", "time", "timestamp", "datetime", "utc", "date")
_CSV_LATITUDE = ("latitude", "lat", "latitudedeg", "gpslatitude")
_CSV_LONGITUDE = ("longitude", "lon", "lng", "long", "longitudedeg", "gpslongitude")


class TrailError(ValueError):
    """A recording that cannot be read: file, line (0 = the whole file) and what to do about it."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


def read_trail(path: Path) -> list[Segment]:
    """The segments of a recording, empty ones left out; TrailError where it cannot be read."""
    reader = {".plt": _read_plt, ".gpx": _read_gpx, ".csv": _read_csv}.get(path.suffix.lower())
    if reader is None:
        raise TrailError(path, 0, "unknown kind of recording; give a .plt, .gpx or .csv file")
    try:
        segments = [segment for segment in reader(path) if segment]
    except OSError as error:
        raise TrailError(path, 0, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise TrailError(path, 0, f"not UTF-8 text (byte {error.start}); convert it first") from error
    if not segments:
        raise TrailError(path, 0, "no positions in it; check that this is the recording you meant")
    return segments


def resample(segment: Segment, interval_s: int) -> Segment:
    """The first fix, then each that comes at least `interval_s` after the last one kept."""
    kept = segment[:1]
    for fix in segment[1:]:
        if fix[0] - kept[-1][0] >= interval_s:
            kept.append(fix)
    return kept


def to_wire(fix: Fix) -> Fix:
    """The fix as a block carries it: its time modulo 2**32, which keeps recordings older than 2010 lossless."""
    return (fix[0] & 0xFFFFFFFF, fix[1], fix[2])


def encode_trail(segments: Iterable[Segment], block: int) -> Iterator[bytes]:
    """Position blocks of `block` fixes, each segment beginning a new one."""
    for segment in segments:
        for start in range(0, len(segment), block):
            yield encode_block([to_wire(fix) for fix in segment[start : start + block]], CORE)


def measure_file(path: Path, interval_s: int | None = None, block: int = 60) -> dict[str, Any]:
    """Encode one recording, decode it again and compare; its sizes, or TrailError if a fix came back different."""
    segments = read_trail(path)
    if interval_s:
        segments = [resample(segment, interval_s) for segment in segments]
    wanted = [to_wire(fix) for segment in segments for fix in segment]
    blocks = list(encode_trail(segments, block))
    try:
        decoded = [fix for data in blocks for fix in decode_block(data)]
    except WireError as error:
        raise TrailError(path, 0, f"round trip failed: {error.reason} at byte {error.offset}") from error
    if decoded != wanted:
        at = next((n for n, pair in enumerate(zip(wanted, decoded, strict=False)) if pair[0] != pair[1]), -1)
        raise TrailError(path, 0, f"round trip failed: fix {at} came back different; please report this recording")
    return _sizes(str(path), len(wanted), sum(map(len, blocks)))


def measure(paths: Sequence[Path], interval_s: int | None = None, block: int = 60) -> list[dict[str, Any]]:
    """Sizes of each recording and, for several, of all together under `"file": None`."""
    return list(_measure(paths, interval_s, block))


def trail_size(files: Sequence[Path], interval: int | None = None, block: int = 60) -> int:
    """The command `emtag trail-size`: JSON lines on standard output; returns the exit status."""
    if not 1 <= block <= MAXIMUM_FIXES:
        print(f"trail-size: --block must be 1 to {MAXIMUM_FIXES} fixes, not {block}", file=sys.stderr)
        return 2
    if interval is not None and interval < 1:
        print(f"trail-size: --interval must be at least 1 second, not {interval}", file=sys.stderr)
        return 2
    try:
        for sizes in _measure(files, interval, block):
            print(json.dumps(sizes), flush=True)
    except TrailError as error:
        print(f"trail-size: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(paths: Sequence[Path], interval_s: int | None, block: int) -> Iterator[dict[str, Any]]:
    fixes = total = 0
    for path in paths:
        sizes = measure_file(path, interval_s, block)
        fixes += sizes["fixes"]
        total += sizes["bytes"]
        yield sizes
    if len(paths) > 1:
        yield _sizes(None, fixes, total)


def _sizes(file: str | None, fixes: int, total: int) -> dict[str, Any]:
    return {"file": file, "fixes": fixes, "bytes": total, "bytes_per_fix": round(total / fixes, 4)}


def _read_plt(path: Path) -> Iterator[Segment]:
    """GeoLife: six header lines, then latitude, longitude, 0, altitude, days since 1899-12-30, date, time (GMT)."""
    segment: Segment = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if number <= _PLT_HEADER_LINES or not line.strip():
                continue
            parts = line.strip().split(",")
            if len(parts) < 7:
                raise TrailError(path, number, f"{len(parts)} values where 7 belong; is the line cut short?")
            try:
                segment.append(_fix(f"{parts[5]}T{parts[6]}", parts[0], parts[1]))
            except ValueError as error:
                raise TrailError(path, number, str(error)) from error
    yield segment


def _read_csv(path: Path) -> Iterator[Segment]:
    """A header naming time, latitude and longitude, in any order among others; `,` or `;` between values."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        try:
            names = next(csv.reader([header], delimiter=_delimiter(header)), [])
        except csv.Error as error:
            raise TrailError(path, 1, str(error)) from error
        columns = [_csv_column(path, names, usual) for usual in (_CSV_TIME, _CSV_LATITUDE, _CSV_LONGITUDE)]
        rows = csv.reader(lines, delimiter=_delimiter(header))
        segment: Segment = []
        try:
            for row in rows:
                if not any(value.strip() for value in row):
                    continue
                if len(row) <= max(columns):
                    raise ValueError(f"{len(row)} values where the header has {len(names)}")
                segment.append(_fix(*(row[column] for column in columns)))
        except (ValueError, csv.Error) as error:
            raise TrailError(path, rows.line_num + 1, str(error)) from error
    yield segment


def _delimiter(header: str) -> str:
    return ";" if header.count(";") > header.count(",") else ","


def _csv_column(path: Path, names: list[str], usual: tuple[str, ...]) -> int:
    plain = ["".join(letter for letter in name.lower() if letter.isalnum()) for name in names]
    for name in usual:
        if name in plain:
            return plain.index(name)
    raise TrailError(path, 1, f"no column {' or '.join(usual)}; name the columns in the first line")


def _read_gpx(path: Path) -> Iterator[Segment]:
    """Track points of every track segment; other points (routes, waypoints) are not a trail."""
    track = _Track(path)
    with path.open("rb") as file:
        try:
            track.parser.ParseFile(file)
        except expat.ExpatError as error:
            raise TrailError(path, error.lineno, f"not XML: {expat.ErrorString(error.code)}") from error
    yield from track.segments


class _Track:
    """Collects `trkpt` elements, each with its own `time`; line numbers come from the parser."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._open: list[str] = []
        self._point: tuple[int, str, str] | None = None
        self._time = ""

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._open.append(name)
        if name == "trkseg":
            self.segments.append([])
        elif name == "trkpt":
            line = self.parser.CurrentLineNumber
            if "lat" not in attributes or "lon" not in attributes or not self.segments:
                raise TrailError(self.path, line, "a trkpt belongs in a trkseg and needs lat and lon")
            self._point = (line, attributes["lat"], attributes["lon"])
            self._time = ""

    def _text(self, text: str) -> None:
        if self._open[-2:] == ["trkpt", "time"]:
            self._time += text

    def _end(self, name: str) -> None:
        self._open.pop()
        if name.rpartition(":")[2] == "trkpt" and self._point:
            line, latitude, longitude = self._point
            self._point = None
            try:
                self.segments[-1].append(_fix(self._time, latitude, longitude))
            except ValueError as error:
                raise TrailError(self.path, line, str(error)) from error


def _fix(time: str, latitude: str, longitude: str) -> Fix:
    return (
        _time_s(time.strip()),
        _microdegrees(latitude.strip(), LATITUDE_LIMIT, "latitude"),
        _microdegrees(longitude.strip(), LONGITUDE_LIMIT, "longitude"),
    )


def _microdegrees(text: str, limit: int, what: str) -> int:
    try:
        degrees = Decimal(text)
        beyond = not -limit // 1000000 <= degrees <= limit // 1000000
    except InvalidOperation:
        raise ValueError(f"{what} {text!r} is not a number of degrees") from None
    if beyond:
        raise ValueError(f"{what} {text} is beyond {limit // 1000000} degrees")
    return int(degrees.scaleb(6).to_integral_value(ROUND_HALF_EVEN))


def _time_s(text: str) -> int:
    """ISO 8601 (UTC unless it says otherwise) or unix seconds, as seconds since 2010; nothing gives 0."""
    if not text:
        return 0
    time_s: int | Decimal
    try:
        unix_s = Decimal(text)
        outside = not _EPOCH_UNIX_S - _TIME_LIMIT_S <= unix_s < _EPOCH_UNIX_S + _TIME_LIMIT_S
        # The difference of the largest numbers overflows.
        time_s = 0 if outside else unix_s - _EPOCH_UNIX_S
    except InvalidOperation:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"time {text!r} is neither ISO 8601 nor unix seconds") from None
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        time_s = (time - _EPOCH) // timedelta(seconds=1)
        outside = not -_TIME_LIMIT_S <= time_s < _TIME_LIMIT_S
    if outside:
        raise ValueError(f"time {text} lies outside 1951 to 2088; are these milliseconds?")
    return floor(time_s)
