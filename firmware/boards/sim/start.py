# Entry of a simulated device: `micropython start.py FOLDER`, with standard input and output connected to the rig.
# The rig names the module path in MICROPYPATH: firmware, protocol and its own MicroPython modules.
import asyncio
import sys


def start(folder):
    import selector

    images = selector.begin(folder)
    if images:
        sys.path.insert(0, images)
    try:
        from boards.sim.board import Board

        board = Board(folder)
        if board.identity.get("repl"):
            from boards.sim.repl import Repl

            Repl(board)
        import main

        asyncio.run(main.run(board))
        # A device never ends by itself: the rig treats this as a crash too.
        raise RuntimeError("the firmware returned")
    except Exception as error:
        from emwire import constants

        from boards.sim import reset_cause

        # As boards/entry.py: the device resets itself.
        reset_cause.keep(folder, constants.RESET_HARD)
        # Standard error is the device's console log; standard output is the rig's wire.
        sys.print_exception(error, sys.stderr)
        sys.exit(1)


start(sys.argv[1])
