"""Each model runs from a board alone: hello first, then status."""

import asyncio
import os

from common.device import Device
from emwire import constants

from at_work import BODY, AtWork


async def check_hello_and_status(folder):
    for model, number in (
        ("ankle_gps", constants.MODEL_ANKLE_GPS),
        ("home_unit", constants.MODEL_HOME_UNIT),
        ("alcohol", constants.MODEL_ALCOHOL),
    ):
        os.mkdir(folder + "/" + model)
        work = AtWork(folder + "/" + model, model).start()
        await asyncio.sleep_ms(5000)
        records = work.records()
        assert records[0][0] == constants.MESSAGE_HELLO and records[0][BODY] == number
        assert [record[0] for record in records[1:]] == [constants.MESSAGE_STATUS], (model, records)


async def check_next_boot_tells_of_the_last(folder):
    for boot in range(3):
        work = AtWork(folder, "home_unit").start()
        await asyncio.sleep_ms(5000)
        hello = work.records(constants.MESSAGE_HELLO)[-1]
        epoch, records = hello[BODY + 8 : BODY + 10]
        assert (epoch, records) == (boot, 2 if boot else 0)
        work.stop()


async def check_battery_warnings(folder):
    work = AtWork(folder, "ankle_gps").start()
    await asyncio.sleep_ms(1000)
    for millivolts in (3698, 3702, 3690, 3640, 3655, 3640, 3900, 3640):
        work.board.adcs["battery"].counts = millivolts * 10
        await asyncio.sleep_ms(600000)
    seen = [event[0] for event in work.events(constants.EVENT_BATTERY_LOW, constants.EVENT_BATTERY_CRITICAL)]
    assert seen == [constants.EVENT_BATTERY_LOW, constants.EVENT_BATTERY_CRITICAL, constants.EVENT_BATTERY_CRITICAL]


async def check_charging(folder):
    work = AtWork(folder, "ankle_gps").start()
    await asyncio.sleep_ms(1000)
    work.board.inputs["charger"].set(1)
    await asyncio.sleep_ms(1000)
    work.board.inputs["charger"].set(0)
    assert [event[0] for event in work.events()] == [constants.EVENT_CHARGE_STARTED, constants.EVENT_CHARGE_STOPPED]


async def check_strap_and_case_become_events(folder):
    work = AtWork(folder, "alcohol").start()
    await asyncio.sleep_ms(1000)
    work.board.inputs["strap"].set(0)
    work.board.inputs["case"].set(1)
    await asyncio.sleep_ms(5000)
    work.board.inputs["strap"].set(1)
    await asyncio.sleep_ms(5000)
    assert sorted(event[0] for event in work.events()) == sorted(
        (constants.EVENT_STRAP_CUT, constants.EVENT_CASE_OPEN, constants.EVENT_STRAP_RESTORED)
    )


async def check_a_failing_task_is_a_fault_and_not_the_end(folder):
    work = AtWork(folder, "ankle_gps")

    class Broken:
        def read_u16(self):
            raise ValueError("a mistake, and no part that is silent")

    work.board.adcs["battery"] = Broken()
    work.start()
    await asyncio.sleep_ms(3600000)
    faults = work.events(constants.EVENT_SELF_TEST_FAILED)
    assert sorted(bytes(event[4])[:7] for event in faults) == [b"battery", b"status:"]
    work.board.inputs["strap"].set(0)
    await asyncio.sleep_ms(5000)
    assert len(work.events(constants.EVENT_STRAP_CUT)) == 1, "the others go on"


async def check_a_failing_part_is_a_fault_and_not_the_end(folder):
    for at_start in (False, True):
        os.mkdir(folder + "/%d" % at_start)
        work = AtWork(folder + "/%d" % at_start, "ankle_gps")
        board = work.board
        silent = at_start

        class Manager:
            """What a power manager tells of battery and supply, as long as it answers."""

            def __init__(self, part):
                self.part = part
                self.on_change = part.on_change if hasattr(part, "on_change") else None

            def _ask(self, how):
                if silent:
                    raise OSError(5)
                return how()

            def read_u16(self):
                return self._ask(self.part.read_u16)

            def value(self):
                return self._ask(self.part.value)

        real = board.inputs["charger"]
        board.adcs["battery"] = Manager(board.adcs["battery"])
        board.inputs["charger"] = Manager(real)
        device = Device(board, constants.MODEL_ANKLE_GPS, constants.CAPABILITY_STRAP)
        running = asyncio.create_task(device.run())
        await asyncio.sleep_ms(600000)
        silent = True
        device._on_configuration((constants.MESSAGE_CONFIGURATION, 7, 0, 0, 0, 0, 0, ()))
        await asyncio.sleep_ms(4 * 3600000)
        faults = work.events(constants.EVENT_SELF_TEST_FAILED)
        assert sorted(bytes(event[4])[:7] for event in faults) == [b"battery", b"charger"], faults
        assert not work.events(constants.EVENT_TASK_STUCK) and not board.hardware_watchdog.expired
        told = [record[BODY:] for record in work.records(constants.MESSAGE_STATUS)]
        assert len(told) >= 5 and told[-1][:3] == (255, 0, 0) and told[-1][11] == 7, told[-1]
        board.inputs["strap"].set(0)
        await asyncio.sleep_ms(5000)
        assert len(work.events(constants.EVENT_STRAP_CUT)) == 1, "the others go on"
        # It answers again, with something on its charger that nobody was told of.
        silent = False
        real.level = 1
        await asyncio.sleep_ms(3600000)
        told = work.records(constants.MESSAGE_STATUS)[-1][BODY:]
        assert device.health.charging and told[1:3] == (3900, 1), told
        real.set(0)
        assert not device.health.charging, "and is watched"
        running.cancel()
