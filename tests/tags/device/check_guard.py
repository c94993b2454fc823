"""Watchdog, safe mode, self-test and the commands that every device knows."""

import asyncio
import json
import sys

import main
import selector
from common import safe_mode, self_test, wearer
from common.device import Device
from common.watchdog import Watchdog
from drivers import lis2dw12
from drivers.fuel_gauge import FuelGauge
from emwire import constants

import check_accelerometer
import check_power
import virtual
from at_work import AtWork


def device(folder, model="alcohol", capabilities=0, **identity):
    identity.update({"device_id": 1, "model": model, "key": "00" * 16})
    return Device(virtual.Board(folder, identity), constants.MODEL_ALCOHOL, capabilities)


async def check_watchdog_is_fed_while_tasks_answer(folder):
    work = AtWork(folder, "alcohol").start()
    await asyncio.sleep_ms(48 * 3600000)
    assert not work.board.hardware_watchdog.expired
    assert not work.events(constants.EVENT_TASK_STUCK)


async def check_hung_task_resets_and_is_told(folder):
    made = device(folder)
    told = []
    made.records.event = lambda *arguments, **keywords: told.append((arguments, keywords))
    task = asyncio.create_task(made.watchdog.run())
    made.watchdog.expect("sampling", 60000)
    made.watchdog.expect("finished", 60000)
    made.watchdog.done("finished")
    await asyncio.sleep_ms(3 * 3600000)
    assert made.board.hardware_watchdog.expired
    assert told == [((constants.EVENT_TASK_STUCK,), {"evidence": b"sampling"})], "told once"
    task.cancel()


async def check_uplink_that_never_tries_again_is_stuck(folder):
    class Hangs:
        async def connect(self):
            await asyncio.Event().wait()

    made = device(folder)
    made.link_over(Hangs(), periodic=True)
    running = asyncio.create_task(made.run())
    await asyncio.sleep_ms(7000000)
    assert made.watchdog.stuck is None
    await asyncio.sleep_ms(3000000)
    assert made.watchdog.stuck == "uplink" and made.board.hardware_watchdog is not None
    running.cancel()


class Stopped(Exception):
    pass


async def _boot(folder, cause):
    """One boot of a device whose model ends at once; True if it was in safe mode."""
    import tags

    class Broken:
        async def run(self, board):
            raise Stopped

    selector.begin(folder)
    board = virtual.Board(folder, {"device_id": 1, "model": "home_unit", "key": "00" * 16})
    board.reset_cause = cause
    tags.home_unit = Broken()
    import sys

    sys.modules["tags.home_unit"] = tags.home_unit
    running = asyncio.create_task(main.run(board))
    await asyncio.sleep_ms(1000)
    if running.done():
        return False, board
    return running, board


async def check_safe_mode_after_three_failed_boots(folder):
    for _ in range(3):
        running, _ = await _boot(folder, constants.RESET_WATCHDOG)
        assert not running
    running, board = await _boot(folder, constants.RESET_WATCHDOG)
    assert running, "the fourth boot is a safe one"
    work = AtWork(folder, "home_unit")
    assert [(event[0], event[3]) for event in work.events()] == [(constants.EVENT_SAFE_MODE, 3)]
    assert board.uarts["host"] is not None and not board.restarts
    await asyncio.sleep_ms(3600000)
    assert board.restarts == 1, "it tries again"
    running.cancel()
    running, _ = await _boot(folder, constants.RESET_WATCHDOG)
    assert not running, "with three boots of its own"


async def check_taking_the_battery_out_is_no_failed_boot(folder):
    for _ in range(10):
        running, _ = await _boot(folder, constants.RESET_POWER_ON)
        assert not running
        running, _ = await _boot(folder, constants.RESET_BROWNOUT)
        assert not running


async def check_healthy_boot_forgets_failures(folder):
    await _boot(folder, constants.RESET_WATCHDOG)
    await _boot(folder, constants.RESET_WATCHDOG)
    selector.begin(folder)
    watchdog = Watchdog(None)
    watchdog.stuck = "uplink"
    task = asyncio.create_task(safe_mode.stay_healthy(watchdog))
    await asyncio.sleep_ms(safe_mode.HEALTHY_MS + 1000)
    assert task.done() and selector.BootState(folder).boots == 3, "not while a task hangs"
    watchdog.stuck = None
    task = asyncio.create_task(safe_mode.stay_healthy(watchdog))
    await asyncio.sleep_ms(safe_mode.HEALTHY_MS + 1000)
    assert task.done() and selector.BootState(folder).boots == 0


async def check_self_test_passes_and_names_what_fails(folder):
    board = virtual.Board(folder, {"device_id": 1, "model": "alcohol"})
    board.inputs["alcohol_ready"].level = 1
    result = await self_test.check(board)
    assert result["passed"] and result["failed"] == [] and json.loads(json.dumps(result)) == result, result
    assert set(result["parts"]) >= {"flash", "sealing", "alcohol_cell", "radio", "strap"}
    absent = {name for name, verdict in result["parts"].items() if verdict == "absent"}
    assert absent == {"fibre", "fuel_gauge", "thermometer"}
    board.adcs["contact_infrared"].counts = 0
    board.adcs["battery"].counts = 0
    board.inputs["alcohol_ready"].level = 0
    del board.inputs["motion"]
    result = await self_test.check(board)
    bits = dict(self_test.PARTS)
    failed = ("contact_infrared", "battery", "alcohol_cell", "motion")
    assert result["failed_mask"] == sum(bits[name] for name in failed), result
    assert set(result["failed"]) == set(failed)
    assert not result["passed"] and result["parts"]["battery"] == "0 mV"


async def _verdict(folder, part, spoil, model="ankle_gps"):
    """Of one part of a board that is otherwise whole, after spoil(board); nobody talks over its UARTs."""
    board = virtual.Board(folder, {"device_id": 1, "model": model, "fibre": True})
    spoil(board)
    result = await self_test.check(board)
    assert (part in result["failed"]) == (result["failed_mask"] & dict(self_test.PARTS)[part] != 0)
    assert not board.radio.active() and not any(output.level for output in board.outputs.values()), "as it was"
    return result["parts"][part], part in result["failed"]


async def check_self_test_of_the_beacon_radio(folder):
    def spoil(**what):
        def spoiled(board):
            for name, value in what.items():
                setattr(board.radio, name, value)

        return spoiled

    assert await _verdict(folder, "radio", spoil()) == ("ok", False)
    for what, verdict in (
        ({"refuses": True}, "OSError"),
        ({"gap_scan": lambda *scan: None}, "does not end a scan"),
        ({"config": lambda name: (1, bytes(6))}, "has no address"),
        ({"config": lambda name: (1, b"\xc0\1")}, "has no address"),
    ):
        told, failed = await _verdict(folder, "radio", spoil(**what))
        assert failed and told.startswith(verdict), told
    told, failed = await _verdict(folder, "radio", spoil(refuses=True), "pid")
    assert failed and told.startswith("OSError"), told


async def check_self_test_of_optional_parts(folder):
    def gauge(*answers):
        return lambda board: setattr(board, "fuel_gauge", lambda: FuelGauge(check_power.Bus(*answers)))

    def warm(read):
        return lambda board: setattr(board, "temperature", read)

    def sensor(bus):
        def wired(board):
            if bus.registers[0x20] == 0x94:
                lis2dw12.setup(bus)
            board.check_motion = lambda: lis2dw12.check(bus)

        return wired

    def mute():
        raise OSError(5)

    dead, faded = check_accelerometer.Bus(), check_accelerometer.Bus()
    lis2dw12.setup(faded)
    dead.mute_from, dead.registers[0x20], faded.measured = 0, 0, b"\xff" * 6
    vcell, soc = check_power.VCELL, check_power.SOC
    for part, spoil, failed in (
        ("fuel_gauge", lambda board: None, None),
        ("fuel_gauge", gauge(vcell, soc), False),
        ("fuel_gauge", gauge(None, None), True),
        ("fuel_gauge", gauge(b"\xff\xff", soc), True),
        ("fuel_gauge", gauge(b"\xc3", b"\xc3"), True),
        ("thermometer", lambda board: None, None),
        ("thermometer", warm(lambda: 2475), False),
        ("thermometer", warm(mute), True),
        ("thermometer", warm(lambda: 32767), True),
        ("motion", sensor(check_accelerometer.Bus()), False),
        ("motion", sensor(dead), True),
        ("motion", sensor(faded), True),
        ("cell_check", lambda board: None, False),
        ("cell_check", lambda board: board.outputs.pop("cell_check"), None),
        ("cell_check", lambda board: setattr(board.outputs["cell_check"], "on_level", None), True),
    ):
        model = "alcohol" if part == "cell_check" else "ankle_gps"
        told, has_failed = await _verdict(folder, part, spoil, model)
        assert has_failed == bool(failed) and (told == "absent") == (failed is None), (part, told)


async def check_self_test_of_fibre_and_vibration(folder):
    def light(counts, lit, strap=1):
        def shone(board):
            board.adcs["fibre_light"].counts = counts
            board.inputs["fibre"].level, board.inputs["strap"].level = lit, strap

        return shone

    for counts, lit, strap, verdict, failed in (
        (40000, 1, 1, "ok", False),
        (25000, 1, 1, "faint", True),
        (65535, 1, 1, "reads 65535", True),
        (0, 1, 1, "faint", True),
        (40000, 0, 1, "dark by its comparator", True),
        (30, 0, 1, "dark, and the conductor is closed", True),
        (30, 0, 0, "not judged: the strap is open", False),
    ):
        told, has_failed = await _verdict(folder, "fibre", light(counts, lit, strap))
        assert told.startswith(verdict) and has_failed == failed, told
    told, has_failed = await _verdict(folder, "fibre", lambda board: board.adcs.pop("fibre_light"))
    assert has_failed, "the device has one, and the board has not"
    told, has_failed = await _verdict(folder, "fibre", lambda board: board.identity.pop("fibre"))
    assert (told, has_failed) == ("absent", False)
    buzzed = []
    told, has_failed = await _verdict(
        folder, "vibration", lambda board: setattr(board.outputs["vibration"], "on_level", buzzed.append)
    )
    assert told.startswith("not judged") and not has_failed and buzzed == [1, 0]


async def check_self_test_of_parts_behind_a_uart(folder):
    board = virtual.Board(folder, {"device_id": 1, "model": "ankle_gps"})
    result = await self_test.check(board)
    assert result["parts"]["gnss"] == "silent" and result["parts"]["modem"] == "silent"
    modem = board.uarts["modem"]
    modem.on_write = lambda data: [modem.feed(data[at : at + 1]) for at in range(1)] and modem.feed(b"\r\nO")
    gnss = board.uarts["gnss"]
    for heard, verdict in (
        (b"$GNTXT,01*4", "makes no sense"),
        (b"$GPGLL,,,,,,V*78\r\n\xe6\x9e\0", "makes no sense"),
        (b"LL,,,,,,V,N*64\r\n$GPGLL,,,,,,V,N*64\r\n", "ok"),
        (b"\xb5\x62\x01\x07", "ok"),
    ):
        board.outputs["gnss_power"].on_level = lambda level, heard=heard: level and gnss.feed(heard)
        result = await self_test.check(board)
        assert result["parts"]["gnss"] == verdict and result["parts"]["modem"] == "makes no sense", heard
    modem.on_write = lambda data: (modem.feed(b"\r\nO"), modem.feed(b"K\r\n"))
    assert (await self_test.check(board))["parts"]["modem"] == "ok"
    assert board.outputs["modem_power"].level == 0 == board.outputs["gnss_power"].level


async def check_commands_every_device_knows(folder):
    work = AtWork(folder, "alcohol")
    work.board.inputs["alcohol_ready"].level = 1
    made = Device(work.board, constants.MODEL_ALCOHOL, constants.CAPABILITY_VIBRATION)
    running = asyncio.create_task(made.run())
    await asyncio.sleep_ms(100)
    buzzed = []
    work.board.outputs["vibration"].on_level = buzzed.append
    for number, kind in ((1, constants.COMMAND_SELF_TEST), (2, constants.COMMAND_NOTIFY_WEARER)):
        made.commands.received((constants.MESSAGE_COMMAND, number, kind, 0, 0))
    await asyncio.sleep_ms(20000)
    made.commands.received((constants.MESSAGE_COMMAND, 3, constants.COMMAND_REBOOT, 0, 0))
    await asyncio.sleep_ms(1000)
    results = [record[5:8] for record in work.records(constants.MESSAGE_COMMAND_RESULT)]
    done = constants.OUTCOME_DONE
    assert sorted(results) == [(1, 3, done), (2, 2, done), (3, 6, done)], results
    assert buzzed == [1, 0, 1, 0] and not work.board.restarts
    assert len(work.events(constants.EVENT_SELF_TEST_PASSED)) == 1
    await asyncio.sleep_ms(15000)
    assert work.board.restarts == 1, "after its result was in flash"
    assert "common.self_test" not in sys.modules and not hasattr(sys.modules["common"], "self_test"), "its RAM is free"
    running.cancel()


async def check_a_command_wakes_the_wearer_at_night_until_the_charger_answers(folder):
    work = AtWork(folder, "alcohol")
    made = Device(work.board, constants.MODEL_ALCOHOL, constants.CAPABILITY_VIBRATION)
    running = asyncio.create_task(made.run())
    buzzed = []
    work.board.outputs["vibration"].on_level = lambda level: level and buzzed.append(virtual.now_ms())
    await asyncio.sleep_ms(100)
    made.clock.observe(constants.CLOCK_NETWORK, 500083200000, 100)  # 00:00 UTC
    assert made.health._wearer.quiet_now
    made.health._wearer.prompt(wearer.BATTERY_CRITICAL)
    await asyncio.sleep_ms(5000)
    assert not buzzed, "the battery waits for the morning"
    made.commands.received((constants.MESSAGE_COMMAND, 1, constants.COMMAND_NOTIFY_WEARER, wearer.LONG, 0))
    await asyncio.sleep_ms(10000)
    assert len(buzzed) == 3, "a command does not"
    for number, answered in ((2, True), (3, False)):
        del buzzed[:]
        begun = virtual.now_ms()
        work.board.inputs["charger"].set(0)
        made.commands.received((constants.MESSAGE_COMMAND, number, constants.COMMAND_NOTIFY_WEARER, 3, 0))
        await asyncio.sleep_ms(100000)
        if answered:
            work.board.inputs["charger"].set(1)
        await asyncio.sleep_ms(900000)
        starts = [buzz - begun for buzz in buzzed[::3]]
        assert len(starts) == (4 if answered else wearer.TIMES) and starts[1] - starts[0] >= wearer.AGAIN_MS, starts
    results = [record[5:10] for record in work.records(constants.MESSAGE_COMMAND_RESULT)]
    finished = [(result[0], result[2], result[4]) for result in results if result[2] != constants.OUTCOME_ACCEPTED]
    assert finished == [
        (1, constants.OUTCOME_DONE, wearer.LONG),
        (2, constants.OUTCOME_DONE, 4),
        (3, constants.OUTCOME_FAILED, wearer.TIMES),
    ], finished
    made.commands.received((constants.MESSAGE_COMMAND, 4, constants.COMMAND_NOTIFY_WEARER, 4, 0))
    await asyncio.sleep_ms(1000)
    assert work.records(constants.MESSAGE_COMMAND_RESULT)[-1][7] == constants.OUTCOME_REFUSED
    running.cancel()


def check_long_watchdog_on_short_hardware(folder):
    import sys

    class Machine:
        class Timer:
            PERIODIC = 1

            def __init__(self, number):
                pass

            def init(self, mode, period, callback):
                self.period, self.callback = period, callback

    class Hardware:
        fed = 0

        def feed(self):
            self.fed += 1

    sys.modules["machine"] = Machine
    Machine.Pin = object
    from boards.machine_board import LongWatchdog

    hardware = Hardware()
    long = LongWatchdog(hardware, 8000, 900000)
    for _ in range(3):
        for _ in range(200):
            long._timer.callback(long._timer)
        long.feed()
    assert hardware.fed == 600
    for _ in range(1000):
        long._timer.callback(long._timer)
    assert hardware.fed == 600 + 225, "900 s after the last feed the hardware gets none"


async def check_self_test_at_work_disturbs_nobody(folder):
    work = AtWork(folder, "ankle_gps")
    from tags.ankle_gps import AnkleGps

    tag = AnkleGps(work.board)
    running = asyncio.create_task(tag.run())
    await asyncio.sleep_ms(1000)
    work.board.uart = None  # whoever wants one now fails
    buzzed = []
    work.board.outputs["vibration"].on_level = buzzed.append
    before = {name: work.board.outputs[name].level for name in ("gnss_power", "modem_power")}
    result = await self_test.check(work.board, tag.device.self_tests)
    assert before == {name: work.board.outputs[name].level for name in before}
    assert result["parts"]["modem"] == "does not answer, or is off"
    assert result["parts"]["gnss"] == "ok" and result["parts"]["flash"] == "ok"
    assert result["parts"]["vibration"].startswith("not judged") and not buzzed, "nobody knows the hour"
    running.cancel()
