"""Battery, fuel gauge, charger and prompts: what misbehaves is a fault, and nobody is woken at night."""

import asyncio

from common.device import Device
from common.settings import Settings
from common.wearer import quiet
from drivers.battery import Battery
from drivers.charger import Charging
from drivers.fuel_gauge import FuelGauge
from emwire import constants

import virtual
from at_work import AtWork

HOUR_MS = 3600000
GAIN_MV = 10


class Bus:
    """I2C with a MAX17048 that misbehaves by its script: bytes, or an error."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def readfrom_mem(self, address, register, count):
        assert address == 0x36 and register in (2, 4) and count == 2
        answer = self.answers.pop(0)
        if answer is None:
            raise OSError(5)
        return answer


VCELL = b"\xc3\x50"  # 50000 * 78.125 µV = 3906 mV
SOC = b"\x42\x80"  # 66.5 %


def check_fuel_gauge_and_its_failures(folder):
    assert FuelGauge(Bus(VCELL, SOC)).read() == (3906, 67)
    assert FuelGauge(Bus(None, VCELL, None, SOC)).read() == (3906, 67), "asleep at first"
    assert FuelGauge(Bus(VCELL, b"\x66\x00")).read() == (3906, 100)
    settings = Settings(folder)
    for answers in ((None, None), (b"\0\0", SOC), (b"\xff\xff", SOC), (b"\xc3", b"\xc3"), (VCELL, None, None)):
        battery = Battery(virtual.Adc(37700), settings, FuelGauge(Bus(*answers)))
        battery.measure()
        assert (battery.millivolts, battery.percent, battery.gauge_failures) == (3770, 40, 1), answers


def check_charging_that_works_and_that_does_not(folder):
    charging = Charging()
    assert charging.measured(0, 3700, 20, HOUR_MS, GAIN_MV) is None, "not connected"
    charging.connected(0, 0)
    for minute in range(0, 300, 5):
        assert charging.measured(minute * 60000, 3700 + minute * 2, 20, HOUR_MS, GAIN_MV) is None
    charging.connected(0, 3700)
    told = [charging.measured(minute * 60000, 3700 + minute % 2, 20, HOUR_MS, GAIN_MV) for minute in range(0, 301, 5)]
    assert [item for item in told if item] == [(True, HOUR_MS, 0)], "once"
    assert charging.measured(301 * 60000, 3712, 20, HOUR_MS, GAIN_MV) == (False, 301 * 60000, 12)
    charging.connected(0, 4140)
    assert not any(charging.measured(minute * 60000, 4140, 99, HOUR_MS, GAIN_MV) for minute in range(0, 600, 5)), "full"
    charging.connected(0, 3700)
    charging.disconnected()
    assert charging.measured(2 * HOUR_MS, 3700, 20, HOUR_MS, GAIN_MV) is None


async def check_charge_failed_is_a_fault(folder):
    work = AtWork(folder, "alcohol").start()
    await asyncio.sleep_ms(1000)
    work.board.inputs["charger"].set(1)
    await asyncio.sleep_ms(3 * HOUR_MS)
    names = [event[0] for event in work.events()]
    assert names == [constants.EVENT_CHARGE_STARTED, constants.EVENT_CHARGE_FAILED]
    work.board.adcs["battery"].counts += 500
    await asyncio.sleep_ms(HOUR_MS)
    assert work.events()[-1][0] == constants.EVENT_CHARGE_RECOVERED


def check_quiet_hours(folder):
    assert [quiet(minute, 1320, 420) for minute in (1319, 1320, 0, 419, 420)] == [False, True, True, True, False]
    assert [quiet(minute, 60, 120) for minute in (59, 60, 119, 120)] == [False, True, True, False]
    assert not any(quiet(minute, 0, 0) for minute in range(1440))


async def check_prompts_by_day_only(folder):
    # 2026-01-01T12:00Z, and two hours east: 22:00 local is 20:00 UTC, 07:00 is 05:00.
    noon_s = 504921600 + 43200
    work = AtWork(folder, "ankle_gps")
    work.board.adcs["battery"].counts = 36800  # 16 %
    made = Device(work.board, constants.MODEL_ANKLE_GPS, constants.CAPABILITY_VIBRATION)
    running = asyncio.create_task(made.run())
    prompted = constants.EVENT_WEARER_PROMPTED
    await asyncio.sleep_ms(HOUR_MS)
    assert not work.events(prompted), "the clock is unknown: nobody is woken"
    made.clock.observe(constants.CLOCK_GATEWAY, noon_s * 1000, 10)
    made._orders.received((constants.MESSAGE_ORDER_CONDITIONS, 1, 1, 0, 0, 0, 120, 0, 0, 60, 15, 60, 1800, 900, ()))
    await asyncio.sleep_ms(24 * HOUR_MS)
    hours = [(event[1] - noon_s) // 3600 for event in work.events(prompted)]
    assert hours[0] == 0 and len(hours) >= 10 and not [hour for hour in hours if 8 <= hour < 17], hours
    before = len(hours)
    work.board.adcs["battery"].counts = 36400  # critical
    await asyncio.sleep_ms(360000)
    assert len(work.events(prompted)) == before + 1 and work.events(prompted)[-1][3] == 2, "a longer one, at once"
    work.board.inputs["charger"].set(1)
    await asyncio.sleep_ms(3 * HOUR_MS)
    assert len(work.events(prompted)) == before + 1
    running.cancel()
