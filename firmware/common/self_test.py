# Tests every part that a model has on its board, by what the part itself shows; without a link, a key of anybody or a
# wearer. Imported only to be run (common/device.py).
# From a REPL, with nothing running:  from common import self_test; print(json.dumps(self_test.run(board)))
import asyncio
import os
from binascii import unhexlify

# How long a part may take to answer: a receiver sends once a second, a modem boots for some 5 s, a cell takes its time.
UART_MS = 3000
MODEM_MS = 15000
CELL_MS = 15000
# What a lithium cell can show while the device runs; 0 is a cell that is not there.
BATTERY_MV = (2500, 4500)
# 0.01 degrees inside of a tag that is being flashed or worn; beyond it is a thermometer that is not there.
TEMPERATURE = (-4000, 8500)
# An accelerometer has its first sample after 80 ms (12.5 Hz).
MOTION_MS = 200
VIBRATION_MS = 300
SCAN_MS = 200
# The end of a scan is told at once.
SCAN_GRACE_MS = 1000
ADVERTISE_US = 100000
# The cell's test current is worth 20,000 counts after 2 s (drivers/alcohol_cell.py, which judges it to a fifth once a
# day): less than half is a wire, not an old cell.
CELL_CHECK_MS = 2000
CELL_CHECK_COUNTS = 10000
# Verdicts that are no fault, alone or before a colon and what there is to say; every other one is a fault.
OK = "ok"
ABSENT = "absent"
NOT_JUDGED = "not judged"
# Packet vector 1 of RFC 3610: key, nonce, associated data, message, sealed.
_VECTOR = (
    "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf",
    "00000003020100a0a1a2a3a4a5",
    "0001020304050607",
    "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
    "588c979a61c663d2f066d0c2c0f989806d5f6b61dac38417e8d12cfdf926e0",
)
# Part: its bit in the mask of failed parts. Which model has which.
PARTS = (
    ("flash", 1),
    ("clock", 2),
    ("random", 4),
    ("sealing", 8),
    ("battery", 16),
    ("strap", 32),
    ("case", 64),
    ("mains", 128),
    ("charger", 256),
    ("motion", 512),
    ("radio", 1024),
    ("gnss", 2048),
    ("modem", 4096),
    ("alcohol_cell", 8192),
    ("contact_infrared", 16384),
    ("skin_temperature", 32768),
    ("host", 65536),
    ("vibration", 131072),
    ("fibre", 262144),
    ("fuel_gauge", 524288),
    ("thermometer", 1048576),
    ("cell_check", 2097152),
)
_EVERY = ("flash", "clock", "random", "sealing", "battery", "fuel_gauge", "thermometer")
_MODEL = {
    "ankle_gps": ("strap", "fibre", "case", "charger", "motion", "radio", "vibration", "gnss", "modem"),
    "home_unit": ("case", "mains", "charger", "motion", "radio", "host"),
    "alcohol": (
        "strap",
        "fibre",
        "case",
        "charger",
        "motion",
        "radio",
        "vibration",
        "alcohol_cell",
        "cell_check",
        "contact_infrared",
        "skin_temperature",
    ),
    "pid": ("strap", "radio"),
}
# Models that hear beacons; the others send.
_LISTENS = ("ankle_gps", "home_unit")


def run(board) -> dict:
    """Everything, from a REPL: {"model", "passed", "failed_mask", "failed": [name], "parts": {name: verdict}}."""
    return asyncio.run(check(board))


async def check(board, others=None) -> dict:
    """others: {part: async function() -> None or a verdict} instead of the test here, of parts that are in use."""
    others = {} if others is None else others
    model = board.identity["model"]
    parts = {}
    failed = []
    mask = 0
    for name, bit in PARTS:
        if name in _EVERY or name in _MODEL[model]:
            try:
                verdict = await others[name]() if name in others else await _TESTS.get(name, _pin)(board, name)
            except Exception as error:
                verdict = "%s %s" % (type(error).__name__, error)
            parts[name] = verdict = verdict or OK
            if verdict.split(":")[0] not in (OK, ABSENT, NOT_JUDGED):
                failed.append(name)
                mask |= bit
    return {"model": model, "passed": not mask, "failed_mask": mask, "failed": failed, "parts": parts}


async def _flash(board, name):
    path = board.storage_path + "/self_test"
    written = board.random_bytes(256)
    with open(path, "wb") as file:
        file.write(written)
    with open(path, "rb") as file:
        read = file.read()
    os.remove(path)
    return None if read == written else "reads other bytes than were written"


async def _clock(board, name):
    begun = board.clock.ticks_ms()
    await asyncio.sleep_ms(50)
    took = board.clock.ticks_ms() - begun
    return None if 40 <= took <= 1000 else "50 ms took %d" % took


async def _random(board, name):
    return None if board.random_bytes(16) != board.random_bytes(16) else "the same bytes twice"


async def _sealing(board, name):
    from common.ccm import Ccm

    key, nonce, associated, message, sealed = [unhexlify(text) for text in _VECTOR]
    return None if Ccm(key).seal(nonce, message, associated) == sealed else "differs from RFC 3610"


async def _battery(board, name):
    millivolts = board.adc("battery").read_u16() // 10
    return None if BATTERY_MV[0] <= millivolts <= BATTERY_MV[1] else "%d mV" % millivolts


async def _fuel_gauge(board, name):
    gauge = getattr(board, "fuel_gauge", None)
    if gauge is None:
        return ABSENT
    millivolts, percent = gauge().read()
    if not BATTERY_MV[0] <= millivolts <= BATTERY_MV[1]:
        return "%d mV" % millivolts
    return None if 0 <= percent <= 100 else "%d percent" % percent


async def _thermometer(board, name):
    read = getattr(board, "temperature", None)
    if read is None:
        return ABSENT
    temperature = read()
    return None if TEMPERATURE[0] <= temperature <= TEMPERATURE[1] else "%d degrees" % (temperature // 100)


async def _pin(board, name):
    # Either level is a healthy contact; a pin that is not there raises.
    board.pin_in(name).value()


async def _motion(board, name):
    await _pin(board, name)
    # A sensor on a bus can be asked; of a switch there is the pin alone.
    ask = getattr(board, "check_motion", None)
    if ask is not None:
        await asyncio.sleep_ms(MOTION_MS)
        ask()


async def _fibre(board, name):
    # Fitted or not is the device's, not the board's.
    if not board.identity.get(name):
        return ABSENT
    from drivers.fibre import COMPARATOR_COUNTS, Fibre

    from common.settings import Settings

    fibre = Fibre(board.adc("fibre_light"), Settings(board.storage_path, board.identity.get("settings")))
    fibre.look()
    if board.pin_in(name).value():
        return "faint, %d counts" % fibre.light if fibre.faded else _inside(fibre.light)
    if fibre.light > COMPARATOR_COUNTS * 5 // 4:
        return "dark by its comparator, and light by its %d counts" % fibre.light
    if board.pin_in("strap").value():
        return "dark, and the conductor is closed"
    return NOT_JUDGED + ": the strap is open"


async def _vibration(board, name):
    motor = board.pin_out(name)
    motor.value(1)
    try:
        await asyncio.sleep_ms(VIBRATION_MS)
    finally:
        motor.value(0)
    return NOT_JUDGED + ": it was on for %d ms, which somebody has to feel" % VIBRATION_MS


async def _radio(board, name):
    ble = board.ble()
    if ble.active():
        # In use: whoever does that knows how it listens or sends.
        return _address(ble)
    ble.active(True)
    try:
        fault = _address(ble)
        if fault:
            return fault
        if board.identity["model"] in _LISTENS:
            return await _scans(ble)
        # Not for a moment, or a link that begins meanwhile would find it switched off again.
        ble.gap_advertise(ADVERTISE_US, adv_data=b"\x02\x01\x06", resp_data=b"", connectable=False)
        ble.gap_advertise(None)
    finally:
        ble.active(False)


def _address(ble):
    address = ble.config("mac")[1]
    return None if len(address) == 6 and any(address) else "has no address"


async def _scans(ble):
    from drivers import ble_events

    done = ble_events.Flag()

    def on_interrupt(event, data):
        if event == ble_events.IRQ_SCAN_DONE:
            done.set()

    ble_events.listen(ble, on_interrupt)
    try:
        ble.gap_scan(SCAN_MS, 1000 * SCAN_MS, 1000 * SCAN_MS, False)
        return None if await done.wait(SCAN_MS + SCAN_GRACE_MS) else "does not end a scan"
    finally:
        ble_events.unlisten(on_interrupt)


async def _gnss(board, name):
    return await _hears(board, "gnss", b"", 1, UART_MS, _is_receiver)


def _is_receiver(heard):
    # A sentence with its checksum, or the beginning of a u-blox message.
    for sentence in heard.split(b"$")[1:]:
        star = sentence.find(b"*")
        checksum = 0
        for byte in sentence[: max(star, 0)]:
            checksum ^= byte
        if star > 0 and sentence[star + 1 : star + 3].upper() == b"%02X" % checksum:
            return True
    return b"\xb5\x62" in heard


async def _modem(board, name):
    return await _hears(board, "modem", b"AT\r", 5, MODEM_MS, lambda heard: b"OK" in heard)


async def _hears(board, name, question, times, timeout_ms, understands):
    power = board.pin_out(name + "_power")
    uart = board.uart(name)
    power.value(1)
    heard = b""
    try:
        for _ in range(times):
            uart.write(question) if question else None
            due = board.clock.ticks_ms() + timeout_ms // times
            while board.clock.ticks_ms() < due:
                try:
                    heard += await asyncio.wait_for_ms(uart.read(), due - board.clock.ticks_ms())
                except asyncio.TimeoutError:
                    break
                if understands(heard):
                    return None
                heard = heard[-256:]
    finally:
        power.value(0)
    return "silent" if not heard else "makes no sense"


async def _alcohol_cell(board, name):
    ready, sample = board.pin_in("alcohol_ready"), board.pin_out("alcohol_sample")
    due = board.clock.ticks_ms() + CELL_MS
    sample.value(1)
    try:
        while not ready.value():
            if board.clock.ticks_ms() >= due:
                return "gives no sample"
            await asyncio.sleep_ms(100)
        return _inside(board.adc("alcohol_cell").read_u16())
    finally:
        sample.value(0)


async def _cell_check(board, name):
    try:
        check = board.pin_out(name)
    except (KeyError, ValueError):
        return ABSENT
    cell = board.adc("alcohol_cell")
    zero = cell.read_u16()
    check.value(1)
    try:
        await asyncio.sleep_ms(CELL_CHECK_MS)
        answer = cell.read_u16() - zero
    finally:
        check.value(0)
    return None if answer >= CELL_CHECK_COUNTS else "%d counts for the test current" % answer


async def _analogue(board, name):
    return _inside(board.adc(name).read_u16())


def _inside(counts):
    # An input that is open or shorted reads at one of the rails.
    return None if 100 <= counts <= 65400 else "reads %d, at the rail" % counts


async def _host(board, name):
    # Nobody need be at the other end; the line itself must be there.
    board.uart("host")


_TESTS = {
    "flash": _flash,
    "clock": _clock,
    "random": _random,
    "sealing": _sealing,
    "battery": _battery,
    "fuel_gauge": _fuel_gauge,
    "thermometer": _thermometer,
    "motion": _motion,
    "fibre": _fibre,
    "vibration": _vibration,
    "radio": _radio,
    "gnss": _gnss,
    "modem": _modem,
    "alcohol_cell": _alcohol_cell,
    "cell_check": _cell_check,
    "contact_infrared": _analogue,
    "skin_temperature": _analogue,
    "host": _host,
}
