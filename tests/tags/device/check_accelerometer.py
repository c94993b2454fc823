"""The accelerometer is set up over its bus, or it is said that it is not."""

from drivers import lis2dw12


class Bus:
    """I2C with a LIS2DW12: absent, mute from an access on, short, deaf to what it is told, never done resetting."""

    def __init__(self, address=0x18, mute_from=None, short=False, deaf=False, stuck=False):
        self.address, self.mute_from, self.short, self.deaf, self.stuck = address, mute_from, short, deaf, stuck
        self.registers = {0x0F: 0x44, 0x20: 0x94, 0x21: 0x04}
        self.measured = b"\x40\0\xd0\xff\0\xc0"  # it lies on its back: 1 g along z
        self.accesses = 0
        self.resets = 0

    def forget(self):
        """A dip of its supply."""
        self.registers = {0x0F: 0x44, 0x20: 0, 0x21: 0x04}

    def _access(self, address):
        self.accesses += 1
        if address != self.address or (self.mute_from is not None and self.accesses > self.mute_from):
            raise OSError(19)

    def readfrom_mem(self, address, register, count):
        self._access(address)
        if register == 0x28:
            return self.measured[:count]
        return b"" if self.short else bytes((self.registers.get(register, 0),))

    def writeto_mem(self, address, register, data):
        self._access(address)
        if self.deaf:
            return
        self.registers[register] = data[0]
        if register == 0x21 and not self.stuck:
            self.registers = {0x0F: 0x44, 0x21: 0x04}
            self.resets += 1


def _fails(bus, function=lis2dw12.setup):
    try:
        function(bus)
    except OSError:
        return True
    return False


def check_set_up(folder):
    for address in lis2dw12.ADDRESSES:
        bus = Bus(address)
        lis2dw12.setup(bus)
        # Reset first, so that nothing of another firmware is left; then asleep by itself, told by INT2, active low.
        assert bus.resets == 1 and bus.registers[0x20] == 0x20 and bus.registers[0x34] & 0x40
        assert bus.registers[0x24] == 0x80 and bus.registers[0x22] == 8 and bus.registers[0x3F] == 0x20
        lis2dw12.setup(bus)
        assert bus.resets == 2, "again after each boot"


def check_what_misbehaves_is_an_error(folder):
    whole = Bus()
    lis2dw12.setup(whole)
    for bus in (Bus(address=0x30), Bus(short=True), Bus(deaf=True), Bus(stuck=True)):
        assert _fails(bus) and bus.accesses < 40
    for accesses in range(whole.accesses):
        assert _fails(Bus(mute_from=accesses)), accesses
    other = Bus()
    other.registers[0x0F] = 0x33
    assert _fails(other), "another part at its address"


def check_one_that_forgets_is_set_up_again(folder):
    bus = Bus()
    lis2dw12.setup(bus)
    lis2dw12.keep(bus)
    assert bus.resets == 1, "what is set up is let alone"
    bus.forget()
    lis2dw12.keep(bus)
    lis2dw12.check(bus)
    bus.mute_from = 0
    assert _fails(bus, lis2dw12.keep)


def check_one_that_does_not_measure_is_an_error(folder):
    bus = Bus()
    assert _fails(bus, lis2dw12.check), "not set up"
    lis2dw12.setup(bus)
    lis2dw12.check(bus)
    assert bus.resets == 1, "in use: only asked"
    for measured in (bytes(6), b"\xff" * 6, b"\0\xc0", b""):
        bus.measured = measured
        assert _fails(bus, lis2dw12.check), measured
    bus = Bus()
    lis2dw12.setup(bus)
    bus.registers[0x24] = 0
    assert _fails(bus, lis2dw12.check), "its line tells nothing any more"
    bus.mute_from = 0
    assert _fails(bus, lis2dw12.check)
