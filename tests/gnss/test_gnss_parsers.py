"""Shapes of sentences and messages, and what an epoch makes of them."""

import datetime
import random

import pytest
from drivers import fixes, nmea, ubx
from gnss_streams import epoch, pvt, run, sentence
from hypothesis import given
from hypothesis import strategies as st

GGA = "GPGGA,120000.00,5130.1000,N,00007.2000,W,1,09,0.9,30.0,M,47.0,M,,"


@given(st.integers(0, 90 * 60 * 10**7), st.integers(1, 9), st.booleans())
def test_angles_agree_with_exact_arithmetic(ten_millionths, decimals, south):
    minutes, fraction = divmod(ten_millionths, 10**7)
    text = f"{minutes // 60:02d}{minutes % 60:02d}." + f"{fraction:07d}00"[:decimals]
    body = f"GPGGA,120000.00,{text},{'S' if south else 'N'},00007.{'0' * decimals},W,1,09,0.9,30.0,M,47.0,M,,"
    seen = nmea.parse(body.encode())
    exact = (minutes * 10**7 + int(f"{fraction:07d}"[:decimals].ljust(7, "0"))) / 600
    assert abs(abs(seen.latitude) - exact) <= 0.5
    assert (seen.latitude <= 0) == south or seen.latitude == 0


@given(st.dates(datetime.date(1980, 1, 1), datetime.date(2107, 12, 31)))
def test_day_numbers_are_those_of_the_calendar(date):
    number = nmea.day_number(date.year, date.month, date.day)
    assert number == (date - datetime.date(2010, 1, 1)).days
    assert nmea.civil(number) == (date.year, date.month, date.day)


@given(st.integers(0, 2**29))
def test_square_root_rounds_up(value):
    root = nmea.square_root(value)
    assert (root - 1) ** 2 < value <= root**2 or value == root == 0


@pytest.mark.parametrize(
    "body",
    [
        GGA.replace("5130.1000", "513.1000"),
        GGA.replace("5130.1000", "51300.1000"),
        GGA.replace("5130.1000", "5160.1000"),
        GGA.replace("5130.1000", "9000.1000"),
        GGA.replace("5130.1000", "5130.10"),  # decimals other than the longitude's
        GGA.replace("5130.1000", "51 0.1000"),
        GGA.replace("5130.1000", "+130.1000"),
        GGA.replace(",N,", ",n,"),
        GGA.replace(",W,", ",N,"),
        GGA.replace("120000.00", "240000.00"),
        GGA.replace("120000.00", "120060.00"),
        GGA.replace("120000.00", "12000.00"),
        GGA.replace("120000.00", ""),
        GGA.replace(",W,1,", ",W,9,"),
        GGA.replace(",09,", ",-9,"),
        GGA + ",",
        GGA[: GGA.rindex(",")],
        "GPRMC,120000.00,A,5130.1000,N,00007.2000,W,1001.1,090.0,010626,,,A",
        "GPRMC,120000.00,A,5130.1000,N,00007.2000,W,10.0,361.0,010626,,,A",
        "GPRMC,120000.00,A,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,X",
    ],
)
def test_a_wrong_shape_with_a_right_checksum_is_refused(body):
    found, receiver = run(sentence(body))
    assert found == [] and (receiver.sentences, receiver.malformed) == (1, 1)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (GGA.replace(",W,1,", ",W,0,"), fixes.CAUSE_VOID),
        (GGA.replace(",W,1,", ",W,6,"), fixes.CAUSE_ESTIMATED),
        (GGA.replace(",W,1,", ",W,8,"), fixes.CAUSE_ESTIMATED),
        ("GPRMC,120000.00,V,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,N", fixes.CAUSE_VOID),
        ("GPRMC,120000.00,A,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,E", fixes.CAUSE_ESTIMATED),
        ("GPGLL,5130.1000,N,00007.2000,W,120000.00,V,N", fixes.CAUSE_VOID),
        ("GNGNS,120000.00,5130.1000,N,00007.2000,W,NN,09,0.9,30.0,47.0,,", fixes.CAUSE_VOID),
        ("GNGNS,120000.00,5130.1000,N,00007.2000,W,NE,09,0.9,30.0,47.0,,", fixes.CAUSE_ESTIMATED),
    ],
)
def test_void_and_estimated_positions_are_none(body, cause):
    found, receiver = run(sentence(body))
    assert found == [] and receiver.epochs.cause == cause


def test_one_void_sentence_voids_its_epoch():
    """Also where the others of the same moment carry a position, in either order."""
    void = sentence("GPRMC,120000.00,V,,,,,,,010626,,,N")
    for stream in (sentence(GGA) + void, void + sentence(GGA), sentence(GGA) + sentence("GPRMC,,V,,,,,,,,,,N")):
        found, receiver = run(stream)
        assert found == [] and receiver.epochs.cause == fixes.CAUSE_VOID
    assert run(epoch(0, mode=1))[0] == []


def test_a_void_without_time_ends_the_epoch_before_it():
    found, receiver = run(epoch(0) + sentence("GNGGA,,,,,,0,,,,,,,,") + sentence("GNRMC,,V,,,,,,,,,,N"))
    assert len(found) == 1 and receiver.epochs.cause == fixes.CAUSE_VOID


def test_a_whole_epoch():
    (fix,), _ = run(epoch(7))
    assert fix == fixes.Fix(
        time_s=fix.time_s,
        millisecond=0,
        latitude_microdegrees=51501667,
        longitude_microdegrees=-120000,
        mode=3,
        speed_mm_per_s=5144,
        direction_centidegrees=9000,
        satellites=9,
        hdop_hundredths=90,
        precision_m=14,
        weeks_added=0,
    )
    utc = datetime.datetime(2010, 1, 1) + datetime.timedelta(seconds=fix.time_s)
    assert utc == datetime.datetime(2026, 6, 1, 12, 0, 7)
    assert fixes.to_position(fix) == (fix.time_s, 51501667, -120000, 185, 90, 14, 9, 9, 1)
    assert fixes.to_position(fix, time_s=5)[:2] == (5, 51501667)


def test_nav_pvt_is_whole_in_itself():
    (fix,), _ = run(pvt(7))
    (from_nmea,), _ = run(epoch(7))
    assert fix[:5] == from_nmea[:5]
    assert (fix.speed_mm_per_s, fix.direction_centidegrees, fix.satellites, fix.precision_m) == (5000, 9000, 11, 3)
    (early,), _ = run(pvt(7, nano=-1200000))
    assert (early.time_s, early.millisecond) == (fix.time_s - 1, 999)
    for doubtful in ({"valid": 0}, {"valid": 3}, {"valid": 6}, {"year": 2200}):
        (fix,), _ = run(pvt(7, **doubtful))
        assert fix.time_s is None
    for refused in (
        {"fix_type": 0},
        {"fix_type": 1},
        {"fix_type": 5},
        {"flags": 0},
        {"flags3": 1},
        {"latitude": 900000001},
    ):
        assert run(pvt(7, **refused))[0] == []
    assert run(pvt(7, fix_type=2))[0][0].mode == 2


def test_nav_dop_of_the_same_moment_gives_the_dilution():
    dop = ubx.message(ubx.NAV_DOP, (7000).to_bytes(4, "little") + b"\x63\x00" * 4 + b"\x55\x00" + b"\x63\x00" * 2)
    assert run(dop + pvt(7))[0][0].hdop_hundredths == 85
    assert run(dop + pvt(8))[0][0].hdop_hundredths is None


def test_mixed_protocols_give_one_fix_an_epoch():
    stream = b"".join(epoch(s) + pvt(s) if s % 2 else pvt(s) + epoch(s) for s in range(10))
    found, receiver = run(stream)
    assert [fix.time_s - found[0].time_s for fix in found] == list(range(10))
    assert all(fix.speed_mm_per_s == 5000 for fix in found), "NAV-PVT wins"
    assert receiver.epochs.late


def test_an_epochs_sentences_must_agree():
    for latitude, cause in (("5130.1010", fixes.CAUSE_CONTRADICTION), ("5130.1001", fixes.CAUSE_UNCONFIRMED)):
        gga = epoch(1).splitlines(True)[:2]
        rmc = epoch(1, latitude=latitude).splitlines(True)[2:]
        found, receiver = run(epoch(0) + b"".join(gga + rmc))
        assert len(found) == 1 and receiver.epochs.cause == cause
    coarse = sentence("GPRMC,120001.00,A,5130.100,N,00007.200,W,10.0,090.0,010626,,,A")
    assert len(run(epoch(0) + b"".join(gga) + coarse)[0]) == 2, "fewer decimals of the same"


def test_a_lone_sentence_counts_only_from_a_receiver_that_sends_no_more():
    single = [sentence(f"GPRMC,1200{s:02d}.00,A,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,A") for s in range(60)]
    assert len(run(b"".join(single))[0]) == 60
    found, receiver = run(epoch(0) + single[1] + epoch(2))
    assert [fix.time_s % 60 for fix in found] == [0, 2] and receiver.epochs.unconfirmed == 1
    found, _ = run(epoch(0) + b"".join(single[1:20]))
    assert [fix.time_s % 60 for fix in found] == [0, *range(6, 20)], "learned anew after five"


def test_mode_is_that_of_gsa_even_if_it_comes_seldom():
    gga = [sentence(GGA.replace("120000", f"1200{s:02d}").replace(",09,", ",03,")) for s in range(60)]
    gsa = sentence("GNGSA,A,3,01,02,03,04,,,,,,,,,1.8,0.9,1.5")
    found, _ = run(gga[0] + gsa + b"".join(gga[1:15]))
    assert [fix.mode for fix in found] == [3] * 11 + [2] * 4


def test_the_date_is_carried_for_ten_minutes_and_over_midnight():
    def gga(time):
        return sentence(GGA.replace("120000.00", time))

    dated = sentence("GPZDA,235955.00,31,12,2025,00,00") + gga("235955.00")
    found, _ = run(dated + gga("235959.00") + gga("000001.00") + gga("001500.00"))
    first = found[0].time_s
    assert [fix.time_s and fix.time_s - first for fix in found] == [0, 4, 6, None]


def test_a_date_that_jumps_is_believed_when_repeated():
    found, receiver = run(
        epoch(0) + epoch(1, date="020626") + epoch(2) + epoch(3, date="030626") + epoch(4, date="030626")
    )
    first = found[0].time_s
    assert [fix.time_s and fix.time_s - first for fix in found] == [0, None, 2, None, 2 * 86400 + 4]
    assert receiver.epochs.date_jumps == 2


def test_week_rollover_is_undone_and_told():
    built = nmea.day_number(2026, 5, 1)
    late = (datetime.date(2026, 6, 1) - datetime.timedelta(weeks=1024)).strftime("%d%m%y")
    early = (datetime.date(2026, 6, 1) + datetime.timedelta(weeks=1024)).strftime("%d%m%y")
    (expected,), _ = run(epoch(0), not_before_day=built)
    for date, weeks in ((late, 1024), (early, -1024)):
        (fix,), receiver = run(epoch(0, date=date), not_before_day=built)
        assert (fix.time_s, fix.weeks_added) == (expected.time_s, weeks) and receiver.epochs.rollovers == 1
    (fix,), _ = run(epoch(0, date=late))
    assert fix.weeks_added == 0 and fix.time_s == expected.time_s - 1024 * 7 * 86400, "no bound, no correction"


@pytest.mark.parametrize("date", ["2208-1", "310226", "000626", "01062", ""])
def test_a_date_that_is_none_leaves_the_position(date):
    found, receiver = run(epoch(0) + epoch(1, date=date))
    assert [fix.time_s is None for fix in found] == [False, True] and receiver.epochs.bad_dates == 1


def test_vendor_sentences_are_not_taken_for_standard_ones():
    body = "PGRMC,120000.00,A,5130.1000,N,00007.2000,W,10.0,090.0,010626,,,A"
    assert run(sentence(body))[0] == []


def test_memory_is_bounded():
    _, receiver = run(b"$" * 5000 + b"\xb5\x62\x01\x35" + b"\x00\x04" + b"A" * 5000)
    noise = random.Random(1).randbytes(200000).replace(b"\x00", b"\xb5\x62\x01\x35\xf0\x03")
    for start in range(0, len(noise), 64):
        assert receiver.feed(noise[start : start + 64]) == []
        assert len(receiver._buffer) <= 1024
