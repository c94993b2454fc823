"""Position blocks and sealed frames on an emulated RP2040: `python tests/positions/rp2040.py IMAGE.uf2`.

The image is MicroPython for the Raspberry Pi Pico. rp2040py (MIT, `pip install rp2040py`) runs it instruction by
instruction; times are by the emulated clock at 125 MHz, without the flash cache's misses. Memory is all that was
allocated on the way with the garbage collector off: more than it ever takes at once.
"""

import asyncio
import sys
from pathlib import Path

from emwire.positions import ALL, CORE, encode_block
from position_fixes import received_walk
from rich.progress import track
from rp2040py.boards import BOARDS, resolve_firmware
from rp2040py.device import MicroPythonDevice

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "emwire": ROOT / "protocol" / "emwire",
    "common": ROOT / "firmware" / "common",
}
MODULES = ("emwire/__init__", "emwire/errors", "emwire/range_coder", "emwire/positions", "emwire/envelope")
MODULES += ("common/__init__", "common/ccm")
PIECE = 1024  # bytes of a file sent at a time

MEASURE = """
import gc, time
def measure(name, call, times=1):
    call()
    gc.collect(); gc.disable()
    memory, start = gc.mem_alloc(), time.ticks_us()
    for _ in range(times):
        call()
    spent = time.ticks_diff(time.ticks_us(), start)
    print(name, spent / times / 1000, 'ms,', (gc.mem_alloc() - memory) // times, 'bytes allocated')
    gc.enable(); gc.collect()
"""
FRAMES = """
from common.ccm import Ccm
from emwire import envelope
aead = Ccm(bytes(range(16)))
message = bytes(range(40))
frame = envelope.seal(aead, 1, envelope.control_byte(0, 0), 1, 1, message)
measure('seal 40 bytes', lambda: envelope.seal(aead, 1, envelope.control_byte(0, 0), 1, 1, message), 20)
measure('open 40 bytes', lambda: envelope.open_frame(aead, 1, frame), 20)
"""


async def main(image: str) -> None:
    board = resolve_firmware(BOARDS["pico"], "micropython", image)
    async with MicroPythonDevice(board=board) as device:

        async def run(code: str) -> str:
            output, error = await device.aexec(code, timeout=600)
            if error:
                raise RuntimeError(error.decode())
            return output.decode().strip()

        print(await run("import sys, gc, os\nprint(sys.version, gc.mem_free(), 'bytes free')"))
        for folder in FILES:
            await run(f"os.mkdir('{folder}')")
        for name in track(MODULES, "copying", transient=True):
            folder, _, module = name.partition("/")
            data = (FILES[folder] / f"{module}.py").read_bytes()
            await run(f"file = open('{name}.py', 'wb')")
            for at in range(0, len(data), PIECE):
                await run(f"file.write({data[at : at + PIECE]!r}) and None")
            await run("file.close()")
        await run(MEASURE + "from emwire.positions import encode_block, decode_block")
        walk = received_walk(0, 60)
        for columns, fixes in ((CORE, [fix[:3] for fix in walk]), (ALL, walk)):
            name = f"60 fixes, {'all columns' if columns else 'core'}"
            block = encode_block(fixes, columns)
            await run(f"fixes = {fixes!r}\nblock = {block!r}")
            assert (
                await run(f"print(encode_block(fixes, {columns}) == block, decode_block(block) == fixes)")
                == "True True"
            )
            print(
                await run(f"measure('encode {name}', lambda: encode_block(fixes, {columns}))"),
                f"into {len(block)} bytes",
            )
            print(await run(f"measure('decode {name}', lambda: decode_block(block))"))
        print(await run(FRAMES))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
