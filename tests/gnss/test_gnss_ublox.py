"""u-blox: interference reports, set-up and power-save messages, against the rig's model of both generations."""

import random

import pytest
from drivers import ubx, ubx_setup
from drivers.gnss import Receiver
from emrig.models.ublox import Commands, message
from gnss_streams import epoch, pvt, run

GENERATIONS = ("m8", "m10")


def _set_up(generation: str) -> Commands:
    receiver = Commands(generation)
    receiver.feed(ubx_setup.binary())
    return receiver


@pytest.mark.parametrize("generation", GENERATIONS)
def test_set_up_leaves_only_solutions_and_interference(generation):
    receiver = Commands(generation)
    assert receiver.nmea and not receiver.solutions
    answers = receiver.feed(ubx_setup.binary())
    assert receiver.solutions and not receiver.nmea and receiver.interference_every == 5
    _, heard = run(answers)
    assert heard.accepted_commands >= 1 and heard.refused_commands >= 1, "each generation refuses the other's"
    assert heard.accepted_commands + heard.refused_commands == 11


@pytest.mark.parametrize("generation", GENERATIONS)
def test_power_save_and_back(generation):
    receiver = _set_up(generation)
    receiver.feed(ubx_setup.every(60, 90))
    assert receiver.power_save and (receiver.period_ms, receiver.search_ms) == (60_000, 90_000)
    receiver.feed(ubx_setup.WAKE + ubx_setup.always())
    assert not receiver.power_save


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(("state", "indicator"), [(1, 8), (2, 120), (3, 255), (0, 0)])
def test_interference_is_read_from_either_report(generation, state, indicator):
    _, receiver = run(_set_up(generation).interference(state, indicator))
    assert receiver.interference == (state, indicator, 90, 4000)
    assert receiver.interference_reports == 1 and receiver.malformed == 0


def test_the_worst_band_counts_and_older_receivers_have_a_longer_report():
    blocks = bytearray(48)
    blocks[1], blocks[16], blocks[25], blocks[40] = 1, 200, 3, 30
    _, receiver = run(message(ubx.MON_RF, bytes((0, 2, 0, 0)) + bytes(blocks)))
    assert receiver.interference[:2] == (3, 30)
    payload = bytearray(68)
    payload[22], payload[53] = 2 << 2, 77
    _, receiver = run(message(ubx.MON_HW, bytes(payload)))
    assert receiver.interference[:2] == (2, 77)
    _, receiver = run(message(ubx.MON_RF, bytes((0, 3, 0, 0)) + bytes(blocks)))
    assert receiver.interference is None and receiver.malformed == 1


def test_a_monitor_that_is_off_says_nothing():
    assert run(Commands("m8").interference(3, 250))[1].interference[0] == ubx.JAMMING_UNKNOWN


def test_split_at_every_byte_gives_the_same():
    monitor = _set_up("m8")
    stream = epoch(0) + pvt(1) + monitor.interference(2, 99) + epoch(2)[:40] + pvt(3) + monitor.interference(3, 200)
    whole, expected = run(stream)
    for split in range(len(stream) + 1):
        receiver = Receiver()
        fixes = receiver.feed(stream[:split]) + receiver.feed(stream[split:]) + receiver.flush()
        assert fixes == whole and receiver.interference == expected.interference
    single, receiver = run(stream, chunk=1)
    assert single == whole and receiver.interference_reports == 2


def test_a_damaged_report_is_none():
    choice = random.Random(5)
    report = _set_up("m10").interference(3, 255)
    for _ in range(300):
        damaged = bytearray(report)
        damaged[choice.randrange(len(damaged))] ^= 1 << choice.randrange(8)
        assert run(bytes(damaged))[1].interference is None


def test_set_up_split_at_every_byte_is_understood():
    for split in range(len(ubx_setup.binary())):
        receiver = Commands("m8")
        receiver.feed(ubx_setup.binary()[:split])
        receiver.feed(ubx_setup.binary()[split:])
        assert receiver.solutions and not receiver.nmea
