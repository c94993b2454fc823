# Pins of the nRF52840 DK (PCA10056) under MicroPython's Zephyr port, whose images have `bluetooth`; the nrf port's have
# not. A pin is (device, number) as Zephyr's device tree names it.
NAME = "nrf52840"
TITLE = "Nordic nRF52840 DK (PCA10056), Zephyr port"
MODELS = ("home_unit", "alcohol", "pid")
MACHINE = "nrf52840"
# How MicroPython itself gets on it.
BASE_IMAGE = "debugger"
# nRF52840 product specification §6.36: 32 bits at 32768 Hz.
WATCHDOG_LIMIT_MS = 131071000
# The port's poll wakes every millisecond (MICROPY_EVENT_POLL_HOOK), its time.sleep_ms lets the kernel idle. Contacts
# are debounced for 50 ms and stamped within 5 s: five looks a second serve both.
WAIT_SLICE_MS = 200

# name: (number, baud rate, what machine.UART takes). Its pins (P1.01, P1.02) are in the board's device tree. What comes
# during a slice waits in its buffer: 115200 / 10 bytes a second, 2304 in 200 ms.
UART = {
    "host": ("uart1", 115200, {"rxbuf": 2560, "txbuf": 2048}),
}
# An input at the supply, 3.0 V on this board, is not at the converter's end (3.6 V). Both are good to 3 % or so.
_RAIL_UV = 2850000
# name: (pin, numerator, denominator, offset, upper rail); channels 0 to 3 are P0.02, P0.03, P0.04, P0.28 by
# zephyr/emtag.overlay. The battery is halved by two equal resistors; skin temperature: TMP36 data sheet, 10 mV/K and
# 500 mV at 0 degrees.
ADC = {
    "battery": (("adc", 0), 2, 100, 0),
    "alcohol_cell": (("adc", 1), 1, 100, 0, _RAIL_UV),
    "contact_infrared": (("adc", 2), 1, 100, 0, _RAIL_UV),
    "skin_temperature": (("adc", 3), 1, 100, 5000, _RAIL_UV),
}
# name: (pin, pull up, inverted). Contacts close to ground, and are closed while the tag is worn: the chip's own pull-up
# (13 kohm) would take 230 uA through each. They have a resistor to the supply.
PIN_IN = {
    "strap": (("gpio1", 3), False, True),
    "case": (("gpio1", 4), False, False),
    "mains": (("gpio1", 5), False, False),
    "charger": (("gpio1", 6), False, False),
    "motion": (("gpio1", 7), False, False),
    "alcohol_ready": (("gpio1", 8), False, False),
}
CONTACT_KOHM = 4700
# name: (pin, inverted)
PIN_OUT = {
    "vibration": (("gpio1", 10), False),
    "alcohol_sample": (("gpio1", 11), False),
    "cell_check": (("gpio1", 12), False),
}
