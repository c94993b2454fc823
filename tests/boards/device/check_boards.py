"""On MicroPython: each board's table feeds every model it lists; pins, converters and power do what drivers expect."""

import asyncio
import json
import os
import sys

import check_accelerometer
from emwire import constants

import machine
import pretended_time
import zephyr_port


def in_pretended_time(name, folder):
    """That board, for which no time passes but what everybody waits."""
    if name == "nrf52840":
        zephyr_port.install()
    from boards import light_sleep, machine_board, sliced_wait

    pretended_time.install(light_sleep, machine_board, machine, sliced_wait)
    return board_of(name, folder)


def board_of(name, folder, model="pid"):
    try:
        os.mkdir(folder)
    except OSError:
        pass
    with open(folder + "/identity.json", "w") as file:
        json.dump({"device_id": 7, "model": model, "key": "00" * 16, "board": name}, file)
    machine.Pin.made.clear()
    if name == "nrf52840":
        zephyr_port.install()
    module = __import__("boards.%s.board" % name, None, None, ("Board",))
    pins = __import__("boards.%s.pins" % name, None, None, ("PIN_IN",))
    # By docs/flashing.md, where the chip's own pull-up is off.
    if hasattr(pins, "CONTACT_KOHM"):
        machine.Pin.resistors = {pins.PIN_IN[contact][0] for contact in ("strap", "case")}
    board = module.Board(folder)
    board.lines = []
    board.log = board.lines.append
    return board


async def check_models(folder, name):
    """Every model of the board starts, finds each part that it asks for, and says hello; no pin serves two parts."""
    pins = __import__("boards.%s.pins" % name, None, None, ("MODELS",))
    for model in pins.MODELS:
        board = board_of(name, folder + "/" + model, model)
        made = []
        board.record_made = lambda epoch, sequence, alarm, payload: made.append(payload[0])
        task = asyncio.create_task(__import__("main").run(board))
        await asyncio.sleep_ms(300)
        assert not task.done(), task.data
        failures = [line for line in board.lines if line.startswith("task ")]
        assert not failures, failures
        assert model == "pid" or made[0] == constants.MESSAGE_HELLO, made
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass


async def check_pins(folder, name):
    """Levels mean what the driver expects, and edges arrive in the asyncio thread, both of two fast ones."""
    board = board_of(name, folder)
    number, _, inverted = board.pins.PIN_IN["strap"]
    for contact in ("strap", "case"):
        # Closed while the tag is worn: only a board of which nobody asks to last may use the chip's.
        board.pin_in(contact)
        own = machine.Pin.made[board.pins.PIN_IN[contact][0]].pull == machine.Pin.PULL_UP
        assert own == board.pins.PIN_IN[contact][1] == (name == "pico_w"), contact
    strap = board.pin_in("strap")
    assert strap is board.pin_in("strap")
    raw = machine.Pin.made[number]
    assert inverted and strap.value() == 0, "an unconnected strap is open"
    raw.set(0)
    assert strap.value() == 1
    seen = []
    strap.on_change(seen.append)
    raw.set(1)
    raw.set(0)
    assert seen == []
    await asyncio.sleep_ms(20)
    assert seen == [0, 1]
    raw.set(1)
    await asyncio.sleep_ms(20)
    assert seen == [0, 1, 0]
    vibration = board.pin_out("vibration")
    vibration.value(1)
    assert machine.Pin.made[board.pins.PIN_OUT["vibration"][0]].level == 1
    if name == "nrf52840":
        check_reset_reasons(name, folder)
    else:
        assert board.reset_cause == constants.RESET_WATCHDOG
    assert board.watchdog(1000).timeout == 1000
    long = board.watchdog(1 << 40)
    assert long._hardware.timeout == board.pins.WATCHDOG_LIMIT_MS and long._timer.period < long._hardware.timeout
    if name == "nrf52840":
        assert not hasattr(board, "retain_time"), "no real-time clock"
        return
    board.retain_time(500000000000, 20)
    assert machine.RTC.moment == (2025, 11, 5, 2, 0, 53, 20, 0), machine.RTC.moment
    assert board.retained_time() == (500000000000, 60000)
    board.reset_cause = constants.RESET_POWER_ON
    assert board.retained_time() is None


def check_reset_reasons(name, folder):
    """Of two bits the graver counts, and neither is there at the next boot."""
    for reason, meaning in (
        (0, constants.RESET_POWER_ON),
        (2, constants.RESET_WATCHDOG),
        (4 | 2, constants.RESET_WATCHDOG),
        (4, constants.RESET_SOFT),
        (1, constants.RESET_HARD),
        (8, constants.RESET_UNKNOWN),
    ):
        machine.mem32.registers[zephyr_port.RESET_REASON] = reason
        assert board_of(name, folder).reset_cause == meaning, (reason, meaning)
        assert machine.mem32[zephyr_port.RESET_REASON] == 0


async def check_uart(folder, name):
    """A write longer than the port takes at once goes out whole, and comes back as it is."""
    board = board_of(name, folder)
    uart = board.uart("host")
    data = bytes(range(256)) * 4
    uart.write(data)
    back = b""
    while len(back) < len(data):
        back += await asyncio.wait_for_ms(uart.read(), 1000)
    assert back == data


async def check_battery(folder, name):
    """The battery's count is tenths of a millivolt, whichever way it is measured."""
    board = board_of(name, folder)
    adc = board.adc("battery")
    if name != "esp32s3":
        machine.ADC.microvolts[board.pins.ADC["battery"][0]] = 3900000 // 2
    else:
        machine.REGISTERS[0x34], machine.REGISTERS[0x35] = 3900 >> 8, 3900 & 0xFF
    assert adc.read_u16() == 39000, adc.read_u16()
    if name == "esp32s3":
        gauge = board.fuel_gauge()
        assert gauge.read() == (3900, 61) and machine.REGISTERS[0x18] & 8
        for register, value in ((0x00, 0x20), (0xA4, 0xFF)):
            kept, machine.REGISTERS[register] = machine.REGISTERS[register], value
            try:
                gauge.read()
            except OSError:
                machine.REGISTERS[register] = kept
            else:
                raise AssertionError("no battery, or no word for it")


async def check_converter_ends(folder, name):
    """What a driver calls an input at the rail is one, whatever its channel's scaling; in between nothing changes."""
    from drivers import alcohol_cell

    supply_uv, machine.ADC.full_uv = {"esp32s3": (3300000, 3100000), "nrf52840": (3000000, 3600000)}[name]
    board = board_of(name, folder)
    for channel in board.pins.ADC:
        pin = board.pins.ADC[channel][0]
        adc = board.adc(channel)
        read = {}
        for microvolts in (0, 2000, 800000, supply_uv):
            machine.ADC.microvolts[pin] = microvolts
            read[microvolts] = adc.read_u16()
        assert read[0] == read[2000] == 0, (channel, read)
        assert read[800000] == {"battery": 16000, "skin_temperature": 13000}.get(channel, 8000), (channel, read)
        # Half of a battery is never at the supply.
        assert read[supply_uv] > alcohol_cell.HIGHEST_COUNTS or channel == "battery", (channel, read)
        machine.ADC.microvolts[pin] = machine.ADC.full_uv
        assert adc.read_u16() == 65535, channel


async def check_fuel_gauge(folder, name):
    """A gauge beside the battery is found at the start, and whoever asks learns when it has no sense; else voltage."""
    assert not hasattr(board_of(name, folder), "fuel_gauge")
    for second in ({}, {4: b"\x42"}, {2: b"\xc3"}, {2: b"\xff\xff"}):
        machine.I2C.gauge = {2: b"\xc3\x50", 4: b"\x42\x80"}
        gauge = board_of(name, folder).fuel_gauge()
        assert gauge.read() == (3906, 67)
        machine.I2C.gauge.update(second)
        machine.I2C.silent = not second
        try:
            gauge.read()
            raise AssertionError(second)
        except OSError:
            machine.I2C.silent = False


async def check_silent_power_manager(folder, name):
    """A board whose power manager does not answer starts all the same; once it answers, all is as ever."""
    machine.I2C.silent = True
    board = in_pretended_time(name, folder)
    adc, gauge, charger = board.adc("battery"), board.fuel_gauge(), board.pin_in("charger")
    for half in (False, True):
        machine.I2C.silent, machine.I2C.half = not half, half
        for ask in (adc.read_u16, gauge.read, charger.value):
            try:
                ask()
            except OSError:
                continue
            raise AssertionError("who asks has to learn that there is no answer, or half of one")
    machine.I2C.silent, machine.I2C.half = True, False
    seen = []
    try:
        charger.on_change(seen.append)
    except OSError:
        pass
    machine.I2C.silent = False
    for _ in range(2):  # by a task that failed and began anew
        charger.on_change(seen.append)
    interrupt = machine.Pin.made[board.pins.POWER_INTERRUPT]
    machine.I2C.silent = True
    interrupt.set(0)
    await asyncio.sleep_ms(1100)
    assert seen == [] and gauge.refused >= 2, (seen, gauge.refused)
    machine.I2C.silent = False
    await asyncio.sleep_ms(2000)
    interrupt.set(1)
    assert seen == [1], seen
    machine.REGISTERS[0x34], machine.REGISTERS[0x35] = 3900 >> 8, 3900 & 0xFF
    assert adc.read_u16() == 39000 and machine.REGISTERS[0x18] & 8


async def check_sliced_wait(folder, name):
    """The processor sleeps in slices while every task waits; stream and interrupt are noticed after one at most."""
    import asyncio.core as core

    from boards import sliced_wait

    board = in_pretended_time(name, folder)
    slept = []

    class Time:
        def sleep_ms(self, milliseconds):
            slept.append(milliseconds)
            pretended_time.sleep_ms(milliseconds)

    sliced_wait.time = Time()
    assert isinstance(core._io_queue, sliced_wait.SlicedWait)
    again = core._io_queue
    sliced_wait.install(50)
    assert core._io_queue is again, "once"
    await asyncio.sleep_ms(500)
    assert slept == [200, 200, 100], slept
    flag = asyncio.ThreadSafeFlag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep_ms(1)
    del slept[:]
    flag.set()
    await waiting
    assert slept == [], "what is there already is not slept over"
    strap = board.pin_in("strap")
    seen = []
    strap.on_change(seen.append)
    raw = machine.Pin.made[board.pins.PIN_IN["strap"][0]]

    class Edge:
        def sleep_ms(self, milliseconds):
            slept.append(milliseconds)
            if len(slept) == 2:
                raw.set(1 - raw.level)
            pretended_time.sleep_ms(milliseconds)

    sliced_wait.time = Edge()
    await asyncio.sleep_ms(1000)
    assert len(seen) == 1, seen
    uart = board.uart("host")
    del slept[:]
    uart.write(b"token")
    assert await uart.read() == b"token" and not slept
    line = machine.UART.made[board.pins.UART["host"][0]]
    sent = bytes(range(256)) * 9  # at 115,200 Bd in 200 ms

    class Host:
        def sleep_ms(self, milliseconds):
            line.receive(sent)
            pretended_time.sleep_ms(milliseconds)
            sliced_wait.time = Time()

    sliced_wait.time = Host()
    back = b""
    while len(back) < len(sent):
        back += await asyncio.wait_for_ms(uart.read(), 1000)
    assert back == sent


async def check_burst(folder, name):
    """A read that waits is given whole bursts, at the end of the first that is late enough; what was before is not."""
    board = in_pretended_time(name, folder)
    uart = board.uart("host")
    raw = machine.UART.made[board.pins.UART["host"][0]]
    raw.waiting = b"of the session before"
    uart.discard()
    reading = asyncio.create_task(uart.read(60))
    await asyncio.sleep_ms(10)
    timer = machine.Timer.made[-1]
    raw.receive(b"first ")
    timer.callback(timer)
    await asyncio.sleep_ms(60)
    assert not reading.done(), "too early"
    raw.receive(b"second")
    raw.waiting += b" third"  # a pause between sentences is no end
    timer.callback(timer)
    await asyncio.sleep_ms(10)
    assert not reading.done()
    raw.receive(b".")
    assert timer.period == 100
    timer.callback(timer)
    assert await asyncio.wait_for_ms(reading, 100) == b"first second third."


async def check_temperature(folder, name):
    """Hundredths of a degree of the chip, or an error that status records tell as unknown."""
    board = board_of(name, folder)
    if name == "pico_w":
        machine.ADC.microvolts[machine.ADC.CORE_TEMP] = 706000 - 10 * 1721
    degrees = board.temperature()
    assert abs(degrees - {"pico_w": 3700, "nrf52840": 2475, "esp32s3": 3100}[name]) < 10, degrees
    if name == "nrf52840":
        from common.health import TEMPERATURE_UNKNOWN, Health

        import zsensor

        def without(label):
            raise ValueError("device " + label + " not found")

        zsensor.Sensor = without  # an image without CONFIG_TEMP_NRF5

        class Device:
            pass

        machine.Pin.made.clear()
        Device._device = Device
        Device.board = board_of(name, folder)
        assert Health._temperature(Device) == TEMPERATURE_UNKNOWN and not hasattr(Device.board, "temperature")


async def slept_over(milliseconds):
    """What the processor was asked to sleep while every task waited so long; the wait is kept."""
    del machine.slept[:]
    begun = pretended_time.ticks_ms()
    await asyncio.sleep_ms(milliseconds)
    assert pretended_time.ticks_diff(pretended_time.ticks_ms(), begun) == milliseconds
    return sum(machine.slept)


async def check_light_sleep(folder, name):
    """It sleeps while every task waits, until its time or what it is armed for; not while somebody speaks."""
    from boards import light_sleep

    board = in_pretended_time(name, folder)
    watchdog = board.watchdog(8000)

    async def feed():
        while True:
            watchdog.feed()
            await asyncio.sleep_ms(7000)

    feeding = asyncio.create_task(feed())
    contacts = {}
    for contact in board.pins.PIN_IN:
        contacts[contact] = board.pin_in(contact)
        machine.Pin.made[board.pins.PIN_IN[contact][0]].set(0)
    raw = machine.Pin.made[board.pins.PIN_IN["strap"][0]]
    seen = []
    contacts["strap"].on_change(lambda level: seen.append((level, board.clock.ticks_ms())))
    if name == "esp32s3":
        assert await slept_over(9000) == 0, "it has 5 V: USB may be the console"
        machine.REGISTERS[0x00] = 0x08
    else:
        assert await slept_over(9000) == 0, "a host at USB gets to know it, whatever else it knows"
        await asyncio.sleep_ms(1000)
    await asyncio.sleep_ms(light_sleep.UART_AWAKE_MS)
    uptime = board.clock.ticks_ms()
    assert await slept_over(60000) == 60000, machine.slept
    assert board.clock.ticks_ms() - uptime == 60000, "the time asleep counts"
    # The strap opens in the midst of a sleep: the chip wakes, or looks at the end of its slice.
    begun = board.clock.ticks_ms()
    machine.events.append((70, lambda: raw.set_asleep(1)))
    await slept_over(5000)
    assert seen == [(0, begun + (70 if name == "esp32s3" else 200))], (begun, seen)
    assert not any(pin.taken for pin in machine.Pin.made.values()), "back from the wake-up to its own interrupt"
    del seen[:]
    if name == "esp32s3":
        await check_esp32_wakes(board, raw, seen)
    else:
        await check_usb(board)
        board.uart("host")
        assert await slept_over(9000) == 0, "a line that is listened to"
    feeding.cancel()
    assert watchdog.longest_ms <= 7000, watchdog.longest_ms


async def check_usb(board):
    """Plugged in while it runs from its battery, it is awake within a second, for as long as the cable is there."""
    power = machine.Pin.made[board.pins.USB_POWER]
    power.set(1)
    assert await slept_over(9000) == 9000, "that pin is the radio's, which has not been started"
    board.ble().active(True)
    assert await slept_over(9000) <= 1000 and await slept_over(60000) == 0
    power.set(0)
    assert await slept_over(60000) >= 58000


async def check_esp32_wakes(board, raw, seen):
    import esp32

    # An open contact cannot wake by closing: it is looked at.
    machine.events.append((200, lambda: raw.set_asleep(0)))
    begun = board.clock.ticks_ms()
    await slept_over(5000)
    assert machine.slept[0] == 1000 and seen == [(1, begun + 1000)], (machine.slept, seen)
    # A byte: its beginning wakes, and the next ones find the chip awake.
    uart = board.uart("gnss")
    line = machine.Pin.made[board.pins.UART["gnss"][2]["rx"]]
    machine.events.append((300, lambda: line.set_asleep(0)))
    reading = asyncio.create_task(uart.read())
    assert await slept_over(1000) == 1000 and machine.slept == [1000] and line in esp32.gpio
    line.set_asleep(1)
    machine.UART.made[2].receive(b"$GNRMC")
    assert await asyncio.wait_for_ms(reading, 100) == b"$GNRMC"
    assert await slept_over(1500) == 0
    assert await slept_over(1500) == 1500
    # Lines whose other ends have no power are low, and not waited for. One of them alone stays armed in the chip.
    board.uart("modem")
    modem_line = machine.Pin.made[board.pins.UART["modem"][2]["rx"]]
    line.set_asleep(0)
    before = board._sleep.slept_ms
    await slept_over(9000)
    assert line not in esp32.gpio and board._sleep.slept_ms == before, "awake, and not deaf"
    modem_line.set_asleep(0)
    await asyncio.sleep_ms(1500)
    assert await slept_over(9000) == 9000 and not esp32.gpio
    line.set_asleep(1)
    modem_line.set_asleep(1)
    # A command to the modem is under way; then it may doze.
    board.pin_out("modem_power").value(1)
    assert await slept_over(9000) == 0
    board.pin_out("modem_doze").value(1)
    assert await slept_over(9000) == 9000
    board.ble().active(True)
    assert await slept_over(9000) == 0
    board.ble().active(False)
    # 5 V come: the power manager holds its line low until it is answered.
    charged = []
    board.pin_in("charger").on_change(charged.append)

    def supply():
        machine.REGISTERS[0x00] = 0x28
        board._interrupt.set_asleep(0)

    machine.events.append((20, supply))
    await slept_over(1000)
    assert charged == [1], charged


async def check_without_wake_on_gpio(folder, name):
    """A MicroPython that cannot wake by a line of a UART stays awake."""
    import asyncio.core as core

    import esp32

    del esp32.wake_on_gpio
    before = core._io_queue
    board = board_of(name, folder)
    assert core._io_queue is before and board._sleep is None


async def check_self_test(folder, name):
    """Every part of every model that the board can be has a verdict; here nothing answers that has to."""
    from common import self_test

    self_test.UART_MS = self_test.MODEM_MS = self_test.CELL_MS = self_test.CELL_CHECK_MS = 50
    silent = {"ankle_gps": ["gnss", "modem"], "alcohol": ["alcohol_cell", "cell_check"]}
    for model in __import__("boards.%s.pins" % name, None, None, ("MODELS",)).MODELS:
        board = board_of(name, folder + "/" + model, model)
        result = await self_test.check(board)
        expected = silent.get(model, []) + (["motion"] if name == "esp32s3" and model != "pid" else [])
        assert sorted(result["failed"]) == sorted(expected), result
        assert result["parts"]["fuel_gauge"] == ("ok" if name == "esp32s3" else "absent"), result
        assert result["parts"]["thermometer"] == "ok"
    if name == "esp32s3":
        board = board_of(name, folder, "home_unit")
        board._bus = check_accelerometer.Bus()
        assert (await self_test.check(board))["passed"], "with an accelerometer on its bus"


async def check_missing_part(folder, name):
    """A part that the board has not is named, with where to look; docs/flashing.md says what a tag does without it."""
    board = board_of(name, folder)
    for part in ("seismometer",) if name == "esp32s3" else ("seismometer", "fibre_light"):
        try:
            board.adc(part)
        except ValueError as error:
            assert name in str(error) and part in str(error), error
        else:
            raise AssertionError("no error")
    # Of what is asked for in passing, each board has all or none of a model's.
    assert ("cell_check" in board.pins.PIN_OUT) == ("alcohol" in board.pins.MODELS)
    assert hasattr(board, "fuel_gauge") == (name == "esp32s3") and hasattr(board, "temperature")


async def check_power(folder, name):
    """The LTE modem gets its rails, then its key for a moment; the supply's coming and going is an event."""
    board = board_of(name, folder)
    power = board.pin_out("modem_power")
    power.value(1)
    assert machine.REGISTERS[0x80] & 4 and machine.REGISTERS[0x84] == 102 and machine.REGISTERS[0x96] == 28
    key = machine.Pin.made[board.pins.MODEM_POWER_KEY]
    assert key.level == 1 and machine.Timer.made[-1].period > 1000
    machine.Timer.made[-1].callback(None)
    assert key.level == 0
    # Asleep by itself it keeps its rail, and the key wakes it.
    power.sleep()
    assert machine.REGISTERS[0x80] & 4 and power.level == 0
    power.value(1)
    assert machine.REGISTERS[0x80] & 4 and key.level == 1
    machine.Timer.made[-1].callback(None)
    power.value(0)
    assert not machine.REGISTERS[0x80] & 4
    mains = board.pin_in("mains")
    seen = []
    mains.on_change(seen.append)
    assert machine.REGISTERS[0x41] == 0xC0
    machine.REGISTERS[0x00] = 0
    machine.Pin.made[board.pins.POWER_INTERRUPT].set(0)
    await asyncio.sleep_ms(20)
    assert seen == [0] and mains.value() == 0


asyncio.run(globals()[sys.argv[1]](sys.argv[3], sys.argv[2]))
print("passed")
