# The accelerometer LIS2DW12 (ST data sheet DS12236) on I2C: set up once so that its INT2 is high while it moves.
import struct

# SA0 low, SA0 high or open.
ADDRESSES = (0x18, 0x19)
_WHO_AM_I = 0x0F
_IDENTITY = 0x44
_CTRL2 = 0x21
_SOFT_RESET = 0x40
# A soft reset takes some microseconds; asked so often whether it is over.
_TRIES = 5
# Six bytes, x, y and z, of which 32768 are 2 g. At rest the sum of their amounts is 1 g or more; a part that does not
# measure has the same small figure in all.
_OUT = 0x28
_HALF_G = 8192
_EIO = 5
_ENODEV = 19
# Register, value; in this order, interrupts last.
SETUP = (
    (0x25, 0x00),  # CTRL6: ±2 g, bandwidth of half the rate
    (0x22, 0x08),  # CTRL3: interrupts active low: INT2 tells "asleep", so it is high while awake
    (0x34, 0x42),  # WAKE_UP_THS: sleep by itself; wakes at 2/64 of 2 g, 62 mg: a step, no heart beat
    (0x35, 0x01),  # WAKE_UP_DUR: asleep after 512 samples without, 41 s: a traveller's pauses wake nobody
    (0x24, 0x80),  # CTRL5: the sleep state on INT2
    (0x3F, 0x20),  # CTRL7: interrupts on
    (0x20, 0x20),  # CTRL1: 12.5 Hz, low power mode 1: about 1 µA
)


def setup(bus) -> None:
    """bus: machine.I2C's readfrom_mem and writeto_mem. OSError if it is not there, or does not take what it is told."""
    address = _find(bus)
    bus.writeto_mem(address, _CTRL2, bytes((_SOFT_RESET,)))
    for _ in range(_TRIES):
        if not _read(bus, address, _CTRL2) & _SOFT_RESET:
            break
    else:
        raise OSError(_EIO)
    for register, value in SETUP:
        bus.writeto_mem(address, register, bytes((value,)))
    _verify(bus, address)


def keep(bus) -> None:
    """Set it up again if it has forgotten: its supply dips, and it starts anew without a word. OSError as setup()."""
    try:
        _verify(bus, _find(bus))
    except OSError:
        setup(bus)


def check(bus) -> None:
    """OSError if it is not there, is not set up, or does not feel which way is down."""
    address = _find(bus)
    _verify(bus, address)
    data = bus.readfrom_mem(address, _OUT, 6)
    if len(data) != 6 or sum([abs(axis) for axis in struct.unpack("<hhh", data)]) < _HALF_G:
        raise OSError(_EIO)


def _verify(bus, address):
    for register, value in SETUP:
        if _read(bus, address, register) != value:
            raise OSError(_EIO)


def _find(bus):
    for address in ADDRESSES:
        try:
            if _read(bus, address, _WHO_AM_I) == _IDENTITY:
                return address
        except OSError:
            pass
    raise OSError(_ENODEV)


def _read(bus, address, register):
    data = bus.readfrom_mem(address, register, 1)
    if len(data) != 1:
        raise OSError(_EIO)
    return data[0]
