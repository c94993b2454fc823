# Pins of the LilyGO T-SIM7080G-S3. Modem, power manager and card are wired on the board (its schematic and the maker's
# utilities.h); the rest are header pins that are free while no camera is plugged in.
NAME = "esp32s3"
TITLE = "LilyGO T-SIM7080G-S3 (ESP32-S3, SIM7080G)"
MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")
# What sys.implementation._machine says on it.
MACHINE = "ESP32S3"
# How MicroPython itself gets on it.
BASE_IMAGE = "esptool"
# The watchdog of the port takes up to 2**32 ms.
WATCHDOG_LIMIT_MS = 3600000

# A UART's buffers hold the longest datagram (1024 B) with its framing; at 115200 Bd that is 90 ms of hearing nothing.
_BUFFERS = {"rxbuf": 2048, "txbuf": 2048}
# name: (number, baud rate, what machine.UART takes). The receiver is a u-blox module at the header: the modem's own
# shares its radio with LTE and cannot fix while it sends. A model has a receiver or a host, never both.
UART = {
    "modem": (1, 115200, dict(tx=5, rx=4, **_BUFFERS)),
    # What comes in LONGEST_READ_MS (drivers/gnss.py), 10 bits a byte, and a second more.
    "gnss": (2, 9600, {"tx": 17, "rx": 16, "rxbuf": 9600 // 10 * 7, "txbuf": 2048}),
    "host": (2, 115200, dict(tx=17, rx=16, **_BUFFERS)),
}
# name: (pin, numerator, denominator, offset); ADC1 only (GPIO 1 to 10), ADC2 is the radio's. The battery is the power
# manager's. Skin temperature: TMP36 data sheet, 10 mV/K and 500 mV at 0 degrees.
ADC = {
    "alcohol_cell": (1, 1, 100, 0),
    # The ankle tag's, which has no cell: light through the fibre, 0.1 mV a count; the comparator opens at 2 V.
    "fibre_light": (1, 1, 100, 0),
    "contact_infrared": (2, 1, 100, 0),
    "skin_temperature": (8, 1, 100, 5000),
}
# name: (pin, pull up, inverted). Contacts close to ground: strap closed reads 0 and means 1. They are closed while the
# tag is worn: the chip's own pull-up (45 kohm) would take 73 uA through each, if it is on in light sleep. They have a
# resistor to 3.3 V.
PIN_IN = {
    "strap": (9, False, True),
    "case": (10, False, False),
    "motion": (11, False, False),
    "alcohol_ready": (12, False, False),
    # The comparator's: 1 while light arrives. Where the alcohol tag has its infrared contact.
    "fibre": (2, False, False),
}
CONTACT_KOHM = 1000
# name: (pin, inverted)
PIN_OUT = {
    "gnss_power": (18, False),
    "modem_doze": (42, False),  # its DTR
    "vibration": (13, False),
    "alcohol_sample": (14, False),
    "cell_check": (21, False),
}
# Of the modem and its power manager
MODEM_POWER_KEY = 41
POWER_SDA = 15
POWER_SCL = 7
POWER_INTERRUPT = 6
