# Pins of the Raspberry Pi Pico W (its data sheet, §2.1). Three ADC inputs are at the header, too few for the alcohol
# tag. GPIO 29, which could measure VSYS, is the clock of the radio's SPI: reading it takes the radio away.
NAME = "pico_w"
TITLE = "Raspberry Pi Pico W (RP2040)"
MODELS = ("home_unit", "pid")
MACHINE = "Raspberry Pi Pico W with RP2040"
# How MicroPython itself gets on it. One built with MICROPY_HW_ROMFS_BYTES (docs/flashing.md) runs firmware in place;
# the published one has to copy it to RAM, which is too small for all but the pid.
BASE_IMAGE = "uf2"
# RP2040 data sheet §4.7: 24 bits of microseconds, counted twice.
WATCHDOG_LIMIT_MS = 8388
# Nothing but time wakes it: contacts are looked at so often, as on the nRF52840.
SLEEP_SLICE_MS = 200
# The radio's pin that senses 5 V at USB (MicroPython, ports/rp2, board RPI_PICO_W); a host asks a new device for its
# name again and again for some seconds (Linux, usbcore: initial_descriptor_timeout 5 s).
USB_POWER = "WL_GPIO2"
USB_LOOK_MS = 1000
# A cable that was there at the boot: its host knows the board by then, whatever the radio says.
AWAKE_AFTER_BOOT_MS = 10000

# name: (number, baud rate, what machine.UART takes). The host's line is on its own UART: USB stays the console.
UART = {
    "host": (0, 115200, {"tx": 0, "rx": 1, "rxbuf": 2048, "txbuf": 2048}),
}
# name: (pin, numerator, denominator, offset). The battery is halved by two equal resistors.
ADC = {
    "battery": (28, 2, 100, 0),
}
# name: (pin, pull up, inverted). Contacts close to ground; mains and charger: 5 V divided to 3 V. The chip's own
# pull-up takes 1.2 mAh a day through a closed contact, little beside what this board takes: no further part is needed.
PIN_IN = {
    "strap": (10, True, True),
    "case": (11, True, False),
    "mains": (12, False, False),
    "charger": (13, False, False),
    "motion": (14, False, False),
}
# I2C of a fuel gauge MAX17048 beside the battery, where one is fitted: number, SDA, SCL.
FUEL_GAUGE = (0, 4, 5)
# name: (pin, inverted)
PIN_OUT = {
    "vibration": (15, False),
}
