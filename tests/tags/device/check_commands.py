"""Commands: carried out once, answered as often as asked, over resets, late, unknown and failing."""

import asyncio

from common.commands import Commands
from emwire import constants

import virtual

LOCATE = constants.COMMAND_LOCATE_NOW
DONE = constants.OUTCOME_DONE
NOW_S = 500000000


class Device:
    """What Commands needs of a device."""

    def __init__(self, folder):
        self.board = virtual.Board(folder, {"device_id": 1})
        self.log = self.board.log
        self.results = []
        self.records = self
        self.clock = self
        self.now_s = NOW_S

    def time_s(self):
        return self.now_s

    def command_result(self, number, kind, outcome, finished_s, value, detail):
        self.results.append((number, outcome, value, detail))

    def told(self):
        results, self.results = self.results, []
        return results


class Counting:
    def __init__(self, takes_ms=0):
        self.arguments = []
        self.takes_ms = takes_ms

    async def __call__(self, argument):
        self.arguments.append(argument)
        await asyncio.sleep_ms(self.takes_ms)
        return DONE, argument * 2, b"evidence"


def command(number, kind=LOCATE, argument=21, expires_s=0):
    return constants.MESSAGE_COMMAND, number, kind, argument, expires_s


async def check_carried_out_once_and_answered_again(folder):
    device = Device(folder)
    work = Counting()
    commands = Commands(device)
    commands.register(LOCATE, work)
    commands.received(command(1))
    await asyncio.sleep_ms(1)
    answer = (1, DONE, 42, b"evidence")
    assert device.told() == [answer] and work.arguments == [21]
    commands.received(command(1))
    await asyncio.sleep_ms(1)
    assert device.told() == [answer] and work.arguments == [21]
    again = Commands(device)
    again.register(LOCATE, work)
    again.start()
    again.received(command(1))
    await asyncio.sleep_ms(1)
    assert device.told() == [answer] and work.arguments == [21], "from flash, after a reset"


async def check_long_ones_are_accepted_first(folder):
    device = Device(folder)
    commands = Commands(device)
    commands.register(LOCATE, Counting(60000))
    commands.received(command(1))
    await asyncio.sleep_ms(10000)
    assert device.told() == [(1, constants.OUTCOME_ACCEPTED, 0, b"")]
    commands.received(command(1))
    assert device.told() == [(1, constants.OUTCOME_ACCEPTED, 0, b"")]
    await asyncio.sleep_ms(60000)
    assert device.told() == [(1, DONE, 42, b"evidence")]


async def check_reset_in_between_is_an_answer(folder):
    device = Device(folder)
    work = Counting(60000)
    commands = Commands(device)
    commands.register(LOCATE, work)
    commands.received(command(5))
    await asyncio.sleep_ms(10)
    device.told()
    again = Commands(device)
    again.register(LOCATE, work)
    again.start()
    assert device.told() == [(5, constants.OUTCOME_FAILED, 0, b"reset")]
    again.received(command(5))
    await asyncio.sleep_ms(1)
    assert device.told() == [(5, constants.OUTCOME_FAILED, 0, b"reset")] and len(work.arguments) == 1


async def check_unsupported_expired_and_failing(folder):
    device = Device(folder)
    commands = Commands(device)

    async def fails(argument):
        raise ValueError("no")

    commands.register(LOCATE, fails)
    commands.received(command(1, kind=200))
    commands.received(command(2, expires_s=NOW_S - 1))
    commands.received(command(3))
    await asyncio.sleep_ms(1)
    assert device.told() == [
        (1, constants.OUTCOME_UNSUPPORTED, 0, b""),
        (2, constants.OUTCOME_EXPIRED, 0, b""),
        (3, constants.OUTCOME_FAILED, 0, b"ValueError"),
    ]
    device.now_s = 0
    commands.received(command(4, expires_s=NOW_S))
    await asyncio.sleep_ms(1)
    assert not device.told() and commands.ignored == 1, "nobody can say whether it has expired: sent again later"


async def check_many_at_once_and_forgotten_numbers(folder):
    device = Device(folder)
    commands = Commands(device)
    work = Counting(1000)
    commands.register(LOCATE, work)
    for number in range(1, 7):
        commands.received(command(number))
    assert commands.ignored == 2
    await asyncio.sleep_ms(2000)
    for number in range(5, 41):
        commands.received(command(number))
        await asyncio.sleep_ms(1001)
    assert len(work.arguments) == 40 and len(device.told()) == 40
    again = Commands(device)
    again.register(LOCATE, work)
    again.received(command(2))
    await asyncio.sleep_ms(1)
    assert device.told() == [(2, constants.OUTCOME_REFUSED, 0, b"number too old")] and len(work.arguments) == 40


async def check_full_flash_begins_nothing(folder):
    device = Device(folder)
    commands = Commands(device)
    work = Counting()
    commands.register(LOCATE, work)
    write, commands._slots.write = commands._slots.write, _refuse
    commands.received(command(1))
    await asyncio.sleep_ms(1)
    assert not work.arguments and not device.told() and commands.ignored == 1
    commands._slots.write = write
    commands.received(command(1))
    await asyncio.sleep_ms(1)
    assert work.arguments == [21] and device.told() == [(1, DONE, 42, b"evidence")]


def _refuse(value):
    raise OSError(28)
