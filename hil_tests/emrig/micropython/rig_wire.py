"""What a simulated device and the rig say to each other; imported by both (CPython and MicroPython).

A message is `payload length u16 LE | kind u8 | channel u8 | payload`. The device may write at any time; the rig
answers a CALL at once with a REPLY and otherwise writes only while the device waits, ending with NOW. Times are
virtual milliseconds since the rig's start, i64 LE.
"""

HEADER_FORMAT = "<HBB"
HEADER_SIZE = 4
TIME_FORMAT = "<q"
# A length is a u16; longer writes are split by the sender.
MAXIMUM_PAYLOAD = 65535

# Kinds, device to rig
WAIT = 0  # payload: deadline i64, or -1 for "only input can wake me"
DATA = 1  # bytes written to a UART (both directions)
PIN = 2  # payload: level u8 (both directions)
CALL = 3  # payload: operation u8 + argument; the device blocks for REPLY
LOG = 4  # payload: utf-8 text
# Kinds, rig to device
NOW = 5  # payload: i64; ends a batch of input
REPLY = 6  # payload: result of the CALL
NOTIFY = 7  # payload: operation u8 + argument: asynchronous input of a channel that has calls (BLE interrupts)

# Channels: the position in this tuple is the number on the wire.
CHANNELS = (
    "control",
    "gnss",
    "modem",
    "host",
    "ble",
    "battery",
    "alcohol_cell",
    "contact_infrared",
    "skin_temperature",
    "strap",
    "case",
    "mains",
    "charger",
    "alcohol_ready",
    "motion",
    "gnss_power",
    "modem_power",
    "alcohol_sample",
    "vibration",
    "fibre",
    "fibre_light",
    "cell_check",
    "repl",
    "modem_doze",
)

# Operation of CALL on ADC and pin channels
READ = 0  # reply: u16 LE (ADC) or u8 (pin)
# Operation of CALL on UART channels: the line's receiver keeps what comes, without waking the processor, until so many
# ms have passed and the line has then been silent for SILENCE_MS. 0: no longer. Without an argument: it is emptied.
HOLD = 1
HOLD_FORMAT = "<I"
SILENCE_MS = 100
