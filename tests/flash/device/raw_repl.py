"""A board's raw REPL on MicroPython's unix port, standard input and output its serial line: raw_repl.py FLASH [ROM].

The folder FLASH is the root of its file system, the file ROM the part of its flash that code runs from, and
machine.reset() ends the process: whoever runs it starts it again.
"""

import io
import sys

import bluetooth
import machine
import vfs

_in = sys.stdin.buffer
_out = sys.stdout.buffer
WINDOW = 1024


class Flash:
    """A folder as the root. VfsPosix alone loses the first path of a rename when it has a root of its own."""

    def __init__(self, folder):
        self._files = vfs.VfsPosix(folder)

    def __getattr__(self, name):
        return getattr(self._files, name)

    def rename(self, old, new):
        with self.open(old, "rb") as source:
            data = source.read()
        with self.open(new, "wb") as target:
            target.write(data)
        self.remove(old)


class Rom(bytearray):
    """As a chip's: erased by block, and programming only clears bits. Every change is in the file at once."""

    BLOCK_BYTES = 4096

    def keep(self, file):
        self.file = file

    def ioctl(self, operation, argument):
        if operation == 4:
            return len(self) // self.BLOCK_BYTES
        if operation == 5:
            return self.BLOCK_BYTES
        self._change(argument * self.BLOCK_BYTES, b"\xff" * self.BLOCK_BYTES)
        return 0

    def writeblocks(self, block, data, at):
        begin = block * self.BLOCK_BYTES + at
        self._change(begin, bytes(a & b for a, b in zip(self[begin : begin + len(data)], data)))

    def _change(self, begin, data):
        self[begin : begin + len(data)] = data
        self.file.seek(begin)
        self.file.write(data)


class Vfs:
    """The module `vfs` of a board with such a part."""

    VfsRom = vfs.VfsRom
    mount = staticmethod(vfs.mount)
    umount = staticmethod(vfs.umount)

    def __init__(self, path):
        file = open(path, "r+b")
        self.rom = Rom(file.read())
        self.rom.keep(file)

    def rom_ioctl(self, command, part):
        return self.rom if (command, part) == (2, 0) else -22


def _reset():
    raise SystemExit


def paste():
    """Raw-paste mode: so many bytes at a time, until the end is said and acknowledged."""
    _in.read(2)
    _out.write(b"R\x01" + bytes((WINDOW & 255, WINDOW >> 8)))
    code = bytearray()
    while True:
        byte = _in.read(1)
        if byte == b"\x04":
            _out.write(byte)
            return code
        code.extend(byte)
        if len(code) % WINDOW == 0:
            _out.write(b"\x01")


def serve():
    names = {"__name__": "__main__"}
    raw = False
    buffer = bytearray()
    while True:
        byte = _in.read(1)
        if not byte:
            return
        key = byte[0]
        if key == 1:
            raw = True
            buffer = bytearray()
            _out.write(b"raw REPL; CTRL-B to exit\r\n>")
        elif not raw:
            pass
        elif key == 2:
            raw = False
        elif key == 3:
            buffer = bytearray()
        elif key == 5 or key == 4:
            if key == 5:
                buffer = paste()
            else:
                _out.write(b"OK")
            error = b""
            try:
                exec(compile(bytes(buffer), "<stdin>", "exec"), names)
            except SystemExit:
                return
            except BaseException as caught:
                text = io.StringIO()
                sys.print_exception(caught, text)
                error = text.getvalue().encode()
            buffer = bytearray()
            _out.write(b"\x04" + error + b"\x04>")
        else:
            buffer.append(key)


machine.reset = machine.bootloader = _reset
bluetooth.BLE.config = lambda self, *names, **settings: (0, b"\xc0\1\2\3\4\5") if names else None
if len(sys.argv) > 2:
    board_vfs = Vfs(sys.argv[2])
    sys.modules["vfs"] = board_vfs
vfs.umount("/")
vfs.mount(Flash(sys.argv[1]), "/")
sys.path[:] = ["", ".frozen"]
if len(sys.argv) > 2:
    # As MicroPython does when it starts.
    try:
        vfs.mount(vfs.VfsRom(board_vfs.rom), "/rom")
        sys.path.append("/rom")
    except OSError:
        pass
serve()
