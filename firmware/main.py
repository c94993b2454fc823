# Starts the firmware: which board this is, and, by the identity on its flash, which model.
import asyncio
import gc
import json
import sys

from common import safe_mode

MODELS = ("ankle_gps", "home_unit", "alcohol", "pid")


async def run(board):
    """Run the device's model on this board, for ever."""
    model = board.identity["model"]
    if model not in MODELS:
        raise ValueError("identity.json: unknown model " + repr(model))
    # Collecting only when the heap is full would spread what stays over all of it, until nothing large fits. Garbage of
    # 8 KB of the RP2040's 264 costs some milliseconds of its time.
    gc.threshold((gc.mem_alloc() + gc.mem_free()) // 32)
    if safe_mode.wanted(board):
        await safe_mode.run(board)
        return
    # Only this model's modules take RAM.
    await __import__("tags." + model, None, None, ("run",)).run(board)


def make_board(arguments):
    """The Board of `main.py [BOARD [FOLDER]]`; by default the one that FOLDER/identity.json names under "board".

    FOLDER holds all that outlives the firmware: identity, keys, settings, journal."""
    folder = arguments[2] if len(arguments) > 2 else "data"
    if len(arguments) > 1:
        name = arguments[1]
    else:
        with open(folder + "/identity.json") as file:
            name = json.load(file)["board"]
    return __import__("boards." + name + ".board", None, None, ("Board",)).Board(folder)


if __name__ == "__main__":
    asyncio.run(run(make_board(sys.argv)))
