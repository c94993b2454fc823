"""The pid's beacons: a new token each interval, a counter that never goes back, strap and battery inside."""

import asyncio
import os

import selector
from common import safe_mode
from cryptolib import aes
from emwire import beacon, constants

from at_work import DEVICE_ID, KEY, AtWork


def _tokens(work):
    """(counter, status, battery percent) of all that was advertised."""
    decrypt = aes(KEY, 1).decrypt
    return [beacon.open_token(decrypt, DEVICE_ID, beacon.find(item[1])) for item in work.board.radio.advertised]


async def check_token_each_interval(folder):
    work = AtWork(folder, "pid")
    work.board.adcs["battery"].counts = 28800  # a coin cell
    work.start()
    await asyncio.sleep_ms(3600000)
    tokens = _tokens(work)
    assert 359 <= len(tokens) <= 361
    assert [token[0] for token in tokens] == list(range(tokens[0][0], tokens[0][0] + len(tokens)))
    assert {token[1:] for token in tokens} == {(0, 64)}
    assert work.board.radio.addresses == len(tokens), "an address of its own for every token"
    assert {(interval_us, connectable) for interval_us, _, connectable in work.board.radio.advertised} == {
        (5000000, False)
    }


async def check_sends_over_every_stack(folder):
    for modes, drawn in (((0, 1), True), ((), False)):  # BTstack, Zephyr
        work = AtWork(folder, "pid")
        work.board.radio.address_modes = modes
        work.start()
        await asyncio.sleep_ms(600000)
        work.stop()
        assert len(_tokens(work)) >= 59, modes
        assert work.board.radio.addresses == (len(_tokens(work)) if drawn else 0), modes


async def check_counter_never_goes_back(folder):
    newest = -1
    for boot in range(8):
        work = AtWork(folder, "pid").start()
        await asyncio.sleep_ms(10000 + boot * 5000000)
        work.stop()
        counters = [token[0] for token in _tokens(work)]
        assert counters[0] > newest
        newest = counters[-1]
    # 140,080 s of beacons, and at most one reservation lost a boot.
    assert newest < 14008 + 8 * 1025, "and does not run away"


async def check_reservation_torn_at_every_byte(folder):
    for boot in range(2):
        work = AtWork(folder, "pid").start()
        await asyncio.sleep_ms(1000)
        work.stop()
    newest = _tokens(work)[-1][0]
    paths = [folder + "/" + name for name in os.listdir(folder)]
    contents = []
    for path in paths:
        with open(path, "rb") as file:
            contents.append(file.read())
    last = max(range(len(paths)), key=lambda index: contents[index])
    for length in range(len(contents[last])):
        for index, path in enumerate(paths):
            with open(path, "wb") as file:
                file.write(contents[index][:length] if index == last else contents[index])
        # The write was torn before its tokens were sent, so those of the boot before it are the newest out.
        work = AtWork(folder, "pid").start()
        await asyncio.sleep_ms(1000)
        work.stop()
        assert _tokens(work)[0][0] >= newest, length


async def check_strap_in_the_beacon(folder):
    work = AtWork(folder, "pid").start()
    await asyncio.sleep_ms(5000)
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(4999)
    assert _tokens(work)[-1][1] == beacon.STATUS_STRAP_OPEN, "told within 5 s, not at the next interval"
    for _ in range(60):
        work.board.inputs["strap"].set(1 - work.board.inputs["strap"].level)
        await asyncio.sleep_ms(300)
    work.board.inputs["strap"].set(1)
    await asyncio.sleep_ms(120000)
    assert _tokens(work)[-1][1] == beacon.STATUS_STRAP_FAULT, "closed, and no cut's way of closing"
    await asyncio.sleep_ms(3600000)
    assert _tokens(work)[-1][1] == 0


async def check_flash_that_refuses_stops_the_beacon_not_the_device(folder):
    work = AtWork(folder + "/missing", "pid").start()
    await asyncio.sleep_ms(60000)
    assert work.board.radio.advertised == [], "no counter that might repeat"
    os.mkdir(folder + "/missing")
    await asyncio.sleep_ms(600000)
    assert _tokens(work)


async def check_wakes_once_a_token(folder):
    import virtual

    work = AtWork(folder, "pid").start()
    await asyncio.sleep_ms(1000)
    before = virtual.wakes
    await asyncio.sleep_ms(24 * 3600000)
    assert virtual.wakes - before <= 24 * 360 + 2, "a day of tokens, and nothing else"
    work.board.inputs["strap"].set(0)
    before = virtual.wakes
    await asyncio.sleep_ms(2200)
    token = _tokens(work)[-1]
    assert token[1] == beacon.STATUS_STRAP_OPEN, "within the 5 s of a time stamp, not at the next token"
    assert virtual.wakes - before <= 4


async def check_coin_cell_to_its_end(folder):
    work = AtWork(folder, "pid")
    shown = []
    for millivolts in (3200, 3000, 2900, 2800, 2700, 2600, 2400, 2000, 1900):
        work.board.adcs["battery"].counts = millivolts * 10
        if not shown:
            work.start()
        await asyncio.sleep_ms(310000)
        shown.append(_tokens(work)[-1][2])
    assert shown == [100, 100, 70, 40, 30, 20, 10, 0, 0], shown


async def check_what_sends_nothing_is_reset(folder):
    work = AtWork(folder, "pid").start()
    await asyncio.sleep_ms(48 * 3600000)
    assert not work.board.hardware_watchdog.expired
    work.board.radio.refuses = True
    await asyncio.sleep_ms(3600000)
    assert work.board.hardware_watchdog.expired
    work.stop()
    work = AtWork(folder, "pid")
    work.board.reset_cause = constants.RESET_WATCHDOG
    work.start()
    await asyncio.sleep_ms(2 * 3600000)
    statuses = [token[1] for token in _tokens(work)][-720:]
    assert statuses[-1] == 0 and work.board.logged == [], "told for an hour"
    work.stop()


async def check_a_part_that_fails_is_told_and_costs_no_beacon(folder):
    work = AtWork(folder, "pid")
    work.board.adcs["battery"].counts = 28800

    def fails():
        raise OSError(5)

    working, work.board.adcs["battery"].read_u16 = work.board.adcs["battery"].read_u16, fails
    work.start()
    await asyncio.sleep_ms(600000)
    tokens = _tokens(work)
    assert len(tokens) >= 59 and {token[1:] for token in tokens} == {(beacon.STATUS_FAULT, 255)}
    work.board.adcs["battery"].read_u16 = working
    await asyncio.sleep_ms(2 * 3600000)
    assert _tokens(work)[-1][1:] == (0, 64)


async def check_after_three_failed_boots_the_beacon_alone(folder):
    def boot(broken):
        selector.begin(folder)
        work = AtWork(folder, "pid")
        work.board.reset_cause = constants.RESET_WATCHDOG
        if broken:
            del work.board.inputs["strap"]
        return work.start()

    for _ in range(safe_mode.FAILED_BOOTS):
        work = boot(True)
        await asyncio.sleep_ms(1000)
        assert work._task.done() and not work.board.radio.advertised
    work = boot(True)
    await asyncio.sleep_ms(safe_mode.TRY_AGAIN_MS - 1000)
    assert {token[1:] for token in _tokens(work)} == {(beacon.STATUS_FAULT, 255)} and len(_tokens(work)) >= 358
    assert not work.board.hardware_watchdog.expired and not work.board.restarts
    await asyncio.sleep_ms(2000)
    assert work.board.restarts == 1, "it tries again"
    work.stop()
    # A boot that worked for ten minutes forgets those before it.
    for _ in range(2 * safe_mode.FAILED_BOOTS):
        work = boot(False)
        await asyncio.sleep_ms(safe_mode.HEALTHY_MS)
        assert _tokens(work)[-1][2] != 255, "whole"
        work.stop()
