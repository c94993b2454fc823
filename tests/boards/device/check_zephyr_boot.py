"""The nRF52840's _boot.py on real MicroPython and littlefs: files at the root, as the firmware and flashing want."""

import os
import sys

import selector
import vfs

import machine
import zephyr_port

BLOCK_BYTES = 4096
BLOCK_COUNT, BLOCK_SIZE, BLOCK_ERASE = 4, 5, 6


class FlashArea:
    """A partition, as the port gives it, with what is not erased of it."""

    areas = {"storage": (1, BLOCK_BYTES)}
    count = 0
    blocks = {}

    def __init__(self, number, erase_bytes):
        assert (number, erase_bytes) == self.areas["storage"]

    def readblocks(self, block, buffer, offset=0):
        if block in self.blocks:
            buffer[:] = self.blocks[block][offset : offset + len(buffer)]
        else:
            buffer[:] = b"\xff" * len(buffer)

    def writeblocks(self, block, data, offset=0):
        content = self.blocks.setdefault(block, bytearray(b"\xff" * BLOCK_BYTES))
        content[offset : offset + len(data)] = data

    def ioctl(self, operation, argument):
        if operation == BLOCK_COUNT:
            return self.count
        if operation == BLOCK_SIZE:
            return BLOCK_BYTES
        if operation == BLOCK_ERASE:
            self.blocks.pop(argument, None)
        return 0


class Zephyr:
    FlashArea = FlashArea


class Sys:
    """What `sys` says there."""

    platform = "zephyr"

    class implementation:
        _machine = "zephyr-nrf52840dk with nrf52840"
        version = (1, 27, 0, "")


def boot(source):
    vfs.umount("/")
    exec(source, {"__name__": "_boot"})


def check(path, storage_bytes, files, facts):
    FlashArea.count = storage_bytes // BLOCK_BYTES
    sys.modules["zephyr"] = Zephyr
    zephyr_port.install()
    with open(path) as file:
        source = file.read()
    with open(facts) as file:
        facts = file.read()
    boot(source)
    with open("/main.py", "w") as file:
        file.write("import selector")
    os.mkdir("/a")
    for number in range(files):
        with open("/a/%d.mpy" % number, "wb") as file:
            file.write(bytes(2000))
    with open("/a/image.json", "w") as file:
        file.write("{}")
    os.mkdir("/data")
    with open("/data/identity.json", "w") as file:
        file.write("{}")
    boot(source)
    # What the port then runs is main.py, where it is.
    assert "main.py" in os.listdir() and os.listdir("/data") == ["identity.json"], "kept, not formatted"
    assert selector.begin("") == "/a"
    machine.mem32.registers.update({0x10000060: 0x89ABCDEF, 0x10000064: 0x1234567})
    sys.modules["sys"] = Sys
    exec(facts, {})
    # So it was with the port's own: no path of the firmware leads to its files.
    vfs.umount("/")
    vfs.mount(FlashArea(1, BLOCK_BYTES), "/flash")
    exec(facts, {})


check(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
print("passed")
