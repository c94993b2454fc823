# main.py at the root of a board's flash: runs the firmware that the selector picks. Written once, never updated.
import sys
import time

import machine
import selector

# Long enough to interrupt a firmware that ends at once, and to read why.
RESET_AFTER_S = 5

folder = selector.begin("")
if folder:
    sys.path.insert(0, folder)
try:
    import asyncio

    import main

    asyncio.run(main.run(main.make_board(sys.argv)))
except Exception as error:
    sys.print_exception(error)
# A device never ends by itself. An interruption from the keyboard is no Exception: it leads to the REPL.
time.sleep(RESET_AFTER_S)
machine.reset()  # type: ignore[attr-defined]
