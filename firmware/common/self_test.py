# Tests every part that a model has, by what the part itself shows; without a link, a key of anybody or a wearer.
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
)
_EVERY = ("flash", "clock", "random", "sealing", "battery")
_MODEL = {
    "ankle_gps": ("strap", "case", "charger", "gnss", "modem"),
    "home_unit": ("case", "mains", "motion", "radio", "host"),
    "alcohol": ("strap", "case", "charger", "motion", "radio", "alcohol_cell", "contact_infrared", "skin_temperature"),
    "pid": ("strap", "radio"),
}


def run(board) -> dict:
    """Everything, from a REPL: {"model", "passed", "failed_mask", "parts": {name: "ok" or what is wrong}}."""
    return asyncio.run(check(board))


async def check(board, others=None) -> dict:
    """others: {part: async function() -> None or what is wrong} instead of the test here, of parts that are in use."""
    others = {} if others is None else others
    model = board.identity["model"]
    parts = {}
    mask = 0
    for name, bit in PARTS:
        if name in _EVERY or name in _MODEL[model]:
            try:
                fault = await others[name]() if name in others else await _TESTS.get(name, _pin)(board, name)
            except Exception as error:
                fault = "%s %s" % (type(error).__name__, error)
            parts[name] = fault or "ok"
            if fault:
                mask |= bit
    return {"model": model, "passed": not mask, "failed_mask": mask, "parts": parts}


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


async def _pin(board, name):
    # Either level is a healthy contact; a pin that is not there raises.
    board.pin_in(name).value()


async def _radio(board, name):
    ble = board.ble()
    was_active = ble.active()
    ble.active(True)
    address = ble.config("mac")[1]
    if not was_active:
        ble.active(False)
    return None if any(address) else "has no address"


async def _gnss(board, name):
    return await _hears(board, "gnss", b"", 1, UART_MS, b"")


async def _modem(board, name):
    return await _hears(board, "modem", b"AT\r", 5, MODEM_MS, b"OK")


async def _hears(board, name, question, times, timeout_ms, expected):
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
                if heard and expected in heard:
                    return None
                heard = heard[-256:]
    finally:
        power.value(0)
    return "silent" if not heard else "answers otherwise"


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
    "radio": _radio,
    "gnss": _gnss,
    "modem": _modem,
    "alcohol_cell": _alcohol_cell,
    "contact_infrared": _analogue,
    "skin_temperature": _analogue,
    "host": _host,
}
